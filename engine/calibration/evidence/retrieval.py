"""Methods that answer by looking at the nearest training rows.

**kNN prompting** (Xu et al. 2023): an anchor per training row, the distribution over the whole
vocabulary after the row's prompt behind demonstrations; a query takes the majority of the k anchors
with the least KL(p_anchor ‖ p_query). We never hold distributions, v numbers each. With logits
z = W·r + b,

    KL(p_a ‖ p_q) = Σ p_a log p_a − Σ p_a log p_q = h_a − m_a·r_q + lse(z_q),

with m_a = Wᵀp_a − the head rows averaged by the anchor's distribution, d numbers − and
h_a = Σ p_a log p_a − p_a·b. So d + 1 numbers per anchor give the same divergences (where the model
caps its logits, the query's distribution is used instead). k is chosen by leave-one-out over the
anchors.

**kNN-LM** (Khandelwal et al. 2020): p = λ·p_kNN + (1 − λ)·p_LM over the label tokens, p_kNN the
softmax of minus the squared distance over the k nearest states, at a temperature. k, λ and the
temperature are chosen on the validation rows.

**Nearest class mean**: minus the squared distance to the mean state of each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.calibration.evidence.prompting import (
    choose_demonstrations,
    few_shot_states,
    label_logits,
)
from engine.calibration.evidence.protocol import MethodContext, Outcome, softmax
from engine.frames.decomposition import CHUNK
from engine.model.language_model import LanguageModel
from engine.progress import Progress, Steps

NEIGHBOURS: Final = (1, 3, 5, 9, 17, 33, 65)
"""k that kNN prompting chooses from."""
LM_NEIGHBOURS: Final = (4, 16, 64, 256)
LM_TEMPERATURES: Final = (1.0, 10.0, 100.0)
"""As a multiple of the mean squared distance to the nearest row, divided by ten."""
LM_SHARES: Final = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
"""λ that kNN-LM chooses from; 0 is the model alone."""
_ROWS: Final = 128


class Anchors:
    """Distributions over the vocabulary, held so that KL to a query is one small product.

    Args:
        model: whose head.
        states: anchor × d, after the final norm.
    """

    def __init__(self, model: LanguageModel, states: Tensor) -> None:
        self._model = model
        self.states = states
        self._capped = model.anatomy.softcap is not None
        self._means = torch.empty(len(states), model.width, dtype=torch.float64)
        self._entropy = torch.empty(len(states), dtype=torch.float64)

    def fill(self) -> Steps[None]:
        """Compute what is held; one step is a block of anchors."""
        for start in range(0, len(self.states), _ROWS):
            part = slice(start, min(start + _ROWS, len(self.states)))
            logs = log_distributions(self._model, self.states[part])
            p = logs.exp()
            entropy = (p * logs).sum(1)
            anatomy = self._model.anatomy
            if not self._capped:
                means = torch.zeros(len(p), self._model.width, dtype=torch.float64)
                for first in range(0, p.shape[1], CHUNK):
                    rows = anatomy.weight[first : first + CHUNK].detach().cpu().double()
                    means += p[:, first : first + CHUNK] @ rows
                self._means[part] = means * anatomy.logit_scale
                if anatomy.bias is not None:
                    bias = anatomy.bias.detach().cpu().double() * anatomy.logit_scale
                    entropy = entropy - p @ bias
            self._entropy[part] = entropy
            yield Progress(part.stop, len(self.states), "indexing anchors")

    @property
    def stored_bytes(self) -> int:
        """Held per anchor: d + 1 numbers in float32 (d for the state where logits are capped)."""
        return 4 * len(self.states) * (self._model.width + 1)

    @torch.no_grad()
    def divergences(self, states: Tensor) -> Tensor:
        """KL(p_anchor ‖ p_query) in nats, at least 0: query × anchor, float64 on the CPU."""
        out = []
        for start in range(0, len(states), _ROWS):
            part = states[start : start + _ROWS]
            if self._capped:
                out.append(self._plain(part))
                continue
            placed = part.detach().cpu().double()
            partition = torch.logsumexp(_logits(self._model, part), 1)
            out.append(self._entropy + partition[:, None] - placed @ self._means.T)
        return torch.cat(out).clamp_min(0)

    def _plain(self, queries: Tensor) -> Tensor:
        logs = log_distributions(self._model, queries)
        columns = []
        for start in range(0, len(self.states), _ROWS):
            p = log_distributions(self._model, self.states[start : start + _ROWS]).exp()
            columns.append(self._entropy[start : start + _ROWS][None] - logs @ p.T)
        return torch.cat(columns, 1)


@torch.no_grad()
def log_distributions(model: LanguageModel, states: Tensor) -> Tensor:
    """log p over the whole vocabulary after each state: n × v, float64 on the CPU."""
    return torch.log_softmax(_logits(model, states), 1)


def _logits(model: LanguageModel, states: Tensor) -> Tensor:
    anatomy = model.anatomy
    parts = []
    for start in range(0, model.vocabulary, CHUNK):
        rows = anatomy.weight[start : start + CHUNK].detach()
        product = (states.to(rows.device).float() @ rows.float().T).cpu().double()
        if anatomy.bias is not None:
            product = product + anatomy.bias[start : start + CHUNK].detach().cpu().double()
        parts.append(anatomy.finish(product))
    return torch.cat(parts, 1)


def majority(
    distances: NDArray[np.float64], labels: NDArray[np.int64], k: int, classes: int
) -> NDArray[np.float64]:
    """Votes of the k nearest: n × C, shares in [0, 1].

    Ties go to the class whose nearest row is nearer: it gets a share that decides nothing else.
    """
    k = min(k, distances.shape[1])
    return vote(labels[nearest(distances, k)], classes)


def nearest(distances: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The k nearest of each row, nearest first: n × k."""
    near = np.argpartition(distances, k - 1, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(distances, near, 1), axis=1, kind="stable")
    found: NDArray[np.int64] = np.take_along_axis(near, order, 1)
    return found


