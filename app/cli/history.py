"""The command ``lexiscope history``: what the pages showed, listed, shown, deleted and as files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.cli.options import Mistake
from app.cli.terminal import save, visible, write
from app.history.api import document
from app.history.kinds import KINDS
from app.settings import Settings
from app.storage.opening import ShownStore, writable_store
from app.storage.runs import Runs
from app.web.export import LARGEST_FILE, dumps
from app.web.problems import NotFound, StorageError

_RUN = "The run, by its id as 'list' prints it, or enough of its beginning."


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the command into the command line; it opens no model."""
    history = commands.add_parser("history", help="what the pages showed, kept in the data folder")
    inside = history.add_subparsers(
        metavar="list|show|delete|export|import", required=True, help="What to do."
    )
    every = inside.add_parser("list", help="the kept runs, the newest first")
    every.add_argument("--json", action="store_true", help="As JSON.")
    every.set_defaults(run=_list)
    show = inside.add_parser("show", help="a run with all that its page showed, as JSON")
    show.add_argument("id", help=_RUN)
    show.set_defaults(run=_show)
    delete = inside.add_parser("delete", help="delete a run, or all")
    delete.add_argument("id", help=f"{_RUN} 'all' deletes every run.")
    delete.set_defaults(run=_delete)
    export = inside.add_parser("export", help="a run, or all, as one file")
    export.add_argument("id", help=f"{_RUN} 'all' exports every run.")
    export.add_argument("--out", type=Path, required=True, metavar="FILE", help="Where to.")
    export.set_defaults(run=_export)
    given = inside.add_parser("import", help="keep the runs of a file that was exported")
    given.add_argument("file", type=Path, help="The file.")
    given.set_defaults(run=_import)


@contextmanager
def kept_runs(*, writes: bool) -> Iterator[Runs]:
    """The kept runs; to look at them no server need be stopped.

    Raises:
        Mistake: the data folder cannot be used, or there is no such run.
    """
    settings = Settings()  # type: ignore[call-arg]  # pydantic fills the defaults
    runs = Runs(settings, KINDS)
    try:
        folder = settings.data_folder
        runs.store = writable_store(settings) if writes else ShownStore(folder, "It is only read.")
        yield runs
    except (StorageError, NotFound) as error:
        raise Mistake(str(error)) from None
    finally:
        if runs.store is not None:
            runs.store.close()


def run_id(runs: Runs, beginning: str) -> str:
    """The id of the run whose id begins so; what is none is given back.

    Raises:
        Mistake: several begin so.
    """
    found = [one.id for one in runs.all() if one.id.startswith(beginning)]
    if len(found) > 1:
        raise Mistake(f"{len(found)} runs begin with {beginning[:24]!r}; give more of the id.")
    return found[0] if found else beginning


def _list(given: argparse.Namespace) -> int:
    with kept_runs(writes=False) as runs:
        found = runs.all()
    if given.json:
        return write(dumps({"runs": [one.to_dict() for one in found]}))
    for one in found:
        words = one.problem or f"{one.prompt[:50]}  ({one.reading}; {one.model})"
        line = f"{one.id[:8]}  {one.created[:16]}  {one.title:12}  {words}".replace("\n", " ")
        write(visible(line) + b"\n")
    if not found:
        print("Nothing is kept.", file=sys.stderr)
    return 0


def _show(given: argparse.Namespace) -> int:
    with kept_runs(writes=False) as runs:
        return write(document(runs, run_id(runs, given.id)))


def _delete(given: argparse.Namespace) -> int:
    with kept_runs(writes=True) as runs:
        if given.id == "all":
            runs.clear()
        else:
            runs.delete(run_id(runs, given.id))
    return 0


def _export(given: argparse.Namespace) -> int:
    with kept_runs(writes=False) as runs:
        body = runs.export() if given.id == "all" else runs.file(run_id(runs, given.id))
    save(given.out, body)
    return 0


def _import(given: argparse.Namespace) -> int:
    try:
        with given.file.open("rb") as file:
            body = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise Mistake(f"{str(given.file)[:60]!r} cannot be read: {error.strerror}.") from None
    with kept_runs(writes=True) as runs:
        found = runs.add(body)
    print(f"{len(found)} runs are kept.", file=sys.stderr)
    return 0
