"""What is answered: the base of all documents, their faults for OpenAPI, and how they are sent.

A document is a contract: what it names stays, and further fields may stand beside that.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response


class Document(BaseModel):
    """An answer; further fields may be added, these stay."""

    model_config = ConfigDict(extra="allow")


class TokenDocument(Document):
    """A token."""

    id: int
    text: str


class Fault(BaseModel):
    """What went wrong."""

    sentence: str = Field(description="One sentence for people.")
    status: int
    id: str | None = Field(description="Under this id the server's log knows the request.")


class FaultDocument(BaseModel):
    """The answer of every request that failed."""

    error: Fault


_FAULTS: dict[int, str] = {
    400: "The request could not be understood.",
    401: "A token is asked for.",
    403: "A write, or an embedded read, from another site.",
    404: "No such model, or nothing at this address.",
    405: "This address does not take that method.",
    408: "The body took too long to arrive.",
    409: "A UMAP or an agreement that is not computed yet, or something saved that is damaged or"
    " another model's.",
    413: "The body is too large, or the answer would need more memory than allowed.",
    415: "The body is compressed, or not of the type that is needed.",
    422: "A value cannot be used; the sentence says which and why.",
    431: "The header lines are too long.",
    500: "An error of the server; the id stands in its log.",
    503: "The model is busy or being loaded; Retry-After says when to try again.",
    504: "It took longer than allowed and was stopped.",
    507: "The server's disk is full, or its data folder cannot be written.",
}


def described(
    model: type[BaseModel] | None = None,
    csv: bool = False,
    status: int = 200,
    file: str | None = None,
) -> dict[int | str, Any]:
    """What an address answers, faults included, for OpenAPI."""
    faults: dict[int | str, Any] = {
        status: {"model": FaultDocument, "description": text} for status, text in _FAULTS.items()
    }
    if csv:
        return {200: {"content": {"text/csv": {}}, "description": "A table."}, **faults}
    if file is not None:
        kind = file.partition(";")[0]
        return {200: {"content": {kind: {}}, "description": "A file."}, **faults}
    if status == 204:
        return {status: {"description": "Done."}, **faults}
    return {status: {"model": model or Document}, **faults}


def json_answer(body: bytes, status: int = 200) -> Response:
    """JSON that `app.web.export` wrote."""
    return Response(body, status, media_type="application/json")


def csv_answer(body: bytes, stem: str) -> Response:
    """A table that `app.web.export` wrote, as a file of this name."""
    return file_answer(body, f"{stem}.csv", "text/csv; charset=utf-8")


def file_answer(body: bytes, name: str, media_type: str) -> Response:
    """A file to keep, under a name that holds nothing of what was typed."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(body, headers=headers, media_type=media_type)
