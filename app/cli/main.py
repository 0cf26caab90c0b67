"""The command line: ``lexiscope COMMAND``, a module for each family of commands.

The same numbers as the pages: both call the engine, and `app.web.export` writes them. A user's
mistake is one sentence on stderr and exit status 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from app.cli import (
    act,
    bases,
    calibrate,
    compare,
    compare_models,
    contexts,
    cost,
    generate,
    history,
    lens,
    map,
    models,
    present,
    serve,
    trace,
    uses,
    verify,
)
from app.cli.options import Mistake, Parser, of_the_model
from app.cli.terminal import visible
from engine.errors import LexiscopeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        given = parser().parse_args(arguments)
        status: int = given.run(given)
        return status
    except (Mistake, LexiscopeError) as error:
        print(f"lexiscope: {visible(str(error)).decode()}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has enough; Python must not complain about it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> Parser:
    """Every command with its options."""
    line = Parser(prog="lexiscope", description="Look into a language model's latent space.")
    commands = line.add_subparsers(required=True)
    model = of_the_model()
    families = (
        serve,
        models,
        cost,
        trace,
        contexts,
        compare,
        compare_models,
        generate,
        act,
        lens,
        bases,
        map,
    )
    for family in (*families, uses, verify, calibrate, history, present):
        family.register(commands, model)
    commands.metavar = "|".join(commands.choices)
    return line


if __name__ == "__main__":
    sys.exit(main())
