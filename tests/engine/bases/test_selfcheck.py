"""The badge: green where all holds, red with the reason where a part is no longer what it was."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_models import ARCHITECTURES, Spaces

from engine import LatentSpace
from engine.bases.selfcheck import CheckItem, SelfCheck


def item(check: SelfCheck, name: str) -> CheckItem:
    (found,) = [i for i in check.items if i.name == name]
    return found


@pytest.mark.parametrize("name", [*ARCHITECTURES, "bf16", "padded", "deficient", "wide"])
def test_the_badge_is_green_on_every_sound_model(spaces: Spaces, name: str) -> None:
    """Row N3: every item named there is checked, and nothing is red."""
    check = spaces[name].self_check
    assert check.ok, check.summary
    assert {
        "last-layer reading",
        "final norm",
        "soft cap",
        "head and tokenizer",
        "ties",
        "rank of the head",
        "exact resolution",
        "finite states",
    } <= {i.name for i in check.items}
    for found in check.items:
        assert found.ok
        assert found.level in ("ok", "note")
        assert found.reason.endswith((".", ">."))
        assert found.value
    plain = json.loads(json.dumps(check.to_dict(), allow_nan=False))
    assert plain["ok"] is True
    assert len(plain["items"]) == len(check.items)


def test_notes_say_what_is_odd_and_handled(spaces: Spaces) -> None:
    padded = item(spaces["padded"].self_check, "head and tokenizer")
    assert padded.level == "note"
    assert "305" in padded.value
    assert "5 rows" in padded.reason
    for name, rank in (("deficient", "24 of 32"), ("wide", "300 of 320")):
        found = item(spaces[name].self_check, "rank of the head")
        assert found.level == "note"
        assert found.value.startswith(rank)
    assert (
        "fewer tokens than dimensions" in item(spaces["wide"].self_check, "rank of the head").reason
    )
    assert item(spaces["gpt2"].self_check, "ties").value == "tied"
    assert item(spaces["llama"].self_check, "ties").value == "untied"
    assert item(spaces["gemma2"].self_check, "soft cap").value == "4"
    assert "0.25" in item(spaces["cohere"].self_check, "soft cap").value


def turn_red(space: LatentSpace) -> SelfCheck:
    assert space.self_check.ok
    check = space.run_self_check()
    assert space.self_check is check
    assert not check.ok
    assert "failed" in check.summary
    assert not check.to_dict()["ok"]
    return check


def failed(check: SelfCheck) -> set[str]:
    return {i.name for i in check.items if i.level == "fail"}


@torch.no_grad()
def test_a_norm_put_in_the_place_of_the_final_one_turns_it_red(spaces: Spaces) -> None:
    """Row N3: the readings would still go through the norm that was found at loading."""
    import copy

    space = spaces.fresh("llama")
    other = copy.deepcopy(space.model.module.model.norm)
    other.weight.mul_(1.5).add_(0.1)
    space.model.module.model.norm = other
    check = turn_red(space)
    assert "last-layer reading" in failed(check)
    assert "between the last block and the logits" in item(check, "last-layer reading").reason


def test_a_norm_whose_way_of_computing_was_changed_turns_it_red(spaces: Spaces) -> None:
    """A patch that only the model's own pass goes through (the norm is left out)."""
    space = spaces.fresh("gpt2")
    space.model.module.transformer.ln_f = torch.nn.Identity()
    assert "last-layer reading" in failed(turn_red(space))


@torch.no_grad()
def test_another_head_in_the_old_ones_place_turns_it_red(spaces: Spaces) -> None:
    space = spaces.fresh("llama")
    head = torch.nn.Linear(32, 300, bias=False)
    space.model.module.lm_head = head
    assert "last-layer reading" in failed(turn_red(space))


@torch.no_grad()
def test_a_head_overwritten_in_place_turns_it_red(spaces: Spaces) -> None:
    """The readings follow the new rows, but bases, norms and G are the old ones'."""
    for name in ("llama", "gpt2"):
        space = spaces.fresh(name)
        generator = torch.Generator().manual_seed(1)
        weight = space.model.anatomy.weight
        weight.copy_(torch.randn(weight.shape, generator=generator))
        check = turn_red(space)
        assert "exact resolution" in failed(check)
        assert "head" in item(check, "exact resolution").reason


@torch.no_grad()
def test_a_scaled_head_turns_it_red(spaces: Spaces) -> None:
    """The gentlest change in place: every row times 1.01."""
    space = spaces.fresh("llama")
    space.model.anatomy.weight.mul_(1.01)
    assert "exact resolution" in failed(turn_red(space))


@pytest.mark.parametrize("cap", [2.0, 9.0, None])
def test_another_soft_cap_turns_it_red(spaces: Spaces, cap: float | None) -> None:
    space = spaces.fresh("gemma2")
    space.model.module.config.final_logit_softcapping = cap
    assert "last-layer reading" in failed(turn_red(space))


def test_another_logit_scale_turns_it_red(spaces: Spaces) -> None:
    space = spaces.fresh("cohere")
    space.model.module.logit_scale = 0.3
    assert "last-layer reading" in failed(turn_red(space))


@torch.no_grad()
def test_another_head_bias_turns_it_red_where_the_frames_keep_the_old_one(spaces: Spaces) -> None:
    space = spaces.fresh("phi")
    space.model.module.lm_head.bias = torch.nn.Parameter(space.model.anatomy.bias + 1.0)
    check = space.run_self_check()
    assert not check.ok


def test_weights_that_are_not_finite_are_red_from_the_start(spaces: Spaces) -> None:
    check = spaces["nan"].self_check
    assert not check.ok
    assert not item(check, "finite states").ok
    assert not item(check, "last-layer reading").ok
    json.dumps(check.to_dict(), allow_nan=False)


def test_equal_logits_of_copied_rows_are_no_failure(spaces: Spaces) -> None:
    """Copies of a row tie; which of them comes first is nobody's error."""
    space = spaces.fresh("llama")
    weight = space.model.anatomy.weight
    with torch.no_grad():
        weight[150:] = weight[:150]
    from engine.space import LatentSpace as Space

    again = Space(space.model, cache_dir=None)
    assert again.self_check.ok, again.self_check.summary


def test_checking_changes_nothing_and_counts_as_no_prompt(spaces: Spaces) -> None:
    space = spaces["qwen3"]
    before = space.forward_passes
    first, second = space.run_self_check(), space.run_self_check()
    assert first == second
    assert space.forward_passes == before
