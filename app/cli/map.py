"""The commands ``lexiscope map`` and ``lexiscope verify``: maps as files, and back again.

The same engine and the same writers as the web, so the same question gives the same coordinates.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.maps.calibrated import open_folder, reading_in
from app.maps.files.export import FORMATS, drawing_of, format_of, read, write
from app.maps.files.picture import Look
from app.maps.inputs import concept_axes, example_text_set, text_set_of
from app.web import export
from engine import FRAMES, STATES, LatentSpace
from engine.calibration.labelled.tables import read_table
from engine.errors import ArtifactError, OptionError
from engine.maps import COLOURS, PROJECTIONS, MapOptions, TextSet, verify
from engine.maps.options import SIDES, VOCABULARIES
from engine.maps.preprocessing import PREPROCESSINGS
from engine.progress import Progress, Steps, no_check

Space = Callable[[argparse.Namespace], LatentSpace]
_SAVED = "what lexiscope calibrate --save wrote"


def register(commands: Any, shared: argparse.ArgumentParser, space: Space) -> None:
    """Hang the two commands into the command line.

    Args:
        commands: of the whole parser.
        shared: the options about the model.
        space: loads the model that the options name.
    """
    draw = commands.add_parser(
        "map", parents=[shared], help="bases and states in the plane, as a file"
    )
    draw.add_argument("--out", help=f"the file; its ending says what: {', '.join(FORMATS)}")
    draw.add_argument("--json", action="store_true", help="the JSON of /api/v1/map, without --out")
    draw.add_argument("--prompt", help="its tokens' states are points")
    draw.add_argument("--vocabulary", choices=VOCABULARIES, default="bases")
    draw.add_argument("--frame", choices=FRAMES, default="output")
    draw.add_argument(
        "--select", default="all",
        help="all, ids:1,2, words:cat,dog, search:TEXT, regex:EXPRESSION, prompt, near:K",
    )  # fmt: skip
    draw.add_argument("--bos", choices=("auto", "yes", "no"), default="auto")
    draw.add_argument("--chat", action="store_true", help="use the model's chat template")
    draw.add_argument("--texts", help="topics, sentiment, or a table of texts (CSV, TSV, JSONL)")
    draw.add_argument("--layer", type=_whole, default=-1, help="from 0; -1 is the last")
    draw.add_argument("--state", choices=STATES, default="normed")
    draw.add_argument("--preprocessing", choices=PREPROCESSINGS, default="unit")
    draw.add_argument("--projection", choices=PROJECTIONS, default="shared")
    draw.add_argument("--dims", type=_whole, default=2, help="2 or 3")
    draw.add_argument("--seed", type=_whole, default=0, help="of UMAP and of every sample")
    draw.add_argument("--neighbours", type=_whole, default=15, help="UMAP's n_neighbors")
    draw.add_argument("--min-dist", type=_number, default=0.1, help="UMAP's min_dist")
    draw.add_argument(
        "--principal", type=_whole, default=50, help="principal axes UMAP starts from"
    )
    draw.add_argument("--calibration", metavar="FOLDER", help=_SAVED)
    draw.add_argument("--side", choices=SIDES, default="after", help="of the calibration")
    draw.add_argument("--axes", help="concept axes: king-queen,man-woman")
    draw.add_argument(
        "--colour", default="class", help=f"of HTML and pictures: {', '.join(COLOURS)}"
    )
    draw.add_argument("--theme", choices=("light", "dark"), default="light", help="of a picture")
    draw.add_argument("--width", type=_whole, default=1200, help="of a picture, in pixels")
    draw.add_argument("--height", type=_whole, default=800, help="of a picture, in pixels")
    draw.set_defaults(run=lambda given: _map(given, space))

    check = commands.add_parser(
        "verify", parents=[shared], help="draw an exported map anew and compare"
    )
    check.add_argument("file", help="what lexiscope map or the map page wrote")
    check.add_argument("--calibration", metavar="FOLDER", help=_SAVED)
    check.add_argument("--json", action="store_true", help="the report as JSON")
    check.set_defaults(run=lambda given: _verify(given, space))


def _map(given: argparse.Namespace, load: Space) -> int:
    if bool(given.out) == bool(given.json):
        raise OptionError(
            "say where the map goes: --out map.html (or .png, .svg, .csv, .npz, .json), or --json "
            "for the terminal."
        )
    format = "json" if given.json else format_of(given.out)
    look = None
    if format in ("svg", "png"):
        _within("width", given.width, 400, 2400)
        _within("height", given.height, 300, 1800)
        look = Look(format, given.width, given.height, given.theme == "dark")
    options = MapOptions(
        vocabulary=given.vocabulary,
        frame=given.frame,
        select=given.select,
        prompt=given.prompt or None,
        bos=given.bos,
        chat=given.chat,
        texts=_texts(given.texts, given.calibration),
        layer=given.layer,
        state=given.state,
        preprocessing=given.preprocessing,
        projection=given.projection,
        dims=given.dims,
        seed=given.seed,
        neighbours=given.neighbours,
        min_dist=given.min_dist,
        principal=given.principal,
        axes=concept_axes(given.axes or ""),
    )
    space = load(given)
    try:
        if given.calibration:
            named = open_folder(space, Path(given.calibration))
            options = replace(options, calibration=named, side=given.side)
        if PROJECTIONS[options.projection].is_job:
            _follow(space.maps.umap(options))
        drawing = drawing_of(space.maps, options, format, given.colour, check=no_check)
        body = write(drawing, format, look)
    finally:
        space.maps.close()
    if given.json:
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
        return 0
    _save(Path(given.out), body)
    print(f"{given.out}: {drawing.map.title}. {drawing.map.how_chosen}.", file=sys.stderr)
    if drawing.quality is not None:
        print(drawing.quality.sentence, file=sys.stderr)
    return 0


def _texts(name: str | None, calibration: str | None) -> TextSet | None:
    """A set that ships, or a table of the user's, read as the calibration reads."""
    if not name:
        return None
    reading = reading_in(Path(calibration)) if calibration else None
    path = Path(name)
    if path.suffix and path.is_file():
        return text_set_of(path.stem, read_table(path), reading)
    return example_text_set(name, reading)


