"""What the commands have in common at the terminal: bytes, files, and where long work is."""

from __future__ import annotations

import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from app.model.open_model import facts_of
from app.web import export
from engine import LatentSpace
from engine.errors import OptionError
from engine.progress import Progress, Steps, drain, relabelled

T = TypeVar("T")


def write(body: bytes) -> int:
    """To standard output, whatever encoding that has; returns the exit status of success."""
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()
    return 0


def document(space: LatentSpace, found: Any, prompt: str | None = None) -> int:
    """The JSON of the web API, to standard output."""
    return write(export.Document(export.Source.of(facts_of(space), prompt))(found))


def visible(text: str) -> bytes:
    """Without what could act on a terminal: names of labels and files are anybody's."""
    return "".join(c if c == "\n" or c.isprintable() else "�" for c in text).encode()


def save(path: Path, body: bytes) -> None:
    """Write beside the file and put it there whole.

    Raises:
        OptionError: it cannot be written.
    """
    aside = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}")
    try:
        with aside.open("xb") as file:
            file.write(body)
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise OptionError(
            f"{path} cannot be written ({error.strerror}); choose another place with --out."
        ) from None


def follow(steps: Steps[T]) -> T:
    """Do the work; where stderr is a terminal, say on one line where it is."""
    if not sys.stderr.isatty():
        return drain(steps)
    try:
        return drain(relabelled(steps, _tell))
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _tell(step: Progress) -> Progress:
    share = f"{step.share:4.0%}  " if step.share is not None else ""
    print(f"\r\033[K{share}{step.note[:70]}", end="", file=sys.stderr, flush=True)
    return step
