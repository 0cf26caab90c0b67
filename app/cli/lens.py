"""The command ``lexiscope lens``: fit a lens to a model, and see how well it does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

from app.cli.options import space_of
from app.cli.terminal import write
from app.web.export import dumps
from engine.errors import OptionError
from engine.json_number import plain
from engine.lenses import LENSES
from engine.lenses.kind import Lens

_MOST: Final = 4 * 2**20
"""Bytes of a text that are read."""


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the command into the command line, with the options about the model besides."""
    lens = commands.add_parser("lens", help="fit a lens to a model, and see how well it does")
    inside = lens.add_subparsers(metavar="fit|show", required=True, help="Which of the two.")
    fitted = [one.name for one in LENSES.values() if one.fit is not None]
    for name, words, run in (
        ("fit", "fit a lens to the model and keep it", _fit),
        ("show", "the figures of a lens that was fitted", _show),
    ):
        parser = inside.add_parser(name, parents=[model], help=words)
        parser.add_argument("lens", choices=fitted, help="Which.")
        parser.add_argument("--json", action="store_true", help="The figures as JSON.")
        if run is _fit:
            parser.add_argument("--text", type=Path, metavar="FILE", help="A text in UTF-8 to fit"
                " it on. Without it: what the model writes itself.")  # fmt: skip
            parser.add_argument("--out", type=Path, metavar="FOLDER", help="Where it is kept, for"
                " --lens FOLDER. Without it: in the cache, under its name.")  # fmt: skip
        parser.set_defaults(run=run)


def _fit(given: argparse.Namespace) -> int:
    text = None if given.text is None else _text(given.text)
    steps = space_of(given).fit_lens(given.lens, text=text, folder=given.out)
    note = ""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return _print(end.value, given.json)
        if step.note != note:
            note = step.note
            print(f"{note} ...", file=sys.stderr)


def _text(path: Path) -> str:
    """The beginning of a file: more than a lens is fitted on."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST).decode("utf-8", "replace")
    except OSError as error:
        raise OptionError(f"{path.name[:60]!r} cannot be read: {error.strerror}.") from None


def _show(given: argparse.Namespace) -> int:
    found = space_of(given).lens(given.lens)
    if found is None:
        raise OptionError(f"the lens {given.lens!r} has no figures.")
    return _print(found, given.json)


def _print(lens: Lens, as_json: bool) -> int:
    if as_json:
        rows = [{"lens": lens.name, **plain(row)} for row in lens.rows]
        return write(dumps(rows))
    print(
        f"{lens.name} lens: fitted on {lens.positions:,} positions of {lens.text}, measured on"
        f" {lens.held_out} others, {lens.bytes / 1e6:.1f} MB"
    )
    print("layer      KL: none      lens   another's   first: none     lens   another's")
    for row in lens.rows:
        print(
            f"{row.layer:5}  {row.kl_none:12.3f}  {row.kl:8.3f}  {row.kl_shuffled:10.3f}"
            f"  {row.top1_none:12.3f}  {row.top1:7.3f}  {row.top1_shuffled:10.3f}"
        )
    return 0