def _follow(steps: Steps[Any]) -> None:
    """Do the work and say on a terminal how far it is."""
    shown = sys.stderr.isatty()
    for step in steps:
        if shown:
            print(f"\r\033[K{_words(step)}", end="", file=sys.stderr, flush=True)
    if shown:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _words(step: Progress) -> str:
    share = "" if step.share is None else f" {step.share:.0%}"
    return f"{step.note}{share}"


def _save(path: Path, body: bytes) -> None:
    """Write beside the file and put it there whole."""
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name[:40]}.", delete=False
        ) as file:
            file.write(body)
        try:
            # A temporary file is its owner's alone; what is exported is an ordinary file.
            mask = os.umask(0)
            os.umask(mask)
            Path(file.name).chmod(0o666 & ~mask)
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OptionError(
            f"{path} cannot be written ({error.strerror}); choose another place with --out."
        ) from None


def _verify(given: argparse.Namespace, load: Space) -> int:
    try:
        body = Path(given.file).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{given.file} cannot be read: {error.strerror}.") from None
    document = read(body)
    space = load(given)
    try:
        if given.calibration:
            open_folder(space, Path(given.calibration))
        report = verify(space.maps, document)
    finally:
        space.maps.close()
    if given.json:
        sys.stdout.buffer.write(export.dumps(report.to_dict()))
        sys.stdout.buffer.flush()
    else:
        print(report.sentence)
    return 0 if report.ok else 1


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise OptionError(f"{name} must be from {low} to {high} pixels; got {value}.")


def _whole(text: str) -> int:
    bare = text.removeprefix("-")
    if not bare.isascii() or not bare.isdigit() or len(bare) > 10:
        raise argparse.ArgumentTypeError("it must be a whole number")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError("it must be a number") from None
