"""A saved calibration on a map: found by its id, opened on the device thread, handed to the maker.

The engine's maps know a calibration by the fingerprint of its weights and settings; here that name
is made, and what stands behind it is loaded when a map first needs it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cachetools import LRUCache, cached
from starlette.requests import Request

from app.calibrate.sets import Sets
from app.calibrate.text_sets import Reading
from app.calibrate.work import FOLDER
from app.model.explorer import Explorer
from app.storage.store import Record, Store
from app.web.problems import NotFound, StorageError
from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.words import LabelToken
from engine.calibration.training.artifact import load_calibration, read_info
from engine.errors import ArtifactError, OptionError
from engine.maps import CalibrationName, Calibrator
from engine.maps.options import MAX_SELECT

if TYPE_CHECKING:
    from engine import LatentSpace
    from engine.calibration.training.calibrated import Calibration

_HEAD_NOTE: Final = (
    "This calibration trained the rows that labels are read by and no state, so before and after"
    " are the same picture."
)
_REMEMBERED: Final = 64
_PLANE: Final = 2
"""Bases that a plane needs more of to be fitted."""
_DAMAGED: Final = "the calibration is damaged; train it anew."
_RESERVED: Final = str.maketrans({"=": " ", ";": " ", ",": " "})


@dataclass(frozen=True)
class Known:
    """What is known of a saved calibration without opening its weights."""

    fingerprint: str
    reading: Reading
    labels: tuple[tuple[str, str], ...]
    """Each label with the token that stands for it, as a selection of words names it."""
    frame: str


async def saved_choices(request: Request) -> dict[str, str]:
    """The names of the loaded model's saved calibrations by their ids, the newest first; none where
    nothing is kept."""
    sets: Sets = request.app.state.sets
    explorer: Explorer = request.app.state.explorer
    if sets.store is None:
        return {}
    try:
        records = await asyncio.to_thread(sets.store.records, "calibrations")
    except StorageError:
        return {}
    own = explorer.facts().fingerprint
    return {
        one.id: str(one.summary["name"])
        for one in records
        if one.summary["model_fingerprint"] == own
    }


async def calibration_name(request: Request, id_: str | None) -> CalibrationName | None:
    """What the maps call a saved calibration; None where none is asked for.

    Raises:
        OptionError: no such calibration.
        ArtifactError: it belongs to another model, or its files are damaged.
    """
    if not id_:
        return None
    record, known = await _look_up(request, id_)
    name = str(record.summary["name"])
    return CalibrationName(fingerprint=known.fingerprint, name=name, id=id_)


async def reading_of(request: Request, id_: str) -> Reading:
    """How a saved calibration reads texts; raises as `calibration_name` does."""
    return (await _look_up(request, id_))[1].reading


async def before_and_after(request: Request, id_: str) -> dict[str, Any]:
    """The fields of the Map page on which a calibration is best seen.

    Its texts, before and after, with the bases of its labels: in the plane through those bases
    where there are enough of them.
    """
    record, known = await _look_up(request, id_)
    fields: dict[str, Any] = {
        "prompt": "",
        "texts": str(record.summary["set_id"]),
        "colour": "label",
        "compare": f"calibration:{id_}",
        "frame": known.frame,
    }
    groups = [f"{label.translate(_RESERVED).strip()}={word}" for label, word in known.labels]
    select = "words:" + ";".join(groups)
    if len({word for _, word in known.labels}) > _PLANE and len(select) <= MAX_SELECT:
        return {**fields, "select": select, "projection": "selection"}
    return {**fields, "vocabulary": "none"}


async def _look_up(request: Request, id_: str) -> tuple[Record, Known]:
    sets: Sets = request.app.state.sets
    explorer: Explorer = request.app.state.explorer
    if sets.store is None:
        raise OptionError(_no_such())
    store = sets.store
    try:
        record = await asyncio.to_thread(store.record, "calibrations", id_)
        _check_model(record, explorer)
        return record, await asyncio.to_thread(_read, store, id_)
    except NotFound:
        raise OptionError(_no_such()) from None


def _no_such() -> str:
    return (
        "there is no saved calibration under this id; it may have been deleted. Choose one of those"
        " that the Calibrate page lists."
    )


def _check_model(record: Record, explorer: Explorer) -> None:
    facts, told = explorer.facts(), record.summary
    if told["model_fingerprint"] != facts.fingerprint:
        raise ArtifactError(
            f"This calibration belongs to {told['model_name']} (fingerprint"
            f" {str(told['model_fingerprint'])[:12]}) and the server runs {facts.name}"
            f" ({facts.fingerprint[:12]}), so it cannot be drawn here; serve that model, or"
            " calibrate this one."
        )


@cached(LRUCache(_REMEMBERED), key=lambda store, id_: id_, lock=threading.Lock())
def _read(store: Store, id_: str) -> Known:
    """Of the calibration with this id; saved folders are never written to again."""
    return _known_from(read_info(store.folder_of("calibrations", id_) / FOLDER))


def _known_from(info: Mapping[str, Any]) -> Known:
    try:
        task = info["task"]
        spec = TaskSpec.from_dict(task["spec"])
        labels = [LabelToken.from_dict(one) for one in task["labels"]]
        return Known(
            fingerprint=fingerprint_of(info),
            reading=Reading(spec.template, tuple(spec.text_columns), spec.label_column),
            labels=tuple((one.label, _word(one)) for one in labels),
            frame=str(info["options"]["frame"]),
        )
    except (KeyError, TypeError, ValueError):
        raise ArtifactError(_DAMAGED) from None


def _word(token: LabelToken) -> str:
    """The word where it is one token after a space, else the token's id."""
    (text, *more) = token.texts
    bare = text.removeprefix("␣")
    plain = not more and bare != text and bare.isalpha()
    return bare if plain else f"#{token.id_used}"


