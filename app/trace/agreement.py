"""Which reading agrees with the model: the agreement panel of the Trace page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.figures.names import layer_label
from app.trace.shown import AgreementPanel, HeatCell, HeatGroup, HeatRow
from app.trace.words import LABELS, signed
from engine.trace.agreement import Agreement, AgreementRow

if TYPE_CHECKING:
    from app.trace.page import TraceQuery

_TOLD = (
    ("cosine", "output", "the cosine to the semantic bases (the paper's reading)"),
    ("l2", "output", "the squared distance to them"),
    ("share", "output", "the largest share"),
    ("cosine", "head", "the cosine to the raw head rows"),
    ("cosine", "tight", "the cosine to the tight frame"),
)
"""The readings that the sentence over the table names."""


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
    told = [f"{text} at {_percent(last[g, f])}" for g, f, text in _TOLD if (g, f) in last]
    chance = max((float(r.top1[-1]) for r in found.rows if r.control), default=0.0)
    count = len(found.positions)
    layer = layer_label(found.layers[-1])
    return AgreementPanel(
        sentence=f"At layer {layer}, over {count} position{'s' if count != 1 else ''}, the first "
        f"token is the model's own prediction by {'; by '.join(told)}; by random vectors at "
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
