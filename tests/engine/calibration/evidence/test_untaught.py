"""Words that no training saw: chosen by their bases, read as brute force reads them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import planted_tasks
import pytest
import torch
from method_tasks import small_context, small_task
from tiny_models import Spaces

from engine import LatentSpace
from engine.calibration.evidence.comparison import compare_before_after
from engine.calibration.evidence.controls import SHUFFLES
from engine.calibration.evidence.metrics import Interval
from engine.calibration.evidence.untaught import Moved, Untaught, measure_untaught
from engine.calibration.evidence.untaught_words import (
    SAME,
    TaskLabels,
    UntaughtWords,
    propose_words,
    words_given,
)
from engine.calibration.labelled.tasks import Task
from engine.calibration.training.calibrated import centroids_for
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.errors import OptionError
from engine.progress import drain

pytestmark = pytest.mark.slow

GIVEN = {"left": ["d", "f"], "right": ["e", "g", "h"]}


def bases(space: LatentSpace) -> torch.Tensor:
    """All semantic bases by the pseudo-inverse, unit length (v × d, float64)."""
    own = torch.linalg.pinv(space.model.anatomy.weight.detach().double()).T
    return torch.nn.functional.normalize(own, dim=1)


def given(space: LatentSpace, task: Task) -> UntaughtWords:
    return words_given(space, TaskLabels.of(task), GIVEN)


@pytest.fixture(scope="module")
def shipped(small: LatentSpace) -> tuple[LatentSpace, Task]:
    """A vocabulary of whole words: that of the small model."""
    space = small
    made = planted_tasks.task(space, 60, template="{text}. It was", word_rule="first")
    return space, made


def test_proposed_words_are_whole_near_and_not_the_same(shipped) -> None:
    """Each by its cosine from the pseudo-inverse: nearest to its own label word, below `SAME`."""
    space, task = shipped
    found = propose_words(space, TaskLabels.of(task), count=4)
    assert found is not None
    every = bases(space)
    own = every[[t.id_used for t in task.label_tokens]]
    for tokens, cosines in zip(found.sets, found.cosines, strict=True):
        for place, (token, cosine) in enumerate(zip(tokens, cosines, strict=True)):
            assert token.word.isalpha()
            assert token.ids == (token.id_used,)
            assert token.word not in task.label_words
            near = (every[token.id_used] @ own.T).numpy()
            assert near.argmax() == place
            assert near.max() < SAME
            assert near[place] == pytest.approx(cosine, abs=1e-4)
    words = [t.word for tokens in found.sets for t in tokens]
    assert len(set(words)) == len(words)
    assert found.looked >= len(words) + found.same
    assert str(found.same) in found.note


def test_given_words_are_as_many_as_the_poorest_label_has(spaces: Spaces) -> None:
    space = spaces["llama"]
    task = small_task(space)
    found = given(space, task)
    assert [[t.word for t in one] for one in found.sets] == [["d", "e"], ["f", "g"]]
    with pytest.raises(OptionError, match="'right' has no untaught word; give words for each of"):
        words_given(space, TaskLabels.of(task), {"left": ["d"]})
    with pytest.raises(OptionError, match="'up', which is no label"):
        words_given(space, TaskLabels.of(task), {**GIVEN, "up": ["c"]})
    with pytest.raises(OptionError, match="every word for 'left' is all but a label word"):
        words_given(space, TaskLabels.of(task), {**GIVEN, "left": [task.label_words[0]]})
    kept = words_given(space, TaskLabels.of(task), {**GIVEN, "left": [task.label_words[1], "d"]})
    assert [[t.word for t in one] for one in kept.sets] == [["d", "e"]]
    assert kept.same == 1


def test_readings_are_those_of_brute_force(spaces: Spaces) -> None:
    """Accuracy of each set by cosine to pseudo-inverse bases; the control by its own directions."""
    space = spaces["llama"]
    task = small_task(space)
    context = small_context(space, task)
    words, truth = given(space, task), task.labels["test"]
    states = context.states.normed["test"]
    options = CalibrationOptions(epochs=2)
    trained = drain(calibrate(space, context.states, task, options))
    moved = trained.apply(states)
    found = measure_untaught(
        space, options, words, Moved(states, moved, (moved,), (states, moved)), truth, taught=0.5
    )
    every = bases(space)
    random = space.frame("random").vectors(torch.arange(len(every)))

    def accuracies(rows: torch.Tensor, vectors: torch.Tensor) -> list[float]:
        out = []
        for tokens in words.sets:
            own = vectors[[t.id_used for t in tokens]].double()
            cosines = torch.nn.functional.cosine_similarity(
                rows.double()[:, None], own[None], dim=2
            )
            out.append(float(np.mean(cosines.argmax(1).numpy() == truth)))
        return out

    assert [line.before for line in found.sets] == pytest.approx(accuracies(states, every))
    after = accuracies(moved, every)
    assert [line.after for line in found.sets] == pytest.approx(after)
    assert found.after.value == pytest.approx(np.mean(after))
    assert found.lowest == min(after)
    assert found.random is not None
    assert found.random_difference is not None
    assert found.random.value == pytest.approx(np.mean(accuracies(moved, random)))
    assert found.random_difference.value == pytest.approx(found.after.value - found.random.value)
    assert found.shuffled is not None
    both = [*accuracies(states, every), *after]
    assert found.shuffled.value == pytest.approx(np.mean(both))
    assert found.after.low <= found.after.value <= found.after.high
    assert json.loads(json.dumps(found.to_dict()))["sentence"] == found.sentence


def test_states_on_planted_bases_are_read_by_other_words_in_their_frame_only(
    spaces: Spaces,
) -> None:
    """A planted truth: states that are the untaught words' own bases are read rightly by them."""
    space = spaces["llama"]
    task = small_task(space)
    words, truth = given(space, task), task.labels["test"]
    first = centroids_for(space, words.sets[0], CalibrationOptions()).labels
    planted = first[torch.from_numpy(truth)]
    found = measure_untaught(
        space,
        CalibrationOptions(),
        replace(words, sets=words.sets[:1], cosines=words.cosines[:1]),
        Moved(planted, planted, (planted,)),
        truth,
        taught=1.0,
    )
    assert found.after == Interval(1.0, 1.0, 1.0)


