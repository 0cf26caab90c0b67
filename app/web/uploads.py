"""A file that a form sends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Final

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from app.web.problems import ClientGone
from engine.errors import InputError

PASTED: Final = 2**20
"""Bytes of a text that stands in a file's place."""
_FIELD: Final = 8192
"""Bytes of any other field."""


def check_type(request: Request) -> None:
    """Refuse what is no form with files (`HTTPException` 415)."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPException(415, "Send the file as multipart/form-data, in a field named file.")


@asynccontextmanager
async def uploaded(
    request: Request, *fields: str, pasted: Callable[[str], str] | None = None
) -> AsyncIterator[tuple[UploadFile, Mapping[str, str]]]:
    """The file of a multipart form, in its field ``file``, and the text of its other fields.

    Args:
        request: whose body it is.
        fields: the names of the fields that may stand beside the file.
        pasted: what a file is called whose text comes in the field ``pasted`` in its place; None:
            there is no such field.

    Raises:
        InputError: no file, or another field.
        HTTPException: 400 for a broken form, 408 and 413 past the limits.
        ClientGone: the client left.
    """
    allowed = ("file", *fields, *(("pasted",) if pasted else ()))
    most = PASTED if pasted else _FIELD
    try:
        async with request.form(max_files=1, max_fields=4, max_part_size=most) as form:
            if set(form) - set(allowed):
                only = f"the fields {' and '.join(allowed)}" if fields else "the field file"
                raise InputError(f"The form has {only} only; take out others.")
            file, text = form.get("file"), form.get("pasted")
            if pasted and isinstance(text, str) and text.strip():
                file = UploadFile(BytesIO(text.encode()), filename=pasted(text))
            if not isinstance(file, UploadFile) or not file.filename:
                raise InputError("Choose a file first; it goes into the field named file.")
            given = {name: one for name in fields if isinstance(one := form.get(name), str)}
            for name, one in given.items():
                if len(one.encode()) > _FIELD:
                    raise HTTPException(
                        400, f"The field {name} may hold {_FIELD:,} bytes; shorten it."
                    )
            yield file, given
    except ClientDisconnect:
        raise ClientGone from None
    except UnicodeError:  # the form names a character set that cannot read its own words
        raise HTTPException(400, "The form cannot be read; send its fields in UTF-8.") from None
