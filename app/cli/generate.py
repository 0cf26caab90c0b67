"""The command ``lexiscope generate``: a prompt goes on, and is read as it is written."""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import Any

from app.cli.options import add, space_of, taken
from app.cli.terminal import document, visible, write
from app.cli.text import fit
from app.generate.question import GenerateQuestion
from engine.generation.column import Column, Generation
from engine.progress import drain


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the command into the command line, with the options about the model besides."""
    parser = commands.add_parser(
        "generate", parents=[model], help="a prompt goes on, read at every layer as it is written"
    )
    parser.add_argument("prompt", help="Any text.")
    add(parser, GenerateQuestion, *(n for n in GenerateQuestion.model_fields if n != "prompt"))
    parser.add_argument("--json", action="store_true", help="The JSON of /api/v1/generate.")
    parser.set_defaults(run=_generate)


def _generate(given: argparse.Namespace) -> int:
    asked = GenerateQuestion(**taken(GenerateQuestion.model_fields, given))
    options = asked.options()
    space = space_of(given)
    steps = space.generation_steps(asked.prompt, options)
    if given.json:
        return document(space, drain(steps), asked.prompt)
    write(visible(asked.prompt))
    at_once = sys.stdout.isatty()
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            found: Generation = end.value
            break
        if at_once and isinstance(step, Column):
            write(visible(step.token.text))
    if not at_once:
        write(visible(found.continuation))
    return write(generation_text(found).encode())


def generation_text(found: Generation) -> str:
    """The new tokens as a table, and how late they settle; for a terminal."""
    rows = [f"\n\n{'token':<18}{'probability':>12}{'rank':>8}{'settles at':>12}"]
    for column in found.columns:
        rows.append(
            f"{fit(column.token.label, 18)}{column.probability:>12.3f}{column.rank:>8,}"
            f"{column.settling_layer:>12}" + "  forced" * column.forced
        )
    return "\n".join([*rows, "", textwrap.fill(found.thinking.sentence, 100)]) + "\n"
