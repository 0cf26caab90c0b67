"""What is written under an action, against the whole text read anew for every token."""

from __future__ import annotations

import pytest
from tiny_models import Spaces

from engine.errors import OptionError
from engine.interventions.action import Action
from engine.interventions.effect import effect
from engine.interventions.written import Writing

TEXT = "The king and the"
TOKENS = 6


@pytest.mark.parametrize(
    "action",
    [
        Action(kind="steer", token=40, foil=90, layers="2", dose=0.8),
        Action(kind="zero", part="mlp", layers="1"),
        Action(kind="patch", source="The dog and the", layers="2", positions="1"),
    ],
    ids=lambda one: one.kind,
)
def test_an_action_is_held_while_the_text_goes_on(spaces: Spaces, action: Action) -> None:
    """Greedily, without keys and values of before; a patch stays at the prompt's positions."""
    space = spaces["llama"]
    found = effect(space, TEXT, action, Writing(TOKENS)).written
    assert found is not None
    start = space.tokenize(TEXT).ids

    def anew(what: Action | None, when: str = "both") -> str:
        ids = list(start)
        for _ in range(TOKENS):
            if what is None:
                row = space.model.logits(ids)[-1]
            else:
                with space.act(what, when=when, prompt_tokens=len(start)):
                    row = space.model.logits(ids)[-1]
            ids.append(int(row.argmax()))
            if ids[-1] == space.model.tokenizer.eos_token_id:
                break
        whole, before = (space.model.tokenizer.decode(one) for one in (ids, start))
        return whole.removeprefix(before)

    assert found.before == anew(None)
    assert found.once == anew(action, "prompt")
    assert found.after == anew(action, "prompt" if action.kind == "patch" else "both")
    if action.kind == "steer":
        assert found.what == "random direction 1"
        assert found.control == anew(Action(kind="steer", random=1, layers="2", dose=0.8))
        assert found.after != found.before


def test_draws_are_seeded_and_nothing_is_written_unasked(spaces: Spaces) -> None:
    space = spaces["llama"]
    action = Action(kind="steer", token=40, layers="2", dose=0.5)
    drawn = [effect(space, TEXT, action, Writing(TOKENS, 2.0, seed)).written for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert drawn[2] is not None
    assert drawn[0] is not None
    assert (drawn[0].before, drawn[0].after) != (drawn[2].before, drawn[2].after)
    assert drawn[0].before == space.continuation(TEXT, tokens=TOKENS, temperature=2.0)
    assert effect(space, TEXT, action).written is None
    with pytest.raises(OptionError, match="does not go on with a text"):
        effect(spaces["bert"], "The cat", Action(kind="zero", layers="1"), Writing(2))
