"""One action over many prompts: how often it turns the answer as wanted, beside chance.

A case is a prompt and the answer that is wanted; what cannot be used is skipped, counted and listed
with its reason. The controls are the random ones of :mod:`engine.interventions.plan`, of the same
size at the same places, case by case. Shares have Wilson's 95 % interval.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch

from engine.errors import InputError, OptionError, TokenError, shorten
from engine.interventions.action import Action
from engine.interventions.directions import random_direction
from engine.interventions.effect import answers, rank
from engine.interventions.hooks import acting
from engine.interventions.plan import (
    Edits,
    check_patch,
    edits_of,
    layers_of,
    placed,
    token_of,
    turned_along,
    unrelated,
)
from engine.interventions.space import Space
from engine.json_number import Plain
from engine.model.texts import batches
from engine.progress import Progress, Steps, no_check
from engine.trace.dial import wilson

FACTS: Final = Path(__file__).resolve().parents[1] / "examples" / "facts.tsv"
"""Prompts of six relations with their answers, written for this."""
MOST: Final = 1000
_TOKENS_AT_ONCE: Final = 1024


@dataclass(frozen=True)
class Case:
    """A prompt, the answer that is wanted, and what an action needs besides."""

    prompt: str
    target: str
    own: str | None = None
    """The answer that the model must give by itself; None: whatever it gives."""
    source: str | None = None
    """A prompt that is answered with the target: what `patch` takes its states of."""
    swap: tuple[str, str] | None = None
    """The words in which the two prompts differ."""


@dataclass(frozen=True)
class Done(Plain):
    """One case that was run."""

    prompt: str
    target: str
    before: str
    after: str
    success: bool
    probability_before: float
    probability_after: float
    rank_after: int
    controls: int
    control_successes: int
    control_probability: float
    """The mean over the controls."""


@dataclass(frozen=True)
class Skipped(Plain):
    """One case that could not be used."""

    prompt: str
    target: str
    why: str


@dataclass(frozen=True)
class Many(Plain):
    """An action over many prompts."""

    layers: tuple[int, ...]
    cases: int
    used: int
    successes: int
    share: float | None
    interval: tuple[float, float] | None
    probability: float | None
    """Mean probability of the target under the action."""
    controls: int
    """Runs of controls, over all cases."""
    control_share: float | None
    control_interval: tuple[float, float] | None
    control_probability: float | None
    skipped: int
    rows: tuple[Done, ...] = field(repr=False)
    skips: tuple[Skipped, ...] = field(repr=False)


def facts(path: Path = FACTS) -> tuple[Case, ...]:
    """Our facts, each with another one of its relation whose answer is wanted instead."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    out = []
    for n, row in enumerate(rows):
        later = [*rows[n + 1 :], *rows[:n]]
        other = next(
            one
            for one in later
            if one["relation"] == row["relation"]
            and one["answer"] != row["answer"]
            and one["answer"] != row["subject"]
        )
        words = (row["subject"], other["subject"])
        out.append(Case(row["prompt"], other["answer"], row["answer"], other["prompt"], words))
    return tuple(out)


def parse_cases(text: str) -> tuple[Case, ...]:
    """Cases from lines ``prompt | target | own answer | other prompt``; the last two may be left.

    Raises:
        OptionError: a line without a target, none at all, or too many.
    """
    out = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        prompt, *more = (part.strip() for part in line.split("|"))
        if not prompt or not more or not more[0] or len(more) > 3:
            raise OptionError(
                f"line {number} must read 'prompt | target | own answer | other prompt', of which"
                f" the last two may be left out; got {shorten(line)!r}."
            )
        own, source = (part or None for part in (*more[1:], "", "")[:2])
        out.append(Case(prompt, more[0], own, source))
    if not 1 <= len(out) <= MOST:
        raise OptionError(f"there must be 1 to {MOST:,} prompts; got {len(out):,}.")
    return tuple(out)


def labelled_cases(
    prompts: Sequence[str], labels: Sequence[str], limit: int = MOST
) -> tuple[Case, ...]:
    """Cases of a labelled set: each text, to be answered with the label after its own.

    Labels are taken in the order of the alphabet, the first after the last; rows without one are
    left out, and of more rows than `limit` some are taken, evenly spaced.

    Raises:
        OptionError: fewer than two labels.
    """
    known = sorted({label for label in labels if label.strip()})
    if len(known) < 2:
        raise OptionError(
            f"a set needs at least two labels, so that another one can be wanted; this has"
            f" {len(known)}."
        )
    after = dict(zip(known, [*known[1:], known[0]], strict=True))
    rows = [(p, after[own]) for p, own in zip(prompts, labels, strict=True) if own in after]
    step = max(1.0, len(rows) / limit)
    return tuple(Case(*rows[int(i * step)]) for i in range(min(limit, len(rows))))


def name_of(cases: Sequence[Case], action: Action) -> str:
    """A name for what is asked: the same for the same cases and action."""
    return hashlib.blake2b(repr((tuple(cases), action)).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True)
class Ready:
    """A case that can be used."""

    case: Case
    ids: tuple[int, ...]
    target: int
    action: Action
    before: torch.Tensor
    """Log-probabilities without the action (v)."""


