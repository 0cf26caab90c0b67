"""Two prompts read beside each other, of which either may be a kept run."""

from __future__ import annotations

import torch

from app.model.open_model import facts_of
from app.storage.run import Kept
from app.storage.runs import Runs
from app.trace.presets import Preset, faithful
from engine import LatentSpace, TraceOptions
from engine.compare import PromptComparison, compare_prompts
from engine.errors import ArtifactError, OptionError
from engine.model.language_model import States
from engine.progress import Check

Ids = tuple[str | None, str | None]


def settings_of(kept: Kept) -> dict[str, str]:
    """The reading of a kept trace, as it stands in an address.

    Raises:
        OptionError: another kind of run.
    """
    if kept.run.kind != "trace":
        raise OptionError(
            "only a run of the page Read can be compared with; open this one and read its text"
            " there."
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
    """As `engine.compare.compare_prompts`; the model does not run for a side that is a kept run.
    Beside it the reading most faithful to the model, where that was measured.

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
        ArtifactError: a run of another model, without its states, or damaged.
        OptionError: a run that was tokenized otherwise; and as `compare_prompts` does.
    """
    given = []
    for text, id in zip((prompt, other), ids, strict=True):
        if id is not None:
            given.append(_states(space, runs.open(id)))
            if given[-1].ids != space.tokenize(text, bos=options.bos, chat=options.chat).ids:
                raise OptionError(
                    "the two sides begin in different ways (begin-of-text token, chat template);"
                    " compare runs that were asked alike."
                )
    with space.given(given):
        found = compare_prompts(space, prompt, other, options, by=by, check=check)
    return found, faithful(space, check=check)


def _states(space: LatentSpace, kept: Kept) -> States:
    facts, own = facts_of(space), kept.run.model
    if (own.fingerprint, own.dtype) != (facts.fingerprint, facts.dtype):
        raise ArtifactError(
            f"this run is of {own.name} ({own.fingerprint[:12]}, {own.dtype}), and {facts.name}"
            f" ({facts.fingerprint[:12]}, {facts.dtype}) is open; open that model to compare with"
            " it."
        )
    if kept.states is None:
        raise ArtifactError(
            "this run was kept without its states, which took too much room; ask it again as a"
            " prompt."
        )
    return States(kept.states.ids, torch.from_numpy(kept.states.raw).to(space.model.device))
