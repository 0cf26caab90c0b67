"""What is asked of two models, by the page and by the API."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from app.model.choice import ModelName
from app.trace.question import TraceQuestion
from app.web.questions import PageQuestion, PromptText, undialled
from engine import TraceOptions

Colour = Literal["js", "kl", "overlap", "cosine", "rank_in_other", "rank_in_first"]


class ModelsQuestion(TraceQuestion):
    """A text, the second model, and how both read it."""

    beside: Annotated[ModelName, Field(description="The second model: a name of the list, open"
        " beside the first.")]  # fmt: skip


class ModelsQuery(ModelsQuestion, PageQuestion):
    """The whole state of the page."""

    empty_counts = ("prompt",)
    prompt: PromptText = ""
    beside: ModelName = ""
    colour: Colour = "js"

    def options(self) -> TraceOptions:
        """The engine's options; a dial that stands in the form of another frame says nothing."""
        return TraceQuestion.options(undialled(self))
