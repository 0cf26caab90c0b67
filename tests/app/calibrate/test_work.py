"""The steps of a calibration: each text goes through the model once, the parts are as foretold."""

from __future__ import annotations

from pathlib import Path

import planted_tasks
import pytest
from tiny_models import Spaces

from app.calibrate.work import calibration_steps
from engine.calibration.evidence.parts import calibration_parts
from engine.calibration.training import features
from engine.calibration.training.options import CalibrationOptions
from engine.progress import Progress

pytestmark = pytest.mark.slow


def test_each_text_is_read_once_and_the_parts_come_as_they_were_foretold(
    spaces: Spaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = spaces["llama"]
    task, _ = planted_tasks.planted(space, 60)
    options = CalibrationOptions(epochs=2, patience=0)
    read: list[tuple[int, ...]] = []
    text_states = features.text_states

    def counted(model: object, ids: list[tuple[int, ...]], **given: object) -> object:
        read.extend(ids)
        return text_states(model, ids, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "text_states", counted)
    told: list[Progress] = []
    steps = calibration_steps(space, task, options, tmp_path, compare=True)
    while True:
        try:
            told.append(next(steps))
        except StopIteration as end:
            made = end.value
            break
    texts = {ids for own in task.ids.values() for ids in own}
    assert sorted(read) == sorted(texts)
    assert made.comparison is not None
    assert made.comparison.layers is not None
    foretold = [part.name for part in calibration_parts(space, task, options, compare=True)]
    come = list(dict.fromkeys(step.part for step in told if step.part))
    assert come == foretold
    shares = [step.whole for step in told]
    assert None not in shares
    assert shares == sorted(shares)  # type: ignore[type-var]
