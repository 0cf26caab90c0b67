"""The Trace page: a prompt through the layers, cell by cell.

One view answers the page, its result (a switch was changed) and its detail (a cell was opened):
the same query, the same context, a smaller template. The whole state is the query string; every
link is built by `link_to` from the query it stands on, so none loses a setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import Field, model_validator

from app.dependencies import ExplorerDep, PromptText
from app.figures import trace as figures
from app.figures.theme import SIGNS, payload
from app.rendering import link, number, render, render_text
from app.routes.api import TraceQuestion
from app.routes.method import TERMS, Term
from app.service import CostEstimate, Explorer, ModelFacts
from engine.agreement import Agreement, AgreementRow
from engine.cell import Cell, Entry
from engine.curves import Curves
from engine.errors import InputError
from engine.trace import Cost, Trace
from engine.vocabulary import Token

router = APIRouter(include_in_schema=False)

MAX_COLUMNS = 64
"""Columns of the grid that a page draws at most; the rest is a link away."""
TABLE_BUDGET = 1_000_000
"""Characters that the table's links may take together."""
MAX_PINS = 8


# ---- what is asked -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A prompt worth a first look."""

    prompt: str
    look: str


EXAMPLES: tuple[Example, ...] = (
    Example(
        "Once upon a time there was a",
        "Find the layer at which the last column settles on the answer: a dot marks each cell that"
        " already names it.",
    ),
    Example(
        "The king and the",
        "The two “the” stand in different columns: the same token, another past, other readings.",
    ),
    Example(
        "one two three four",
        "Follow the last column upward: does the next number win at once, or late?",
    ),
    Example(
        "She opened the door and",
        "Colour by entropy: where does the model make up its mind, and where does it stay open?",
    ),
    Example(
        "the the the",
        "Three equal tokens. Whatever differs between the columns comes from position and context"
        " alone.",
    ),
)


class TraceQuery(TraceQuestion):
    """The whole state of the page."""

    prompt: PromptText = EXAMPLES[0].prompt
    colour: Literal["probability", "entropy", "rank", "kl", "agreement", "deviation", "border"] = (
        "probability"
    )
    curve: Literal["probability", "score", "rank"] = "probability"
    pin: tuple[Annotated[int, Field(ge=0, le=99_999_999)], ...] = Field((), max_length=MAX_PINS)
    cell: str | None = Field(None, pattern=r"^[0-9]{1,4},[0-9]{1,5}$")
    start: int | None = Field(None, ge=0, le=100_000)
    panel: Literal["agreement"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _empty_fields(cls, values: Any) -> Any:
        """An empty field of a form is a setting left at its default; an empty prompt is one."""
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if k == "prompt" or v not in ("", [""])}


# ---- what is shown: the form ---------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """One of a few values of a switch, as a form field or as a link."""

    value: str
    label: str
    chosen: bool
    help: str = ""
    href: str = ""


@dataclass(frozen=True)
class ExampleChip:
    """An example as a link."""

    label: str
    href: str
    look: str
    current: bool


@dataclass(frozen=True)
class Form:
    """The switches as they stand."""

    prompt: str
    geometries: tuple[Choice, ...]
    frames: tuple[Choice, ...]
    states: tuple[Choice, ...]
    colours: tuple[Choice, ...]
    bos: tuple[Choice, ...]
    centred: bool
    chat: bool
    words_only: bool
    temperature: str
    layers: str
    positions: str
    k: int
    max_k: int
    max_characters: int
    layer_help: str
    has_bos: bool
    has_chat: bool
    changed: int
    """How many of the folded settings differ from their defaults."""


GEOMETRIES = (
    ("cosine", "cosine", "The angle to each token's vector; the paper's reading."),
    ("l2", "squared L2", "The distance to each token's vector."),
    ("matmul", "matrix product", "The inner product, as the model's own head computes it."),
)
_FRAMES = (
    ("output", "semantic bases (output side)"),
    ("input", "input embeddings"),
    ("head", "raw head rows"),
    ("tight", "tight frame"),
    ("random", "random (control)"),
)
_COLOURS = (
    ("probability", "probability"),
    ("entropy", "entropy"),
    ("rank", "rank of the model's answer"),
    ("kl", "KL to the final prediction"),
    ("agreement", "agreement with the model"),
    ("deviation", "deviation from the virtual path"),
    ("border", "distance to the border"),
)
_LABEL = dict([*((k, v) for k, v, _ in GEOMETRIES), *_FRAMES])


