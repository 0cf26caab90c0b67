"""Methods that only ask the model: zero-shot, in-context learning, contextual calibration.

A class's logit is that of its label token at the last position, and its probability the softmax
over the label tokens alone. Demonstrations are class-balanced, drawn by the seed among the shorter
half of each class's training rows so that more of them fit, written as the prompt with its label
word after it, in a shuffled order. Their number per class is the largest with which at most 5 % of
the prompts do not fit (the paper's threshold, §4); such a prompt loses demonstrations from the
front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.calibration.evidence.protocol import MethodContext, Outcome, softmax
from engine.calibration.evidence.shared_prefix import prefixed_states
from engine.calibration.labelled.spec import render
from engine.calibration.labelled.tasks import Task
from engine.calibration.labelled.words import LabelToken
from engine.calibration.training.options import CalibrationOptions
from engine.model.language_model import LanguageModel
from engine.progress import Steps
from engine.space import LatentSpace

TRUNCATION: Final = 0.05
"""Share of prompts that may lose demonstrations (paper §4)."""
MOST_SHOTS: Final = 8
"""Demonstrations per class that are tried at most."""
BETWEEN: Final = "\n\n"
"""What stands after a demonstration."""
_ROOM: Final = 2
"""A begin-of-text token, and one more where two texts meet."""
CONTENT_FREE: Final = ("N/A", "", "[MASK]")
"""Inputs that say nothing (Zhao et al. 2021)."""


@torch.no_grad()
def label_logits(
    model: LanguageModel, states: Tensor, tokens: Sequence[LabelToken]
) -> NDArray[np.float64]:
    """The model's own logits of the label tokens: finish(w_y·r + b_y).

    Where a label is the mean of its word's tokens, the mean of their logits.

    Args:
        model: whose head.
        states: n × d, after the final norm.
        tokens: one per class.

    Returns:
        n × C, float64.
    """
    anatomy = model.anatomy
    columns = []
    for token in tokens:
        ids = _token_ids(token)
        rows = anatomy.weight[ids].detach().double()
        product = states.to(rows.device).double() @ rows.T
        if anatomy.bias is not None:
            product = product + anatomy.bias[ids].detach().double()
        columns.append(anatomy.finish(product).mean(1))
    out: NDArray[np.float64] = torch.stack(columns, 1).cpu().numpy()
    return out


def zero_shot(context: MethodContext) -> Steps[Outcome]:
    """The likeliest label token after the prompt."""
    watch = context.stopwatch(infer=context.test_seconds)
    with watch.inferring():
        last = context.states.last["test"]
        scores = label_logits(context.space.model, last, context.task.label_tokens)
        probabilities = softmax(scores)
    yield from ()
    return Outcome("zero-shot", scores, probabilities, watch.train, watch.infer, 0)


def zero_shot_cosine(context: MethodContext) -> Steps[Outcome]:
    """The nearest label basis by cosine, nothing trained: the paper's reading (§3.2, Alg. 1).

    It gives no probabilities: a softmax of cosines has no scale of its own.
    """
    watch = context.stopwatch(infer=context.test_seconds)
    with watch.inferring():
        scores = label_cosines(context.space, context.task, context.states.normed["test"])
    yield from ()
    said = context.by_words(CalibrationOptions(), context.states.normed["test"])
    return Outcome("zero-shot-cosine", scores, None, 0.0, watch.infer, 0, untaught=said)


def label_cosines(
    space: LatentSpace, task: Task, states: Tensor, frame: str = "output"
) -> NDArray[np.float64]:
    """Cosines of states (n × d, after the final norm) to the labels' vectors: n × C, float64."""
    placed = space.frame(frame).place(states).cpu().double()
    out: NDArray[np.float64] = (_unit(placed) @ _unit(label_bases(space, task, frame)).T).numpy()
    return out


def label_bases(space: LatentSpace, task: Task, frame: str = "output") -> Tensor:
    """The labels' vectors in a frame: C × d, float64 on the CPU.

    Where a word has several tokens and its rule is their mean, the mean of their unit vectors.
    """
    chosen = space.frame(frame)
    rows = []
    for token in task.label_tokens:
        own = chosen.vectors(_token_ids(token))
        rows.append(_unit(own).mean(0) if token.mean else own[0])
    return torch.stack(rows)


