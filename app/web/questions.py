"""What a page is asked, read so that a mistake does not cost the rest of the question.

The API refuses a question with a mistake in it. A page keeps what can be kept, so that the form and
the prompt stand as they were sent, and says what was wrong where the answer would stand.
"""

from __future__ import annotations

from typing import Any, TypeVar, get_origin

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams

from app.web.errors import validation_sentence

Q = TypeVar("Q", bound=BaseModel)


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
