"""Options of the command line, each derived from the field that it sets.

A field of a question of the API, or of the settings, says what an option is called, which values it
takes, what it is without being given, and what it means: so an option is written down once.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from app.model.explorer import load_space
from app.settings import Settings
from engine import LatentSpace

_MODEL: Final = (
    "model", "revision", "device", "dtype", "threads", "trust_remote_code", "offline",
)  # fmt: skip
"""The settings that every command that opens a model takes."""
SERVING: Final = ("host", "port", "models", "one_model_at_a_time", "no_auth")
"""And those that ``serve`` takes besides."""


class Mistake(Exception):
    """What the user has to change, in one sentence."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> Any:
        """Raises the mistake; nothing is printed here."""
        raise Mistake(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")


def add(parser: argparse.ArgumentParser, asked: type[BaseModel], *names: str, **more: str) -> None:
    """Give the parser an option for each of these fields.

    Args:
        parser: of the command.
        asked: the question or the settings whose fields they are. Settings have no default here:
            the environment decides where an option is left out.
        names: of the fields.
        more: further fields, with what a command says of them in place of the field's own words.
    """
    described = asked.model_json_schema()["properties"]
    for name in (*names, *more):
        field = described[name]
        kinds = (one for one in field.get("anyOf", [field]) if one.get("type") != "null")
        shape: dict[str, Any] = next(kinds)
        default = None if asked is Settings else field.get("default")
        words = more.get(name, field["description"])
        if default is not None and default is not False and default != "":
            words += f" Without it: {default}."
        taken: dict[str, Any] = {"type": _reader(shape), "choices": shape.get("enum")}
        if shape["type"] == "boolean":
            taken = {"action": "store_true"}
        parser.add_argument(
            f"--{name.replace('_', '-')}", default=default, help=words.replace("%", "%%"), **taken
        )


def _reader(shape: dict[str, Any]) -> Callable[[str], Any] | None:
    """What turns an option's text into the value that the field's JSON schema describes."""
    low, high = shape.get("minimum"), shape.get("maximum")
    if shape["type"] == "integer":
        # −1 is the last of something; here every place may be counted from the end.
        return whole(None if low is not None and low < 0 else low, high)
    return _number(low, high) if shape["type"] == "number" else None


def whole(low: int | None = None, high: int | None = None) -> Callable[[str], int]:
    """A reader of whole numbers of at most ten digits, within bounds."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,10}", text) or not _within(int(text), low, high):
            raise argparse.ArgumentTypeError(f"it must be a whole number{_bounds(low, high)}")
        return int(text)

    return read


def _number(low: float | None, high: float | None) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not _within(value, low, high):
            raise argparse.ArgumentTypeError(f"it must be a number{_bounds(low, high)}")
        return value

    return read


def _within(value: float, low: float | None, high: float | None) -> bool:
    """Whether it lies between the bounds; NaN does not."""
    return (low is None or value >= low) and (high is None or value <= high)


def _bounds(low: float | None, high: float | None) -> str:
    start = "" if low is None else f" from {low:g}"
    return start if high is None else f"{start} to {high}"


def taken(names: Iterable[str], given: argparse.Namespace) -> dict[str, Any]:
    """Of what was given, what goes by these names; what was left out is not in it."""
    found = {name: getattr(given, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def of_the_model() -> Parser:
    """The options of every command that opens a model."""
    parser = Parser(add_help=False)
    add(parser, Settings, *_MODEL)
    return parser


def settings_of(given: argparse.Namespace) -> Settings:
    """The environment's settings with the options before them.

    Raises:
        Mistake: a value that cannot be used, named as it can be set.
    """
    try:
        return Settings(**taken((*_MODEL, *SERVING), given))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "_".join(str(part) for part in first["loc"])
        reason = str(first["msg"]).removeprefix("Value error, ")
        reason = reason.replace("Input should be", "it must be").partition(", unable to")[0]
        place = f"LEXISCOPE_{name.upper()}: " if name else ""
        if name in (*_MODEL, *SERVING) and hasattr(given, name):  # an option of this command, too
            place = f"--{name.replace('_', '-')} (LEXISCOPE_{name.upper()}): "
        raise Mistake(f"{place}{reason}.") from None


def space_of(given: argparse.Namespace) -> LatentSpace:
    """The model that the options name, opened; slow."""
    return load_space(settings_of(given))
