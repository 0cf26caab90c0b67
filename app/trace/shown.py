"""What the panels of the Trace page show: values that the templates only write out."""

from __future__ import annotations

from dataclasses import dataclass

from app.web.words import Choice
from engine.model.vocabulary import Token


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


@dataclass(frozen=True)
class TableRow:
    """A layer of the grid as a row."""

    label: str
    cells: tuple[TableCell, ...]


@dataclass(frozen=True)
class GridPanel:
    """The layer × token grid, as a figure and as a table."""

    figure: dict[str, object]
    label: str
    reads: str
    heads: tuple[tuple[str, Token, Token], ...]
    """(position, the prompt's token, what the model predicts after it)."""
    rows: tuple[TableRow, ...]
    """Top layer first, as in the figure."""
    window: str
    earlier: str | None
    later: str | None


@dataclass(frozen=True)
class TokenRow:
    """A token in a list, with two numbers."""

    token: Token
    href: str
    first: str
    second: str
    hit: bool
    """Whether it is the model's answer."""
    pinned: bool


@dataclass(frozen=True)
class GeometryTable:
    """The first tokens by one geometry."""

    label: str
    unit: str
    chosen: bool
    rows: tuple[TokenRow, ...]


@dataclass(frozen=True)
class Run:
    """Layers in a row in the same region."""

    layers: str
    token: Token
    href: str
    current: bool


@dataclass(frozen=True)
class ShareRow:
    """What a token accounts for."""

    token: Token
    href: str
    logit: str
    signed: str
    parseval: str
    bar_start: float
    bar_length: float
    negative: bool
    pinned: bool


@dataclass(frozen=True)
class Fact:
    """A number with its name."""

    term: str
    value: str
    unit: str = ""
    ours: bool = False


@dataclass(frozen=True)
class CellPanel:
    """All that is known of one cell."""

    layer: int
    position: int
    title: str
    token: Token
    answer: Token
    finite: bool
    note: str | None
    region: Token
    region_href: str
    border: str | None
    """None where the geometry has no formula for it; `no_border` says so."""
    no_border: str
    border_to: Token
    up: str | None
    down: str | None
    left: str | None
    right: str | None
    tables: tuple[GeometryTable, ...]
    nearest: tuple[TokenRow, ...]
    nearest_label: str
    runs: tuple[Run, ...]
    shares: tuple[ShareRow, ...]
    share_sums: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Pin:
    """A pinned token with the link that takes it off."""

    token: Token
    href: str
    line: int
    sign: str
    """The symbol on its curve."""


@dataclass(frozen=True)
class CurvePanel:
    """Pinned tokens over the layers."""

    figure: dict[str, object]
    label: str
    measures: tuple[Choice, ...]
    pins: tuple[Pin, ...]
    chosen: bool
    """Whether the reader pinned them; else they are the defaults."""
    reset: str
    table: tuple[tuple[str, tuple[str, ...]], ...]
    """(layer, the tokens' values)."""


@dataclass(frozen=True)
class PathPanel:
    """One position's way through the layers."""

    figure: dict[str, object]
    isotropy: dict[str, object]
    label: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    crossings: tuple[tuple[str, Token, Token], ...]
    isotropy_rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class HeatCell:
    """A share as a coloured number."""

    text: str
    heat: int
    """0 to 6."""


@dataclass(frozen=True)
class HeatRow:
    """A reading's agreement, layer by layer."""

    label: str
    cells: tuple[HeatCell, ...]
    overlap: str
    correlation: str
    rank: str
    chosen: bool


@dataclass(frozen=True)
class HeatGroup:
    """The readings of one frame."""

    label: str
    control: bool
    rows: tuple[HeatRow, ...]


@dataclass(frozen=True)
class AgreementPanel:
    """How often each reading names the model's own prediction."""

    sentence: str
    layers: tuple[str, ...]
    groups: tuple[HeatGroup, ...]
    """The control last."""
    last_layer: str
