"""The method taken apart: basis × similarity × loss × inference (paper, Table 6) × layer.

One training per frame and loss, read by both similarities. The untrained reading stands in the
table too, so that a row shows what its training added. Differences are paired with the paper's own
variant [sm][sm] on the semantic bases.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from engine.calibration.evidence.findings import counted, loss_words, percent, points, side
from engine.calibration.evidence.metrics import Interval
from engine.calibration.evidence.protocol import timed
from engine.calibration.evidence.resampling import Bootstrap
from engine.calibration.labelled.tasks import SPLITS, Task
from engine.calibration.training.calibrated import Calibration, predict_from, untrained
from engine.calibration.training.features import TaskStates
from engine.calibration.training.losses import LOSS_NAMES, LOSSES, SIMILARITIES
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.checkpoints import NOTHING, Checkpoints, tensor_digest
from engine.errors import LexiscopeError, OptionError
from engine.frames.kinds import FRAMES
from engine.progress import Steps, as_part
from engine.space import LatentSpace

ABLATION_FRAMES: Final = ("output", "head", "tight", "input", "random")
"""Bases that are compared; one that a model does not have is left out with its sentence."""
ABLATION_LOSSES: Final = tuple(LOSSES)
READINGS: Final[Mapping[str, str]] = {"sm": "cosine", "mm": "matrix product"}
UNTRAINED: Final = "none"
REFERENCE: Final = ("output", "sm", "sm")
_Key = tuple[int, str, str, str]
"""Layer, basis, loss, inference."""


@dataclass(frozen=True)
class AblationRow:
    """One combination."""

    basis: str
    """Frame of the centroids."""
    similarity: str
    """Of the loss: ``cosine``, ``matrix product``, or ``none`` where nothing was trained."""
    loss: str
    """``sm``, ``mm``, ``sm-gt``, ``sm-exp``, ``mm-exp``, or ``none``."""
    inference: str
    """``sm`` cosine or ``mm`` matrix product."""
    accuracy: Interval
    """Mean over the seeds."""
    macro_f1: Interval
    difference: Interval
    """Accuracy minus that of [sm][sm] on the semantic bases, paired."""
    seconds: float
    """Of training, mean over the seeds; 0 where nothing was trained."""
    kept_start: int = 0
    """Trainings in which no epoch was better than the start, so that nothing trained is in them."""
    layer: int = -1
    """Whose states were trained on and read."""

    @property
    def trained(self) -> bool:
        """Whether anything was."""
        return self.loss != UNTRAINED

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return asdict(self) | {"trained": self.trained}


@dataclass(frozen=True)
class Ablation:
    """The table."""

    task: str
    rows: tuple[AblationRow, ...]
    left_out: tuple[str, ...]
    """Sentences on frames that this model does not have."""
    seeds: tuple[int, ...]
    test: int
    """Test rows."""
    notes: tuple[str, ...] = ()
    """Sentences on how it went."""

    @property
    def sentence(self) -> str:
        """What the table says, in a sentence or two."""
        return _sentence(self)

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        rows = [row.to_dict() for row in self.rows]
        return {"sentence": self.sentence, **vars(self), "rows": rows}


def ablate(
    space: LatentSpace,
    task: Task,
    states: TaskStates,
    *,
    base: CalibrationOptions | None = None,
    frames: Sequence[str] = ABLATION_FRAMES,
    losses: Sequence[str] = ABLATION_LOSSES,
    layers: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
    kept: Checkpoints = NOTHING,
) -> Steps[Ablation]:
    """Train every combination on the same states.

    Args:
        space: the model; called on the thread that owns it.
        task: with its test rows.
        states: of the task, with the layer that the options name.
        base: everything that is not taken apart.
        frames: bases.
        losses: clustering losses.
        layers: further ones besides the options' own, each with everything; their states must have
            been taken.
        seeds: of the training; each adds to the mean and the interval.
        kept: where trainings are kept, so that none that has ended is done again.

    Raises:
        OptionError: nothing to compare, or an unknown loss.
    """
    base = replace(base or CalibrationOptions(), target="module")
    unknown = [name for name in losses if name not in LOSSES]
    if unknown or not (frames and losses and seeds):
        raise OptionError(
            f"an ablation needs frames, seeds and losses of {', '.join(LOSSES)}; got"
            f" {', '.join(map(str, unknown))[:60] or 'none'}."
        )
    truth: NDArray[np.int64] = task.labels["test"]
    answers: dict[_Key, list[NDArray[np.int64]]] = {}
    spent: dict[tuple[int, str, str], list[float]] = {}
    kept_start: Counter[tuple[int, str, str]] = Counter()
    left_out: dict[str, str] = {}
    top = space.model.blocks
    own = top if base.layer < 0 else base.layer
    chosen = dict.fromkeys([own, *(int(layer) for layer in layers)])
    total = len(chosen) * len(frames) * len(losses) * len(seeds)
    done, found = 0, 0

    def note(layer: int, frame: str, loss: str, said: Mapping[str, NDArray[np.int64]]) -> None:
        for inference in READINGS:
            answers.setdefault((layer, frame, loss, inference), []).append(said[inference])

    for layer, frame in itertools.product(chosen, frames):
        here = base if layer == own else replace(base, layer=layer)
        depends = {
            "model": states.model,
            "task": states.task,
            "states": tensor_digest(*(states.at(layer)[split] for split in SPLITS)),
        }
        try:
            plain = untrained(space, task, replace(here, frame=frame))
        except LexiscopeError as error:
            left_out[frame] = f"{frame}: {error}"
            done += len(losses) * len(seeds)
            continue
        note(layer, frame, UNTRAINED, _answers(plain, states, layer))
        spent[layer, frame, UNTRAINED] = [0.0]
        for loss in losses:
            for seed in seeds:
                options = replace(here, frame=frame, loss=loss, seed=int(seed))
                name = f"bases {frame}, loss {loss}, seed {seed}"
                cell = kept.of(name, **depends, options=options.to_dict())
                held = cell.load()
                if held is None:
                    training = kept.of("training", **depends)
                    steps = calibrate(space, states, task, options, checkpoint=training)
                    part = as_part(steps, done, total, f"layer {layer}, bases {frame}, loss {loss}")
                    trained, seconds = yield from timed(part)
                    said = _answers(trained, states, layer)
                    place = f"training {done + 1} of {total}"
                    tensors = {key: torch.from_numpy(own) for key, own in said.items()}
                    start = trained.kept_its_start
                    cell.save(tensors, {"seconds": seconds, "kept_start": start}, place=place)
                    training.remove()
                else:
                    said = {key: held.tensors[key].numpy() for key in READINGS}
                    seconds, start = held.values["seconds"], held.values["kept_start"]
                    found += 1
                note(layer, frame, loss, said)
                spent.setdefault((layer, frame, loss), []).append(seconds)
                kept_start[layer, frame, loss] += start
                done += 1
    rows = _rows(truth, answers, task.classes, spent, kept_start)
    notes: tuple[str, ...] = ()
    if found:
        notes = (
            f"{counted(found, 'training')} of {total} ended before the work was interrupted;"
            " their seconds were measured then.",
        )
    return Ablation(
        task.name, rows, tuple(left_out.values()), tuple(int(s) for s in seeds), len(truth), notes
    )


def _answers(
    calibration: Calibration, states: TaskStates, layer: int
) -> dict[str, NDArray[np.int64]]:
    """The answers for the test rows, by each similarity."""
    centres = calibration.centroids
    moved = calibration.apply(states.at(layer)["test"]).to(centres.labels.device)
    found = {name: predict_from(centres, moved, name, "labels", 1.0) for name in SIMILARITIES}
    return {name: said.predicted.numpy().astype(np.int64) for name, said in found.items()}


def _rows(
    truth: NDArray[np.int64],
    answers: dict[_Key, list[NDArray[np.int64]]],
    classes: int,
    spent: dict[tuple[int, str, str], list[float]],
    kept_start: Mapping[tuple[int, str, str], int],
) -> tuple[AblationRow, ...]:
    runs = max(len(own) for own in answers.values())
    drawn = Bootstrap.same_rows(len(truth), runs)
    # What was not trained is alike for all seeds.
    full = {key: own * runs if len(own) == 1 else own for key, own in answers.items()}
    accuracy = {k: drawn.accuracy([said == truth for said in own]) for k, own in full.items()}
    first = next(iter(accuracy))  # of the options' own layer
    reference = accuracy.get((first[0], *REFERENCE)) or accuracy[first]
    out = []
    for key, own in full.items():
        layer, frame, loss, inference = key
        similarity = UNTRAINED if loss == UNTRAINED else READINGS[loss[:2]]
        out.append(
            AblationRow(
                basis=frame,
                similarity=similarity,
                loss=loss,
                inference=inference,
                accuracy=accuracy[key].interval,
                macro_f1=drawn.macro_f1([truth] * runs, own, classes).interval,
                difference=accuracy[key].minus(reference).interval,
                seconds=float(np.mean(spent[layer, frame, loss])),
                kept_start=kept_start[layer, frame, loss],
                layer=layer,
            )
        )
    return tuple(out)


def _sentence(found: Ablation) -> str:
    own_layer = found.rows[0].layer
    several = len({r.layer for r in found.rows}) > 1
    by_key = {(r.basis, r.loss, r.inference): r for r in found.rows if r.layer == own_layer}
    best = max(found.rows, key=lambda r: r.accuracy.value)
    how = "not trained" if not best.trained else f"loss {loss_words(best.loss)}"
    where = f" of layer {best.layer}" if several else ""
    words = (
        f"Of {counted(len(found.rows), 'combination')} the best is {how}, read by"
        f" {READINGS[best.inference]}, on {FRAMES[best.basis].phrase}{where}: right on"
        f" {percent(best.accuracy)} of {counted(found.test, 'test text')} (chosen on the test"
        " texts, so flattered)"
    )
    own = by_key.get(REFERENCE)
    if own is None:
        return words + "."
    if best is own:
        words += "; it is the paper's own variant"
    else:
        code = "" if best.loss == "sm" else " [sm]"
        words += (
            f"; the paper's own variant ({LOSS_NAMES['sm']}{code}, read by cosine, on semantic"
            f" bases) reaches {percent(own.accuracy)}"
        )
    control = by_key.get(("random", "sm", "sm"))
    if control is None:
        return words + "."
    ending = {
        "above": "random bases do better, so the gain is not owed to the semantic bases",
        "below": "random bases do worse, so the semantic bases matter",
        "around": "random bases do as well within chance, so the gain is not owed to the bases",
    }[side(control.difference)]
    return f"{words}; {ending} (random minus semantic bases: {points(control.difference)})."
