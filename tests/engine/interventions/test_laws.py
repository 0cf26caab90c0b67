"""Interventions against their laws, on every architecture of the tiny models."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ARCHITECTURES, PROMPT, Spaces, hooks
from torch import Tensor

from engine import LatentSpace
from engine.errors import (
    Cancelled,
    LayerError,
    NonFiniteError,
    OptionError,
    PromptError,
    TokenError,
)
from engine.interventions.action import Action
from engine.interventions.changes import Push, Reflect
from engine.interventions.directions import mirror, random_direction, token_direction, unit
from engine.interventions.effect import beyond, effect
from engine.interventions.hooks import Edit, acting
from engine.interventions.parts import part_of

TOLERANCE = 2e-5
"""Of the largest number of the states: rounding of float32 through three blocks."""
each = pytest.mark.parametrize("name", ARCHITECTURES)


def states(space: LatentSpace, prompt: str = PROMPT) -> Tensor:
    """Past every cache."""
    return space.model.states(space.tokenize(prompt).ids).raw


def near(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= TOLERANCE * b.abs().max())


@each
def test_strength_zero_and_a_patch_with_itself_are_bit_identical(spaces: Spaces, name: str) -> None:
    space = spaces[name]
    plain, before = states(space), hooks(space)
    with space.act("steer", random=1, dose=0.0, layers=":", positions=":"):
        assert torch.equal(states(space), plain)
    with space.act("patch", source=PROMPT, layers=":", positions=":"):
        assert torch.equal(states(space), plain)
    with space.act("scale", factor=1.0, layers="1:", positions=":"):
        assert torch.equal(states(space), plain)
    assert hooks(space) == before


@each
def test_a_push_moves_the_chosen_states_by_its_dose_and_no_other_state_of_that_layer(
    spaces: Spaces, name: str
) -> None:
    space = spaces[name]
    plain = states(space)
    way = random_direction(space, 3).float()
    for layer in (0, 2):
        with space.act("steer", random=3, dose=0.5, layers=str(layer), positions="1:3"):
            moved = states(space)
        want = plain[layer].clone()
        want[1:3] += 0.5 * want[1:3].norm(dim=-1, keepdim=True) * way
        assert near(moved[layer], want)
        assert torch.equal(moved[layer, 3:], plain[layer, 3:])
        assert torch.equal(moved[:layer], plain[:layer])
        assert not near(moved[layer + 1], plain[layer + 1])


@each
def test_a_reflection_keeps_lengths_and_undoes_itself(spaces: Spaces, name: str) -> None:
    space = spaces[name]
    plain = states(space)
    normal = random_direction(space, 1)
    once = Edit(1, Reflect(normal), ":")
    with acting(space.model, [[once]]):
        mirrored = states(space)
    with acting(space.model, [[once, once]]):
        twice = states(space)
    assert near(mirrored[1].norm(dim=-1), plain[1].norm(dim=-1))
    assert not near(mirrored[1], plain[1])
    assert near(twice, plain)


def test_a_swap_sends_one_direction_to_the_other_and_back(spaces: Spaces) -> None:
    space = spaces["llama"]
    for frame in ("output", "head", "tight"):
        a, b = (unit(row, "") for row in space.frame(frame).vectors([40, 90]))
        normal = mirror(space, frame, 40, 90)
        image = a - 2 * (a @ normal) * normal
        assert torch.allclose(image, b, atol=1e-12)


@each
def test_what_was_ablated_is_gone_and_nothing_else(spaces: Spaces, name: str) -> None:
    space = spaces[name]
    plain, way = states(space), random_direction(space, 5)
    with space.act("ablate", random=5, layers="2", positions=":"):
        found = states(space)
    rest = found[2].double()
    assert float((rest @ way).abs().max()) <= TOLERANCE * float(plain[2].abs().max())
    across = torch.eye(len(way), dtype=torch.float64) - torch.outer(way, way)
    assert near(rest @ across, plain[2].double() @ across)


@each
def test_a_zeroed_block_passes_its_state_on(spaces: Spaces, name: str) -> None:
    space = spaces[name]
    with space.act("zero", layers="2", positions=":"):
        found = states(space)
    assert torch.equal(found[2], found[1])
    with space.act("zero", layers="2", positions="0"):
        found = states(space)
    assert torch.equal(found[2, 0], found[1, 0])
    assert not torch.equal(found[2, 1:], found[1, 1:])


@each
def test_attention_and_mlp_are_found_by_what_they_do(spaces: Spaces, name: str) -> None:
    """Without the attention no position hears of another; the MLP is what is left to a position."""
    space = spaces[name]
    block = space.model.anatomy.blocks[1]
    attention, mlp = part_of(space.model, 2, "attention"), part_of(space.model, 2, "mlp")
    assert attention is not mlp
    assert all(any(part is one for one in block.modules()) for part in (attention, mlp))
    other = "The dog and the queen went to the old house. The cat sat."
    assert len(space.tokenize(other).ids) >= 3
    ids = list(space.tokenize(PROMPT).ids)
    changed = [ids[0] + 1, *ids[1:]]
    apart = Edit(2, _Nothing(), ":", module=attention)
    first = Edit(1, _Given(states(space)[1]), ":")
    with acting(space.model, [[first, apart]]):
        a, b = space.model.states(ids).raw, space.model.states(changed).raw
    assert torch.equal(a[2, 1:], b[2, 1:])
    with space.act("zero", part="attention", layers="2", positions=":"):
        zeroed = states(space)
    # By another route: the parts' outputs are replaced where they are made.
    with space.act("zero", part="mlp", layers="2", positions=":"):
        without = states(space)
    handle = mlp.register_forward_hook(lambda m, a, out: torch.zeros_like(out))
    try:
        assert torch.equal(states(space), without)
    finally:
        handle.remove()
    assert not near(zeroed[2], states(space)[2])
    assert not near(without[2], states(space)[2])


class _Nothing:
    def __call__(self, rows: Tensor, given: Tensor | None) -> Tensor:
        return torch.zeros_like(rows)


class _Given:
    def __init__(self, states: Tensor) -> None:
        self.states = states

    def __call__(self, rows: Tensor, given: Tensor | None) -> Tensor:
        return self.states.to(rows)


@each
def test_padding_is_untouched(spaces: Spaces, name: str) -> None:
    space = spaces[name]
    module, anatomy = space.model.module, space.model.anatomy
    ids = torch.tensor([[5, 9, 20, 41], [7, 11, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    kept: list[Tensor] = []
    with acting(space.model, [[Edit(1, Push(random_direction(space, 1), 9.0), ":")]]):
        keep = anatomy.blocks[1].register_forward_pre_hook(
            lambda m, args, kwargs: kept.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        with torch.inference_mode():
            module(input_ids=ids, attention_mask=mask)
        keep.remove()
    with torch.inference_mode():
        keep = anatomy.blocks[1].register_forward_pre_hook(
            lambda m, args, kwargs: kept.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        module(input_ids=ids, attention_mask=mask)
        keep.remove()
    acted, plain = kept
    assert torch.equal(acted[1, 2:], plain[1, 2:])
    assert not near(acted[1, :2], plain[1, :2])
    assert not near(acted[0], plain[0])


def test_while_generating_the_prompt_is_changed_once_and_what_follows_at_every_step(
    spaces: Spaces,
) -> None:
    space = spaces["llama"]
    ids, more = torch.tensor([[5, 9, 20]]), torch.tensor([[33]])
    plain, _, past = space.model.advance(ids)
    after, _, _ = space.model.advance(more, past)
    way = random_direction(space, 2).float()

    def both(when: str) -> tuple[Tensor, Tensor]:
        with space.act("steer", random=2, dose=1.0, layers="0", positions="0", when=when):
            first, _, past = space.model.advance(ids)
            second, _, _ = space.model.advance(more, past)
        return first[0, 0], second[0, 0]

    pushed = plain[0, 0].clone()
    pushed[0] += pushed[0].norm() * way
    later = after[0, 0] + after[0, 0].norm() * way
    for when, want in {
        "prompt": (pushed, after[0, 0]),
        "generated": (plain[0, 0], later),
        "both": (pushed, later),
    }.items():
        found = both(when)
        assert near(found[0], want[0]), when
        assert near(found[1], want[1]), when
    # A model that is given the whole text again: its prompt is told by its length.
    whole = torch.cat([ids, more], 1)
    with space.act("steer", random=2, dose=1.0, layers="0", positions="0", when="generated",
                   prompt_tokens=3):  # fmt: skip
        again, _, _ = space.model.advance(whole)
    assert near(again[0, 0, 3], later[0])
    assert near(again[0, 0, :3], plain[0, 0])


def test_hooks_are_gone_after_an_error_and_after_a_cancel(spaces: Spaces) -> None:
    space = spaces["gpt2"]
    before = hooks(space)

    def stop() -> None:
        raise Cancelled("nobody waits")

    with pytest.raises(Cancelled), space.act("steer", random=1, layers="1"):
        space.model.states([5, 9], check=stop)
    assert hooks(space) == before
    with pytest.raises(LayerError), space.act("steer", random=1, layers="1", positions="7"):
        space.model.states([5, 9])
    assert hooks(space) == before
    with pytest.raises(Cancelled):
        effect(space, PROMPT, Action(kind="steer", random=1), check=stop)
    assert hooks(space) == before


def test_what_is_read_under_an_action_is_not_kept(spaces: Spaces) -> None:
    space = spaces.fresh("llama")
    before = space.trace(PROMPT)
    with space.act("steer", random=1, dose=2.0, layers="2", positions=":"):
        inside = space.trace(PROMPT)
    after = space.trace(PROMPT)
    assert after is before
    assert not (inside.top_ids == before.top_ids).all()
    # The temperatures belong to the model as it is, whenever they are measured.
    fresh = spaces.fresh("llama")
    with fresh.act("zero", layers="1:", positions=":"):
        found = fresh.temperatures("tight")
    assert found["cosine"].value == space.temperatures("tight")["cosine"].value


def test_an_effect_is_what_the_model_says_under_the_action(spaces: Spaces) -> None:
    space = spaces["llama"]
    action = Action(kind="steer", token=40, foil=90, layers="2", dose=0.8)
    found = effect(space, PROMPT, action)
    ids = space.tokenize(PROMPT).ids
    with space.act(action):
        after = space.model.logits(ids)[-1].double().softmax(0)
    before = space.model.logits(ids)[-1].double().softmax(0)
    assert found.after.id == int(after.argmax())
    assert found.target.id == 40
    assert found.target.probability_after == pytest.approx(float(after[40]), rel=1e-4)
    assert found.target.probability_before == pytest.approx(float(before[40]), rel=1e-4)
    assert found.target.rank_after == 1 + int((after > after[40]).sum())
    assert found.kl == pytest.approx(float((before * (before / after).log()).sum()), rel=1e-3)
    # The controls, run side by side there, one by one here.
    for seed, control in enumerate([c for c in found.controls if c.kind == "random"], 1):
        with space.act("steer", random=seed, layers="2", dose=0.8):
            alone = space.model.logits(ids)[-1].double().softmax(0)
        assert control.probability_after == pytest.approx(float(alone[40]), rel=1e-4)
    opposite = next(c for c in found.controls if c.kind == "opposite")
    with space.act("steer", token=90, foil=40, layers="2", dose=0.8):
        alone = space.model.logits(ids)[-1].double().softmax(0)
    assert opposite.probability_after == pytest.approx(float(alone[40]), rel=1e-4)
    assert [c.kind for c in found.controls].count("random") == 5
    assert [c.kind for c in found.controls].count("layer") == 1


def test_a_strength_of_zero_has_no_effect_at_all(spaces: Spaces) -> None:
    found = effect(spaces["llama"], PROMPT, Action(kind="steer", token=40, dose=0.0))
    assert found.kl == 0
    assert not found.moved.any()
    assert not found.beyond_controls
    assert found.before == found.after


def test_what_random_directions_do_is_not_beyond_random_directions(spaces: Spaces) -> None:
    """A planted nothing: an action that is itself random passes the bar seldom."""
    space = spaces["llama"]
    passed = [
        effect(
            space, PROMPT, Action(kind="steer", random=seed, layers="2", target=40)
        ).beyond_controls
        for seed in range(1, 25)
    ]
    assert sum(passed) <= 6


def test_the_bar_of_the_controls() -> None:
    def logs(*shares: float) -> Tensor:
        return torch.tensor(shares, dtype=torch.float64).log()

    around = [logs(p)[0] for p in (0.001, 0.002, 0.004, 0.006, 0.0005)]
    assert beyond(logs(0.0005, 0.97), around)
    assert not beyond(logs(0.0005, 0.002), around)
    assert not beyond(logs(0.0005, 0.0065), around)
    assert not beyond(logs(0.5, 0.97), [])


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"kind": "steer", "token": "kingqueenhouse"}, TokenError, "tokens for this model"),
        ({"kind": "steer", "token": 40, "layers": "9"}, LayerError, r"\[0, 3\]"),
        ({"kind": "steer", "token": 40, "positions": "999"}, LayerError, "position"),
        ({"kind": "zero", "layers": "0"}, LayerError, "no block"),
        ({"kind": "swap", "token": 4, "foil": 5, "layers": "1:3"}, OptionError, "undoes itself"),
        ({"kind": "steer", "token": 40, "foil": 40}, OptionError, "no length"),
        ({"kind": "patch", "source": "The cat", "positions": ":"}, LayerError, "of the other"),
        ({"kind": "steer", "token": 40, "dose": 1e25}, NonFiniteError, "layer 2"),
        ({"kind": "dance"}, OptionError, "one of steer"),
        ({"kind": "steer"}, OptionError, "one direction"),
        ({"kind": "patch"}, OptionError, "the prompt whose states"),
        ({"kind": "patch", "source": ""}, PromptError, "empty"),
    ],
)
def test_bad_input_is_one_sentence(
    spaces: Spaces, wrong: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        effect(spaces["gpt2"], PROMPT, Action(**wrong))  # type: ignore[arg-type]


def test_a_token_has_no_direction_where_the_blocks_are_of_another_width(spaces: Spaces) -> None:
    space = spaces["opt_proj"]
    with pytest.raises(OptionError, match="20"):
        token_direction(space, "output", 40)
    assert effect(space, PROMPT, Action(kind="steer", texts=("The king",))).kl > 0
