"""What is asked of maps: which map, what stands beside it, and what is opened on it.

The map that is meant stands in the query string of every address, so each is a permalink.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from pydantic import AfterValidator, Field, field_validator
from starlette.requests import Request

from app.calibrate.text_sets import text_set
from app.maps.calibrated import calibration_name, reading_of
from app.maps.inputs import concept_axes
from app.web.questions import (
    Alpha,
    LayerNumber,
    PageQuestion,
    PromptText,
    Question,
    Ridge,
    ShortText,
    no_nul,
    undialled,
)
from app.web.rendering import as_text
from engine.frames.kinds import FRAMES, FrameName
from engine.lenses import LENSES, LensName
from engine.maps import COLOURS, PROJECTIONS, CalibrationName, MapOptions, TextSet
from engine.maps.options import VOCABULARIES
from engine.maps.preprocessing import PREPROCESSINGS, PreprocessingName
from engine.maps.projections import SHARED, ProjectionName
from engine.trace.options import STATES, StateName

ColourName = Annotated[str, Field(max_length=40, pattern=r"^[a-z_ ]+$")]
SEED_CEILING = 2**31 - 2


LongText = Annotated[str, Field(max_length=4_000), AfterValidator(no_nul)]
"""A selection or the tokens of concept axes in a query model."""


class MapQuestion(Question):
    """Which map."""

    vocabulary: Literal["bases", "alone", "none"] = Field("bases", description="The tokens of the "
        "vocabulary: their fixed bases, each token's own state at the layer, or none.")  # fmt: skip
    frame: FrameName = Field("output", description="The vectors that stand for the tokens.")
    alpha: Alpha = None
    ridge: Ridge = None
    select: LongText = Field("all", description="Which tokens: all, ids:1,2, words:cat,dog, "
        "words:NAME=cat,dog;NAME=red,blue, search:TEXT, regex:EXPRESSION, prompt, or near:K to "
        "the prompt's last state.")  # fmt: skip
    prompt: PromptText | None = Field(None, description="Its tokens' states are points.")
    bos: Literal["auto", "yes", "no"] = Field("auto", description="Whether the model's first "
        "token is put before the prompt.")  # fmt: skip
    chat: bool = Field(False, description="Put the prompt into the model's chat template.")
    texts: Annotated[str, Field(max_length=40)] | None = Field(None, description="A text set by "
        "its name or id; each text's last state is a point.")  # fmt: skip
    layer: LayerNumber = Field(-1, description="The layer of the states: 0 is the embedding, "
        "-1 the last.")  # fmt: skip
    state: StateName = Field("normed", description="States after the final norm, or raw.")
    lens: LensName = Field("none", description="What brings the states of a middle layer to where "
        "the head reads; 'linear' is fitted to the model first.")  # fmt: skip
    preprocessing: PreprocessingName = Field(
        "unit", description="What is done to every point before anything is fitted or placed."
    )
    projection: ProjectionName = Field(
        "shared",
        description="; ".join(one.brief for one in PROJECTIONS.values() if one.brief) + ".",
    )
    dims: int = Field(2, ge=2, le=3, description="2 or 3.")
    seed: int = Field(0, ge=0, le=SEED_CEILING, description="Of UMAP and of every sample.")
    neighbours: int = Field(15, ge=2, le=200, description="UMAP's n_neighbors.")
    min_dist: float = Field(0.1, ge=0, le=1, description="UMAP's min_dist.")
    principal: int = Field(4096, ge=2, le=4096, description="UMAP starts from so many principal "
        "axes; at most, and by default, as many as the model has dimensions.")  # fmt: skip
    axes: LongText | None = Field(None, description="Concept axes, a plus and a minus token for "
        "each dimension: king-queen,man-woman; \\- and \\, are those characters, #262 is an "
        "id.")  # fmt: skip
    calibration: Annotated[str, Field(max_length=40, pattern=r"^[0-9a-f]{0,40}$")] | None = Field(
        None, description="A saved calibration by its id: its states take the place of the "
        "model's.")  # fmt: skip
    side: Literal["before", "after"] = Field("after", description="With a calibration: after it, "
        "or before it in the same window.")  # fmt: skip

    def options(
        self, texts: TextSet | None, calibration: CalibrationName | None = None
    ) -> MapOptions:
        """The engine's options.

        Args:
            texts: the text set that `texts` names.
            calibration: what `calibration` names.
        """
        given = {name: getattr(self, name) for name in MapQuestion.model_fields}
        given |= {
            "select": self.select or "all",
            "prompt": self.prompt or None,
            "texts": texts,
            "axes": concept_axes(self.axes or ""),
            "calibration": calibration,
        }
        return MapOptions(**given)

    def link_fields(self) -> dict[str, Any]:
        """The fields of the map that are not at their defaults, for a link to the same map."""
        names = MapQuestion.model_fields
        return {
            name: value
            for name, value in self.model_dump(exclude_defaults=True).items()
            if name in names
        }


async def options_of(request: Request, question: MapQuestion) -> MapOptions:
    """The engine's options for a question; `OptionError` where they cannot be."""
    calibration = await calibration_name(request, question.calibration)
    reading = None
    if calibration is not None and question.texts:
        reading = await reading_of(request, calibration.id)
    return question.options(await text_set(request, question.texts, reading), calibration)


