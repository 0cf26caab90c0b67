"""What the Map page is asked: which map, what stands beside it, and what is opened on it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from app.maps.api import ColourName, MapQuestion
from app.web.questions import LayerNumber, PromptText, ShortText
from engine.maps import COLOURS

PROMPT = "She opened the door and"
"""What the first visit draws: short enough to follow with the eye."""
COMPARE = (
    r"^(layer:[0-9]{1,4}|prompt"
    r"|projection:(shared|layer|umap|axes)|frame:(output|input|head|tight|random)"
    r"|state:(normed|raw)|preprocessing:(raw|centred|unit|standardised)|seed:[0-9]{1,9}"
    r"|vocabulary:(bases|alone|none)"
    r"|calibration:[0-9a-f]{8,28})$"
)
"""What the second picture may differ in."""


class MapQuery(MapQuestion):
    """The whole state of the page."""

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

    @model_validator(mode="before")
    @classmethod
    def _empty_fields(cls, values: Any) -> Any:
        """An empty field of a form is a setting left at its default; an empty text is none."""
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if k == "prompt" or v not in ("", [""])}

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

    def question(self, **changes: Any) -> MapQuestion:
        """The map of the first picture, or of one that differs in something."""
        own = {name: getattr(self, name) for name in MapQuestion.model_fields}
        if self.compared_calibration is not None:
            own |= {"calibration": self.compared_calibration, "side": "before"}
        own |= changes
        own["prompt"] = own["prompt"] or None
        return MapQuestion.model_validate(own)

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
    """What to change so that no UMAP is on the page; everything else stays as it is set."""
    name, _, value = (query.compare or "").partition(":")
    changes: dict[str, Any] = {}
    shared = query.projection in ("umap", "shared")
    if query.projection == "umap":
        changes["projection"] = "shared"
    # A second picture must differ from the first: no other seed, no second linear one.
    if name == "seed" or (name == "projection" and value in ("umap", "shared") and shared):
        changes["compare"] = None
    elif query.compare == "projection:umap":
        changes["compare"] = "projection:shared"
    return changes