def vote(own: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Votes of neighbours: n × k labels, nearest first → n × C; see :func:`majority`."""
    k = own.shape[1]
    votes = np.zeros((len(own), classes))
    rows = np.arange(len(own))
    for place in range(k):
        np.add.at(votes, (rows, own[:, place]), 1.0)
    first = np.full(votes.shape, k, dtype=float)
    for place in reversed(range(k)):
        first[rows, own[:, place]] = place
    shares: NDArray[np.float64] = votes / k + 1e-6 * (1 - first / k)
    return shares


def knn_prompting(context: MethodContext) -> Steps[Outcome]:
    """kNN prompting (Xu et al. 2023; the paper's baseline KP)."""
    task = context.task
    rows = _anchor_rows(context)
    labels = task.labels["train"][rows]
    held = yield from few_shot_states(context, "train", rows.tolist())
    asked = yield from few_shot_states(context, "test", range(task.size("test")))
    anchors = Anchors(context.space.model, held.states)
    _, seconds = yield from context.timed(anchors.fill())
    watch = context.stopwatch(train=held.seconds + seconds, infer=asked.seconds)
    tried = [k for k in NEIGHBOURS if k < len(rows)] or [1]
    found = []
    # Block by block, and only the nearest are kept: n anchors have n² divergences.
    for start in range(0, len(rows), _ROWS):
        with watch.training():
            block = anchors.divergences(held.states[start : start + _ROWS]).numpy()
            inside = np.arange(len(block))
            block[inside, start + inside] = np.inf
            found.append(labels[nearest(block, max(tried))])
        yield Progress(start + len(block), len(rows), "choosing k")
    with watch.training():
        among = np.concatenate(found)
        hits = [float(np.mean(vote(among[:, :k], task.classes).argmax(1) == labels)) for k in tried]
        k = tried[int(np.argmax(hits))]
    asking = []
    for start in range(0, len(asked.states), _ROWS):
        with watch.inferring():
            block = anchors.divergences(asked.states[start : start + _ROWS]).numpy()
            asking.append(majority(block, labels, k, task.classes))
        yield Progress(start + len(block), len(asked.states), "asking the anchors")
    with watch.inferring():
        votes = np.concatenate(asking)
        probabilities = votes / votes.sum(1, keepdims=True)
    v = context.space.model.vocabulary
    return Outcome(
        "knn-prompting",
        votes,
        probabilities,
        watch.train,
        watch.infer,
        anchors.stored_bytes,
        settings={"k": k, "anchors": len(rows), "shots": held.shown.shots},
        notes=(
            held.shown.note,
            f"k = {k} of {', '.join(map(str, tried))} by leave-one-out over the anchors; whole"
            f" distributions would take {4 * v * len(rows) / 2**20:,.1f} MiB.",
        ),
    )


def _anchor_rows(context: MethodContext) -> NDArray[np.int64]:
    """Training rows that are indexed: all but the demonstrations, or as many as set."""
    task, settings = context.task, context.settings
    shown = choose_demonstrations(
        context.space.model,
        task,
        seed=context.seed,
        shots=settings.shots,
        context_tokens=settings.context_tokens,
    )
    rows = np.setdiff1d(np.arange(task.size("train")), np.asarray(shown.rows, dtype=np.int64))
    if len(rows) == 0:  # every row is a demonstration: then they are the anchors too
        rows = np.arange(task.size("train"))
    if settings.anchors is None or settings.anchors >= len(rows):
        return rows
    return rows[stratified(task.labels["train"][rows], settings.anchors, context.seed)]


def stratified(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """About `count` rows, classes in proportion and none left out; sorted."""
    generator = np.random.default_rng([seed, 3])
    kept: list[int] = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        kept.extend(rows[: max(1, round(count * len(rows) / len(labels)))].tolist())
    return np.sort(np.asarray(kept, dtype=np.int64))


def knn_lm(context: MethodContext) -> Steps[Outcome]:
    """kNN-LM over the label tokens (Khandelwal et al. 2020)."""
    task, states = context.task, context.states.normed
    watch = context.stopwatch(train=context.train_seconds, infer=context.test_seconds)
    keys = states["train"].cpu().double().numpy()
    labels = task.labels["train"]
    with watch.training():
        found = _lm_settings(context, keys, labels)
    yield Progress(1, 2, "kNN-LM")
    with watch.inferring():
        ask = states["test"].cpu().double().numpy()
        last = context.states.last["test"]  # whatever layer the keys are of
        model_own = softmax(label_logits(context.space.model, last, task.label_tokens))
        near = neighbour_distribution(
            squared_distances(ask, keys), labels, found["k"], found["temperature"], task.classes
        )
        probabilities = found["share"] * near + (1 - found["share"]) * model_own
    return Outcome(
        "knn-lm",
        probabilities,
        probabilities,
        watch.train,
        watch.infer,
        4 * keys.size + 2 * len(keys),
        settings=found,
        notes=(f"k = {found['k']}, λ = {found['share']:g}, chosen on the validation rows.",),
    )


def _lm_settings(
    context: MethodContext, keys: NDArray[np.float64], labels: NDArray[np.int64]
) -> dict[str, Any]:
    """k, temperature and λ with the most validation rows right; of equals the likeliest."""
    task = context.task
    valid = context.states.normed["valid"]
    if len(valid) == 0:
        between = squared_distances(keys[:64], keys)
        np.fill_diagonal(between, np.inf)
        unit = float(between.min(1).mean()) / 10 or 1.0
        return {"k": min(16, len(keys)), "temperature": 10 * unit, "share": 0.75}
    truth = task.labels["valid"]
    last = context.states.last["valid"]
    own = softmax(label_logits(context.space.model, last, task.label_tokens))
    distances = squared_distances(valid.cpu().double().numpy(), keys)
    unit = float(distances.min(1).mean()) / 10 or 1.0
    best: tuple[tuple[float, float], dict[str, Any]] | None = None
    for k in dict.fromkeys(min(k, len(keys)) for k in LM_NEIGHBOURS):
        for factor in LM_TEMPERATURES:
            near = neighbour_distribution(distances, labels, k, factor * unit, task.classes)
            for share in LM_SHARES:
                mixed = share * near + (1 - share) * own
                right = float(np.mean(mixed.argmax(1) == truth))
                sure = float(np.log(mixed[np.arange(len(truth)), truth] + 1e-12).mean())
                if best is None or (right, sure) > best[0]:
                    chosen = {"k": k, "temperature": factor * unit, "share": share}
                    best = ((right, sure), chosen)
    assert best is not None
    return best[1]


def squared_distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """‖a_i − b_j‖², at least 0 (len(a) × len(b))."""
    square = (a * a).sum(1)[:, None] - 2 * (a @ b.T) + (b * b).sum(1)[None]
    out: NDArray[np.float64] = np.maximum(square, 0.0)
    return out


def neighbour_distribution(
    distances: NDArray[np.float64],
    labels: NDArray[np.int64],
    k: int,
    temperature: float,
    classes: int,
) -> NDArray[np.float64]:
    """p_kNN(y) ∝ Σ over the k nearest with label y of exp(−distance / temperature): n × C."""
    near = np.argpartition(distances, min(k, distances.shape[1]) - 1, axis=1)[:, :k]
    weights = softmax(-np.take_along_axis(distances, near, 1) / temperature)
    out = np.zeros((len(distances), classes))
    rows = np.arange(len(distances))
    for place in range(near.shape[1]):
        np.add.at(out, (rows, labels[near[:, place]]), weights[:, place])
    return out


def class_mean(context: MethodContext) -> Steps[Outcome]:
    """Minus the squared distance to each class's mean training state."""
    task, states = context.task, context.states.normed
    watch = context.stopwatch(train=context.train_seconds, infer=context.test_seconds)
    with watch.training():
        means = class_means(
            states["train"].cpu().double().numpy(), task.labels["train"], task.classes
        )
    yield Progress(1, 2, "class means")
    with watch.inferring():
        scores = nearest_mean_scores(states["test"].cpu().double().numpy(), means)
    return Outcome("class-mean", scores, None, watch.train, watch.infer, 4 * means.size)


def class_means(
    rows: NDArray[np.float64], labels: Sequence[int] | NDArray[np.int64], classes: int
) -> NDArray[np.float64]:
    """Mean row of each class; NaN for one without rows (C × d)."""
    index = np.asarray(labels)
    out = np.full((classes, rows.shape[1]), np.nan)
    for label in np.unique(index):
        out[label] = rows[index == label].mean(0)
    return out


def nearest_mean_scores(
    rows: NDArray[np.float64], means: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Minus the squared distance to each mean; a class without one scores below all (n × C)."""
    known = ~np.isnan(means[:, 0])
    scores = np.full((len(rows), len(means)), -np.finfo(np.float64).max)
    scores[:, known] = -squared_distances(rows, means[known])
    return scores