def link_path(question: MapQuestion) -> str:
    """The page of this map, without the root path."""
    pairs = {name: as_text(value) for name, value in question.link_fields().items()}
    return "/map" + (f"?{urlencode(pairs, quote_via=quote)}" if pairs else "")


PROMPT = "She opened the door and"
"""What the first visit draws: short enough to follow with the eye."""
_VALUES = {
    "projection": PROJECTIONS,
    "frame": FRAMES,
    "lens": LENSES,
    "state": STATES,
    "preprocessing": PREPROCESSINGS,
    "vocabulary": VOCABULARIES,
}
COMPARE = (
    r"^(layer:[0-9]{1,4}|prompt|seed:[0-9]{1,9}|calibration:[0-9a-f]{8,28}|"
    + "|".join(f"{name}:({'|'.join(values)})" for name, values in _VALUES.items())
    + ")$"
)
"""What the second picture may differ in."""


class MapQuery(MapQuestion, PageQuestion):
    """The whole state of the page."""

    empty_counts = ("prompt",)

    prompt: PromptText | None = PROMPT
    colour: ColourName = "class"
    compare: Annotated[str, Field(max_length=40, pattern=COMPARE)] | None = None
    compare_prompt: PromptText | None = None
    find: ShortText | None = None
    regex: bool = False
    point: int | None = Field(None, ge=0, le=10_000_000)
    of: Literal["a", "b"] = "a"
    metric: Literal["cosine", "l2"] = "cosine"
    to: LayerNumber | None = None
    panel: Literal["quality", "layers", "changes"] | None = None

    @field_validator("colour")
    @classmethod
    def _known_colour(cls, value: str) -> str:
        if value.replace("_", " ") not in COLOURS:
            raise ValueError(f"must be one of {', '.join(COLOURS)}")
        return value

    @property
    def compared_calibration(self) -> str | None:
        """The calibration whose before and after stand side by side."""
        name, _, value = (self.compare or "").partition(":")
        return value if name == "calibration" else None

    @property
    def compared_layer(self) -> int | None:
        """The layer that the second picture shows."""
        name, _, value = (self.compare or "").partition(":")
        return int(value) if name == "layer" else None

    def question(self, **changes: Any) -> MapQuestion:
        """The map of the first picture, or of one that differs in something."""
        own = {name: getattr(self, name) for name in MapQuestion.model_fields}
        if self.compared_calibration is not None:
            own |= {"calibration": self.compared_calibration, "side": "before"}
        own |= changes
        own["prompt"] = own["prompt"] or None
        return undialled(MapQuestion.model_validate(own))

    def beside(self) -> MapQuestion | None:
        """The map of the second picture."""
        if self.compare == "prompt" or (self.compare is None and self.compare_prompt):
            return self.question(prompt=self.compare_prompt or self.prompt)
        if self.compare is None:
            return None
        if self.compared_calibration is not None:
            return self.question(side="after")
        name, _, value = self.compare.partition(":")
        return self.question(**{name: value})


def drawn_at_once(query: MapQuery) -> dict[str, Any]:
    """What to change so that no map is a job; everything else stays as it is set."""
    jobs = [name for name, one in PROJECTIONS.items() if one.is_job]
    quick = SHARED.name
    name, _, value = (query.compare or "").partition(":")
    changes: dict[str, Any] = {}
    if query.projection in jobs:
        changes["projection"] = quick
    # A second picture must differ from the first: no other seed, no second linear one.
    same = name == "projection" and query.projection in (*jobs, quick) and value in (*jobs, quick)
    if name == "seed" or same:
        changes["compare"] = None
    elif name == "projection" and value in jobs:
        changes["compare"] = f"projection:{quick}"
    return changes
