"""The command ``lexiscope uses``: what a model's semantic bases are for, measured."""

from __future__ import annotations

import argparse
from typing import Any

from app.cli.options import space_of
from app.cli.terminal import document, follow, visible, write
from app.uses.work import known
from engine.progress import no_check
from engine.uses.measure import measure_uses


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the command into the command line, with the options about the model besides."""
    uses = commands.add_parser(
        "uses", parents=[model], help="what semantic bases are for on a model, beside controls"
    )
    uses.add_argument("--known", action="store_true", help="Measure nothing: show what was.")
    uses.add_argument(
        "--again", action="store_true", help="Measure all of it, also what is known or shipped."
    )
    uses.add_argument("--json", action="store_true", help="The JSON of /api/v1/uses.")
    uses.set_defaults(run=_uses)


def _uses(given: argparse.Namespace) -> int:
    space = space_of(given)
    if not given.known:
        follow(measure_uses(space, again=given.again))
    found = known(space, check=no_check)
    if given.json:
        return document(space, found)
    lines = []
    for one in found.findings:
        said = one.sentence or "Not measured yet."
        lines += [f"{one.question} {one.verdict}".rstrip(), f"  {said}", ""]
    made = found.uses.made
    if made is not None:
        lines.append(f"These figures came with the program, measured on {made.date}"
                     f" ({made.device}, {made.dtype}); --again measures here.")  # fmt: skip
    return write(visible("\n".join([*lines, *found.uses.lacking.values()])))
