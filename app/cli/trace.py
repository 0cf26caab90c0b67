"""The commands ``lexiscope trace``, ``cell``, ``words``, ``curves``, ``finding``, ``agreement``."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.cli.labelled import named_texts
from app.cli.options import Parser, add, add_lens, lens_of, space_of, taken
from app.cli.terminal import document, follow, save, write
from app.cli.text import trace_text
from app.model.open_model import facts_of
from app.trace.files import FORMATS, TraceFile, format_of
from app.trace.over_sets import SetQuestion, evenly
from app.trace.question import (
    CellQuestion,
    CurvesQuestion,
    FindingQuestion,
    TraceQuestion,
    WordsQuestion,
)
from app.web import export
from engine import LatentSpace, TraceOptions
from engine.errors import OptionError


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the commands into the command line, with the options about the model besides."""
    reading, of_sets = _reading(), _reading(nargs="?")
    as_json = Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="As it is printed anyway.")

    trace = commands.add_parser(
        "trace", parents=[model, reading], help="a prompt through the layers"
    )
    form = trace.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="The JSON of /api/v1/trace.")
    form.add_argument("--csv", action="store_true", help="One row per layer, position and rank.")
    form.add_argument(
        "--out", type=Path, help=f"A file; its ending says what: {', '.join(FORMATS)}."
    )
    trace.set_defaults(run=_trace)

    def command(
        name: str, words: str, ask: Any, *further: str, reads: Parser = reading
    ) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(
            name, parents=[model, reads, as_json], help=f"{words}, as JSON"
        )
        parser.set_defaults(run=lambda given: _document(given, ask, further))
        return parser

    cell = command("cell", "one hidden state in full", LatentSpace.cell, "layer", "position")
    summed = ("one hidden state as a sum of a few words", LatentSpace.in_words)
    words = command("words", *summed, "layer", "position", "words")
    for one in (cell, words):
        add(one, CellQuestion, "position", layer="0 is the embedding, -1 the last. Without it: -1.")
        one.set_defaults(layer=-1)
    add(words, WordsQuestion, "words")
    curves = command("curves", "tokens over the layers", LatentSpace.curves, "ids", "position")
    curves.add_argument("--ids", type=_ids, help="Token ids: 12,262; else the default pins.")
    add(curves, CurvesQuestion, "position")
    told = "from which layer on the answer is nearest, beside chance"
    finding = command("finding", told, LatentSpace.finding, "position")
    add(finding, FindingQuestion, "position")
    against = "every geometry and frame against the model's own answers"
    over = command("agreement", against, LatentSpace.agreement, reads=of_sets)
    over.add_argument("--texts", help="In place of a prompt: topics, sentiment, or a table of"
        " texts (CSV, TSV, JSONL), each read at its last position.")  # fmt: skip
    add(over, SetQuestion, "limit")
    over.set_defaults(run=_agreement)


def _reading(**more: Any) -> Parser:
    """The options of a prompt and how it is read."""
    parser = Parser(add_help=False)
    parser.add_argument("prompt", help="Any text.", **more)
    own = {"prompt", "lens"}
    add(parser, TraceQuestion, *(n for n in TraceQuestion.model_fields if n not in own))
    add_lens(parser)
    return parser


def _options(given: argparse.Namespace) -> TraceOptions:
    return TraceOptions(**taken(TraceOptions.__dataclass_fields__, given) | lens_of(given))


def _trace(given: argparse.Namespace) -> int:
    options = _options(given)
    format = None if given.out is None else format_of(given.out.name)
    space = space_of(given)
    trace = space.trace(given.prompt, options)
    if format is not None:
        save(given.out, TraceFile(export.Source.of(facts_of(space), given.prompt), format)(trace))
        return 0
    if given.json:
        return document(space, trace, given.prompt)
    if given.csv:
        return write(export.TraceTable(export.Source.of(facts_of(space), given.prompt))(trace))
    width = shutil.get_terminal_size((100, 24)).columns
    return write(trace_text(trace, width).encode())


def _document(given: argparse.Namespace, ask: Any, further: Sequence[str]) -> int:
    """What the engine answers to the prompt, its options and what a command asks further."""
    options = _options(given)
    space = space_of(given)
    found = ask(space, given.prompt, options=options, **{n: getattr(given, n) for n in further})
    return document(space, found, given.prompt)


def _agreement(given: argparse.Namespace) -> int:
    if (given.prompt is None) == (given.texts is None):
        raise OptionError("give a prompt, or a set with --texts, and not both.")
    if given.texts is None:
        return _document(given, LatentSpace.agreement, ())
    options = _options(given)
    texts = evenly(named_texts(given.texts).read, given.limit)
    space = space_of(given)
    return document(space, follow(space.agreement_over(texts, options)))


def _ids(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if len(words) > 32 or not all(w.isascii() and w.isdigit() and len(w) < 10 for w in words):
        raise argparse.ArgumentTypeError("they must be at most 32 token ids such as 12,262")
    return tuple(dict.fromkeys(int(word) for word in words))
