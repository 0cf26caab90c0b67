"""What is asked of two prompts, by the page and by the API."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from app.trace.question import TraceQuestion
from app.web.questions import PageQuestion, PromptText, undialled
from engine import TraceOptions
from engine.compare.alignment import AlignmentName


class CompareQuestion(TraceQuestion):
    """Two prompts, how to read both, and how their tokens are paired."""

    other: PromptText = Field(description="The text beside it.")
    align: AlignmentName = Field("tokens", description="How positions are paired: by equal token "
        "ids, or where tokens end at the same character.")  # fmt: skip


RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{24}$", max_length=24)]


class CompareRuns(CompareQuestion):
    """The same, of which either text may be that of a kept run."""

    prompt: PromptText = Field("", description="The text that is read.")
    other: PromptText = Field("", description="The text beside it.")
    run: RunId | None = Field(None, description="A kept run of Read, Generate or Act that stands "
        "in the place of the prompt, by its id; how it was read goes for what is not said here."
        )  # fmt: skip
    other_run: RunId | None = Field(None, description="And one in the place of the other.")


class CompareQuery(CompareRuns, PageQuestion):
    """The whole state of the page."""

    empty_counts = ("prompt", "other")
    colour: Literal["divergence", "rank_in_other", "rank_in_first"] = "divergence"

    def options(self) -> TraceOptions:
        """The engine's options; a dial that stands in the form of another frame says nothing."""
        return CompareQuestion.options(undialled(self))
