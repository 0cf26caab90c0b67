"""What a reader can set on the Map page, and what to begin with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from app.figures.theme import FRAMES, LENSES, STATES
from app.maps.question import PROMPT, MapQuery, MapQuestion
from app.model.open_model import ModelFacts
from app.web.rendering import as_text, link
from app.web.words import Choice, choices
from engine.calibration.labelled.known import example_sets
from engine.maps import COLOURS, PROJECTIONS, Map
from engine.maps.preprocessing import PREPROCESSINGS

VOCABULARIES = (
    ("bases", "bases", "One fixed point per token: what the head would have to see."),
    ("alone", "alone", "Each token's own state at this layer, as a text of one token."),
    ("none", "none", "Only states."),
)
TEXTS: tuple[tuple[str, str], ...] = (
    ("", "none"),
    ("topics", "topics"),
    ("sentiment", "sentiment"),
)


FIRST_LABEL = "Words of a kind"
FIRST_LOOK = (
    "Each dot is a word's basis: the vector that a state must point along for the model to say it."
    " Nobody told the model which words are animals and which are months."
)
BEFORE_LABEL = "Before and after calibration"
BEFORE_LOOK = (
    "Left the texts as the model has them, right after the calibration, in one frame: the plane"
    " through the bases of the labels."
)


@dataclass(frozen=True)
class MapForm:
    """The switches as they stand."""

    query: MapQuery
    choices: Mapping[str, tuple[Choice, ...]]
    """Of each switch by its name; without calibrations where none is saved."""
    select: str
    changed: int
    """Settings under "More settings" that are not at their defaults."""
    max_characters: int = 2_000


@dataclass(frozen=True)
class Bar:
    """What changes how the map is looked at, not which map it is."""

    layer: int
    last: int
    layered: bool
    """Whether anything on the map differs from layer to layer."""
    colours: tuple[Choice, ...]
    hidden: tuple[tuple[str, str], ...]
    flat: bool


@dataclass(frozen=True)
class ExampleChip:
    """A map worth a first look."""

    label: str
    href: str
    look: str
    current: bool
    story: bool = False
    """Whether it stands in the row, or under “More”."""


@dataclass(frozen=True)
class Waiting:
    """A picture that takes long and is not there yet."""

    sentence: str
    """What is missing."""
    action: str
    """Where a form starts it."""
    instead: str
    """A link to a picture that is drawn at once."""
    start: str
    """The API's address that starts it for a page that stays."""
    draft: str
    """The API's address of where it is."""
    auto: bool
    """Whether it is started as soon as the page is there: what was asked for is this picture."""


LEAST_WORDS, LEAST_GROUPS = 4, 3


