"""Batched last-position states against one forward pass per text."""

from __future__ import annotations

import pytest
import torch
from tiny_models import RECIPES, Spaces

from engine.errors import BudgetExceeded, LayerError, PromptError
from engine.model.language_model import Limits
from engine.model.texts import text_states
from engine.progress import drain

CAUSAL = [name for name in RECIPES if name not in ("nan", "nan_head", "bf16")]
TEXTS = (
    "a cat",
    "The small dog sat on the mat and looked at the cat.",
    "x",
    "one two three four",
    "It rains.",
)
TOLERANCE = 2e-5
"""Relative to the largest state: batches round differently."""


@pytest.mark.parametrize("name", CAUSAL)
def test_a_batch_gives_what_each_text_alone_gives(spaces: Spaces, name: str) -> None:
    """Padding changes no state, in any architecture, in whatever order the lengths come."""
    model = spaces[name].model
    ids = [model.tokenize(text).ids for text in TEXTS]
    found = drain(text_states(model, ids, batch_tokens=64))
    assert found.layers == tuple(range(model.blocks + 1))
    assert found.lengths == tuple(len(text) for text in ids)
    for i, text in enumerate(ids):
        alone = model.states(text).raw[:, -1]
        assert (found.raw[i] - alone).abs().max() <= TOLERANCE * max(1.0, float(alone.abs().max()))


def test_layers_are_those_that_were_asked_for(spaces: Spaces) -> None:
    """-1 is the last; the order is the caller's."""
    model = spaces["llama"].model
    ids = [model.tokenize(text).ids for text in TEXTS]
    whole = drain(text_states(model, ids))
    some = drain(text_states(model, ids, layers=(-1, 0, 1)))
    assert some.layers == (model.blocks, 0, 1)
    assert torch.equal(some.at(0), whole.at(0))
    torch.testing.assert_close(some.at(model.blocks), whole.at(model.blocks))


def test_one_step_is_one_batch(spaces: Spaces) -> None:
    """Progress counts texts, and a batch holds no more tokens than allowed, padding included."""
    model = spaces["llama"].model
    ids = [model.tokenize(text).ids for text in TEXTS]
    steps = text_states(model, ids, batch_tokens=1)
    assert [p.done for p in steps] == [1, 2, 3, 4, 5]
    longest = max(len(text) for text in ids)
    assert len(list(text_states(model, ids, batch_tokens=longest * len(ids)))) == 1


def test_states_can_be_differentiated_through(spaces: Spaces) -> None:
    """They are ordinary tensors, not those of inference mode."""
    model = spaces["llama"].model
    states = drain(text_states(model, [model.tokenize("a cat").ids], layers=(-1,)))
    weight = torch.ones(states.raw.shape[-1], requires_grad=True)
    (states.at(model.blocks) @ weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.slow
def test_what_cannot_be_read_is_named(spaces: Spaces) -> None:
    """An empty list, an empty text, a long one, a missing layer, too little memory."""
    model = spaces["llama"].model
    with pytest.raises(PromptError, match="no text"):
        drain(text_states(model, []))
    with pytest.raises(PromptError, match="text 2 has 0 tokens"):
        drain(text_states(model, [[1, 2], []]))
    with pytest.raises(PromptError, match="text 1 has"):
        drain(text_states(model, [[1] * (model.max_tokens + 1)]))
    with pytest.raises(LayerError, match="layer must be in"):
        drain(text_states(model, [[1]], layers=(99,)))
    small = spaces.fresh("llama", limits=Limits(memory_budget_mib=16)).model
    with pytest.raises(BudgetExceeded, match="take fewer"):
        drain(text_states(small, [[1]] * 200_000))
