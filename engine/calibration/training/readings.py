"""A saved calibration switched on for one prompt: what each position says before and after.

Before, the state r is read by the labels' fixed bases as it is; after, λ(r) is. Both readings take
the calibration's own similarity and tokens, so that what differs is the calibration alone. Beside
the labels stand the k nearest tokens of the whole vocabulary.

A calibration is trained on last positions of prompts that end as its template does. At other
positions the reading says what it would answer there, and no training saw that; `Readings.caution`
is the sentence for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.calibration.labelled.words import LabelToken
from engine.calibration.training.calibrated import (
    Calibration,
    Prediction,
    centroids_for,
    predict_from,
)
from engine.calibration.training.losses import Centroids, Similarity
from engine.errors import NonFiniteError, OptionError
from engine.frames.frame import Frame
from engine.json_number import number, plain
from engine.model.vocabulary import Token
from engine.progress import Check, no_check
from engine.reading.read import read
from engine.reading.similarity import scores as frame_scores
from engine.space import LatentSpace

_GEOMETRY = {"sm": "cosine", "mm": "matmul"}
_K = 50
_ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class LabelScore:
    """One label at one position."""

    label: str
    word: str
    """The word whose basis stands for the label."""
    score: float
    """Cosine (``sm``) or matrix product (``mm``)."""
    probability: float
    """In [0, 1]; over the labels they sum to 1 (to less where others of the vocabulary count)."""


@dataclass(frozen=True)
class Near:
    """One of the nearest tokens of the vocabulary."""

    token: Token
    score: float


@dataclass(frozen=True)
class Side:
    """What one state says."""

    labels: tuple[LabelScore, ...]
    """In the order of the calibration's labels."""
    predicted: int
    """Index of the best of them."""
    top: tuple[Near, ...]
    """The k nearest tokens, nearest first."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {
            "labels": plain(self.labels),
            "predicted": self.labels[self.predicted].label,
            "top": [_named(near.token) | {"score": number(near.score)} for near in self.top],
        }


@dataclass(frozen=True)
class PositionReading:
    """One position, before and after."""

    position: int
    token: Token
    before: Side
    after: Side
    cosine: float
    """Between r and λ(r): 1 where the calibration leaves the state's direction as it is."""


@dataclass(frozen=True)
class Readings:
    """A prompt under a calibration."""

    prompt: str
    layer: int
    """Whose states are read."""
    labels: tuple[str, ...]
    similarity: str
    """``cosine`` or ``matmul``."""
    frame: str
    positions: tuple[PositionReading, ...]
    caution: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {
            "prompt": self.prompt,
            "layer": self.layer,
            "labels": list(self.labels),
            "similarity": self.similarity,
            "frame": self.frame,
            "caution": self.caution,
            "tokens": [_named(one.token) for one in self.positions],
            "positions": [
                {
                    "position": one.position,
                    "cosine": number(one.cosine),
                    "before": one.before.to_dict(),
                    "after": one.after.to_dict(),
                }
                for one in self.positions
            ],
        }


@torch.no_grad()
def calibrated_readings(
    space: LatentSpace,
    calibration: Calibration,
    prompt: str,
    *,
    k: int = 5,
    bos: str = "auto",
    chat: bool = False,
    check: Check = no_check,
) -> Readings:
    """Every position of a prompt, read before and after a calibration.

    Args:
        space: the model that the calibration was trained on; called on its thread.
        calibration: of that model.
        prompt: the text.
        k: nearest tokens of the vocabulary per position, from 0 to 50.
        bos, chat: how the prompt becomes tokens, as in a trace.
        check: called between layers and chunks of the vocabulary; raises to stop.

    Raises:
        ArtifactError: the calibration belongs to another model.
        OptionError: k out of range.
        PromptError: the prompt is empty, too long or no text.
        NonFiniteError: a state or a score is NaN or infinite.
    """
    calibration.check_model(space)
    if not 0 <= k <= _K:
        raise OptionError(f"k must be from 0 to {_K}; got {k}.")
    options = calibration.options
    tokens = space.tokenize(prompt, bos=bos, chat=chat)
    layer = options.layer if options.layer >= 0 else options.layer + space.model.blocks + 1
    states, after_states, before, after = read_both(space, calibration, tokens.ids, check=check)
    frame = space.frame(options.frame)
    near_before = _nearest(space, frame, states, options.inference, k, None, check)
    trained = calibration.centroids if options.kind == "head" else None
    near_after = _nearest(space, frame, after_states, options.inference, k, trained, check)
    cosines = torch.nn.functional.cosine_similarity(
        states.float(), after_states.to(states.device).float(), dim=1
    ).tolist()
    positions = tuple(
        PositionReading(
            position=i,
            token=token,
            before=_side(calibration, before, i, near_before),
            after=_side(calibration, after, i, near_after),
            cosine=cosines[i],
        )
        for i, token in enumerate(tokens.items)
    )
    return Readings(
        prompt=prompt,
        layer=layer,
        labels=calibration.label_names,
        similarity=_GEOMETRY[options.inference],
        frame=options.frame,
        positions=positions,
        caution=_caution(calibration),
    )


