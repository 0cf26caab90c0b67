"""The command ``lexiscope verify``: what was saved, computed again and compared."""

from __future__ import annotations

import argparse
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from app.cli.labelled import labelled_set
from app.cli.map import SAVED
from app.cli.options import settings_of, space_of
from app.cli.terminal import follow, visible, write
from app.maps.calibrated import open_folder
from app.maps.files.compare import difference
from app.maps.files.export import read
from app.trace import files as trace_files
from app.web.export import LARGEST_FILE, dumps
from engine import LatentSpace
from engine.errors import ArtifactError, OptionError
from engine.maps import verify
from engine.maps.verify import VerifyReport
from engine.uses.again import measured_again
from engine.verification import (
    Verification,
    other_model,
    report,
    verify_calibration,
    verify_evaluation,
)


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the command into the command line, with the options about the model besides."""
    check = commands.add_parser(
        "verify",
        parents=[model],
        help="compute again what was saved, and compare",
        description="A map or a trace from its file alone; of what 'lexiscope uses --json' wrote a"
        " part; a saved calibration, and an evaluation that was written as JSON, with the rows that"
        " they were made of.",
    )
    check.add_argument(
        "file",
        help="A map's or a trace's file, a calibration's folder, the JSON of an evaluation or of"
        " uses.",
    )
    check.add_argument(
        "--data", nargs="+", metavar="DATA",
        help="The labelled rows of a calibration or an evaluation, as they were named then.",
    )  # fmt: skip
    check.add_argument("--test", help="A file with test rows, where there was one.")
    check.add_argument("--calibration", metavar="FOLDER", help=f"Of a map. {SAVED}")
    check.add_argument("--json", action="store_true", help="The report as JSON.")
    check.set_defaults(run=_verify)


def _verify(given: argparse.Namespace) -> int:
    report = _report(given)
    if given.json:
        write(dumps(report.to_dict()))
    else:
        write(visible(f"{report.sentence}\n"))
    return 0 if report.ok else 1


def _report(given: argparse.Namespace) -> Verification | VerifyReport:
    path = Path(given.file)
    if path.is_dir():
        (table, test), *more = _rows(given)
        if more:
            raise OptionError("a calibration was trained on one set; give one with --data.")
        return follow(verify_calibration(space_of(given), path, table, test=test))
    try:
        body = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{given.file} cannot be read: {error.strerror}.") from None
    if trace_files.is_trace(body):
        return trace_files.verify(space_of(given), body)
    uses = _document(body, b'"findings"', {"findings", "dial", "doses", "words"})
    if uses is not None:
        found = follow(measured_again(space_of(given), uses))
        what = "measurement of uses"
        return other_model(what, uses["dial"]["model"]) if found is None else report(what, found)
    evaluation = _document(body, b'"methods"', {"methods", "tasks", "seeds"})
    if evaluation is not None:
        rows = _rows(given)
        states = settings_of(given).data_folder / "states"
        space = space_of(given)
        return follow(verify_evaluation(space, evaluation, rows, cache_dir=states))
    return _map(given, body, space_of)


def _rows(given: argparse.Namespace) -> list[Any]:
    if not given.data:
        raise OptionError(
            "a calibration and an evaluation do not hold their rows; name them with --data, as"
            " they were named then."
        )
    found = [labelled_set(word, given.test) for word in given.data]
    return [(one.table, one.test) for one in found]


def _document(body: bytes, word: bytes, names: set[str]) -> Any:
    """The JSON document, if it has this word and these fields."""
    if not body.startswith(b"{") or len(body) > LARGEST_FILE or word not in body:
        return None
    try:
        document = orjson.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) and names <= document.keys() else None


def _map(given: argparse.Namespace, body: bytes, opened: Any) -> VerifyReport:
    document = read(body)
    space: LatentSpace = opened(given)
    with closing(space.maps) as maps:
        if given.calibration:
            open_folder(space, Path(given.calibration))
        return verify(maps, document, compare=partial(difference, body, document))