def link_to(request: Request, query: TraceQuery, /, path: str = "/", **changes: Any) -> str:
    """A link that keeps the entire state but for the changes; defaults are left out."""
    state = query.model_dump(exclude_defaults=True) | changes
    fields = type(query).model_fields
    kept = {k: v for k, v in state.items() if v != fields[k].default}
    if kept.get("temperature") is not None:
        kept["temperature"] = f"{kept['temperature']:g}"
    return link(request, path, **kept)


def _form(query: TraceQuery, facts: ModelFacts, explorer: Explorer) -> Form:
    def choices(pairs: Iterable[tuple[str, ...]], chosen: str) -> tuple[Choice, ...]:
        return tuple(Choice(p[0], p[1], p[0] == chosen, p[2] if len(p) > 2 else "") for p in pairs)

    folded = ("state", "centred", "temperature", "layers", "positions", "k", "bos", "chat",
              "words_only")  # fmt: skip
    fields = type(query).model_fields
    return Form(
        prompt=query.prompt,
        geometries=choices(GEOMETRIES, query.geometry),
        frames=choices(_FRAMES, query.frame),
        states=choices((("normed", "final-normed"), ("raw", "raw")), query.state),
        colours=choices(_COLOURS, query.colour),
        bos=choices((("auto", "as the model does"), ("yes", "yes"), ("no", "no")), query.bos),
        centred=query.centred,
        chat=query.chat,
        words_only=query.words_only,
        temperature="" if query.temperature is None else f"{query.temperature:g}",
        layers=query.layers or "",
        positions=query.positions or "",
        k=query.k,
        max_k=explorer.settings.max_k,
        max_characters=explorer.settings.max_characters,
        layer_help=f"Layers 0 to {facts.blocks}, as first:end or first:end:step; the end is left"
        " out. Empty: all.",
        has_bos=facts.has_bos,
        has_chat=facts.has_chat_template,
        changed=sum(getattr(query, name) != fields[name].default for name in folded),
    )


# ---- what is shown: the result -------------------------------------------------------------------


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
    border: str
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


@dataclass(frozen=True)
class CostLine:
    """What a run is expected to take, and took."""

    tokens: int
    predicted: str
    measured: str | None


@dataclass(frozen=True)
class Export:
    """The same numbers elsewhere."""

    json: str
    csv: str
    permalink: str
    python: str


@dataclass(frozen=True)
class Result:
    """Everything below the form."""

    answer: Token
    answer_probability: str
    first: Token
    agrees: bool
    prompt_end: Token
    reading: str
    warnings: tuple[str, ...]
    grid: GridPanel
    cell: CellPanel
    curves: CurvePanel
    path: PathPanel
    agreement: AgreementPanel | None
    agreement_href: str
    agreement_load: str
    export: Export
    hidden: tuple[tuple[str, str], ...]
    """State that no visible switch holds, for the form."""


@dataclass(frozen=True)
class TracePage:
    """What ``trace/page.html`` shows."""

    examples: tuple[ExampleChip, ...]
    look: str | None
    form: Form
    cost: CostLine | None
    cost_problem: str | None
    result: Result | None
    problem: str | None
    terms: dict[str, Term]


# ---- the views -----------------------------------------------------------------------------------


@router.get("/", response_class=HTMLResponse)
async def trace_page(
    request: Request, query: Annotated[TraceQuery, Query()], explorer: ExplorerDep
) -> HTMLResponse:
    """The page, its result or its detail; a mistake is a sentence where the result would stand."""
    facts = explorer.facts()
    try:
        result, cost = await _result(request, explorer, query)
    except InputError as error:
        context = _page(request, query, facts, explorer, problem=str(error))
        return render(
            request, "trace/page.html", context, fragment="trace/_result.html", status=422
        )
    context = _page(request, query, facts, explorer, result=result, cost=cost)
    vary = {"Vary": "HX-Request, HX-History-Restore-Request, HX-Boosted, HX-Target"}
    if request.headers.get("hx-target") == "detail":
        body = render_text(request, "trace/_detail.html", context, is_fragment=True)
        return HTMLResponse(body, headers=vary)
    return render(request, "trace/page.html", context, fragment="trace/_result.html", headers=vary)


