"""Actions over many prompts: counted by hand, skipped ones listed, and the facts that ship."""

from __future__ import annotations

from collections import Counter

import pytest
from scipy.stats import binomtest
from tiny_models import Spaces

from engine import LatentSpace
from engine.errors import OptionError
from engine.interventions.action import Action
from engine.interventions.many import Case, facts, labelled_cases, many, parse_cases
from engine.interventions.plan import token_of
from engine.progress import drain

PROMPTS = ("The king and the", "The cat sat", "Once upon a", "The dog ran to the", "It was", "The")


def cases(space: LatentSpace) -> list[Case]:
    """Each prompt with the token that stands fifth there."""
    out = []
    for prompt in PROMPTS:
        order = space.model.logits(space.tokenize(prompt).ids)[-1].argsort(descending=True)
        out.append(Case(prompt, f"#{int(order[4])}"))
    return out


def test_every_case_is_what_it_is_alone(spaces: Spaces) -> None:
    space = spaces["llama"]
    given = cases(space)
    found = drain(many(space, given, Action(kind="steer", random=0, layers="2", dose=0.6)))
    assert found.used == len(given)
    own = Action(kind="steer", token="a", layers="2", dose=0.6)
    found = drain(many(space, given, own))
    rows = {row.prompt: row for row in found.rows}
    hits = chance = 0
    for case in given:
        ids = space.tokenize(case.prompt).ids
        target, said = token_of(space, case.target), int(space.model.logits(ids)[-1].argmax())
        with space.act("steer", token=target, foil=said, layers="2", dose=0.6):
            row = space.model.logits(ids)[-1].double().softmax(0)
        mine = rows[case.prompt]
        assert mine.success == (int(row.argmax()) == target)
        assert mine.probability_after == pytest.approx(float(row[target]), rel=1e-3)
        hits += mine.success
        for seed in range(1, 6):
            with space.act("steer", random=seed, layers="2", dose=0.6):
                row = space.model.logits(ids)[-1]
            chance += int(row.argmax()) == target
    assert found.successes == hits
    assert found.share == hits / len(given)
    bounds = binomtest(hits, len(given)).proportion_ci(method="wilson")
    assert found.interval == pytest.approx((bounds.low, bounds.high))
    assert found.controls == 5 * len(given)
    assert found.control_share == chance / found.controls


@pytest.mark.parametrize("kind", ["ablate", "zero", "scale", "swap", "patch"])
def test_every_kind_of_action_goes_over_many_prompts(spaces: Spaces, kind: str) -> None:
    space = spaces["gpt2"]
    given = [
        Case(one.prompt, one.target, source=other, swap=("king", "cat"))
        for one, other in zip(cases(space), PROMPTS[::-1], strict=True)
    ]
    action = Action(kind=kind, token="a", foil="b", source="a", layers="1")
    found = drain(many(space, given, action))
    assert found.used + found.skipped == len(given)
    assert found.used
    assert all(row.controls in (2, 5) for row in found.rows), "the model has three blocks"


def test_what_is_skipped_is_counted_and_listed_with_its_reason(spaces: Spaces) -> None:
    space = spaces["llama"]
    good = cases(space)[0]
    ids = space.tokenize(good.prompt).ids
    first = int(space.model.logits(ids)[-1].argmax())
    given = [
        good,
        Case(good.prompt, f"#{first}"),
        Case(good.prompt, good.target, own=good.target),
        Case(good.prompt, "kingqueenhouse"),
        Case("", good.target),
    ]
    found = drain(many(space, given, Action(kind="steer", token="a", layers="1")))
    assert (found.cases, found.used, found.skipped) == (5, 1, 4)
    reasons = [row.why for row in found.skips]
    for words, why in zip(("already", "the model answers", "several", "empty"), reasons,
                          strict=True):  # fmt: skip
        assert words in why
    with pytest.raises(OptionError, match="none of the 1 prompts"):
        drain(many(space, given[1:2], Action(kind="steer", token="a", layers="1")))


def test_the_order_of_the_cases_and_their_lengths_do_not_matter(spaces: Spaces) -> None:
    """Prompts of different lengths stand in one batch; padding is touched by no control."""
    space = spaces["qwen3"]
    action = Action(kind="steer", token="a", layers="1", dose=0.5)
    there, back = (drain(many(space, one, action)) for one in (cases(space), cases(space)[::-1]))
    mine = {row.prompt: row.probability_after for row in there.rows}
    for row in back.rows:
        assert row.probability_after == pytest.approx(mine[row.prompt], rel=1e-3)


def test_the_lines_of_a_pasted_list() -> None:
    assert parse_cases("The capital of France is | Rome | Paris\n\n a|b | | c d") == (
        Case("The capital of France is", "Rome", "Paris"),
        Case("a", "b", None, "c d"),
    )
    for wrong in ("", "no target", "a | ", "| b", "a | b | c | d | e"):
        with pytest.raises(OptionError):
            parse_cases(wrong)
    with pytest.raises(OptionError, match="1,000"):
        parse_cases("a | b\n" * 1001)


def test_the_facts_that_ship() -> None:
    found = facts()
    assert len(found) >= 150
    assert len({case.prompt for case in found}) == len(found)
    relations: Counter[str] = Counter()
    for case in found:
        assert case.own != case.target
        assert case.swap is not None
        before, found_there, after = case.prompt.rpartition(case.swap[0])
        assert found_there
        assert case.source == before + case.swap[1] + after
        relations[f"{before}{{}}{after}"] += 1
    assert sum(count >= 20 for count in relations.values()) == 6


def test_a_label_set_asks_for_the_label_after_its_own() -> None:
    prompts = [f"text {n}" for n in range(9)]
    labels = ["sports", "", "arts", "world", "arts", "sports", "world", "world", "arts"]
    found = labelled_cases(prompts, labels)
    wanted = {"arts": "sports", "sports": "world", "world": "arts"}
    assert [(case.prompt, case.target) for case in found] == [
        (p, wanted[own]) for p, own in zip(prompts, labels, strict=True) if own
    ]
    few = labelled_cases(prompts, labels, 4)
    assert [case.prompt for case in few] == ["text 0", "text 3", "text 5", "text 7"]
    with pytest.raises(OptionError, match="at least two labels"):
        labelled_cases(prompts, ["one"] * 9)
