"""What the Map page is asked: which map, what stands beside it, and what is opened on it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from app.dependencies import PromptText, ShortText
from app.routes.api import LayerNumber
from app.routes.map_api import ColourName, MapQuestion

PROMPT = "She opened the door and"
"""What the first visit draws: short enough to follow with the eye."""
COMPARE = (
    r"^(layer:[0-9]{1,4}|prompt"
    r"|(projection|frame|state|preprocessing|seed|vocabulary):[a-z0-9]{1,16})$"
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

    def question(self, **changes: Any) -> MapQuestion:
        """The map of the first picture, or of one that differs in something."""
        own = {name: getattr(self, name) for name in MapQuestion.model_fields} | changes
        own["prompt"] = own["prompt"] or None
        return MapQuestion.model_validate(own)

    def beside(self) -> MapQuestion | None:
        """The map of the second picture."""
        if self.compare == "prompt" or (self.compare is None and self.compare_prompt):
            return self.question(prompt=self.compare_prompt or self.prompt)
        if self.compare is None:
            return None
        name, _, value = self.compare.partition(":")
        return self.question(**{name: value})