@router.get("/trace/agreement", response_class=HTMLResponse)
async def agreement_panel(
    request: Request, query: Annotated[TraceQuery, Query()], explorer: ExplorerDep
) -> HTMLResponse:
    """The agreement panel alone, fetched once the page stands."""
    found = await explorer.agreement(request, query.prompt, query.options())
    panel = _agreement(found, query)
    body = render_text(
        request, "trace/_agreement.html", {"agreement": panel, "terms": TERMS}, is_fragment=True
    )
    return HTMLResponse(body)


@router.get("/cost", response_class=HTMLResponse)
async def cost_line(
    request: Request, query: Annotated[TraceQuery, Query()], explorer: ExplorerDep
) -> HTMLResponse:
    """What a run would take, while the prompt is still being written."""
    line, problem = None, None
    try:
        line = _forecast(await explorer.predict_cost(request, query.prompt, query.options()))
    except InputError as error:
        problem = str(error)
    context = {
        "cost": line,
        "cost_problem": problem,
        "terms": TERMS,
        "back": link_to(request, query),
    }
    status = 422 if problem else 200
    return render(request, "trace/cost.html", context, fragment="trace/_cost.html", status=status)


# ---- from results to what is shown ---------------------------------------------------------------


async def _result(
    request: Request, explorer: Explorer, query: TraceQuery
) -> tuple[Result, CostLine]:
    options = query.options()
    trace = await explorer.trace(request, query.prompt, options)
    layer, position, note = _place(query, trace)
    cell = await explorer.cell(request, query.prompt, layer, position, options)
    curves = await explorer.curves(
        request, query.prompt, query.pin or None, options, position=position
    )
    agreement = None
    if query.panel == "agreement":
        agreement = _agreement(await explorer.agreement(request, query.prompt, options), query)
    draw = _Drawing(request, query, trace)
    result = Result(
        answer=trace.token_info[int(trace.final_ids[-1])],
        answer_probability=probability(trace.final_probabilities[-1]),
        first=trace.token_info[int(trace.top_ids[-1, -1, 0])],
        agrees=bool(trace.agrees[-1, -1]),
        prompt_end=trace.tokens[trace.positions[-1]],
        reading=f"{_LABEL[query.geometry]}, {_LABEL[query.frame]}",
        warnings=trace.warnings,
        grid=draw.grid((layer, position)),
        cell=draw.cell(cell, note, curves),
        curves=draw.curves(curves, layer),
        path=draw.path(layer, position),
        agreement=agreement,
        agreement_href=link_to(request, query, panel="agreement") + "#agreement",
        agreement_load=link_to(request, query, "/trace/agreement", cell=None, pin=(), start=None),
        export=_export(request, query, explorer),
        hidden=_hidden(query),
    )
    return result, _measured(len(trace.tokens), trace.cost)


def _page(
    request: Request,
    query: TraceQuery,
    facts: ModelFacts,
    explorer: Explorer,
    *,
    result: Result | None = None,
    cost: CostLine | None = None,
    problem: str | None = None,
) -> TracePage:
    examples = tuple(
        ExampleChip(
            e.prompt,
            link_to(
                request, query, prompt=e.prompt, cell=None, pin=(),
                start=None, positions=None,
            ),
            e.look,
            e.prompt == query.prompt,
        )
        for e in EXAMPLES
    )  # fmt: skip
    look = next((e.look for e in EXAMPLES if e.prompt == query.prompt), None)
    form = _form(query, facts, explorer)
    return TracePage(examples, look, form, cost, None, result, problem, dict(TERMS))


