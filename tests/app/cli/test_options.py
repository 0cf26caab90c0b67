"""Options are the fields that they set: same words, values, bounds and defaults."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from app.calibrate.question import CalibrationQuestion
from app.cli import main as cli
from app.cli.options import Mistake, Parser, add, settings_of, taken
from app.maps.api import MapFileQuestion
from app.settings import Settings
from app.trace.api import TraceQuestion
from engine import TraceOptions
from engine.calibration.training.options import CalibrationOptions
from engine.maps import MapOptions


class Question(BaseModel):
    """One field of each kind."""

    shape: Literal["round", "square"] = Field("round", description="What it looks like.")
    count: int = Field(3, ge=1, le=50, description="How many.")
    place: int = Field(-1, ge=-1, le=99, description="Where; -1: the last.")
    share: float | None = Field(None, ge=0, le=1, description="100 % is 1; left out: ours.")
    words_only: bool = Field(False, description="Words alone.")
    seed: int = Field(0, description="Of chance.")
    text: str | None = Field(None, description="Any.")


def parsed(*words: str) -> dict[str, Any]:
    parser = Parser(prog="try")
    add(parser, Question, "shape", "count", "place", "share", "words_only", "seed", text="Some.")
    return vars(parser.parse_args(words))


def commands() -> Mapping[str, argparse.ArgumentParser]:
    [found] = [a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return found.choices


def test_a_field_becomes_an_option_of_its_kind() -> None:
    assert parsed() == {
        "shape": "round", "count": 3, "place": -1, "share": None, "words_only": False, "seed": 0,
        "text": None,
    }  # fmt: skip
    given = parsed(
        *("--shape", "square", "--count", "50", "--place", "-7", "--share", "0.5"),
        *("--words-only", "--seed", "-2", "--text", "x"),
    )
    assert given == {
        "shape": "square", "count": 50, "place": -7, "share": 0.5, "words_only": True, "seed": -2,
        "text": "x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--shape", "flat"], "invalid choice"),
        (["--count", "0"], "--count: it must be a whole number from 1 to 50"),
        (["--count", "51"], "--count: it must be a whole number from 1 to 50"),
        (["--count", "1.5"], "a whole number from 1 to 50"),
        (["--count", "9" * 5000], "a whole number from 1 to 50"),
        (["--count", "٣"], "a whole number from 1 to 50"),
        (["--place", "-100"], "--place: it must be a whole number, -1 for the last"),
        (["--place", "last"], "--place: it must be a whole number, -1 for the last"),
        (["--share", "nan"], "--share: it must be a number"),
        (["--share", "2"], "--share: it must be a number"),
        (["--share", "half"], "--share: it must be a number"),
        (["--words-only=yes"], "ignored explicit argument"),
    ],
)
def test_a_value_outside_its_field_is_a_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(Mistake, match=sentence) as error:
        parsed(*words)
    assert str(error.value).endswith("see try --help.")


def test_help_is_the_fields_own_words_and_its_default() -> None:
    parser = Parser(prog="try")
    add(parser, Question, "shape", "seed", "share", text="Some.")
    add(parser, Settings, "port")
    said = {action.dest: action.help for action in parser._actions}
    assert said["shape"] == "What it looks like. Without it: round."
    assert said["seed"] == "Of chance. Without it: 0."
    assert said["text"] == "Some."
    assert said["port"] == Settings.model_fields["port"].description
    assert "100 % is 1" in parser.format_help()
    assert parser.get_default("port") is None  # the environment decides


def test_every_option_is_explained() -> None:
    """A line for each option of each command."""
    for name, command in commands().items():
        assert [a.dest for a in command._actions if not a.help] == [], name
        assert "Undefined" not in command.format_help()
    for name in ("calibrate", "evaluate"):
        assert len(commands()[name].description or "") > 60


@pytest.mark.parametrize(
    ("command", "kind", "asked"),
    [
        ("trace", TraceOptions, TraceQuestion),
        ("map", MapOptions, MapFileQuestion),
        ("calibrate", CalibrationOptions, CalibrationQuestion),
    ],
)
def test_without_options_the_engine_does_what_it_does_by_itself(
    command: str, kind: Any, asked: type[BaseModel]
) -> None:
    """The defaults of the command line, of the API and of the engine are the same."""
    given = commands()[command].parse_args(["words"] if command != "map" else [])
    names = set(kind.__dataclass_fields__) & set(asked.model_fields)
    assert len(names) > 10
    plain = kind()
    for name, value in taken(names, given).items():
        assert value == getattr(plain, name), name


def test_no_setting_is_taken_from_another_commands_word() -> None:
    """``bases --token`` names a token of the vocabulary, not the secret of the server."""
    given = cli.parser().parse_args(["bases", "--token", "short"])
    assert given.token == "short"
    assert settings_of(given).token is None
