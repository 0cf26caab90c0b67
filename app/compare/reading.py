"""Two prompts read beside each other, of which either may be a kept run."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TypeVar

import torch

from app.act.reading import ActReading
from app.compare.question import CompareRuns
from app.model.open_model import facts_of
from app.storage.run import Kept, KeptStates
from app.storage.runs import Runs
from app.trace.presets import Preset, faithful
from app.web.rendering import as_text
from engine import LatentSpace, TraceOptions
from engine.compare import PromptComparison, compare_prompts
from engine.compare.two_prompts import Within
from engine.errors import ArtifactError, OptionError
from engine.generation.column import Generation
from engine.model.language_model import States
from engine.progress import Check

Asked = TypeVar("Asked", bound=CompareRuns)
Ids = tuple[str | None, str | None]
KINDS = frozenset({"trace", "generate", "act"})
"""Runs that can stand on a side."""
_READ_BY = CompareRuns.model_fields.keys() - {
    "prompt", "other", "run", "other_run", "layers", "positions"
}  # fmt: skip


def of_runs(runs: Runs, query: Asked) -> Asked:
    """The question with the texts of its runs; what the address leaves open, the first one says.

    Raises:
        NotFound: no such run.
        ArtifactError: a damaged one.
        OptionError: a run that cannot stand beside a prompt.
    """
    given: dict[str, str] = {}
    for id, field in ((query.other_run, "other"), (query.run, "prompt")):
        if id is not None:
            said = settings_of(runs.open(id))
            given |= {name: one for name, one in said.items() if name in _READ_BY}
            given[field] = said["prompt"]
    held = query.model_dump(exclude_unset=True)
    kept = {name: one for name, one in held.items() if name not in {"prompt", "other"} & {*given}}
    return type(query).model_validate(given | kept) if given else query


def settings_of(kept: Kept) -> dict[str, str]:
    """The text of a kept run and how it was read, as both stand in an address.

    Of a text that went on it is the whole; of an action what it was about, read as it is by
    default.

    Raises:
        OptionError: a run of another kind.
    """
    match kept.value:
        case Generation() as found:
            plain, given = TraceOptions(), found.options.reading
            names = _READ_BY & TraceOptions.__dataclass_fields__.keys()
            changed = {
                name: as_text(getattr(given, name))
                for name in names - {"k"}
                if getattr(given, name) != getattr(plain, name)
            }
            return changed | {"prompt": found.text}
        case ActReading() as found:
            action = found.effect.action
            return {"prompt": kept.run.prompt, "bos": action.bos, "chat": as_text(action.chat)}
    if kept.run.kind != "trace":
        raise OptionError(
            "only runs of the pages Read, Generate and Act can be compared with; open this one and"
            " read its text there."
        )
    return {name: values[0] for name, values in kept.run.question.items()}


def compare(
    space: LatentSpace,
    prompt: str,
    other: str,
    options: TraceOptions,
    by: str,
    runs: Runs,
    ids: Ids,
    *,
    check: Check,
) -> tuple[PromptComparison, Preset | None]:
    """As `compare_runs`; beside it the reading most faithful to the model, where measured."""
    found = compare_runs(space, prompt, other, options, by, runs, ids, check=check)
    return found, faithful(space, check=check)


def compare_runs(
    space: LatentSpace,
    prompt: str,
    other: str,
    options: TraceOptions,
    by: str,
    runs: Runs,
    ids: Ids,
    *,
    check: Check,
) -> PromptComparison:
    """As `engine.compare.compare_prompts`, of prompts or of kept runs.

    The model does not run for a side whose states are kept. A text that went on is read as a
    whole, and an action is done again while its prompt is read.

    Args:
        space: the model; called on its thread.
        prompt: the text of either side.
        other: the same.
        options: how both are read.
        by: how tokens are paired.
        runs: where runs are kept.
        ids: which of them stand in the place of the prompt and of the other.
        check: raises to stop.

    Raises:
        ArtifactError: a run of another model, or damaged.
        OptionError: a run that was tokenized otherwise; and as `compare_prompts` does.
    """
    within: list[Within] = []
    for text, id in zip((prompt, other), ids, strict=True):
        kept = None if id is None else runs.open(id)
        within.append(
            nullcontext if kept is None else _within(space, kept, text, options, check=check)
        )
    return compare_prompts(
        space, prompt, other, options, by=by, within=(within[0], within[1]), check=check
    )


def _within(
    space: LatentSpace, kept: Kept, text: str, options: TraceOptions, *, check: Check
) -> Within:
    """What holds while a kept run's text is read."""
    facts, own = facts_of(space), kept.run.model
    if (own.fingerprint, own.dtype) != (facts.fingerprint, facts.dtype):
        raise ArtifactError(
            f"this run is of {own.name} ({own.fingerprint[:12]}, {own.dtype}), and {facts.name}"
            f" ({facts.fingerprint[:12]}, {facts.dtype}) is open; open that model to compare with"
            " it."
        )
    ids = space.tokenize(text, bos=options.bos, chat=options.chat).ids
    if isinstance(kept.value, ActReading):
        action = kept.value.effect.action
        asked = space.tokenize(text, bos=action.bos, chat=action.chat).ids
        _check_alike(asked, ids)
        return partial(space.act, action, check=check)
    if isinstance(kept.value, Generation):
        _check_alike(kept.value.ids, ids)
        return nullcontext
    if kept.states is None:
        raise ArtifactError(
            "this run was kept without its states, which took too much room; ask it again as a"
            " prompt."
        )
    _check_alike(kept.states.ids, ids)
    return partial(space.given, [_states(space, kept.states)])


def _check_alike(then: tuple[int, ...], now: tuple[int, ...]) -> None:
    if then != now:
        raise OptionError(
            "the two sides begin in different ways (begin-of-text token, chat template), or a text"
            " that was written is cut into other tokens when it is read; compare runs that were"
            " asked alike."
        )


def _states(space: LatentSpace, kept: KeptStates) -> States:
    return States(kept.ids, torch.from_numpy(kept.raw).to(space.model.device))
