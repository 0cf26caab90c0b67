"""The command ``lexiscope compare-prompts``: two prompts beside each other."""

from __future__ import annotations

import argparse
from typing import Any

from app.cli.options import Parser, add, space_of, taken
from app.cli.terminal import document
from app.compare.question import CompareQuestion
from app.trace.question import TraceQuestion
from engine import TraceOptions
from engine.compare import compare_prompts


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the command into the command line, with the options about the model besides."""
    parser: Parser = commands.add_parser(
        "compare-prompts", parents=[model], help="two prompts, cell beside cell, as JSON"
    )
    parser.add_argument("prompt", help="Any text.")
    parser.add_argument("other", help="The text beside it.")
    add(parser, TraceQuestion, *(n for n in TraceQuestion.model_fields if n != "prompt"))
    add(parser, CompareQuestion, "align")
    parser.add_argument("--json", action="store_true", help="As it is printed anyway.")
    parser.set_defaults(run=_compare)


def _compare(given: argparse.Namespace) -> int:
    options = TraceOptions(**taken(TraceOptions.__dataclass_fields__, given))
    space = space_of(given)
    found = compare_prompts(space, given.prompt, given.other, options, by=given.align)
    return document(space, found, given.prompt)
