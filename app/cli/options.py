"""Options of the command line, each derived from the field that it sets.

A field of a question of the API, or of the settings, says what an option is called, which values it
takes, what it is without being given, and what it means: so an option is written down once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from app.model.explorer import load_space
from app.settings import Settings
from engine import LatentSpace
from engine.lenses import LENSES

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
        field, plain = asked.model_fields[name], described[name]
        shape = next(one for one in plain.get("anyOf", [plain]) if one.get("type") != "null")
        default = None if asked is Settings else plain.get("default")
        words = more.get(name) or field.description or ""
        if default is not None and default is not False and default != "":
            words += f" Without it: {default}."
        kind: Any = Annotated[field.annotation, Field(), *field.metadata]
        if (
            shape["type"] == "integer" and shape.get("minimum", 0) < 0
        ):  # −1 is the last; here all may be counted from the end
            kind = Annotated[int, Field(ge=-shape["maximum"], le=shape["maximum"])]
        given: dict[str, Any] = {"choices": shape.get("enum")}
        if shape["type"] in ("integer", "number"):
            given = {"type": reader(kind, _what(shape))}
        elif shape["type"] == "boolean":
            given = {"action": "store_true"}
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, default=default, help=words.replace("%", "%%"), **given)


def reader(kind: Any, what: str) -> Callable[[str], Any]:
    """What turns an option's text into a value of this type, within its bounds.

    Args:
        kind: the type.
        what: what it must be, for the sentence where it is something else.
    """
    adapter = TypeAdapter(kind)

    def read(text: str) -> Any:
        try:
            return adapter.validate_python(text)
        except ValidationError:
            raise argparse.ArgumentTypeError(f"it must be {what}") from None

    return read


def _what(shape: dict[str, Any]) -> str:
    """A number's kind and bounds in words, from its description."""
    kind = "a whole number" if shape["type"] == "integer" else "a number"
    low, high, above = (shape.get(one) for one in ("minimum", "maximum", "exclusiveMinimum"))
    if kind == "a whole number" and low is not None and low < 0:
        return f"{kind}, -1 for the last"
    if low is not None and high is not None:
        return f"{kind} from {low:,g} to {high:,g}"
    if above is not None:
        return f"{kind} above {above:g}" + ("" if high is None else f", at most {high:,}")
    return kind if low is None else f"{kind} of at least {low:,}"


def _reason(error: ValidationError) -> str:
    """What the first value that cannot be used must be, without a full stop."""
    reason = str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
    return reason.replace("Input should be", "it must be").partition(", unable to")[0]


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
        name = "_".join(str(part) for part in error.errors()[0]["loc"])
        place = f"LEXISCOPE_{name.upper()}: " if name else ""
        if name in (*_MODEL, *SERVING) and hasattr(given, name):  # an option of this command, too
            place = f"--{name.replace('_', '-')} (LEXISCOPE_{name.upper()}): "
        raise Mistake(f"{place}{_reason(error)}.") from None


def add_lens(parser: argparse.ArgumentParser) -> None:
    """Give the parser the option of a lens: by its name, or by a folder that holds one."""
    parser.add_argument(
        "--lens", default="none", metavar="NAME",
        help=f"What brings a middle layer to where the head reads: {', '.join(LENSES)}, or a folder"
        " that 'lexiscope lens fit' wrote. Without it: none.",
    )  # fmt: skip


def lens_of(given: argparse.Namespace) -> dict[str, str]:
    """The lens by its name; that of a folder is the one that can be fitted."""
    if given.lens in LENSES:
        return {"lens": given.lens}
    if not Path(given.lens).is_dir():
        raise Mistake(
            f"--lens must be one of {', '.join(LENSES)}, or a folder that 'lexiscope lens fit'"
            f" wrote; there is no folder {given.lens[:60]!r}."
        )
    return {"lens": next(one.name for one in LENSES.values() if one.fit is not None)}


def space_of(given: argparse.Namespace) -> LatentSpace:
    """The model that the options name, opened, with the lens of a folder; slow."""
    space = load_space(settings_of(given))
    lens = getattr(given, "lens", "none")
    if lens not in LENSES:
        space.open_lens(Path(lens))
    return space
