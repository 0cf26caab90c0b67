"""The sentences beside the Act page's examples, read again from the model that they are of; and
where a fact goes, by the causal map."""

from __future__ import annotations

import pytest

from app.act.examples import EXAMPLES
from app.act.page import ActQuery
from engine import LatentSpace
from engine.interventions.causal import causal_map
from engine.interventions.effect import Effect, effect
from engine.interventions.sentences import causal_sentence
from engine.progress import drain

pytestmark = pytest.mark.slow


def shown(space: LatentSpace, title: str) -> Effect:
    (one,) = [e for e in EXAMPLES[space.model.fingerprint] if e.title == title]
    query = ActQuery.model_validate(one.state)
    assert query.prompt is not None
    return effect(space, query.prompt, query.action())


def test_every_example_does_what_its_sentence_says(smollm2: LatentSpace) -> None:
    rome = shown(smollm2, "Paris becomes Rome")
    assert (rome.before.text, rome.after.text) == (" Paris", " Rome")
    assert rome.target.probability_after == pytest.approx(0.97, abs=0.01)
    assert rome.range is not None
    assert rome.range[1] < 0.01
    assert rome.beyond_controls
    early = shown(smollm2, "… and at layer 20 it does not")
    assert early.target.probability_after == pytest.approx(0.002, abs=0.001)
    assert not early.beyond_controls
    assert not early.turned
    for title in ("Where the fact is", "… and where it went", "A swap of two words"):
        found = shown(smollm2, title)
        assert found.after.text == " Rome", title
        assert found.beyond_controls, title
    assert shown(smollm2, "A swap of two words").layers == (0,)
    fails = shown(smollm2, "… that fails one layer up")
    assert not fails.turned
    assert not fails.beyond_controls


def test_a_fact_moves_from_its_subject_to_the_last_word(smollm2: LatentSpace) -> None:
    found = drain(causal_map(smollm2, "The capital of France is", "The capital of Italy is"))
    (subject, first, until), (last, start, top) = found.carriers
    assert (subject, first, last, top) == (3, 0, 4, 30)
    assert 21 <= until < start <= 24
    assert 0.36 <= found.probability[:22, 3].min() <= found.probability[:22, 3].max() <= 0.43
    assert found.probability[24:, 3].max() < 0.01
    assert found.probability[:22, 4].max() < 0.01
    assert found.probability[24:, 4].min() > 0.35
    said = causal_sentence(found, 25)
    assert said.startswith("Until layer 23 the answer hangs on “France”, from 24 on")
    assert said.endswith("the reading names “Paris” from 25.")