def many(space: Space, cases: Sequence[Case], action: Action, *, controls: int = 5) -> Steps[Many]:
    """Run an action over cases; one step is one batch.

    The action's own tokens and source are those of each case: `steer` goes from the model's answer
    to the target, `swap` exchanges the case's words, `patch` takes its other prompt.

    Args:
        space: called on its thread.
        cases: up to :data:`MOST`.
        action: what is done, and where.
        controls: random ones for each case.

    Raises:
        OptionError: no case can be used; the sentence says why the first ones cannot.
    """
    layers = layers_of(space, action)
    ready: list[Ready] = []
    skips: list[Skipped] = []
    for n, case in enumerate(cases):
        if n % 16 == 0:
            yield Progress(n, 3 * len(cases), "reading the prompts")
        found = prepare(space, case, action)
        if isinstance(found, Ready):
            ready.append(found)
        else:
            skips.append(Skipped(case.prompt, case.target, found))
    if not ready:
        raise OptionError(f"none of the {len(cases)} prompts can be used: {skips[0].why}.")
    rows: list[Done] = []
    order = sorted(range(len(ready)), key=lambda i: len(ready[i].ids))
    ids = [one.ids for one in ready]
    room = max(1, _TOKENS_AT_ONCE // (1 + controls))
    for batch in batches(order, ids, room, mixed=space.model.pads):
        rows += _run(space, [ready[i] for i in batch], layers, controls)
        yield Progress(len(cases) + 2 * len(rows), 3 * len(cases), "acting")
    return _summed(layers, len(cases), rows, skips)


def prepare(space: Space, case: Case, action: Action) -> Ready | str:
    """The case with its own action; or why it is skipped, in words."""
    texts = space.vocabulary.texts
    try:
        ids = space.tokenize(case.prompt, **action.settings).ids
        target = token_of(space, case.target)
        own = None if case.own is None else token_of(space, case.own)
        last = space.states(case.prompt, **action.settings).raw[-1:, -1]
        before = torch.log_softmax(answers(space, last)[0].double(), 0)
        said = int(before.argmax())
        if said == target:
            return "the target is the answer already"
        if own is not None and said != own:
            return f"the model answers {texts[said].strip()!r}, not {case.own!r}"
        more: dict[str, object] = {}
        if action.kind == "steer" and action.random is None and not action.texts:
            more = {"token": target, "foil": said}
        elif action.kind == "swap":
            if case.swap is None:
                return "there are no two words to swap"
            more = dict(
                zip(("token", "foil"), (token_of(space, w) for w in case.swap), strict=True)
            )
        elif action.kind == "patch":
            if case.source is None:
                return "there is no other prompt"
            other = space.tokenize(case.source, **action.settings).ids
            more = {"source": case.source}
            check_patch(action, len(ids), len(other))
    except TokenError:
        return "a word of it is several tokens for this model"
    except InputError as error:
        return str(error).rstrip(".")
    return Ready(case, ids, target, replace(action, **more), before)  # type: ignore[arg-type]


def _run(
    space: Space, cases: Sequence[Ready], layers: tuple[int, ...], controls: int
) -> list[Done]:
    edits: list[Edits] = []
    ids: list[tuple[int, ...]] = []
    for one in cases:
        edits.append(edits_of(space, one.action, layers))
        edits += _beside(space, one, layers, controls)
        ids += [one.ids] * (len(edits) - len(ids))
    with acting(space.model, edits):
        last = space.model.last_states(ids, [space.model.blocks])[:, 0]
    shares = torch.log_softmax(answers(space, last).double(), 1)
    texts, per = space.vocabulary.texts, len(ids) // len(cases)
    out = []
    for n, one in enumerate(cases):
        own, *beside = shares[n * per : (n + 1) * per]
        said = int(own.argmax())
        chances = [float(row[one.target].exp()) for row in beside]
        out.append(
            Done(
                one.case.prompt,
                texts[one.target],
                texts[int(one.before.argmax())],
                texts[said],
                said == one.target,
                float(one.before[one.target].exp()),
                float(own[one.target].exp()),
                rank(own, one.target),
                len(beside),
                sum(int(row.argmax()) == one.target for row in beside),
                sum(chances) / max(len(chances), 1),
            )
        )
    return out


def _beside(space: Space, one: Ready, layers: tuple[int, ...], count: int) -> list[Edits]:
    """The random controls of a case: as many for each."""
    action = one.action
    if action.kind in ("zero", "scale"):
        first = [n for n in range(1, space.model.blocks + 1) if n not in layers]
        step = max(1, len(first) // max(count, 1))
        return [edits_of(space, action, (n,)) for n in first[::step][:count]]
    if action.kind == "patch":
        return [
            edits_of(space, action, layers, source=space.model.states(other, check=no_check).raw)
            for other in unrelated(space, one.ids, count)
        ]
    return [
        placed(action, layers, [turned_along(action, random_direction(space, seed))] * len(layers))
        for seed in range(1, count + 1)
    ]


def _summed(layers: tuple[int, ...], cases: int, rows: list[Done], skips: list[Skipped]) -> Many:
    hits, runs = sum(row.success for row in rows), sum(row.controls for row in rows)
    chance = sum(row.control_successes for row in rows)
    return Many(
        layers=layers,
        cases=cases,
        used=len(rows),
        successes=hits,
        share=hits / len(rows),
        interval=wilson(hits, len(rows)),
        probability=sum(row.probability_after for row in rows) / len(rows),
        controls=runs,
        control_share=chance / runs if runs else None,
        control_interval=wilson(chance, runs) if runs else None,
        control_probability=sum(row.control_probability for row in rows) / len(rows),
        skipped=len(skips),
        rows=tuple(rows),
        skips=tuple(skips),
    )