def first_view(known: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The state of the page at a first visit.

    Args:
        known: of each group those that the model's vocabulary holds.
    """
    groups = {name: some for name, some in known.items() if len(some) >= LEAST_WORDS}
    if len(groups) < LEAST_GROUPS:
        return {"prompt": PROMPT}
    select = ";".join(f"{name}={','.join(some)}" for name, some in groups.items())
    return {"prompt": "", "select": f"words:{select}", "projection": "selection", "colour": "label"}


ATLAS: Mapping[str, Any] = {"prompt": "", "projection": "umap"}
"""The state of the page that shows all bases by UMAP."""
STORIES = 4
"""Examples that stand in the row; the others are under “More”."""
PEOPLE = "mother,father,sister,brother,daughter,son,wife,husband,queen,king,woman,man,girl,boy"
FEELINGS = "love,hate,happy,sad,peace,war,friend,enemy,hope,fear,beautiful,terrible"
EXAMPLES: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    (
        "Your text",
        "All tokens of the vocabulary, and a text as a line among them; type your own. Two axes"
        " show little of so many directions: the dots above the map say how little.",
        {"prompt": PROMPT},
    ),
    (
        "The atlas",
        "Every token that the model can say, laid out so that neighbours in the model are"
        " neighbours here. Regions are named by their most central words; zoom in, and smaller"
        " ones have names. Nobody told the model what belongs together.",
        ATLAS,
    ),
    (
        "Two layers",
        "The same text at the last layer and in the middle; hovering one lights the other.",
        {"prompt": PROMPT, "compare": "layer:4"},
    ),
    (
        "Layer by layer",
        "Press play under “Layer”: the states begin at the embedding and end where the head reads.",
        {"prompt": PROMPT, "layer": 0},
    ),
    (
        "Near the answer",
        "The 300 bases nearest to the state from which the next token is predicted.",
        {"prompt": PROMPT, "select": "near:300", "projection": "selection"},
    ),
    (
        "{topics} sentences by topic",
        "Each diamond is a sentence, at the place where the model would name its topic; colours are"
        " the true topics, which it was never shown. Where they mix, it does not tell them apart:"
        " that is what a calibration changes.",
        {"vocabulary": "none", "prompt": "", "texts": "topics", "colour": "label",
         "projection": "layer"},
    ),
    (
        "Concept axes",
        "To the right: more “she” than “he”. Upwards: more “good” than “bad”. Words that were not"
        " used for the axes say whether these directions mean what their words say.",
        {"prompt": "", "projection": "axes", "axes": " she- he, good- bad", "colour": "label",
         "select": "words:people=" + PEOPLE + ";feelings=" + FEELINGS},
    ),
    (
        "3-D",
        "Drag to turn it. Selecting with box and lasso works in two dimensions.",
        {"prompt": PROMPT, "dims": 3},
    ),
)  # fmt: skip
"""Label, what to look for, and the state of the page; ``{topics}`` is the number of sentences."""


def _projections() -> list[tuple[str, ...]]:
    return [(one.name, one.title, one.help) for one in PROJECTIONS.values()]


def _colours() -> list[tuple[str, str]]:
    """In an address a name is written with underscores."""
    offered = sorted((one for one in COLOURS.values() if one.title), key=lambda one: one.place)
    return [(one.name.replace(" ", "_"), one.title) for one in offered]


def _compared() -> list[tuple[str, ...]]:
    return [row for row in _projections() if PROJECTIONS[row[0]].beside]


def _preprocessings() -> list[tuple[str, ...]]:
    """The default first."""
    default = MapQuestion.model_fields["preprocessing"].default
    table = [(one.name, one.title) for one in PREPROCESSINGS.values()]
    return sorted(table, key=lambda row: row[0] != default)


def form_of(query: MapQuery, facts: ModelFacts, saved: Mapping[str, str]) -> MapForm:
    """The form as the query leaves it."""
    more = ("select", "frame", "alpha", "ridge", "lens", "state", "axes", "compare_prompt",
            "neighbours", "min_dist", "principal", "calibration", "seed", "bos",
            "chat")  # fmt: skip
    fields = type(query).model_fields
    changed = sum(getattr(query, name) != fields[name].default for name in more)
    texts = TEXTS
    if query.texts and query.texts not in dict(TEXTS):
        texts = (*TEXTS, (query.texts, "your own set"))
    tables: dict[str, Iterable[tuple[str, ...]]] = {
        "vocabulary": VOCABULARIES,
        "projection": _projections(),
        "dims": (("2", "2-D"), ("3", "3-D")),
        "texts": texts,
        "preprocessing": _preprocessings(),
        "frame": FRAMES,
        "lens": LENSES,
        "state": STATES,
        "bos": (("auto", "as the model does"), ("yes", "yes"), ("no", "no")),
        "calibration": _calibrations(query, saved),
    }
    switches = {
        name: choices(table, as_text(getattr(query, name) or "")) for name, table in tables.items()
    }
    switches["compare"] = _compares(query, facts, saved)
    select = "" if query.select == "all" else query.select
    return MapForm(query, switches, select, changed)


def _calibrations(query: MapQuery, saved: Mapping[str, str]) -> list[tuple[str, str]]:
    table = list(saved.items())
    if query.calibration and query.calibration not in saved:
        table.append((query.calibration, "not there"))
    return [("", "none"), *table] if table else []


def _compares(query: MapQuery, facts: ModelFacts, saved: Mapping[str, str]) -> tuple[Choice, ...]:
    """What the second picture may be."""
    table = [("", "nothing")]
    table += [
        (f"calibration:{id_}", f"before / after calibration: {name}") for id_, name in saved.items()
    ]
    table += [(f"layer:{layer}", f"layer {layer}") for layer in range(facts.layers)]
    table += [("prompt", "another text (under More settings)")]
    for name, label, options in (
        ("projection", "picture", _compared()),
        ("state", "state", STATES),
        ("lens", "lens", LENSES),
        ("preprocessing", "preprocessing", _preprocessings()),
        ("frame", "frame", FRAMES),
    ):
        table += [
            (f"{name}:{row[0]}", f"{label}: {row[1]}")
            for row in options
            if row[0] != getattr(query, name)
        ]
    if PROJECTIONS[query.projection].is_job:
        table.append((f"seed:{query.seed + 1}", "another seed of the same data"))
    if query.compare and query.compare not in dict(table):
        table.append((query.compare, query.compare.replace(":", ": ")))
    return choices(table, query.compare or ("prompt" if query.compare_prompt else ""))


def bar_of(query: MapQuery, drawn: Map, facts: ModelFacts) -> Bar:
    """The row above the pictures."""
    kinds = dict(drawn.points.kinds)
    table = [
        row
        for row in _colours()
        if (row[0] != "label" or "text" in kinds or "=" in query.select)
        and (row[0] != "kind" or len(kinds) > 1)
    ]
    if query.colour not in dict(table):
        table.append((query.colour, query.colour))
    state = query.model_dump(exclude_defaults=True, exclude={"find", "regex", "panel"})
    if not query.prompt:
        state["prompt"] = ""
    return Bar(
        layer=drawn.layer,
        last=facts.layers - 1,
        layered=set(kinds) != {"basis"},
        colours=choices(table, query.colour),
        hidden=tuple((name, as_text(value)) for name, value in state.items()),
        flat=drawn.dims == 2,
    )


def examples_of(
    request: Request, query: MapQuery, first: Mapping[str, Any], saved: Mapping[str, str]
) -> tuple[ExampleChip, ...]:
    """The examples as links; the one that is shown is marked.

    Args:
        first: of `first_view`.
        saved: names of calibrations by their ids; the one that is shown, or the newest, is offered.
    """
    topics = len(example_sets()["topics"].texts)
    table = [(label.format(topics=topics), look, state) for label, look, state in EXAMPLES]
    if "select" in first:
        table.insert(0, (FIRST_LABEL, FIRST_LOOK, first))
    stories = STORIES - ("select" not in first)
    chips = [
        ExampleChip(
            label, link(request, "/map", **state), look, same_state(query, state), i < stories
        )
        for i, (label, look, state) in enumerate(table)
    ]
    if saved:
        shown = query.compared_calibration
        mine = shown in saved
        place = f"/map/calibration/{shown if mine else next(iter(saved))}"
        chips.insert(1, ExampleChip(BEFORE_LABEL, link(request, place), BEFORE_LOOK, mine, True))
    return tuple(chips)


def same_state(query: MapQuery, state: Mapping[str, Any]) -> bool:
    """Whether a page shows the map of this state, whatever is opened or found on it."""
    passing = {"point", "of", "find", "regex", "panel"}
    now = query.model_dump(exclude=passing)
    return now == type(query).model_validate(dict(state)).model_dump(exclude=passing)
