"""What is asked: the base of all questions, and texts and numbers that are bounded.

The API refuses a question with a mistake in it. A page keeps what can be kept (`ask`), so that the
form and the prompt stand as they were sent, and says what was wrong where the answer would stand.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_origin

from fastapi import Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.datastructures import QueryParams

from app.settings import K_CEILING, PROMPT_CEILING
from app.web.errors import validation_sentence
from engine.frames.kinds import FrameName, kind_of
from engine.lenses import LensName
from engine.reading.geometries import GeometryName
from engine.trace.options import StateName

Q = TypeVar("Q", bound=BaseModel)


def no_nul(value: str) -> str:
    """The text, if it holds no NUL: nothing that reads it further on expects one."""
    if "\0" in value:
        raise ValueError("the text holds a NUL character; take it out")
    return value


PromptText = Annotated[str, Field(max_length=PROMPT_CEILING), AfterValidator(no_nul)]
"""A prompt in a query model: bounded before anything looks at it, and without NUL."""
ShortText = Annotated[str, Field(max_length=400), AfterValidator(no_nul)]
"""A token's text or a search in a query model."""
RangeText = Annotated[str, Field(max_length=40), AfterValidator(no_nul)]
"""Layers or positions in a query model, ``0:6``, ``0:12:2``, ``-1``: kept short here, read by the
engine, which says what is wrong with it."""
Alpha = Annotated[
    float | None,
    Field(
        ge=-0.5,
        le=1,
        description="Where the frame 'dial' stands: 0 head rows, 0.5 tight, 1 semantic bases; left"
        " out: 0.1.",
    ),
]
Ridge = Annotated[
    float | None,
    Field(
        ge=0,
        le=100,
        description="Of the frame 'dial': λ in mean eigenvalues, added to G first; alone it is"
        " (G + λ)^-1 w, with alpha that power.",
    ),
]
LayerNumber = Annotated[int, Field(ge=-1, le=10_000)]


class Question(BaseModel):
    """What all questions have in common: nothing unknown, nothing endless."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ReadingQuestion(Question):
    """How states are read."""

    geometry: GeometryName = Field("cosine", description="How nearness is measured.")
    frame: FrameName = Field("output", description="The vectors that stand for the tokens.")
    alpha: Alpha = None
    ridge: Ridge = None
    lens: LensName = Field("none", description="What brings a middle layer to where the head "
        "reads; 'linear' is fitted to the model first.")  # fmt: skip
    state: StateName = Field("normed", description="Read states after the final norm, or raw.")
    k: int = Field(10, ge=1, le=K_CEILING, description="Nearest tokens per cell.")
    bos: Literal["auto", "yes", "no"] = Field("auto", description="Whether the model's first "
        "token is put before the prompt.")  # fmt: skip
    chat: bool = Field(False, description="Put the prompt into the model's chat template.")
    words_only: bool = Field(False, description="List words and word pieces only; "
        "probabilities and ranks stay those of the whole vocabulary.")  # fmt: skip


class FormQuestion(Question):
    """What a form sends. Browsers end each line of a text with CR LF (HTML Standard, 4.10.21.4);
    what was typed is LF, and a token would be another."""

    @model_validator(mode="before")
    @classmethod
    def _line_ends(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: _typed(value) for name, value in values.items()}


def _typed(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_typed(one) for one in value]
    return value.replace("\r\n", "\n") if isinstance(value, str) else value


class PageQuestion(FormQuestion):
    """The whole state of a page; a field that its form sent empty is left at its default."""

    empty_counts: ClassVar[tuple[str, ...]] = ()
    """Fields of which an empty text says something."""
    present: str | None = Field(None, pattern=r"^[a-z0-9-]{1,40}:[0-9]{1,2}$")
    """The step of a story that the page is, as ``STORY:STEP``."""

    @model_validator(mode="before")
    @classmethod
    def _empty_fields(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if k in cls.empty_counts or v not in ("", [""])}


def undialled(query: Q) -> Q:
    """The question without a dial where its frame has none: a form sends all that stands in it."""
    if kind_of(vars(query)["frame"]).dialled:
        return query
    return query.model_copy(update={"alpha": None, "ridge": None})


def ask(model: type[Q], request: Request) -> tuple[Q, str | None]:
    """The query string as a question, and a sentence about what of it could not be used.

    Args:
        model: the page's query model; each of its fields has a default.
        request: whose query string is read. Fields that hold several values are tuples.
    """
    return ask_params(model, request.query_params)


def ask_params(model: type[Q], params: QueryParams) -> tuple[Q, str | None]:
    """As `ask`, for fields that came another way: the body of a form that was sent."""
    fields = model.model_fields
    given: dict[str, Any] = {
        name: params.getlist(name)
        if name in fields and get_origin(fields[name].annotation) is tuple
        else params[name]
        for name in params
    }
    try:
        return model.model_validate(given), None
    except ValidationError as error:
        errors = error.errors(include_url=False)
        wrong = {str(e["loc"][0]) for e in errors if e["loc"]}
        kept = {name: value for name, value in given.items() if name not in wrong}
        sentence = validation_sentence(errors)
    try:
        return model.model_validate(kept), sentence
    except ValidationError:
        return model(), sentence
