"""What a reader can set on the Map page, and what to begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import Request

from app.rendering import link
from app.routes.map_api import MapQuestion
from app.routes.map_panels import LinkTo
from app.routes.trace_panels import FRAMES, Choice
from app.service import ModelFacts

if TYPE_CHECKING:
    from app.routes.map_query import MapQuery

VOCABULARIES = (
    ("bases", "bases", "One fixed point per token: what the head would have to see."),
    ("alone", "alone", "Each token's own state at this layer, as a text of one token."),
    ("none", "none", "Only states."),
)
PROJECTIONS = (
    ("shared", "shared", "PCA of the bases, once, for all layers: exact, and movement is "
     "movement."),
    ("layer", "per layer", "PCA of each layer, turned onto the bases: its shape, no movement."),
    ("umap", "UMAP", "For finding groups; a job of about half a minute."),
    ("axes", "by axes", "Each axis is one token minus another."),
)  # fmt: skip
PREPROCESSINGS = (
    ("unit", "unit length"),
    ("raw", "raw"),
    ("centred", "centred"),
    ("standardised", "standardised"),
)
COLOURS = (
    ("class", "kind of token"),
    ("norm", "length"),
    ("leverage", "leverage"),
    ("prediction", "nearest basis"),
    ("label", "label of the text"),
    ("distortion", "distortion of this picture"),
    ("kind", "kind of point"),
    ("token_id", "token id"),
)
TEXTS: tuple[tuple[str, str], ...] = (
    ("", "none"),
    ("topics", "topics"),
    ("sentiment", "sentiment"),
)


@dataclass(frozen=True)
class MapForm:
    """The switches as they stand."""

    prompt: str
    max_characters: int
    vocabularies: tuple[Choice, ...]
    projections: tuple[Choice, ...]
    dims: tuple[Choice, ...]
    preprocessings: tuple[Choice, ...]
    compares: tuple[Choice, ...]
    compare_prompt: str
    select: str
    texts: tuple[Choice, ...]
    frames: tuple[Choice, ...]
    states: tuple[Choice, ...]
    axes: str
    neighbours: int
    min_dist: float
    seed: int
    bos: tuple[Choice, ...]
    has_bos: bool
    has_chat: bool
    chat: bool
    changed: int


@dataclass(frozen=True)
class Bar:
    """What changes how the map is looked at, not which map it is."""

    layer: int
    last: int
    layered: bool
    """Whether anything on the map differs from layer to layer."""
    colours: tuple[Choice, ...]
    hidden: tuple[tuple[str, str], ...]
    find: str
    regex: bool
    flat: bool


@dataclass(frozen=True)
class ExampleChip:
    """A map worth a first look."""

    label: str
    href: str
    look: str
    current: bool


@dataclass(frozen=True)
class Waiting:
    """A picture that takes long and is not there yet."""

    title: str
    sentence: str
    warning: str
    action: str
    instead: str


EXAMPLES: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("A text through the vocabulary", "", {}),
    (
        "How a text arrives, layer by layer",
        "Press play under “Layer”: the states begin at the embedding and end where the head reads.",
        {"layer": 0},
    ),
    (
        "What is near the answer",
        "The 300 bases nearest to the state from which the next token is predicted.",
        {"select": "near:300"},
    ),
    (
        "Sentences by topic",
        "Each diamond is a sentence, its state at the last token; colours are the labels, which the"
        " model was never shown.",
        {"vocabulary": "none", "prompt": "", "texts": "topics", "colour": "label",
         "projection": "layer"},
    ),
    (
        "Two layers side by side",
        "The same text at the last layer and in the middle; hovering one lights the other.",
        {"compare": "layer:4"},
    ),
    (
        "Concept axes",
        "To the right: more “king” than “girl”. Upwards: more “red” than “old”.",
        {"projection": "axes", "axes": " king- girl, red- old"},
    ),
    (
        "Three dimensions",
        "Drag to turn it. Selecting with box and lasso works in two dimensions.",
        {"dims": 3},
    ),
)  # fmt: skip


def choices(table: Sequence[tuple[str, ...]], chosen: str) -> tuple[Choice, ...]:
    """A row of (value, label[, help]) as choices."""
    return tuple(
        Choice(row[0], row[1], row[0] == chosen, row[2] if len(row) > 2 else "") for row in table
    )


def form_of(query: MapQuery, facts: ModelFacts) -> MapForm:
    """The form as the query leaves it."""
    more = ("select", "frame", "state", "axes", "compare_prompt", "neighbours",
            "min_dist", "seed", "bos", "chat")  # fmt: skip
    fields = type(query).model_fields
    changed = sum(getattr(query, name) != fields[name].default for name in more)
    texts = TEXTS
    if query.texts and query.texts not in dict(TEXTS):
        texts = (*TEXTS, (query.texts, "your own set"))
    return MapForm(
        prompt=query.prompt or "",
        max_characters=2_000,
        vocabularies=choices(VOCABULARIES, query.vocabulary),
        projections=choices(PROJECTIONS, query.projection),
        dims=choices((("2", "2-D"), ("3", "3-D")), str(query.dims)),
        preprocessings=choices(PREPROCESSINGS, query.preprocessing),
        compares=_compares(query, facts),
        compare_prompt=query.compare_prompt or "",
        select="" if query.select == "all" else query.select,
        texts=choices(texts, query.texts or ""),
        frames=choices(FRAMES, query.frame),
        states=choices((("normed", "final-normed"), ("raw", "raw")), query.state),
        axes=query.axes or "",
        neighbours=query.neighbours,
        min_dist=query.min_dist,
        seed=query.seed,
        bos=choices((("auto", "as the model does"), ("yes", "yes"), ("no", "no")), query.bos),
        has_bos=facts.has_bos,
        has_chat=facts.has_chat_template,
        chat=query.chat,
        changed=changed,
    )


def _compares(query: MapQuery, facts: ModelFacts) -> tuple[Choice, ...]:
    """What the second picture may be."""
    table = [("", "nothing")]
    table += [(f"layer:{layer}", f"layer {layer}") for layer in range(facts.layers)]
    table += [("prompt", "another text (under More settings)")]
    for name, label, options in (
        ("projection", "picture", PROJECTIONS[:3]),
        ("state", "state", (("normed", "final-normed"), ("raw", "raw"))),
        ("preprocessing", "preprocessing", PREPROCESSINGS),
        ("frame", "frame", FRAMES),
    ):
        table += [
            (f"{name}:{row[0]}", f"{label}: {row[1]}")
            for row in options
            if row[0] != getattr(query, name)
        ]
    if query.projection == "umap":
        table.append((f"seed:{query.seed + 1}", "another seed of the same data"))
    if query.compare and query.compare not in dict(table):
        table.append((query.compare, query.compare.replace(":", ": ")))
    return choices(table, query.compare or ("prompt" if query.compare_prompt else ""))


def bar_of(query: MapQuery, meta: Mapping[str, Any], facts: ModelFacts, to: LinkTo) -> Bar:
    """The row above the pictures."""
    kinds = {run["kind"] for run in meta["kinds"]}
    table = [
        row
        for row in COLOURS
        if (row[0] != "label" or "text" in kinds) and (row[0] != "kind" or len(kinds) > 1)
    ]
    if query.colour not in dict(table):
        table.append((query.colour, query.colour))
    state = query.model_dump(exclude_defaults=True, exclude={"find", "regex", "panel"})
    if not query.prompt:
        state["prompt"] = ""
    return Bar(
        layer=meta["layer"],
        last=facts.layers - 1,
        layered=kinds != {"basis"},
        colours=choices(table, query.colour),
        hidden=tuple(
            (name, str(value).lower() if isinstance(value, bool) else str(value))
            for name, value in state.items()
        ),
        find=query.find or "",
        regex=query.regex,
        flat=meta["dims"] == 2,
    )


def examples_of(request: Request, query: MapQuery) -> tuple[ExampleChip, ...]:
    """The examples as links; the one that is shown is marked."""
    now = query.model_dump(exclude_defaults=True)
    return tuple(
        ExampleChip(label, link(request, "/map", **state), look, _same(now, state))
        for label, look, state in EXAMPLES
    )


def _same(now: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    passing = ("point", "of", "find", "regex", "panel")
    return {name: value for name, value in now.items() if name not in passing} == dict(state)


def waiting_of(request: Request, question: MapQuestion, sentence: str, instead: str) -> Waiting:
    """What stands in place of a UMAP that has not been computed."""
    return Waiting(
        title="This picture is not computed yet",
        sentence=sentence[:1].upper() + sentence[1:],
        warning="UMAP takes from a few seconds to a minute, beside everything else; the picture is"
        " kept, and comes back at once the next time. It is good for finding groups: gaps, sizes"
        " and distances between groups mean nothing on it.",
        action=link(request, "/map/umap", **question.link_fields()),
        instead=instead,
    )
