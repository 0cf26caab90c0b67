"""Training finds what is planted, finds nothing where nothing is, and touches only its own."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import planted_tasks
import psutil
import pytest
import torch
from tiny_models import SMALL, Spaces
from torch import Tensor

from engine import LatentSpace
from engine.calibration.evidence import metrics
from engine.calibration.labelled.known import known_spec
from engine.calibration.labelled.tables import read_table
from engine.calibration.labelled.tasks import Task, make_task, shuffled_labels
from engine.calibration.training.calibrated import Calibration, untrained
from engine.calibration.training.features import TaskStates, task_states
from engine.calibration.training.losses import LOSSES, clustering_loss
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.resuming import BestSoFar
from engine.calibration.training.train import calibrate
from engine.errors import (
    ArtifactError,
    LexiscopeError,
    NonFiniteError,
    OptionError,
)
from engine.model.language_model import LanguageModel
from engine.progress import drain

SCALED = 1e-3
"""Relative: losses of two trainings whose numbers differ by a power of two."""


@pytest.fixture(scope="module")
def case(spaces: Spaces) -> tuple[LatentSpace, Task, TaskStates]:
    """Three classes that a plane can part: 280 training, 35 validation and 100 test states."""
    space = spaces["llama"]
    task, states = planted_tasks.planted(space, 420)
    return space, task, states


Case = tuple[LatentSpace, Task, TaskStates]


def _accuracy(calibration: Calibration, task: Task, states: TaskStates) -> float:
    answer = calibration.read(states.normed["test"]).predicted.numpy()
    return float(np.mean(task.labels["test"] == answer))


def _weights(space: LatentSpace) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in space.model.module.state_dict().items()}


@pytest.mark.parametrize("loss", LOSSES)
def test_planted_classes_are_found_by_every_loss(case: Case, loss: str) -> None:
    space, task, states = case
    before = _accuracy(untrained(space, task), task, states)
    found = drain(calibrate(space, states, task, CalibrationOptions(loss=loss)))
    assert before < 0.8
    assert _accuracy(found, task, states) >= 0.95
    losses = [epoch.valid_loss for epoch in found.history]
    assert min(losses) == losses[found.best_epoch] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"centroids": "vocabulary", "inference_over": "vocabulary"},
        {"centroids": "vocabulary", "loss": "mm", "inference": "mm"},
        {"frame": "head"},
        {"frame": "input"},
        {"frame": "tight", "inference": "mm"},
        {"frame": "random"},
        {"standardise": False},
        {"start": "random", "pooling": "groups"},
        {"pooling": "channels", "dropout": 0.2},
        {"target": "head"},
        {"target": "head", "loss": "mm", "inference": "mm"},
        {"target": "head", "frame": "tight", "centroids": "vocabulary",
         "inference_over": "vocabulary"},
        {"target": "head", "frame": "head", "loss": "sm-gt"},
    ],
    ids=str,
)  # fmt: skip
def test_planted_classes_are_found_with_every_setting(case: Case, settings: dict) -> None:
    space, task, states = case
    found = drain(calibrate(space, states, task, CalibrationOptions(**settings)))
    assert _accuracy(found, task, states) >= 0.95


def test_calibrated_states_lie_at_their_labels_bases(case: Case) -> None:
    """Own-basis cosine and margin grow, and so does what k-means would see."""
    space, task, states = case
    found = drain(calibrate(space, states, task, CalibrationOptions(loss="sm-gt")))
    before, after = states.normed["test"], found.apply(states.normed["test"])
    y = task.labels["test"]
    own_before, _ = metrics.own_similarity(before, y, found.centroids.labels)
    own_after, margin = metrics.own_similarity(after, y, found.centroids.labels)
    assert own_after.mean() > 0.7 > own_before.mean()
    assert (margin > 0).mean() >= 0.95


@pytest.mark.slow
def test_shuffled_labels_stay_at_chance_within_the_interval(spaces: Spaces) -> None:
    """Held-out accuracy over permutations has chance in its 95 % interval; real labels are above.

    Of tight classes each permutation leaves one label a small lead in a class, and all of its
    states follow that label: so the interval is over permutations, not over states. The start is
    random, because from the identity early stopping gives back the untrained reading, which is not
    chance: it is what the bases say before.
    """
    space = spaces["llama"]
    task, states = planted_tasks.planted(space, 600)
    found = []
    for seed in range(12):
        control = shuffled_labels(task, seed)
        own = planted_tasks.with_task(states, control)
        options = CalibrationOptions(seed=seed, start="random", epochs=20)
        made = drain(calibrate(space, own, control, options))
        found.append(_accuracy(made, task, states))
    interval = metrics.bootstrap_interval(found)
    assert interval.low <= 1 / 3 <= interval.high
    real = drain(calibrate(space, states, task, CalibrationOptions(epochs=20)))
    assert _accuracy(real, task, states) > interval.high


def test_noise_has_nothing_to_find(spaces: Spaces) -> None:
    """Without any class in the states, held-out accuracy is chance within its interval."""
    space = spaces["llama"]
    task, states = planted_tasks.planted(space, 1500, spread=100.0)
    found = drain(calibrate(space, states, task, CalibrationOptions()))
    answer = found.read(states.normed["test"]).predicted.numpy()
    interval = metrics.bootstrap_interval((answer == task.labels["test"]).astype(float))
    assert interval.low <= 1 / 3 <= interval.high


@pytest.mark.parametrize("target", ["module", "head", "layers:1", "lora"])
def test_the_same_seed_gives_the_same_bits(spaces: Spaces, target: str) -> None:
    space = spaces["llama"]
    task, states = planted_tasks.planted(space, 90)
    options = CalibrationOptions(target=target, epochs=2, dropout=0.1)
    one, two = (drain(calibrate(space, states, task, options)) for _ in range(2))
    for a, b in zip(_trained(one), _trained(two), strict=True):
        assert torch.equal(a, b)
    assert [e.train_loss for e in one.history] == [e.train_loss for e in two.history]
    other = CalibrationOptions(target=target, epochs=2, dropout=0.1, seed=7)
    three = drain(calibrate(space, states, task, other))
    assert any(not torch.equal(a, b) for a, b in zip(_trained(one), _trained(three), strict=True))


def _trained(calibration: Calibration) -> list[Tensor]:
    module = [] if calibration.module is None else list(calibration.module.parameters())
    return [*module, *calibration.tuned.values()]


def test_it_does_not_depend_on_the_global_generator(case: Case) -> None:
    space, task, states = case
    options = CalibrationOptions(epochs=2, dropout=0.3, start="random")
    torch.manual_seed(1)
    one = drain(calibrate(space, states, task, options))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    two = drain(calibrate(space, states, task, options))
    torch.manual_seed(1)
    drain(calibrate(space, states, task, options))
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn from it
    for a, b in zip(_trained(one), _trained(two), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("target", ["module", "head", "layers:1", "layers:all", "lora"])
def test_the_model_itself_never_changes(spaces: Spaces, target: str) -> None:
    space = spaces["llama"]
    task, states = planted_tasks.planted(space, 60)
    before = _weights(space)
    drain(calibrate(space, states, task, CalibrationOptions(target=target, epochs=1)))
    after = space.model.module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[n], t) for n, t in before.items())
    assert not any("lora" in n for n, _ in space.model.module.named_modules())


def test_head_training_changes_the_label_rows_only(case: Case) -> None:
    space, task, states = case
    found = drain(calibrate(space, states, task, CalibrationOptions(target="head", loss="mm")))
    weight = space.model.anatomy.weight.detach()
    (name,) = found.tuned
    assert name == "head.rows"
    own = weight[list(found.centroids.ids)]
    assert found.tuned[name].shape == own.shape
    assert not torch.equal(found.tuned[name], own)
    assert found.trained_weights == own.numel()
    assert torch.equal(found.centroids.rows, found.tuned[name])
    bases = found.tuned[name].double() @ space.decomposition.power(-1.0)
    assert torch.allclose(found.centroids.labels.double(), bases, atol=1e-4)


def test_over_the_vocabulary_the_whole_head_is_trained(case: Case) -> None:
    space, task, states = case
    options = CalibrationOptions(
        target="head", loss="mm", inference="mm", centroids="vocabulary",
        inference_over="vocabulary", epochs=3,
    )  # fmt: skip
    found = drain(calibrate(space, states, task, options))
    trained = found.tuned["head.weight"]
    assert trained.shape == space.model.anatomy.weight.shape
    assert (trained != space.model.anatomy.weight).any(1).all()
    expected = states.normed["test"] @ trained.T
    whole = found.centroids.scores(states.normed["test"], "mm", "vocabulary")
    assert torch.allclose(whole, expected, atol=1e-4)


@pytest.mark.parametrize("target", ["module", "head", "layers:1", "lora"])
@pytest.mark.slow
def test_cancel_leaves_no_thread_process_file_or_tensor(
    spaces: Spaces, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    space = spaces["llama"]
    task, states = planted_tasks.planted(space, 90)
    before = _weights(space)
    # transformers leaves hooks of its own on a model that was ever asked for its hidden states
    hooks = [list(b._forward_hooks) for b in space.model.anatomy.blocks]
    drain(calibrate(space, states, task, CalibrationOptions(target=target, epochs=1)))
    gc.collect()
    threads, children = threading.active_count(), len(psutil.Process().children())
    held = _parameters_alive()
    steps = calibrate(space, states, task, CalibrationOptions(target=target, patience=0))
    for _ in range(3):
        next(steps)
    steps.close()
    del steps
    gc.collect()
    assert threading.active_count() == threads
    assert len(psutil.Process().children()) == children
    assert _parameters_alive() == held
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(space.model.module.state_dict()[n], t) for n, t in before.items())
    assert [list(b._forward_hooks) for b in space.model.anatomy.blocks] == hooks


def _parameters_alive() -> int:
    return sum(issubclass(type(o), torch.nn.Parameter) for o in gc.get_objects())


def test_progress_tells_the_curve(case: Case) -> None:
    space, task, states = case
    seen = list(_values(calibrate(space, states, task, CalibrationOptions(epochs=3, patience=0))))
    assert [v["epoch"] for v in seen if v] == sorted(v["epoch"] for v in seen)
    assert seen[-1]["epoch"] == 3
    assert set(seen[-1]) == {"epoch", "train_loss", "valid_loss", "valid_accuracy"}


def _values(steps: Iterator) -> Iterator[dict[str, float]]:
    for progress in steps:
        assert 0 <= progress.done <= progress.total
        yield dict(progress.values)


def test_early_stopping_keeps_the_best_epoch(case: Case) -> None:
    space, task, states = case
    options = CalibrationOptions(learning_rate=0.05, patience=4, epochs=200)
    found = drain(calibrate(space, states, task, options))
    last = found.history[-1].number
    assert last < 200
    assert last == found.best_epoch + 4
    y = torch.from_numpy(task.labels["valid"])
    kept = clustering_loss(
        "sm", found.apply(states.normed["valid"]), y, found.centroids, options.used_temperature
    )
    assert float(kept) == pytest.approx(found.history[found.best_epoch].valid_loss, abs=1e-6)


def test_without_validation_rows_the_last_epoch_stands(spaces: Spaces) -> None:
    space = spaces["llama"]
    task, states = planted_tasks.planted(space, 200, valid=0)
    found = drain(calibrate(space, states, task, CalibrationOptions(epochs=30)))
    assert found.best_epoch == found.history[-1].number == 30
    assert np.isnan(found.history[-1].valid_loss)
    assert found.reading_temperature == CalibrationOptions().used_temperature
    assert _accuracy(found, task, states) >= 0.95


def test_fitted_probabilities_are_better_calibrated_than_unfitted_ones(spaces: Spaces) -> None:
    space = spaces["llama"]
    task, states = planted_tasks.planted(space, 900, spread=1.6, valid=0.3)
    options = CalibrationOptions(loss="sm-gt")
    found = drain(calibrate(space, states, task, options))
    y = task.labels["test"]

    def error() -> float:
        p = found.read(states.normed["test"]).probabilities.double().numpy()
        return metrics.expected_calibration_error(p, y)

    fitted = error()
    found.reading_temperature = 1.0
    assert fitted < error()
    assert fitted < 0.1


def test_probabilities_sum_to_one_or_leave_the_rest_to_other_tokens(case: Case) -> None:
    space, task, states = case
    found = drain(calibrate(space, states, task, CalibrationOptions(epochs=2)))
    sums = found.read(states.normed["test"]).probabilities.sum(1)
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
    options = CalibrationOptions(centroids="vocabulary", inference_over="vocabulary", epochs=2)
    whole = drain(calibrate(space, states, task, options)).read(states.normed["test"])
    assert (whole.probabilities.sum(1) < 1).all()


def test_a_loss_that_is_no_number_is_one_sentence(case: Case) -> None:
    space, task, states = case
    broken = {s: t.clone() for s, t in states.normed.items()}
    broken["train"][3, 4] = float("nan")
    own = planted_tasks.states_of(space, task, broken)
    with pytest.raises(NonFiniteError, match="learning rate"):
        drain(calibrate(space, own, task, CalibrationOptions()))


def test_states_and_calibrations_of_others_are_refused(case: Case, spaces: Spaces) -> None:
    space, task, states = case
    other_task, _ = planted_tasks.planted(space, 60)
    with pytest.raises(LexiscopeError, match="another task"):
        drain(calibrate(space, states, other_task))
    found = drain(calibrate(space, states, task, CalibrationOptions(epochs=1)))
    with pytest.raises(ArtifactError, match="fingerprint"):
        found.check_model(spaces["gpt2"])


@pytest.mark.parametrize(
    "settings",
    [
        {"target": "all"},
        {"target": "layers:0"},
        {"loss": "ce"},
        {"frame": "words"},
        {"centroids": "some"},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"learning_rate": -1.0},
        {"epochs": 0},
        {"batch": 0},
        {"dropout": 1.0},
        {"target": "head", "frame": "random"},
        {"target": "head", "inference_over": "vocabulary"},
        {"target": "lora", "layer": 1},
        {"target": "layers:9"},
    ],
    ids=str,
)
def test_settings_that_cannot_be_run_are_refused(case: Case, settings: dict) -> None:
    space, task, states = case
    with pytest.raises(OptionError) as caught:
        drain(calibrate(space, states, task, CalibrationOptions(**settings)))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_on_a_real_model_and_real_text_it_beats_the_reading_before(
    small: LatentSpace, tmp_path: Path
) -> None:
    """AG News, 300 training rows: better than before by more than the paired interval."""
    folder = SMALL.parents[2] / "shared" / "data" / "datasets" / "agnews"
    if not folder.is_dir():
        pytest.skip("the data set shared/data/datasets/agnews is not beside this checkout")
    spec = known_spec("agnews", train=300, valid=80, test=150)
    rows, test = (read_table(folder / f"{s}.jsonl") for s in ("train", "test"))
    task = make_task(spec, rows, small.model, test=test)
    states = drain(task_states(small, task, cache_dir=tmp_path))
    y = task.labels["test"]
    before = untrained(small, task).read(states.normed["test"]).predicted.numpy() == y
    made = drain(calibrate(small, states, task))
    after = made.read(states.normed["test"]).predicted.numpy() == y
    gain = metrics.paired_interval(after.astype(float), before.astype(float))
    assert gain.low > 0
    assert after.mean() > 0.45


def test_settings_survive_json() -> None:
    options = CalibrationOptions(loss="mm", target="layers:2", epochs=7)
    again = CalibrationOptions.from_dict(options.to_dict())
    assert again.to_dict() == options.to_dict()
    with pytest.raises(OptionError, match="colour"):
        CalibrationOptions.from_dict({"colour": 1})


def test_the_default_rate_falls_with_the_width_and_a_given_one_stands(case: Case) -> None:
    space, task, states = case
    assert CalibrationOptions().for_width(160).used_rate == 1e-3
    assert CalibrationOptions().for_width(4096).used_rate == pytest.approx(1e-3 * 160 / 4096)
    assert CalibrationOptions().for_width(64).used_rate == 1e-3
    assert CalibrationOptions(learning_rate=0.5).for_width(4096).used_rate == 0.5
    head = CalibrationOptions(target="head")
    assert head.for_width(160, 0.5).used_rate == pytest.approx(0.5 * head.used_rate)
    assert head.for_width(320, 0.5).used_rate == pytest.approx(0.25 * head.used_rate)
    found = drain(calibrate(space, states, task, CalibrationOptions(epochs=1)))
    assert found.options.learning_rate == 1e-3


@pytest.mark.parametrize("frame", ["output", "tight", "head"])
def test_a_head_of_another_scale_is_trained_alike(case: Case, frame: str) -> None:
    """Cosines to bases know no scale of the head, so neither does the default training."""
    space, task, states = case
    module = copy.deepcopy(space.model.module)
    with torch.no_grad():
        module.lm_head.weight.mul_(16)
    larger = LatentSpace(LanguageModel(module, space.model.tokenizer, name="larger"))
    options = CalibrationOptions(target="head", frame=frame, epochs=12)
    own = drain(calibrate(space, states, task, options))
    other = drain(calibrate(larger, replace(states, model=larger.model.fingerprint), task, options))
    assert own.best_epoch == other.best_epoch > 0
    losses = [[epoch.valid_loss for epoch in one.history] for one in (own, other)]
    np.testing.assert_allclose(*losses, rtol=SCALED)
    assert losses[0][1] < 1.2 * losses[0][0]  # one epoch does not throw the rows away


def test_an_epoch_that_diverged_is_not_taken_for_the_best() -> None:
    """A validation loss of NaN counts as none only where there never was one."""
    weight = torch.nn.Parameter(torch.ones(2))
    best = BestSoFar([weight], 5, 1.0, 1.0, 0.5, 0.0)
    with torch.no_grad():
        weight.fill_(float("nan"))
    best.take(1, 0.9, float("nan"), 0.5)
    best.restore()
    assert best.epoch == 0
    assert weight.tolist() == [1.0, 1.0]
    blind = BestSoFar([weight], 5, 1.0, float("nan"), float("nan"), 0.0)
    with torch.no_grad():
        weight.fill_(3.0)
    blind.take(1, 0.9, float("nan"), float("nan"))
    blind.restore()
    assert blind.epoch == 1
    assert weight.tolist() == [3.0, 3.0]
