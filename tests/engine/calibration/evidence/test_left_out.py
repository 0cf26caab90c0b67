"""A class that was never taught: AUROC against scikit-learn, trainings that never saw the class."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import planted_tasks
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny_models import Spaces

from engine.calibration.evidence.controls import Cells
from engine.calibration.evidence.left_out import (
    LeftOut,
    LeftOutClass,
    auroc,
    leave_one_out,
    without,
)
from engine.calibration.evidence.metrics import Interval
from engine.calibration.training.calibrated import centroids_for
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.checkpoints import NOTHING
from engine.progress import drain

pytestmark = pytest.mark.slow


def test_auroc_is_scikit_learns_with_ties_and_weights() -> None:
    draw = np.random.default_rng(0)
    scores = draw.integers(0, 12, 60) / 4  # many ties
    positive = draw.random(60) < 0.3
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    weights = draw.integers(0, 4, (5, 60)).astype(float)
    own = [roc_auc_score(positive, scores, sample_weight=w) for w in weights]
    np.testing.assert_allclose(auroc(scores, positive, weights), own)
    assert np.isnan(auroc(scores, positive, np.zeros((1, 60)))).all()


def test_each_class_is_left_out_of_a_training_of_its_own(spaces: Spaces) -> None:
    """Recounted: a training on the other classes' rows alone, ranked by the left-out basis."""
    space = spaces["llama"]
    task, states = planted_tasks.planted(space, 150)
    options = CalibrationOptions(epochs=3, patience=0)
    found = drain(leave_one_out(space, task, states, options, Cells(NOTHING)))
    assert found is not None
    truth, rows = task.labels["test"], states.normed["test"]
    head = space.model.anatomy.weight.detach().double()
    vectors = torch.linalg.pinv(head).T
    for left, (label, line) in enumerate(zip(task.label_names, found.classes, strict=True)):
        assert line.label == label
        basis = vectors[task.label_tokens[left].id_used]
        near = torch.nn.functional.cosine_similarity(rows.double(), basis[None], dim=1)
        assert line.before == pytest.approx(roc_auc_score(truth == left, near.numpy()))
        some, theirs = without(task, states, left)
        assert label not in some.label_names
        assert some.classes == task.classes - 1
        for split in ("train", "valid", "test"):
            kept = task.labels[split] != left
            names = [some.label_names[i] for i in some.labels[split]]
            assert names == [task.label_names[i] for i in task.labels[split][kept]]
            assert torch.equal(theirs.normed[split], states.normed[split][torch.from_numpy(kept)])
        trained = drain(calibrate(space, theirs, some, options))
        cosines = centroids_for(space, task.label_tokens, options).scores(trained.apply(rows), "sm")
        assert line.after == pytest.approx(roc_auc_score(truth == left, cosines[:, left].numpy()))
    assert found.after.value == pytest.approx(np.mean([one.after for one in found.classes]))
    assert found.change.value == pytest.approx(found.after.value - found.before.value)
    gap = found.after.value - found.random.value
    assert found.random_difference.value == pytest.approx(gap)
    assert found.after.low <= found.after.value <= found.after.high
    assert json.loads(json.dumps(found.to_dict()))["sentence"] == found.sentence


def test_two_classes_or_other_targets_leave_none_out(spaces: Spaces) -> None:
    space = spaces["llama"]
    task, states = planted_tasks.planted(space, 60)
    head = CalibrationOptions(target="head")
    assert drain(leave_one_out(space, task, states, head, Cells(NOTHING))) is None
    two, theirs = without(task, states, 0)
    own = replace(CalibrationOptions(), epochs=1)
    assert drain(leave_one_out(space, two, theirs, own, Cells(NOTHING))) is None


def test_the_sentence_says_where_it_fails() -> None:
    def told(after: Interval, change: Interval, low: float) -> str:
        classes = (LeftOutClass("world", 0.6, low, 0.5), LeftOutClass("sports", 0.8, 0.8, 0.5))
        gap = Interval(0.2, 0.1, 0.3)
        return LeftOut(classes, after, after, after, gap, change).sentence

    good = Interval(0.75, 0.7, 0.8)
    worse = told(good, Interval(-0.05, -0.08, -0.02), 0.45)
    assert "0.75 (0.70 to 0.80)" in worse
    assert "less than before the training" in worse
    assert "more than random bases" in worse
    assert "It fails for world." in worse
    assert "fails" not in told(good, Interval(0.0, -0.1, 0.1), 0.7)
    assert "Here it fails." in told(Interval(0.52, 0.45, 0.6), Interval(0.0, -0.1, 0.1), 0.6)
