"""The command ``lexiscope compare``: two models on one text, on many, and their frames."""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.cli.labelled import named_texts
from app.cli.options import Parser, add, add_lens, lens_of, settings_of, taken
from app.cli.terminal import follow, write
from app.model.explorer import load_space
from app.model.open_model import facts_of
from app.trace.over_sets import SetQuestion, evenly
from app.trace.question import TraceQuestion
from app.web import export
from engine import LatentSpace, TraceOptions
from engine.compare.frames import compare_frames
from engine.compare.one_map import one_map
from engine.compare.over_texts import compare_over
from engine.compare.side import Side, bytes_of, keep, side_of
from engine.compare.two_models import beside
from engine.cost import give_memory_back
from engine.errors import ModelTooLarge, OptionError


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the command into the command line. The two models stand in the place of ``--model``."""
    parser: Parser = commands.add_parser(
        "compare", parents=[model], help="two models beside each other, as JSON"
    )
    parser.add_argument("first", metavar="MODEL_A", help="A model, as --model takes it.")
    parser.add_argument("second", metavar="MODEL_B", help="Another.")
    parser.add_argument("--prompt", help="A text that both read, cell beside cell.")
    parser.add_argument("--texts", help="Or many: topics, sentiment, or a table of texts (CSV, TSV,"
        " JSONL), each read at its last token.")  # fmt: skip
    parser.add_argument("--frames", action="store_true", help="Or no text: the frame of the one"
        " turned onto the other's.")  # fmt: skip
    parser.add_argument("--map", action="store_true", help="With or without --prompt: the words of"
        " both models on one map.")  # fmt: skip
    parser.add_argument("--one-at-a-time", action="store_true", help="Let the first model go before"
        " the second is loaded; done by itself where both do not fit. For --prompt.")  # fmt: skip
    own = {"prompt", "lens", "positions"}
    add(parser, TraceQuestion, *(n for n in TraceQuestion.model_fields if n not in own))
    add(parser, SetQuestion, "limit")
    add_lens(parser)
    parser.add_argument("--json", action="store_true", help="As it is printed anyway.")
    parser.set_defaults(run=_compare)


def _compare(given: argparse.Namespace) -> int:
    asked = (given.prompt is not None or given.map, given.texts is not None, given.frames)
    if sum(asked) != 1:
        raise OptionError("give one of --prompt TEXT, --texts SET, --frames and --map.")
    if given.model is not None:
        raise OptionError("--model is not asked here: the two models stand in its place.")
    options = TraceOptions(**taken(TraceOptions.__dataclass_fields__, given) | lens_of(given))
    if given.prompt is not None and not given.map:
        return _prompt(given, options)
    texts = evenly(named_texts(given.texts).read, given.limit) if given.texts is not None else ()
    first, other = _open(given, given.first), _open(given, given.second)
    source = export.Source.of(facts_of(first))
    if given.map:
        return write(export.Document(source)(one_map(first, other, given.prompt, options)))
    if given.frames:
        return write(export.Document(source)(compare_frames(first, other, options.frame_key)))
    return write(export.Document(source)(follow(compare_over(first, other, texts, options))))


def _prompt(given: argparse.Namespace, options: TraceOptions) -> int:
    with tempfile.TemporaryDirectory(prefix="lexiscope-") as folder:
        first = _open(given, given.first)
        source = export.Source.of(facts_of(first), given.prompt)
        side = side_of(first, given.prompt, options)
        other: LatentSpace | None = None
        if not given.one_at_a_time:
            try:
                other = _open(given, given.second)
            except ModelTooLarge as error:
                print(f"lexiscope: {error} One after the other, then.", file=sys.stderr)
        if other is None:
            side = _kept(side, Path(folder))
            del first
            gc.collect()
            give_memory_back()
            other = _open(given, given.second)
        # `layers` counts in the first model; the second is read at those that stand beside them.
        its = side_of(other, given.prompt, replace(options, layers=None))
        found = beside(side, its, options)
        return write(export.Document(source)(found))


def _kept(side: Side, folder: Path) -> Side:
    print(f"lexiscope: keeping the first model's scores, {bytes_of(side) / 2**20:,.0f} MiB.",
          file=sys.stderr)  # fmt: skip
    return keep(side, folder / "scores")


def _open(given: argparse.Namespace, model: str) -> LatentSpace:
    given.model = model
    return load_space(settings_of(given))
