"""A text of one's own: a test text that is typed in stands and reads as in the comparison."""

from __future__ import annotations

import numpy as np
import planted_tasks
import pytest
import torch
from tiny_models import Spaces

from engine.calibration.evidence.own_text import PLANE, place_text, plane_of
from engine.calibration.evidence.plane import fit_plane
from engine.calibration.training.calibrated import untrained
from engine.calibration.training.features import task_states
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.errors import OptionError, PromptError
from engine.progress import drain

ROUNDING = 2e-4
"""Texts in a batch are padded, one alone is not: other sums."""


@pytest.mark.parametrize("labels", [("king", "cat", "dog"), ("king", "cat")])
def test_a_test_text_stands_where_the_map_has_it(spaces: Spaces, labels: tuple[str, ...]) -> None:
    space = spaces["llama"]
    table = planted_tasks.table(40, labels)
    spec = planted_tasks.TaskSpec(template="{text}\nIt:", seed=3)
    task = planted_tasks.make_task(spec, table, space.model)
    states = drain(task_states(space, task))
    options = CalibrationOptions(epochs=3, patience=0)
    trained = drain(calibrate(space, states, task, options))
    before, after = states.normed["test"], trained.apply(states.normed["test"])
    plain = untrained(space, task, options)
    drawn = fit_plane(before, after, plain.centroids.labels)
    held = {"before": before, "after": after}
    kept = dict(zip(PLANE, map(torch.from_numpy, (drawn.axes, drawn.centre)), strict=True))
    said = {"before": plain.read_calibrated(before), "after": trained.read_calibrated(after)}
    for row in (0, len(before) - 1):
        for tensors in (held | kept, held):  # an older version kept no plane
            plane = plane_of(space, trained, tensors)
            found = place_text(space, trained, plane, f" {task.texts['test'][row]} ")
            assert found.prompt == task.prompts["test"][row]
            for name, one in (("before", found.before), ("after", found.after)):
                place = getattr(drawn, name)[row]
                np.testing.assert_allclose((one.x, one.y), place, atol=ROUNDING)
                sure = said[name].probabilities[row].numpy()
                np.testing.assert_allclose(one.probabilities, sure, atol=ROUNDING)
                assert one.label == task.label_names[int(said[name].predicted[row])]
                assert one.probability == max(one.probabilities)
    with pytest.raises(PromptError, match="empty"):
        place_text(space, trained, drawn, "  ")


def test_a_template_with_places_for_two_texts_is_a_sentence(spaces: Spaces) -> None:
    space = spaces["llama"]
    rows = planted_tasks.table(40).rows
    two = [planted_tasks.Row(row.line, {**row.values, "more": row.values["text"]}) for row in rows]
    table = planted_tasks.Table("two.csv", ("text", "more", "label"), tuple(two), ())
    spec = planted_tasks.TaskSpec(template="{text} {more}:", text_columns=("text", "more"))
    task = planted_tasks.make_task(spec, table, space.model)
    states = drain(task_states(space, task))
    trained = drain(calibrate(space, states, task, CalibrationOptions(epochs=1)))
    plane = plane_of(space, trained, {"before": states.normed["test"],
                                      "after": states.normed["test"]})  # fmt: skip
    with pytest.raises(OptionError, match="more"):
        place_text(space, trained, plane, "the cat")