def _token_ids(token: LabelToken) -> list[int]:
    return list(token.ids) if token.mean else [token.id_used]


def _unit(rows: Tensor) -> Tensor:
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return unit


@dataclass(frozen=True)
class Demonstrations:
    """Labelled examples in front of a prompt."""

    texts: tuple[str, ...]
    """As they are written, in order."""
    rows: tuple[int, ...]
    """Training rows that they are from."""
    shots: int
    """Per class; 0 where not even one fits."""
    truncated: float
    """Share of the prompts that lost some, in [0, 1]."""

    @property
    def note(self) -> str:
        """A sentence for the report."""
        if not self.shots:
            return "No demonstration fits the context with the texts, so the prompts are zero-shot."
        lost = f"; {self.truncated:.1%} of the prompts lost some" if self.truncated else ""
        return f"{self.shots} demonstrations per class{lost}."


def demonstrate(task: Task, row: int) -> str:
    """One training row as a demonstration."""
    word = task.label_words[int(task.labels["train"][row])].strip()
    prompt = task.prompts["train"][row]
    joint = "" if prompt[-1:].isspace() else " "
    return f"{prompt}{joint}{word}{BETWEEN}"


def choose_demonstrations(
    model: LanguageModel,
    task: Task,
    *,
    seed: int,
    shots: int | None = None,
    context_tokens: int | None = None,
) -> Demonstrations:
    """Class-balanced demonstrations, as many as fit.

    Args:
        model: whose tokens are counted.
        task: whose training rows they are from.
        seed: of the draw and the order.
        shots: per class; None is the most that fit, up to eight.
        context_tokens: limit of a prompt; None is the model's own.
    """
    limit = min(context_tokens or model.max_tokens, model.max_tokens)
    generator = np.random.default_rng([seed, 1])
    labels = task.labels["train"]
    lengths = np.array([len(i) for i in task.ids["train"]])
    pools = []
    for label in range(task.classes):
        own = np.flatnonzero(labels == label)
        if len(own) == 0:
            return Demonstrations((), (), 0, 0.0)  # no balanced set without a row of every class
        short = own[lengths[own] <= np.median(lengths[own])]
        pools.append(generator.permutation(short))
    queries = np.array([len(i) for i in task.ids["test"]])
    most = min(MOST_SHOTS if shots is None else shots, *(len(p) for p in pools))
    best: tuple[list[int], float] = ([], 0.0)
    tried = range(1, most + 1) if shots is None else range(most, most + 1)
    for count in tried:
        if count == 0:
            break
        rows = [int(r) for pool in pools for r in pool[:count]]
        size = sum(len(_ids(model, demonstrate(task, r))) for r in rows)
        lost = float(np.mean(queries + size + _ROOM > limit))
        if shots is None and lost > TRUNCATION:
            break
        best = (rows, lost)
    order = [int(i) for i in np.random.default_rng([seed, 2]).permutation(len(best[0]))]
    rows = [best[0][i] for i in order]
    texts = tuple(demonstrate(task, r) for r in rows)
    return Demonstrations(texts, tuple(rows), len(rows) // task.classes, best[1])


def _ids(model: LanguageModel, text: str) -> tuple[int, ...]:
    return model.tokenize(text, bos="no").ids


def prompt_ids(
    model: LanguageModel,
    task: Task,
    shown: Demonstrations,
    prompts: Sequence[str],
    *,
    context_tokens: int | None = None,
) -> list[tuple[int, tuple[int, ...]]]:
    """Prompts behind demonstrations: how many were left out in front, and the token ids.

    A prompt that does not fit even alone keeps its last tokens.
    """
    limit = min(context_tokens or model.max_tokens, model.max_tokens)
    heads = ["".join(shown.texts[skip:]) for skip in range(len(shown.texts) + 1)]
    # Counted one by one: all together may be more than the model takes at once.
    each = [len(_ids(model, text)) for text in shown.texts]
    sizes = [sum(each[skip:]) for skip in range(len(each) + 1)]
    out = []
    for prompt in prompts:
        own = len(_ids(model, prompt))
        skip = next((s for s, size in enumerate(sizes) if own + size + _ROOM <= limit), len(each))
        ids = model.tokenize(heads[skip] + prompt, bos=task.spec.bos).ids
        out.append((skip, ids[-limit:]))
    return out


@dataclass(frozen=True)
class FewShot:
    """Prompts behind demonstrations, read."""

    shown: Demonstrations
    states: Tensor
    """n × d, after the final norm."""
    seconds: float


def few_shot_states(context: MethodContext, split: str, rows: Sequence[int]) -> Steps[FewShot]:
    """Read some prompts of a split behind this seed's demonstrations; kept for other methods."""
    key = f"few-shot {split} {hash(tuple(rows))}"
    if key not in context.memo:
        task, settings = context.task, context.settings
        prompts = [task.prompts[split][i] for i in rows]
        context.memo[key] = yield from read_behind_demonstrations(context, settings.shots, prompts)
    found: FewShot = context.memo[key]
    return found


def read_behind_demonstrations(
    context: MethodContext, shots: int | None, prompts: Sequence[str]
) -> Steps[FewShot]:
    """Choose demonstrations and read prompts behind them; each distinct beginning once."""
    model, settings = context.space.model, context.settings
    watch = context.stopwatch()
    with watch.inferring():
        shown = choose_demonstrations(
            model,
            context.task,
            seed=context.seed,
            shots=shots,
            context_tokens=settings.context_tokens,
        )
        given = prompt_ids(
            model, context.task, shown, prompts, context_tokens=settings.context_tokens
        )
        groups: dict[int, list[int]] = {}
        for i, (skip, _) in enumerate(given):  # who lost demonstrations begins in another way
            groups.setdefault(skip, []).append(i)
    states = torch.empty(len(given), model.width, device=model.anatomy.weight.device)
    spent = watch.infer
    for members in groups.values():
        part, seconds = yield from context.timed(
            prefixed_states(
                model,
                [given[i][1] for i in members],
                batch_tokens=settings.batch_tokens,
                share=settings.share_prefix,
            )
        )
        states[torch.tensor(members, device=states.device)] = part
        spent += seconds
    return FewShot(shown, states, spent)


def in_context(context: MethodContext) -> Steps[Outcome]:
    """Zero-shot behind class-balanced demonstrations (paper §4, baseline ICL)."""
    rows = range(context.task.size("test"))
    got = yield from few_shot_states(context, "test", rows)
    watch = context.stopwatch(infer=got.seconds)
    with watch.inferring():
        scores = label_logits(context.space.model, got.states, context.task.label_tokens)
        probabilities = softmax(scores)
    return Outcome(
        "in-context",
        scores,
        probabilities,
        0.0,
        watch.infer,
        _text_bytes(got.shown),
        settings={"shots": got.shown.shots},
        notes=(got.shown.note,),
    )


def _text_bytes(shown: Demonstrations) -> int:
    return sum(len(t.encode()) for t in shown.texts)


def contextual_calibration(context: MethodContext) -> Steps[Outcome]:
    """Probabilities divided by those of an input that says nothing (Zhao et al. 2021).

    q ∝ p / p_cf with p over the label tokens, p_cf the mean of p over "N/A", "" and "[MASK]" in
    the place of the text, behind the same demonstrations (W = diag(p_cf)⁻¹, b = 0).
    """
    task, model = context.task, context.space.model
    prompts = [empty_prompt(task, text) for text in CONTENT_FREE]
    free = yield from read_behind_demonstrations(context, context.settings.shots, prompts)
    got = yield from few_shot_states(context, "test", range(task.size("test")))
    watch = context.stopwatch(train=free.seconds, infer=got.seconds)
    with watch.training():
        said_nothing = softmax(label_logits(model, free.states, task.label_tokens)).mean(0)
    with watch.inferring():
        scores = label_logits(model, got.states, task.label_tokens) - np.log(said_nothing)
        probabilities = softmax(scores)
    return Outcome(
        "contextual-calibration",
        scores,
        probabilities,
        watch.train,
        watch.infer,
        _text_bytes(got.shown) + said_nothing.nbytes,
        settings={"shots": got.shown.shots},
        notes=(got.shown.note,),
    )


def empty_prompt(task: Task, text: str) -> str:
    """The task's prompt with another text in the place of its first column, nothing in others."""
    columns = task.spec.text_columns
    only_first = {c: text if c == columns[0] else "" for c in columns}
    return render(task.spec.template, columns, only_first)