def _place(query: TraceQuery, trace: Trace) -> tuple[int, int, str | None]:
    """The cell that is open: the one that was asked for, else the last layer's last position."""
    last = trace.layers[-1], trace.positions[-1]
    if query.cell is None:
        return *last, None
    layer, position = (int(part) for part in query.cell.split(","))
    if layer in trace.layers and position in trace.positions:
        return layer, position, None
    return *last, (
        f"Layer {layer}, position {position} is not part of this trace; here is its last cell."
    )


def _hidden(query: TraceQuery) -> tuple[tuple[str, str], ...]:
    pairs = [("pin", str(one)) for one in query.pin]
    if query.cell is not None:
        pairs.append(("cell", query.cell))
    if query.curve != "probability":
        pairs.append(("curve", query.curve))
    return tuple(pairs)


class _Drawing:
    """One trace with the request and the query that its links are built from."""

    def __init__(self, request: Request, query: TraceQuery, trace: Trace) -> None:
        self._request = request
        self._query = query
        self._trace = trace

    def _link(self, **changes: Any) -> str:
        return link_to(self._request, self._query, **changes)

    def _pin(self, id: int) -> str:
        """The link that pins a token; the oldest goes where there are too many."""
        pins = (*(p for p in self._query.pin if p != id), id)[-MAX_PINS:]
        return self._link(pin=pins)

    def grid(self, selected: tuple[int, int]) -> GridPanel:
        """The figure and the table over a window of columns that holds the selected one."""
        trace, query = self._trace, self._query
        columns, earlier, later = self._window(trace.positions.index(selected[1]))
        figure = figures.grid(trace, query.colour, selected=selected, columns=columns, repaint=True)
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
            reads=figures.planes(trace)[query.colour].reads,
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

    def _rows(self, entries: Iterable[Entry], answer: int) -> tuple[TokenRow, ...]:
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
        angle = query.geometry == "cosine"
        return CellPanel(
            layer=cell.layer,
            position=cell.position,
            title="embedding (layer 0)" if cell.layer == 0 else f"layer {cell.layer}",
            token=cell.token,
            answer=cell.final,
            finite=cell.finite,
            note=note,
            region=cell.region,
            region_href=link(self._request, "/bases", token=f"#{cell.region.id}"),
            border=f"{number(cell.border)} rad" if angle else number(cell.border),
            border_to=cell.border_to,
            up=step(1, 0),
            down=step(-1, 0),
            left=step(0, -1),
            right=step(0, 1),
            tables=tuple(
                GeometryTable(
                    label,
                    figures.score_name(key),
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
            nearest_label=f"{_LABEL[query.frame]}, by {_LABEL[query.geometry]}",
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
                Fact("norm", number(cell.state_norm)),
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
                _span(layers),
                token,
                self._link(cell=f"{layers[-1]},{cell.position}"),
                cell.layer in layers,
            )
            for layers, token in runs
        )

    def curves(self, curves: Curves, layer: int) -> CurvePanel:
        """The curves with a chip for each token."""
        query = self._query
        figure = figures.curves(
            curves, query.curve, geometry=query.geometry, selected=layer, legend=False
        )
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
                Choice(m, m, m == query.curve, href=self._link(curve=m)) for m in figures.MEASURES
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
                    figures.layer_label(at),
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
                figures.layer_label(one),
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
            figure=payload(figures.transitions(trace, position, selected=layer)),
            isotropy=payload(figures.isotropy(trace)),
            label=f"Similarity to the answer, alignment, deviation and gain over the layers at "
            f"position {position}",
            rows=rows,
            crossings=crossings,
            isotropy_rows=tuple(
                (
                    figures.layer_label(e.layer),
                    (number(e.raw), number(e.centred), number(e.spectral)),
                )
                for e in trace.isotropy
            ),
        )


_TOLD = (
    ("cosine", "output", "the cosine to the semantic bases (the paper's reading)"),
    ("l2", "output", "the squared distance to them"),
    ("share", "output", "the largest share"),
    ("cosine", "head", "the cosine to the raw head rows"),
    ("cosine", "tight", "the cosine to the tight frame"),
)
"""The readings that the sentence over the table names."""


