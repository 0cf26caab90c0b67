"""The panels of the Trace page: from results of the engine to what the templates show.

A panel is finished here where something is decided or linked; what the engine says of a cell or a
token stands in it as it is, and the templates only write it out, numbers by filters. Every link
keeps the page's whole state: it is built by the function that is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from app.figures.theme import GEOMETRIES, LABELS, SIGNS, layer_label, payload, score_name
from app.figures.trace import grid, planes
from app.figures.trace_curves import MEASURES, isotropy, transitions
from app.figures.trace_curves import curves as curves_figure
from app.trace.question import MAX_PINS, TraceQuery
from app.web.words import Choice, digits_apart, number, probability, sentence, signed
from engine.model.vocabulary import Token
from engine.reading.geometries import geometry_of
from engine.trace.agreement import Agreement, AgreementRow
from engine.trace.cell import Cell, Curves
from engine.trace.compute import leaders
from engine.trace.result import Trace

MAX_COLUMNS = 64
"""Columns of the grid that a page draws at most; the rest is a link away."""
TABLE_BUDGET = 1_000_000
"""Characters that the table's links may take together."""
_NAMED = (
    ("cosine", "output", "the cosine to the semantic bases (the paper's reading)"),
    ("l2", "output", "the squared distance to them"),
    ("share", "output", "the largest share"),
    ("cosine", "head", "the cosine to the raw head rows"),
    ("cosine", "tight", "the cosine to the tight frame"),
)
"""The readings that the sentence over the table names."""

Panel = dict[str, Any]
"""What a panel's template shows, by the names that it has there."""


@dataclass(frozen=True)
class TableCell:
    """A cell of the grid as a link."""

    href: str
    key: str
    """``layer,position``."""
    token: Token | None
    """None where the state is not finite and nothing is ranked."""
    small: str
    label: str
    """All of the cell in words."""
    agrees: bool
    current: bool


def with_pin(query: TraceQuery, id: int, leading: Sequence[int] = ()) -> tuple[int, ...]:
    """The pins with one more; the oldest goes where there are too many, and before anything was
    pinned those that lead stay."""
    known = query.pin or leading
    return (*[one for one in known if one != id], id)[-MAX_PINS:]


