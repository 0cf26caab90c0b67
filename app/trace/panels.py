"""The panels of the Trace page: from results of the engine to what the templates show.

Each panel is finished here, down to the text of every number, so that the templates decide
nothing. Every link keeps the page's whole state: it is built by the function that is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from app.figures.names import GEOMETRIES, LABELS, layer_label, score_name
from app.figures.theme import SIGNS, payload
from app.figures.trace import grid
from app.figures.trace_curves import MEASURES, isotropy, transitions
from app.figures.trace_curves import curves as curves_figure
from app.figures.trace_planes import planes
from app.trace.question import TraceQuery
from app.trace.shown import (
    AgreementPanel,
    CellPanel,
    CurvePanel,
    Fact,
    GeometryTable,
    GridPanel,
    HeatCell,
    HeatGroup,
    HeatRow,
    PathPanel,
    Pin,
    Run,
    ShareRow,
    TableCell,
    TableRow,
    TokenRow,
)
from app.trace.words import MAX_PINS, layer_span
from app.web.words import Choice, number, probability, sentence, signed
from engine.model.vocabulary import Token
from engine.reading.geometries import geometry_of
from engine.trace.agreement import Agreement, AgreementRow
from engine.trace.cell import Cell, ListedToken
from engine.trace.curves import Curves
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

    def _pin(self, id: int) -> str:
        """The link that pins a token; the oldest goes where there are too many."""
        pins = (*(p for p in self._query.pin if p != id), id)[-MAX_PINS:]
        return self._link(pin=pins)

    def grid(self, selected: tuple[int, int]) -> GridPanel:
        """The figure and the table over a window of columns that holds the selected one."""
        trace, query = self._trace, self._query
        columns, earlier, later = self._window(trace.positions.index(selected[1]))
        figure = grid(trace, query.colour, selected=selected, columns=columns, repaint=True)
        positions = trace.positions[columns]
        offset = columns.start
        rows = tuple(
            TableRow(
                "embedding (0)" if trace.layers[y] == 0 else f"layer {trace.layers[y]}",
                tuple(
                    self._table_cell(y, offset + i, selected) for i in range(len(positions))
                ),
            )
            for y in reversed(range(len(trace.layers)))
        )  # fmt: skip
        heads = tuple(
            (str(p), trace.tokens[p], trace.token_info[int(trace.final_ids[offset + i])])
            for i, p in enumerate(positions)
        )
        total = len(trace.positions)
        return GridPanel(
            figure=payload(figure),
            label="Layer by token grid. Arrow keys move the selected cell, Enter opens it. The "
            "same numbers stand in the table below.",
            reads=planes(trace)[query.colour].reads,
            heads=heads,
            rows=rows,
            window=""
            if len(positions) == total
            else f"Positions {positions[0]} to {positions[-1]} of {total}.",
            earlier=earlier,
            later=later,
        )

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

    def _rows(self, entries: Iterable[ListedToken], answer: int) -> tuple[TokenRow, ...]:
        return tuple(
            TokenRow(
                e.token,
                self._pin(e.token.id),
                signed(e.score, 5),
                probability(e.probability),
                e.token.id == answer,
                e.token.id in self._query.pin,
            )
            for e in entries
        )

    def cell(self, cell: Cell, note: str | None, curves: Curves) -> CellPanel:
        """The panel of one cell, with steps to its neighbours."""
        trace, query = self._trace, self._query
        y, x = trace.layers.index(cell.layer), trace.positions.index(cell.position)
        answer = cell.final.id

        def step(dy: int, dx: int) -> str | None:
            if not (0 <= y + dy < len(trace.layers) and 0 <= x + dx < len(trace.positions)):
                return None
            return self._link(cell=f"{trace.layers[y + dy]},{trace.positions[x + dx]}")

        largest = max((abs(s.signed) for s in cell.shares), default=1.0) or 1.0
        signed_sum, parseval_sum = cell.share_sums
        geometry = geometry_of(query.geometry)
        return CellPanel(
            layer=cell.layer,
            position=cell.position,
            title="embedding (layer 0)" if cell.layer == 0 else f"layer {cell.layer}",
            token=cell.token,
            answer=cell.final,
            finite=cell.finite,
            note=note,
            region=cell.region,
            region_href=self._basis(cell.region.id),
            border=f"{number(cell.border)}{geometry.borders.sign}" if geometry.borders else None,
            no_border=geometry.no_border,
            border_to=cell.border_to,
            up=step(1, 0),
            down=step(-1, 0),
            left=step(0, -1),
            right=step(0, 1),
            tables=tuple(
                GeometryTable(
                    label,
                    score_name(key),
                    key == query.geometry,
                    self._rows(cell.tables[key], answer),
                )
                for key, label, _ in GEOMETRIES
            ),
            nearest=tuple(
                TokenRow(
                    e.token,
                    self._pin(e.token.id),
                    number(e.distance, 4),
                    signed(e.cosine),
                    e.token.id == answer,
                    e.token.id in query.pin,
                )
                for e in cell.nearest
            ),
            nearest_label=sentence(f"{LABELS[query.frame]}, by {LABELS[query.geometry]}"),
            runs=self._runs(cell),
            shares=tuple(
                ShareRow(
                    s.token,
                    self._pin(s.token.id),
                    signed(s.logit),
                    signed(s.signed),
                    number(float(s.parseval)),
                    round(50 + min(0.0, 50 * s.signed / largest), 2),
                    round(50 * abs(s.signed) / largest, 2),
                    s.signed < 0,
                    s.token.id in query.pin,
                )
                for s in cell.shares
            ),
            share_sums=f"Over the whole vocabulary the signed shares sum to {signed_sum:.5f} and "
            f"the Parseval shares to {parseval_sum:.5f}; put together again, the state is met to "
            f"a relative error of {cell.resolution_error:.1e}.",
            facts=(
                Fact("norm", number(cell.norm)),
                Fact("entropy", number(cell.entropy), "nats"),
                Fact("rank", number(int(cell.final_rank)), "of the answer"),
                Fact("target", signed(cell.target_similarity)),
                Fact("deviation", number(cell.deviation), "of 2", True),
                Fact("gain", signed(cell.gain), "", True),
            ),
        )

    def _runs(self, cell: Cell) -> tuple[Run, ...]:
        """The layers below and above, where equal regions stand together."""
        runs: list[tuple[list[int], Token]] = []
        for step in cell.history:
            if runs and runs[-1][1].id == step.token.id:
                runs[-1][0].append(step.layer)
            else:
                runs.append(([step.layer], step.token))
        return tuple(
            Run(
                layer_span(layers),
                token,
                self._link(cell=f"{layers[-1]},{cell.position}"),
                cell.layer in layers,
            )
            for layers, token in runs
        )

    def curves(self, curves: Curves, layer: int) -> CurvePanel:
        """The curves with a chip for each token."""
        query = self._query
        figure = curves_figure(curves, query.curve, selected=layer, legend=False)
        ids = [token.id for token in curves.tokens]
        values: dict[str, Sequence[Sequence[float]]] = {
            "probability": curves.probabilities.tolist(),
            "score": curves.scores.tolist(),
            "rank": curves.ranks.tolist(),
        }
        return CurvePanel(
            figure=payload(figure),
            label=f"Curves of {len(ids)} tokens over the layers at position {curves.position}",
            measures=tuple(
                Choice(m, m, m == query.curve, href=self._link(curve=m)) for m in MEASURES
            ),
            pins=tuple(
                Pin(
                    token,
                    self._link(pin=tuple(p for p in ids if p != token.id)),
                    i % len(SIGNS),
                    SIGNS[i % len(SIGNS)],
                )
                for i, token in enumerate(curves.tokens)
            ),
            chosen=bool(query.pin),
            reset=self._link(pin=()),
            table=tuple(
                (
                    layer_label(at),
                    tuple(
                        number(int(v[i])) if query.curve == "rank" else signed(v[i])
                        for v in values[query.curve]
                    ),
                )
                for i, at in enumerate(curves.layers)
            ),
        )

    def path(self, layer: int, position: int) -> PathPanel:
        """Similarity, deviation, gain and alignment at the open position; isotropy of all."""
        trace = self._trace
        at = trace.positions.index(position)
        rows = tuple(
            (
                layer_label(one),
                tuple(
                    signed(float(values[y, at]))
                    for values in (
                        trace.target_similarity,
                        trace.alignment,
                        trace.deviation,
                        trace.gain,
                        trace.state_norm,
                    )
                ),
            )
            for y, one in enumerate(trace.layers)
        )
        crossings = tuple(
            (str(c.layer), trace.token_info[c.from_id], trace.token_info[c.to_id])
            for c in trace.crossings
            if c.position == position
        )
        return PathPanel(
            figure=payload(transitions(trace, position, selected=layer)),
            isotropy=payload(isotropy(trace)),
            label=f"Similarity to the answer, alignment, deviation and gain over the layers at "
            f"position {position}",
            rows=rows,
            crossings=crossings,
            isotropy_rows=tuple(
                (
                    layer_label(e.layer),
                    (number(e.raw), number(e.centred), number(e.spectral)),
                )
                for e in trace.isotropy
            ),
        )


def agreement(found: Agreement, query: TraceQuery) -> AgreementPanel:
    """How often each reading names the model's own prediction, frame by frame."""

    def row(r: AgreementRow) -> HeatRow:
        shares = [float(value) for value in r.top1]
        chosen = (r.geometry, r.frame) == (query.geometry, query.frame)
        return HeatRow(
            label="largest share" if r.geometry == "share" else LABELS[r.geometry],
            cells=tuple(_heat(s) for s in shares),
            overlap=_percent(float(r.overlap[-1])),
            correlation=signed(float(r.rank_correlation[-1])),
            rank=f"{float(r.final_rank[-1]):g}",
            chosen=chosen,
        )

    frames = sorted({r.frame: r.control for r in found.rows}.items(), key=lambda pair: pair[1])
    groups = tuple(
        HeatGroup(LABELS[frame], control, tuple(row(r) for r in found.rows if r.frame == frame))
        for frame, control in frames
    )
    last = {(r.geometry, r.frame): float(r.top1[-1]) for r in found.rows}
    named = [f"{text} at {_percent(last[g, f])}" for g, f, text in _NAMED if (g, f) in last]
    chance = max((float(r.top1[-1]) for r in found.rows if r.control), default=0.0)
    count = len(found.positions)
    layer = layer_label(found.layers[-1])
    return AgreementPanel(
        sentence=f"At layer {layer}, over {count} position{'s' if count != 1 else ''}, the first "
        f"token is the model's own prediction by {'; by '.join(named)}; by random vectors at "
        f"{_percent(chance)}.",
        layers=tuple(layer_label(one) for one in found.layers),
        groups=groups,
        last_layer=layer,
    )


def _heat(share: float) -> HeatCell:
    if share != share:
        return HeatCell("–", 0)
    return HeatCell(f"{100 * share:.0f}", min(6, int(share * 7)))


def _percent(share: float) -> str:
    return "–" if share != share else f"{100 * share:.0f}\u00a0%"
