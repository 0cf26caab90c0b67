"""The command ``lexiscope compare-prompts``: two prompts beside each other."""

from __future__ import annotations

import argparse
from typing import Any

from pydantic import ValidationError

from app.cli.history import kept_runs, run_id
from app.cli.options import Mistake, Parser, add, space_of
from app.cli.terminal import document
from app.compare.question import CompareQuestion, CompareRuns
from app.compare.reading import compare_runs, of_runs
from app.trace.question import TraceQuestion
from app.web.errors import validation_sentence
from engine.progress import no_check


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the command into the command line, with the options about the model besides."""
    parser: Parser = commands.add_parser(
        "compare-prompts", parents=[model], help="two prompts, cell beside cell, as JSON"
    )
    fields = CompareRuns.model_fields
    parser.add_argument("prompt", nargs="?", default="", help="Any text.")
    parser.add_argument(
        "other", nargs="?", default="", help="The text beside it. A run takes the place of either."
    )
    parser.add_argument("--run", dest="run_id", metavar="ID", help=fields["run"].description)
    parser.add_argument("--other-run", metavar="ID", help=fields["other_run"].description)
    add(parser, TraceQuestion, *(n for n in TraceQuestion.model_fields if n != "prompt"))
    add(parser, CompareQuestion, "align")
    parser.add_argument("--json", action="store_true", help="As it is printed anyway.")
    parser.set_defaults(run=_compare)


def _compare(given: argparse.Namespace) -> int:
    fields = CompareRuns.model_fields
    names = CompareQuestion.model_fields
    asked = {name: getattr(given, name) for name in names if name in vars(given)}
    # What was left out is what the run says.
    asked = {name: one for name, one in asked.items() if one not in (None, fields[name].default)}
    if given.run_id and "other" not in asked and "prompt" in asked:
        asked["other"] = asked.pop("prompt")  # a single text stands beside the run
    with kept_runs(writes=False) as runs:
        ids = {"run": given.run_id, "other_run": given.other_run}
        asked |= {name: run_id(runs, one) for name, one in ids.items() if one}
        try:
            query = of_runs(runs, CompareRuns.model_validate(asked))
        except ValidationError as error:
            raise Mistake(validation_sentence(error.errors(include_url=False))) from None
        space = space_of(given)
        found = compare_runs(
            space, query.prompt, query.other, query.options(), query.align, runs,
            (query.run, query.other_run), check=no_check,
        )  # fmt: skip
    return document(space, found, query.prompt)
