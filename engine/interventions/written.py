"""What a prompt goes on with before and after an action, which is held meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from engine.interventions.action import Action
from engine.interventions.changes import Replace
from engine.interventions.hooks import Edit, acting
from engine.interventions.plan import Edits, Planned
from engine.interventions.space import Space
from engine.progress import Check
from engine.trace.options import TraceOptions


@dataclass(frozen=True)
class Writing:
    """How a text goes on before and after an action."""

    tokens: int = 0
    """0 writes nothing."""
    temperature: float = 0.0
    """Of the draws; 0 takes the likeliest token."""
    seed: int = 0


NOTHING: Final = Writing()


@dataclass(frozen=True)
class Written:
    """What follows a prompt: as the model is, with the action, and under a control."""

    tokens: int
    temperature: float
    seed: int
    before: str
    once: str
    """With the action at the prompt's positions alone."""
    after: str
    """With the action held: at the prompt's positions and at each new one."""
    control: str | None
    """With the first random control held; None where there is none."""
    what: str | None
    """That control in words."""


def write_on(
    space: Space,
    prompt: str,
    action: Action,
    edits: Edits,
    planned: Sequence[Planned],
    writing: Writing,
    check: Check,
) -> Written:
    """What follows a prompt as the model is, under an action, and under its first random control.

    Args:
        space: called on its thread.
        prompt: any text, with room for what follows.
        action: how the prompt is tokenized.
        edits: what is done; held while the text is written.
        planned: the controls.
        writing: how many tokens, chosen how.
        check: raises to stop.

    Raises:
        OptionError, PromptError: a model that does not go on with a text, or no room for it.
        NonFiniteError: a change that is too large, once it is held.
    """
    count = len(space.tokenize(prompt, **action.settings).ids)
    settings = {"tokens": writing.tokens, "temperature": writing.temperature, "seed": writing.seed,
                "reading": TraceOptions(**action.settings)}  # fmt: skip

    def under(what: Edits) -> str:
        with acting(space.model, [what], prompt_tokens=count):
            return space.continuation(prompt, check=check, **settings)

    control = next((one for one in planned if one.kind == "random"), None)
    return Written(
        writing.tokens,
        writing.temperature,
        writing.seed,
        space.continuation(prompt, check=check, **settings),
        under(edits),
        under(held(edits)),
        None if control is None else under(held(control.edits)),
        None if control is None else control.what,
    )


def held(edits: Edits) -> Edits:
    """The same at every generated position as well, but for states that are put in: they are of
    given positions."""

    def both(one: Edit) -> Edit:
        return one if isinstance(one.change, Replace) else replace(one, when="both")

    return tuple(both(one) if one.when == "prompt" else one for one in edits)
