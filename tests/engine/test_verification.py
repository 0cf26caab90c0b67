"""Traces, calibrations and evaluations computed again: changed ones are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from method_tasks import quick_settings, sentences_csv, small_task
from safetensors.torch import load_file, save_file
from tiny_models import PROMPT, Spaces

from engine import LatentSpace
from engine.calibration.evidence.evaluation import evaluate
from engine.calibration.labelled.tables import Table, read_table
from engine.calibration.training.artifact import INFO, WEIGHTS, _digest, save
from engine.calibration.training.features import task_states
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.differences import differences
from engine.errors import ArtifactError, OptionError, PromptError, TokenError
from engine.progress import drain
from engine.verification import verify_calibration, verify_evaluation, verify_trace


@pytest.fixture(scope="module")
def space(spaces: Spaces) -> LatentSpace:
    return spaces["llama"]


@pytest.fixture(scope="module")
def table() -> Table:
    return read_table(sentences_csv(60), "small.csv")


def saved(space: LatentSpace, **options: Any) -> dict[str, Any]:
    """A trace as it comes back from a file."""
    trace = space.trace(PROMPT, **options)
    found: dict[str, Any] = json.loads(json.dumps(trace.to_dict()))
    return found


def test_differences_are_the_largest_and_the_first() -> None:
    given = {"a": [1.0, 2, None], "b": {"x": "one", "seconds": 4}, "c": True}
    assert differences(given, given).numbers == 3
    anew = {"a": [1.5, 2, None], "b": {"x": "two", "seconds": 9}, "c": True}
    found = differences(given, anew, ignored={"seconds"})
    assert (found.largest, found.differs) == (0.5, "a[0] differs")
    assert differences({"a": 1e6}, {"a": 1e6 + 1}).differs == ""  # 10⁻⁶ of its size
    assert differences({"a": 1e6}, {"a": 1e6 + 1}).largest == 1
    assert differences({"a": 1}, {"a": 2}).differs == "a differs"  # a count
    assert differences({"a": 0.0}, {"a": None}).largest == float("inf")
    assert differences({"a": 1, "b": 2}, {"a": 1}).differs == "the document has other fields"
    assert differences([1], [1, 2]).differs == "the document has another length"
    assert differences({"a": True}, {"a": 1}).differs == "a differs"


@pytest.mark.parametrize("options", [{}, {"frame": "dial", "alpha": 0.3, "ridge": 0.1, "k": 3}])
def test_a_trace_is_read_again_from_its_ids(space: LatentSpace, options: dict[str, Any]) -> None:
    document = saved(space, **options)
    space._traces.clear()
    report = verify_trace(space, document)
    assert report.ok, report.sentence
    assert report.largest_difference < 1e-4
    assert report.compared > 10 * len(document["cells"])
    cell = document["cells"][5]
    cell["top"][0]["score"] += 0.25
    report = verify_trace(space, document)
    assert not report.ok
    assert report.largest_difference == pytest.approx(0.25, abs=1e-4)
    assert "cells[5].top[0].score differs" in report.sentence


def test_a_trace_of_ids_is_the_trace_of_their_text(space: LatentSpace) -> None:
    plain = space.trace(PROMPT, k=4)
    ids = [token.id for token in plain.tokens]
    space._traces.clear()
    assert space.trace_ids(ids, plain.options).to_dict() == plain.to_dict()
    with pytest.raises(TokenError):
        space.trace_ids([space.model.vocabulary])
    with pytest.raises(PromptError):
        space.trace_ids([])


def test_what_is_no_trace_of_this_model_is_said(space: LatentSpace, spaces: Spaces) -> None:
    document = saved(space, k=2)
    other = verify_trace(spaces["gpt2"], document)
    assert not other.same_model
    assert "another model" in other.sentence
    for name in ("options", "tokens", "provenance", "model"):
        with pytest.raises(ArtifactError, match="no trace"):
            verify_trace(space, {key: one for key, one in document.items() if key != name})
    with pytest.raises(ArtifactError, match="no trace"):
        verify_trace(space, document | {"options": {"geometry": "round"}})
    changed = document | {
        "tokens": [document["tokens"][0] | {"text": "x"}, *document["tokens"][1:]]
    }
    assert "tokens[0].text differs" in verify_trace(space, changed).sentence


@pytest.mark.slow
def test_a_calibration_is_trained_again(space: LatentSpace, table: Table, tmp_path: Path) -> None:
    """The same rows give the same weights; a weight that was changed is found and measured."""
    task = small_task(space, rows=60)
    options = CalibrationOptions(epochs=4)
    states = drain(task_states(space, task, layers=(-1,)))
    folder = save(drain(calibrate(space, states, task, options)), tmp_path / "kept")
    report = drain(verify_calibration(space, folder, table))
    assert report.ok, report.sentence
    assert report.largest_difference < 1e-4
    weights = load_file(folder / WEIGHTS)
    assert report.compared > sum(tensor.numel() for tensor in weights.values())
    name = next(name for name in weights if name.startswith("module.") and weights[name].dim() > 1)
    weights[name] = weights[name].clone()
    weights[name].view(-1)[0] += 0.5
    save_file(weights, folder / WEIGHTS)
    info = json.loads((folder / INFO).read_text())
    info["weights_digest"] = _digest(folder / WEIGHTS)  # a forger writes a sound folder
    (folder / INFO).write_text(json.dumps(info))
    report = drain(verify_calibration(space, folder, table))
    assert not report.ok
    assert report.largest_difference == pytest.approx(0.5, abs=1e-3)
    assert f"{name} differs" in report.sentence
    other = read_table(sentences_csv(50), "small.csv")
    with pytest.raises(OptionError, match="these rows are not those"):
        drain(verify_calibration(space, folder, other))


@pytest.mark.slow
def test_an_evaluation_is_run_again(space: LatentSpace, table: Table) -> None:
    def draw(seed: int):
        return small_task(space, rows=60, seed=seed)

    names = ["zero-shot,class-mean,calibration-sm"]
    found = drain(evaluate(space, [draw], names, [0, 1], settings=quick_settings()))
    document = json.loads(json.dumps(found.to_dict(), default=lambda one: one.tolist()))
    report = drain(verify_evaluation(space, document, [(table, None)]))
    assert report.ok, report.sentence
    assert report.largest_difference < 1e-4
    method = document["methods"][2]
    method["tasks"]["small"]["accuracy"]["value"] += 0.1
    report = drain(verify_evaluation(space, document, [(table, None)]))
    assert not report.ok
    assert "accuracy.value differs" in report.sentence
    assert report.largest_difference == pytest.approx(0.1)
    with pytest.raises(OptionError, match="1 data sets"):
        drain(verify_evaluation(space, document, []))
    with pytest.raises(OptionError, match="these rows are not those"):
        drain(verify_evaluation(space, document, [(read_table(sentences_csv(50), "x.csv"), None)]))
    with pytest.raises(ArtifactError, match="no evaluation"):
        drain(verify_evaluation(space, {"model": {}}, []))


def test_weights_of_a_model_decide_whose_calibration_it_is(tmp_path: Path, spaces: Spaces) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    info = {
        "format": "lexiscope calibration 1",
        "task": {},
        "model": {"fingerprint": "x", "name": "y"},
    }
    (folder / INFO).write_text(json.dumps(info))
    save_file({"a": torch.zeros(1)}, folder / WEIGHTS)
    table = read_table(sentences_csv(50), "small.csv")
    report = drain(verify_calibration(spaces["llama"], folder, table))
    assert not report.same_model