@torch.no_grad()
def read_both(
    space: LatentSpace,
    calibration: Calibration,
    ids: tuple[int, ...],
    *,
    last: bool = False,
    check: Check = no_check,
) -> tuple[Tensor, Tensor, Prediction, Prediction]:
    """States of a prompt before and after a calibration (n × d each), and what each side says.

    Args:
        space: the model.
        calibration: of that model.
        ids: of the prompt, n tokens.
        last: only its last position, n = 1, which is what a calibration is trained on.
        check: called between layers; raises to stop.

    Raises:
        NonFiniteError: a score is NaN or infinite.
    """
    options = calibration.options
    layer = options.layer if options.layer >= 0 else options.layer + space.model.blocks + 1
    states = space.model.read_out(space.model.states(ids, check=check).raw[layer])
    moved = _calibrated(space, calibration, ids, states, check)
    if last:
        states, moved = states[-1:], moved[-1:]
    check()
    labels = [LabelToken.from_dict(one) for one in calibration.task_info["labels"]]
    before = predict_from(
        centroids_for(space, labels, options),
        states,
        options.inference,
        options.inference_over,
        options.reading_temperature,
    )
    after = calibration.read_calibrated(moved)
    for found in (before.scores, after.scores):
        if not bool(torch.isfinite(found).all()):
            raise NonFiniteError(
                f"the readings of layer {layer} are not finite; the model's states or the "
                "calibration went wrong there."
            )
    return states, moved, before, after


def _calibrated(
    space: LatentSpace, calibration: Calibration, ids: tuple[int, ...], states: Tensor, check: Check
) -> Tensor:
    """λ of every state; where the model's layers were tuned, the tuned model's own states."""
    if calibration.options.kind not in ("layers", "lora"):
        return calibration.apply(states)
    from engine.calibration.training.tuning import tuned_model

    twin = tuned_model(calibration, space.model)
    check()
    return twin.read_out(twin.states(ids, check=check).raw[-1])


def _nearest(
    space: LatentSpace,
    frame: Frame,
    states: Tensor,
    similarity: Similarity,
    k: int,
    trained: Centroids | None,
    check: Check,
) -> list[list[Near]]:
    """The k nearest tokens per state.

    `trained` are a head's own rows, of the label words or of the vocabulary: their scores take the
    place of the frame's.
    """
    if k == 0:
        return [[] for _ in range(len(states))]
    states = states.to(frame.device)
    geometry = _GEOMETRY[similarity]
    if trained is None:
        found = read(frame, states, geometries=(geometry,), k=k, check=check)[geometry]
        return _near(space, found.ids, found.scores)
    out: list[list[Near]] = []
    own = torch.tensor(trained.ids, device=frame.device)
    for start in range(0, len(states), _ROWS_AT_ONCE):
        check()
        part = states[start : start + _ROWS_AT_ONCE]
        if trained.scope == "vocabulary":
            whole = trained.scores(part, similarity, "vocabulary")
        else:
            whole = frame_scores(frame, part, geometry)
            whole[:, own] = trained.scores(part, similarity).to(whole.dtype)
        best = whole.topk(min(k, whole.shape[1]), dim=1)
        out += _near(space, best.indices, best.values)
    return out


def _named(token: Token) -> dict[str, Any]:
    """A token as the readings write it."""
    return {"id": token.id, "text": token.text, "label": token.label}


def _near(space: LatentSpace, ids: Tensor, values: Tensor) -> list[list[Near]]:
    words = space.model.vocabulary_texts
    return [
        [Near(words.token(one), score) for one, score in zip(row, scores, strict=True)]
        for row, scores in zip(ids.tolist(), values.tolist(), strict=True)
    ]


def _side(calibration: Calibration, found: Prediction, row: int, near: list[list[Near]]) -> Side:
    return Side(
        labels=tuple(
            LabelScore(label, word, score, probability)
            for label, word, score, probability in zip(
                calibration.label_names,
                calibration.label_words,
                found.scores[row].tolist(),
                found.probabilities[row].tolist(),
                strict=True,
            )
        ),
        predicted=int(found.predicted[row]),
        top=tuple(near[row]),
    )


def _caution(calibration: Calibration) -> str:
    template = calibration.task_info.get("spec", {}).get("template", "")
    ending = str(template).rsplit("}", 1)[-1].strip()
    end = f" that end with “{ending}”" if ending else ""
    return (
        f"This calibration was trained on the last position of prompts{end}; what it says at other "
        "positions or of other texts was never checked."
    )
