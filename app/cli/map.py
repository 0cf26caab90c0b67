"""The command ``lexiscope map``: maps as files.

The same engine and the same writers as the web, so the same question gives the same coordinates.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from app.cli.labelled import named_texts
from app.cli.options import add, add_lens, lens_of, space_of, taken
from app.cli.terminal import follow, save, write
from app.maps.answers import motion
from app.maps.api import MapChangesQuestion, MapFileQuestion, MapQualityQuestion
from app.maps.calibrated import open_folder, reading_in
from app.maps.documents import WriteChanges
from app.maps.files.export import FORMATS, drawing_of, format_of
from app.maps.files.export import write as file_of
from app.maps.files.picture import Look
from app.maps.inputs import concept_axes
from engine.errors import OptionError
from engine.maps import COLOURS, PROJECTIONS, MapOptions
from engine.progress import no_check

_OWN: Final = frozenset({"format", "texts", "calibration", "colour", "lens"})
"""Fields of the API's question that are something else here: files instead of ids."""
SAVED: Final = "What lexiscope calibrate --save wrote."


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the command into the command line, with the options about the model besides."""
    draw = commands.add_parser(
        "map", parents=[model], help="bases and states in the plane, as a file"
    )
    draw.add_argument("--out", help=f"The file; its ending says what: {', '.join(FORMATS)}.")
    draw.add_argument("--json", action="store_true", help="The JSON of /api/v1/map, without --out.")
    draw.add_argument("--texts", help="topics, sentiment, or a table of texts (CSV, TSV, JSONL).")
    draw.add_argument("--calibration", metavar="FOLDER", help=SAVED)
    add(draw, MapFileQuestion, *(n for n in MapFileQuestion.model_fields if n not in _OWN))
    add(draw, MapFileQuestion, colour=f"Of HTML and pictures: {', '.join(COLOURS)}.")
    add(draw, MapChangesQuestion, to="A second layer: what moves until there is said, with --json "
        "as /api/v1/map/changes.")  # fmt: skip
    add(draw, MapQualityQuestion, exact="Say how true it is with every point looked at.")
    add_lens(draw)
    draw.set_defaults(run=_map)


def _map(given: argparse.Namespace) -> int:
    if bool(given.out) == bool(given.json):
        raise OptionError(
            "say where the map goes: --out map.html (or .png, .svg, .csv, .npz, .json), or --json "
            "for the terminal."
        )
    format = "json" if given.json else format_of(given.out)
    look = None
    if format in ("svg", "png"):
        look = Look(format, given.width, given.height, given.theme == "dark")
    reading = reading_in(Path(given.calibration)) if given.calibration else None
    asked = taken(MapOptions.__dataclass_fields__, given) | {
        "prompt": given.prompt or None,
        "texts": given.texts and named_texts(given.texts, reading),
        "axes": concept_axes(given.axes or ""),
        "calibration": None,
        **lens_of(given),
    }
    options = MapOptions(**asked)
    space = space_of(given)
    with closing(space.maps) as maps:
        if given.calibration:
            named = open_folder(space, Path(given.calibration))
            options = replace(options, calibration=named, side=given.side)
        if PROJECTIONS[options.projection].is_job:
            follow(maps.umap(options))
            if given.to is not None:
                follow(maps.umap(replace(options, layer=given.to), floor=False))
        if given.to is not None:
            moved = motion(maps, options, given.to, check=no_check)
            print(moved[1].sentence, file=sys.stderr)
            if given.json:
                return write(WriteChanges(limit=20, values=False)(moved))
        drawing = drawing_of(maps, options, format, given.colour, check=no_check)
        body = file_of(drawing, format, look)
        found = maps.quality(options, exact=True) if given.exact else drawing.quality
    if given.json:
        return write(body)
    save(Path(given.out), body)
    print(f"{given.out}: {drawing.map.title}. {drawing.map.how_chosen}.", file=sys.stderr)
    if found is not None:
        print(found.sentence, file=sys.stderr)
    return 0