class Panels:
    """One trace, with the query that it answers and the links that belong to it.

    Args:
        query: the state of the page.
        trace: what was read.
        link: makes a link of the page that keeps its state but for the keywords.
        basis: makes the link to a token's page of bases.
    """

    def __init__(
        self,
        query: TraceQuery,
        trace: Trace,
        *,
        link: Callable[..., str],
        basis: Callable[[int], str],
    ) -> None:
        self._query = query
        self._trace = trace
        self._link = link
        self._basis = basis

    def pin(self, id: int, position: int) -> str:
        """The link that adds a token to those that are followed."""
        return self._link(pin=with_pin(self._query, id, leaders(self._trace, position)))

    def grid(self, selected: tuple[int, int]) -> Panel:
        """The figure and the table over a window of columns that holds the selected one."""
        trace, query = self._trace, self._query
        columns, earlier, later = self._window(trace.positions.index(selected[1]))
        figure = grid(trace, query.colour, selected=selected, columns=columns, repaint=True)
        positions, total = trace.positions[columns], len(trace.positions)
        rows = []
        for y in reversed(range(len(trace.layers))):  # top layer first, as in the figure
            cells = [self._table_cell(y, x, selected) for x in range(columns.start, columns.stop)]
            name = f"layer {trace.layers[y]}" if trace.layers[y] else "embedding (0)"
            rows.append((name, cells))
        return {
            "figure": payload(figure),
            "label": "Layer by token grid. Arrow keys move the selected cell, Enter opens it. The "
            "same numbers stand in the table below.",
            "reads": planes(trace)[query.colour].reads,
            # (position, the prompt's token, what the model predicts after it)
            "heads": [
                (position, trace.tokens[position], trace.token_info[int(answer)])
                for position, answer in zip(positions, trace.final_ids[columns], strict=True)
            ],
            "rows": rows,
            "window": ""
            if len(positions) == total
            else f"Positions {positions[0]} to {positions[-1]} of {total}.",
            "earlier": earlier,
            "later": later,
        }

    def _window(self, selected: int) -> tuple[slice, str | None, str | None]:
        rows, total = len(self._trace.layers), len(self._trace.positions)
        size = len(self._link(cell="99,9999")) + 260
        room = min(MAX_COLUMNS, max(8, TABLE_BUDGET // (rows * size)))
        if total <= room:
            return slice(0, total), None, None
        start = self._query.start
        if start is None:
            start = total - room if selected >= total - room else max(0, selected - room // 2)
        start = min(start, total - room)
        earlier = self._link(start=max(0, start - room)) if start > 0 else None
        later = self._link(start=start + room) if start + room < total else None
        return slice(start, start + room), earlier, later

    def _table_cell(self, y: int, x: int, selected: tuple[int, int]) -> TableCell:
        trace = self._trace
        layer, position = trace.layers[y], trace.positions[x]
        key = f"{layer},{position}"
        href, current = self._link(cell=key), (layer, position) == selected
        where = f"layer {layer}, position {position}, after {trace.tokens[position].label}"
        if not trace.finite[y, x]:
            label = f"{where}: not finite, nothing is ranked"
            return TableCell(href, key, None, "not finite", label, False, current)
        token = trace.token_info[int(trace.top_ids[y, x, 0])]
        chance, rank = probability(trace.top_probabilities[y, x, 0]), int(trace.final_rank[y, x])
        agrees = bool(trace.agrees[y, x])
        label = (
            f"{where}: first {token.label}, score {number(float(trace.top_scores[y, x, 0]), 4)}, "
            f"probability {chance}, entropy {number(float(trace.entropy[y, x]))} nats,"
            f" the model's answer has rank {rank}" + (", agrees" if agrees else "")
        )
        return TableCell(href, key, token, f"p {chance} · #{rank}", label, agrees, current)

    def cell(self, cell: Cell) -> Panel:
        """What stands about one cell beside its own values, with steps to its neighbours."""
        trace, query = self._trace, self._query
        y, x = trace.layers.index(cell.layer), trace.positions.index(cell.position)

        def step(dy: int, dx: int) -> str | None:
            if not (0 <= y + dy < len(trace.layers) and 0 <= x + dx < len(trace.positions)):
                return None
            return self._link(cell=f"{trace.layers[y + dy]},{trace.positions[x + dx]}")

        largest = max([abs(share.signed) for share in cell.shares], default=1.0) or 1.0
        signed_sum, parseval_sum = cell.share_sums
        geometry = geometry_of(query.geometry)
        return {
            "title": f"layer {cell.layer}" if cell.layer else "embedding (layer 0)",
            "steps": [
                ("layer above", "↑", step(1, 0)),
                ("layer below", "↓", step(-1, 0)),
                ("position before", "←", step(0, -1)),
                ("position after", "→", step(0, 1)),
            ],
            "region_href": self._basis(cell.region.id),
            "border": f"{number(cell.border)}{geometry.borders.sign}" if geometry.borders else None,
            "no_border": geometry.no_border,
            # (title, what a score is, whether it is the chosen one, its first tokens, digits)
            "tables": [
                (
                    label,
                    score_name(key),
                    key == query.geometry,
                    cell.tables[key],
                    digits_apart((row.score for row in cell.tables[key]), 5),
                )
                for key, label, _ in GEOMETRIES
            ],
            "nearest_label": sentence(f"{LABELS[query.frame]}, by {LABELS[query.geometry]}"),
            "nearest_digits": digits_apart(
                (row.distance for row in cell.nearest if row.distance is not None), 4
            ),
            "runs": self._runs(cell),
            # (share, where its bar begins and how long it is, in percent)
            "shares": [
                (
                    share,
                    round(50 + min(0.0, 50 * share.signed / largest), 2),
                    round(50 * abs(share.signed) / largest, 2),
                )
                for share in cell.shares
            ],
            "share_sums": f"Over the whole vocabulary the signed shares sum to {signed_sum:.5f} "
            f"and the Parseval shares to {parseval_sum:.5f}; put together again, the state is met "
            f"to a relative error of {cell.resolution_error:.1e}.",
            # (term, value, unit, whether it is our reconstruction)
            "facts": [
                ("norm", number(cell.norm), "", False),
                ("entropy", number(cell.entropy), "nats", False),
                ("rank", number(cell.final_rank), "of the answer", False),
                ("target", signed(cell.target_similarity), "", False),
                ("deviation", number(cell.deviation), "of 2", True),
                ("gain", signed(cell.gain), "", True),
            ],
        }

    def _runs(self, cell: Cell) -> list[tuple[str, Token, str, bool]]:
        """The layers below and above, where equal regions stand together.

        Each with its layers, its region, the link to its last layer, and whether it is open.
        """
        runs = []
        for _, steps in groupby(cell.history, lambda step: step.token.id):
            held = {step.layer: step.token for step in steps}
            first, last = min(held), max(held)
            name = layer_label(first) if first == last else f"{layer_label(first)}–{last}"
            href = self._link(cell=f"{last},{cell.position}")
            runs.append((name, held[last], href, cell.layer in held))
        return runs

    def curves(self, curves: Curves, layer: int) -> Panel:
        """The curves with a chip for each token."""
        query = self._query
        first = None if query.pin else len(leaders(self._trace, curves.position))
        figure = curves_figure(curves, query.curve, selected=layer, legend=False, leaders=first)
        ids = [token.id for token in curves.tokens]
        values: Any = {
            "probability": curves.probabilities, "score": curves.scores, "rank": curves.ranks,
        }[query.curve]  # fmt: skip
        return {
            "figure": payload(figure),
            "label": f"Curves of {len(ids)} tokens over the layers at position {curves.position}",
            "measures": [
                Choice(m, m, m == query.curve, href=self._link(curve=m)) for m in MEASURES
            ],
            # (token, the link that takes it off, its line or None behind the others, its symbol)
            "pins": [
                (
                    token,
                    self._link(pin=tuple([id for id in ids if id != token.id][:MAX_PINS])),
                    i % len(SIGNS) if first is None or i < first else None,
                    SIGNS[i % len(SIGNS)],
                )
                for i, token in enumerate(curves.tokens)
            ],
            "leaders": len(ids) if first is None else first,
            "chosen": bool(query.pin),  # else the tokens are the defaults
            "reset": self._link(pin=()),
            "table": _by_layer(curves.layers, values, number if query.curve == "rank" else signed),
        }

    def path(self, layer: int, position: int) -> Panel:
        """Similarity, deviation, gain and alignment at the open position; isotropy of all."""
        trace = self._trace
        at = trace.positions.index(position)
        shown = (
            trace.target_similarity, trace.alignment, trace.deviation, trace.gain, trace.state_norm,
        )  # fmt: skip
        spread = np.array([(one.raw, one.centred, one.spectral) for one in trace.isotropy])
        return {
            "figure": payload(transitions(trace, position, selected=layer)),
            "isotropy": payload(isotropy(trace)),
            "label": "Similarity to the answer, alignment, deviation and gain over the layers at "
            f"position {position}",
            "rows": _by_layer(trace.layers, np.stack(shown)[:, :, at], signed),
            "crossings": [
                (c.layer, trace.token_info[c.from_id], trace.token_info[c.to_id])
                for c in trace.crossings
                if c.position == position
            ],
            "isotropy_rows": _by_layer(trace.layers, spread.T, number),
        }


def _by_layer(
    layers: tuple[int, ...], values: np.ndarray[Any, Any], text: Callable[[Any], str]
) -> list[tuple[str, list[str]]]:
    """Values (quantity × layer) as a table with a row per layer."""
    rows = zip(layers, values.T.tolist(), strict=True)
    return [(layer_label(layer), [text(one) for one in row]) for layer, row in rows]


def agreement(found: Agreement, query: TraceQuery) -> Panel:
    """How often each reading names the model's own prediction, frame by frame."""

    def row(r: AgreementRow) -> Panel:
        return {
            "label": "largest share" if r.geometry == "share" else LABELS[r.geometry],
            "shares": [_heat(share) for share in r.top1.tolist()],
            "overlap": _percent(float(r.overlap[-1])),
            "correlation": signed(float(r.rank_correlation[-1])),
            "rank": f"{float(r.final_rank[-1]):g}",
            "chosen": (r.geometry, r.frame) == (query.geometry, query.frame),
        }

    frames = sorted({r.frame: r.control for r in found.rows}.items(), key=lambda pair: pair[1])
    last = {(r.geometry, r.frame): float(r.top1[-1]) for r in found.rows}
    named = [f"{text} at {_percent(last[g, f])}" for g, f, text in _NAMED if (g, f) in last]
    chance = max((float(r.top1[-1]) for r in found.rows if r.control), default=0.0)
    count = len(found.positions)
    layer = layer_label(found.layers[-1])
    return {
        "sentence": f"At layer {layer}, over {count} position{'s' if count != 1 else ''}, the first"
        f" token is the model's own prediction by {'; by '.join(named)}; by random vectors at "
        f"{_percent(chance)}.",
        "layers": [layer_label(one) for one in found.layers],
        # (title, whether it is the control, its readings); the control last
        "groups": [
            (LABELS[frame], control, [row(r) for r in found.rows if r.frame == frame])
            for frame, control in frames
        ],
        "last_layer": layer,
    }


def _heat(share: float) -> tuple[str, int]:
    """A share as a number and its colour, 0 to 6."""
    return ("–", 0) if share != share else (f"{100 * share:.0f}", min(6, int(share * 7)))


def _percent(share: float) -> str:
    return "–" if share != share else f"{100 * share:.0f}\u00a0%"