def fingerprint_of(info: Mapping[str, Any]) -> str:
    """The fingerprint of a calibration: of its weights, its settings and its model (BLAKE2b).

    Args:
        info: what stands in its ``calibration.json``.

    Raises:
        ArtifactError: something is missing there.
    """
    try:
        plain = {
            "weights": info["weights_digest"],
            "options": info["options"],
            "model": info["model"]["fingerprint"],
        }
    except (KeyError, TypeError):
        raise ArtifactError(_DAMAGED) from None
    text = json.dumps(plain, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def open_saved(space: LatentSpace, store: Store | None, name: CalibrationName | None) -> None:
    """Have the calibration of a map, if it has one, at hand; on the device thread.

    Raises:
        ArtifactError: it belongs to another model, or its files are damaged.
        NotFound: it was deleted meanwhile.
    """
    if store is not None and name is not None and not space.maps.knows(name.fingerprint):
        open_folder(space, store.folder_of("calibrations", name.id) / FOLDER)


def reading_in(folder: Path) -> Reading:
    """How the calibration in a folder reads texts."""
    return _known_from(read_info(folder)).reading


def open_folder(space: LatentSpace, folder: Path) -> CalibrationName:
    """The same of a folder as ``lexiscope calibrate --save`` writes it."""
    fingerprint = fingerprint_of(read_info(folder))
    if not space.maps.knows(fingerprint):
        calibration = load_calibration(folder, space)
        space.maps.use(calibrator_of(calibration, space, fingerprint))
    return CalibrationName(fingerprint=fingerprint, name=folder.name)


def calibrator_of(calibration: Calibration, space: LatentSpace, fingerprint: str) -> Calibrator:
    """What a calibration does to states, whatever it has trained.

    Args:
        calibration: of the space's model.
        fingerprint: `fingerprint_of` what was saved.
    """
    options = calibration.options
    layers = space.model.blocks + 1
    model = None
    apply = calibration.apply
    if options.kind in ("layers", "lora"):
        from engine.calibration.training.tuning import tuned_model

        model = tuned_model(calibration, space.model)

        def apply(states: Any) -> Any:
            return states  # the tuned model's own

    return Calibrator(
        fingerprint=fingerprint,
        layer=options.layer if options.layer >= 0 else options.layer + layers,
        apply=apply,
        model=model,
        note=_HEAD_NOTE if options.kind == "head" else "",
    )
