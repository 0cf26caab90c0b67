"""The commands ``lexiscope bases`` and ``check``: a model's frames, and whether it reads right."""

from __future__ import annotations

import argparse
from typing import Any

from app.bases.api import BasesQuestion
from app.cli.options import add, space_of
from app.cli.terminal import document, write
from app.cli.text import basis_text, check_text, report_text
from app.model.explorer import token_reference
from app.web import export
from engine.frames.kinds import key_of


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the two commands into the command line, with the options about the model besides."""
    bases = commands.add_parser(
        "bases", parents=[model], help="a token's nearest tokens, or a frame's figures"
    )
    bases.add_argument(
        "--token", help="Its text, or #262 for an id; without it the frame's report."
    )
    add(bases, BasesQuestion, "frame", "alpha", "ridge", "geometry", "k")
    bases.add_argument("--json", action="store_true", help="The JSON of /api/v1/bases or /frames.")
    bases.set_defaults(run=_bases)

    check = commands.add_parser("check", parents=[model], help="whether the readings can be right")
    check.add_argument("--json", action="store_true", help="The JSON of /api/v1/check.")
    check.set_defaults(run=_check)


def _bases(given: argparse.Namespace) -> int:
    frame = key_of(given.frame, given.alpha, given.ridge)
    space = space_of(given)
    if given.token is None:
        report = space.frame_report(frame)
        return document(space, report) if given.json else write(report_text(report).encode())
    token = token_reference(given.token)
    basis = space.bases(token, frame=frame, geometry=given.geometry, k=given.k)
    return document(space, basis) if given.json else write(basis_text(basis).encode())


def _check(given: argparse.Namespace) -> int:
    found = space_of(given).self_check
    write(export.document(found) if given.json else check_text(found).encode())
    return 0 if found.ok else 1