def _agreement(found: Agreement, query: TraceQuery) -> AgreementPanel:
    def row(r: AgreementRow) -> HeatRow:
        shares = [float(value) for value in r.top1]
        chosen = (r.geometry, r.frame) == (query.geometry, query.frame)
        return HeatRow(
            label="largest share" if r.geometry == "share" else _LABEL[r.geometry],
            cells=tuple(_heat(s) for s in shares),
            overlap=_percent(float(r.overlap[-1])),
            correlation=signed(float(r.rank_correlation[-1])),
            rank=f"{float(r.final_rank[-1]):g}",
            chosen=chosen,
        )

    frames = sorted({r.frame: r.control for r in found.rows}.items(), key=lambda pair: pair[1])
    groups = tuple(
        HeatGroup(_LABEL[frame], control, tuple(row(r) for r in found.rows if r.frame == frame))
        for frame, control in frames
    )
    last = {(r.geometry, r.frame): float(r.top1[-1]) for r in found.rows}
    told = [f"{text} at {_percent(last[g, f])}" for g, f, text in _TOLD if (g, f) in last]
    chance = max((float(r.top1[-1]) for r in found.rows if r.control), default=0.0)
    count = len(found.positions)
    layer = figures.layer_label(found.layers[-1])
    return AgreementPanel(
        sentence=f"At layer {layer}, over {count} position{'s' if count != 1 else ''}, the first "
        f"token is the model's own prediction by {'; by '.join(told)}; by random vectors at "
        f"{_percent(chance)}.",
        layers=tuple(figures.layer_label(one) for one in found.layers),
        groups=groups,
        last_layer=layer,
    )


def _heat(share: float) -> HeatCell:
    if share != share:
        return HeatCell("–", 0)
    return HeatCell(f"{100 * share:.0f}", min(6, int(share * 7)))


def _percent(share: float) -> str:
    return "–" if share != share else f"{100 * share:.0f} %"


def _export(request: Request, query: TraceQuery, explorer: Explorer) -> Export:
    names = set(TraceQuestion.model_fields) - {"prompt"}
    asked = query.model_dump(include=names, exclude_defaults=True)
    source = "" if explorer.settings.model is None else repr(explorer.settings.model)
    knobs = "".join(f",\n    {name}={value!r}" for name, value in asked.items())
    python = (
        "from engine import load\n"
        "from app.figures.trace import grid\n\n"
        f"space = load({source})\n"
        f"trace = space.trace(\n    {query.prompt!r}{knobs},\n)\n"
        f"grid(trace, {query.colour!r})"
    )
    return Export(
        json=link(request, "/api/v1/trace", prompt=query.prompt, **asked),
        csv=link(request, "/api/v1/trace.csv", prompt=query.prompt, **asked),
        permalink=link(
            request, "/", **(query.model_dump(exclude_defaults=True) | {"prompt": query.prompt})
        ),
        python=python,
    )


# ---- numbers for people --------------------------------------------------------------------------


def probability(value: float) -> str:
    """A probability: three decimals, and never a bare 0 for what is only small."""
    value = float(value)
    if value != value:
        return "–"
    return "<0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A number that may be negative, with a real minus sign."""
    return number(value if value is None else float(value), digits).replace("-", "−")


def size(value: float) -> str:
    """Bytes as people read them."""
    return f"{value / 2**20:.1f} MiB" if value < 2**30 else f"{value / 2**30:.2f} GiB"


def seconds(value: float) -> str:
    """Seconds as people read them."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _span(layers: Sequence[int]) -> str:
    first, last = figures.layer_label(layers[0]), figures.layer_label(layers[-1])
    return first if first == last else f"{first}–{last}"


def _pair(time: float, memory: float) -> str:
    return f"{seconds(time)}, {size(memory)}"


def _forecast(estimate: CostEstimate) -> CostLine:
    cost = estimate.cost
    return CostLine(estimate.tokens, _pair(cost.predicted_seconds, cost.predicted_bytes), None)


def _measured(tokens: int, cost: Cost) -> CostLine:
    measured = None
    if cost.seconds is not None and cost.bytes is not None:
        measured = _pair(cost.seconds, cost.bytes)
    return CostLine(tokens, _pair(cost.predicted_seconds, cost.predicted_bytes), measured)
