"""The command ``lexiscope contexts``: where else the model was in a state like this one."""

from __future__ import annotations

import argparse
from typing import Any

from app.cli.labelled import labelled_set
from app.cli.options import add, space_of
from app.cli.terminal import document, follow
from app.trace.contexts import ContextsQuestion, of_table
from engine.trace.bank import BUILT_IN, BankTexts, built_in


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the command into the command line, with the options about the model besides."""
    parser = commands.add_parser(
        "contexts", parents=[model], help="the texts whose states come nearest to one, as JSON"
    )
    parser.add_argument("prompt", help="Any text.")
    add(parser, ContextsQuestion, "layer", "position", "count")
    parser.add_argument(
        "--texts",
        default=BUILT_IN,
        help="Where to look: examples (what ships), topics, sentiment, or a table of texts (CSV,"
        " TSV, JSONL). Without it: examples.",
    )
    parser.add_argument(
        "--build", action="store_true", help="Read and keep their states first where they are not."
    )
    parser.add_argument("--json", action="store_true", help="As it is printed anyway.")
    parser.set_defaults(run=_contexts)


def _contexts(given: argparse.Namespace) -> int:
    source = _texts(given.texts)
    space = space_of(given)
    if given.build and space.contexts.known(source) is None:
        follow(space.contexts.build(source))
    found = space.contexts.nearest(
        given.prompt, given.layer, given.position, source, count=given.count
    )
    return document(space, found, given.prompt)


def _texts(name: str) -> BankTexts:
    if name == BUILT_IN:
        return built_in()
    return of_table(name, name, labelled_set(name).table)
