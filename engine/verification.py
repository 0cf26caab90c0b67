"""Compute what was saved again, and say how far it is: a trace, a calibration, an evaluation.

A trace is read again from the token ids that its file holds. A calibration is trained again, and an
evaluation run again, on the labelled rows that are handed in: neither file holds them, but both
hold the settings, and a name for the rows, so other rows are told. Maps have
:mod:`engine.maps.verify`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file

from engine.calibration.evidence.evaluation import TaskSource, evaluate
from engine.calibration.evidence.protocol import MethodSettings
from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.tables import Table
from engine.calibration.labelled.tasks import Task, make_task
from engine.calibration.training.artifact import WEIGHTS, load_calibration, read_info, save
from engine.calibration.training.features import task_states
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.differences import Differences, differences
from engine.errors import ArtifactError, OptionError
from engine.progress import Check, Steps, no_check
from engine.space import LatentSpace
from engine.trace.options import TraceOptions
from engine.trace.result import Trace

_CLOCK: Final = frozenset({"seconds", "seconds_train", "seconds_infer", "peak_bytes", "notes",
                           "predicted_seconds", "findings", "sentence"})  # fmt: skip
"""What another run may have otherwise: times, memory, and the sentences about them."""
_ELSEWHERE: Final = frozenset({"model", "provenance", "versions"})
"""Says where and under which versions it was made: the file's own word."""
_MISTAKES: Final = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a recomputation found."""

    what: str
    """``trace``, ``calibration`` or ``evaluation``."""
    compared: int = 0
    """Numbers that were compared."""
    largest_difference: float = float("nan")
    """Largest absolute difference of two of them; NaN where nothing was compared."""
    same_model: bool = True
    differs: str = ""
    """The first thing that is not the same, in a few words."""
    ok: bool = False
    """Same model, and nothing differs by more than 10⁻⁴ of its size."""
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return asdict(self)


def verify_trace(
    space: LatentSpace, document: Mapping[str, Any], *, check: Check = no_check
) -> Verification:
    """Read a saved trace's tokens again, by its own settings.

    Args:
        space: of the model that it is said to be of.
        document: what :meth:`engine.trace.result.Trace.to_dict` gave, with its ``provenance``.

    Raises:
        ArtifactError: it is no trace, or a damaged one.
        OptionError: its lens was not fitted here.
    """
    trace = traced_again(space, document, check=check)
    if isinstance(trace, Verification):
        return trace
    return report("trace", differences(dict(document), _plain(trace.to_dict()), ignored=_ELSEWHERE))


def traced_again(
    space: LatentSpace, document: Mapping[str, Any], *, check: Check = no_check
) -> Trace | Verification:
    """The trace of a document's tokens by its settings; what is said where its model is another.

    Args:
        space: of the model that it is said to be of.
        document: at least ``model``, ``provenance``, ``tokens``, ``geometry`` and ``options``.

    Raises:
        ArtifactError: it is no trace, or a damaged one.
        OptionError: its lens was not fitted here.
    """
    try:
        options = TraceOptions(**document["options"])
        ids = tuple(int(token["id"]) for token in document["tokens"])
        name, fingerprint = document["model"], document["provenance"]["fingerprint"]
        if not ids or document["geometry"] != options.geometry:
            raise ValueError
    except _MISTAKES as error:
        raise _damaged("trace", error) from None
    if fingerprint != space.model.fingerprint:
        return other_model("trace", str(name))
    return space.trace_ids(ids, options, check=check)


def verify_calibration(
    space: LatentSpace, folder: Path, table: Table, *, test: Table | None = None
) -> Steps[Verification]:
    """Train a saved calibration again on its rows, and compare every number that was saved.

    Args:
        space: of the model that it was trained on.
        folder: what :func:`engine.calibration.training.artifact.save` wrote.
        table: the rows that it was trained on.
        test: further rows, where it had a table of its own for them.

    Raises:
        ArtifactError: it is no calibration, or a damaged one.
        OptionError: the rows are not those that it was trained on.
    """
    info = read_info(folder)
    try:
        told, name = info["task"], str(info["model"]["name"])
        if info["model"]["fingerprint"] != space.model.fingerprint:
            return other_model("calibration", name)
        spec = TaskSpec.from_dict(told["spec"])
        options = CalibrationOptions.from_dict(info["options"])
        wanted = str(told["fingerprint"])
    except _MISTAKES as error:
        raise _damaged("calibration", error) from None
    load_calibration(folder, space)  # whole, and sound
    task = _task(space, spec, table, test, wanted)
    states = yield from task_states(space, task, layers=(options.layer,))
    trained = yield from calibrate(space, states, task, options)
    with tempfile.TemporaryDirectory() as place:
        anew = save(trained, Path(place) / "anew")
        after = read_info(anew)
        found = differences(info, after, ignored=_CLOCK | _ELSEWHERE | {"weights_digest", "extra"})
        # Numbers of the weights are as many as the model has, so they are no lists.
        pair = load_file(folder / WEIGHTS), load_file(anew / WEIGHTS)
    if pair[0].keys() != pair[1].keys():
        return report("calibration", replace(found, differs="other weights were saved"))
    for key in pair[0]:
        one, other = (tensors[key].double() for tensors in pair)
        if one.shape != other.shape:
            return report("calibration", replace(found, differs=f"{key} has another shape"))
        gap = float((one - other).abs().max()) if one.numel() else 0.0
        size = max(1.0, float(other.abs().max())) if one.numel() else 1.0
        words = "" if gap <= 1e-4 * size else f"{key} differs"
        found = found.and_(Differences(one.numel(), gap, words))
    return report("calibration", found)


def verify_evaluation(
    space: LatentSpace,
    document: Mapping[str, Any],
    tables: Sequence[tuple[Table, Table | None]],
    *,
    cache_dir: Path | None = None,
) -> Steps[Verification]:
    """Run a saved evaluation again on its rows: every answer, every interval.

    Args:
        space: of the model that it was run on.
        document: what :meth:`Evaluation.to_dict` gave.
        tables: per data set, in its order: the rows, and further ones to test on or None.
        cache_dir: where states are kept; None keeps none.

    Raises:
        ArtifactError: it is no evaluation, or a damaged one.
        OptionError: the rows are not those that it was run on.
    """
    try:
        if document["model"]["fingerprint"] != space.model.fingerprint:
            return other_model("evaluation", str(document["model"]["name"]))
        told = list(document["tasks"])
        settings = dict(document["settings"])
        options = CalibrationOptions.from_dict(settings.pop("calibration"))
        given = MethodSettings(**settings, calibration=options)
        methods = [str(one["name"]) for one in document["methods"]]
        seeds = [int(seed) for seed in document["seeds"]]
        specs = [TaskSpec.from_dict(one["spec"]) for one in told]
        draws = [[(int(by), str(name)) for by, name in one["draws"]] for one in told]
        if any(len(drawn) != len(seeds) for drawn in draws):
            raise ValueError
    except _MISTAKES as error:
        raise _damaged("evaluation", error) from None
    if len(tables) != len(specs):
        raise OptionError(
            f"this evaluation has {len(specs)} data sets; give as many files, in its order, and"
            f" not {len(tables)}."
        )
    sources: list[TaskSource] = []
    for spec, (table, test), drawn in zip(specs, tables, draws, strict=True):
        made = [_task(space, replace(spec, seed=by), table, test, name) for by, name in drawn]
        sources.append(dict(zip(seeds, made, strict=True)).__getitem__)
    result = yield from evaluate(
        space, sources, methods, seeds, settings=given, cache_dir=cache_dir
    )
    ignored = _CLOCK | _ELSEWHERE
    return report(
        "evaluation", differences(dict(document), _plain(result.to_dict()), ignored=ignored)
    )


def _task(
    space: LatentSpace, spec: TaskSpec, table: Table, test: Table | None, wanted: str
) -> Task:
    """The rows as a task, if they are those of that fingerprint."""
    task = make_task(spec, table, space.model, test=test)
    if task.fingerprint != wanted:
        raise OptionError(
            f"these rows are not those of {spec.name[:40]!r} ({wanted[:12]} there,"
            f" {task.fingerprint[:12]} here); give the same file."
        )
    return task


def _plain(value: Any) -> Any:
    """As it comes back from a file."""
    return json.loads(json.dumps(value, default=lambda one: one.tolist()))


def report(what: str, found: Differences) -> Verification:
    """What was found, in a sentence."""
    words = f"NOT the same {what}: {found.differs}" if found.differs else f"the same {what}"
    return Verification(
        what=what,
        compared=found.numbers,
        largest_difference=found.largest,
        differs=found.differs,
        ok=not found.differs,
        sentence=f"Recomputed {found.numbers:,} numbers: {words}; the largest difference is"
        f" {found.largest:.2g}.",
    )


def other_model(what: str, name: str) -> Verification:
    """What is said where the open model is not the one that the file is of."""
    return Verification(
        what=what,
        same_model=False,
        differs="another model",
        sentence=f"The {what} was made of another model ({name[:60]}); open that model to verify"
        " it.",
    )


def _damaged(what: str, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"this file is no {what} that was saved here, or it is damaged ({type(error).__name__});"
        " export it again."
    )