def test_a_comparison_reads_by_untaught_words_on_the_controls_too(spaces: Spaces) -> None:
    """Given words reach it; the states that it keeps give the same again."""
    space = spaces["llama"]
    task = small_task(space)
    context = small_context(space, task)
    options = CalibrationOptions(epochs=2)
    trained = drain(calibrate(space, context.states, task, options))
    found = drain(
        compare_before_after(space, task, context.states, trained, untaught=GIVEN, layers=False)
    )
    assert found.untaught is not None
    assert [line.words for line in found.untaught.sets] == [("d", "e"), ("f", "g")]
    assert found.untaught.taught == found.after.report.accuracy.value
    assert len(found.moved.shuffled) == SHUFFLES
    again = measure_untaught(
        space,
        options,
        given(space, task),
        found.moved,
        task.labels["test"],
        taught=found.untaught.taught,
    )
    assert again == found.untaught


@pytest.mark.parametrize(
    ("after", "gap", "words"),
    [
        (Interval(0.8, 0.75, 0.85), Interval(0.3, 0.2, 0.4), "the bases matter: the space still"),
        (Interval(0.8, 0.75, 0.85), Interval(0.1, -0.1, 0.3), "not seen to matter"),
        (Interval(0.8, 0.75, 0.85), Interval(-0.1, -0.2, -0.01), "the bases do not matter"),
        (Interval(0.52, 0.44, 0.6), Interval(0.0, -0.1, 0.1), "reads no other words"),
    ],
)
def test_the_sentence_says_where_it_fails(after: Interval, gap: Interval, words: str) -> None:
    random = Interval(0.5, 0.4, 0.6)
    found = Untaught((), after, after, 0.81, random, gap, None, 0.5, "")
    assert words in found.sentence
