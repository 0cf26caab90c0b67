"""One text of somebody's own: where it stands before and after a calibration, and what is read.

It is put into the calibration's own template and read at its last position, as the texts were that
the calibration was trained and tested on, and it stands in the plane that those stand in. It was
no part of any measurement: one text shows how it works, and not how often.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from engine.calibration.evidence.plane import Plane, fit_plane
from engine.calibration.labelled.spec import TaskSpec, render
from engine.calibration.labelled.words import LabelToken
from engine.calibration.training.calibrated import Calibration, Prediction, centroids_for
from engine.calibration.training.readings import read_both
from engine.errors import ArtifactError, OptionError, PromptError, shorten
from engine.json_number import number
from engine.progress import Check, no_check
from engine.space import LatentSpace

PLANE: Final = ("plane.axes", "plane.centre")
"""What a plane is kept as."""


@dataclass(frozen=True)
class Stand:
    """The text at one moment."""

    x: float
    y: float
    """In the plane of the test texts."""
    label: str
    """The label that is read."""
    probability: float
    """Of that label, in [0, 1]."""
    probabilities: tuple[float, ...]
    """Of each label, in the calibration's order."""


@dataclass(frozen=True)
class OwnText:
    """One text before and after."""

    text: str
    prompt: str
    """What the model read."""
    labels: tuple[str, ...]
    before: Stand
    after: Stand

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""

        def side(one: Stand) -> dict[str, Any]:
            return vars(one) | {"x": number(one.x), "y": number(one.y)}

        return vars(self) | {"before": side(self.before), "after": side(self.after)}


def plane_of(space: LatentSpace, calibration: Calibration, tensors: Mapping[str, Tensor]) -> Plane:
    """The plane of a calibration's map, from what was kept beside it.

    Args:
        space: the model.
        calibration: of it.
        tensors: test states ``before`` and ``after``, and :data:`PLANE`; what was saved by an older
            version holds no plane, and it is made again of the states.
    """
    labels = [LabelToken.from_dict(one) for one in calibration.task_info["labels"]]
    bases = centroids_for(space, labels, calibration.options).labels.cpu()
    made = fit_plane(tensors["before"], tensors["after"], bases)
    if not set(PLANE) <= tensors.keys():
        return made
    axes, centre = (tensors[name].double().numpy() for name in PLANE)
    if axes.shape != made.axes.shape or centre.shape != made.centre.shape:
        raise ArtifactError("The map of this calibration is damaged; run it again.")
    return Plane(**(vars(made) | {"axes": axes, "centre": centre}))


def place_text(
    space: LatentSpace,
    calibration: Calibration,
    plane: Plane,
    text: str,
    *,
    check: Check = no_check,
) -> OwnText:
    """Read one text before and after a calibration.

    Args:
        space: the model that the calibration was trained on; called on its thread.
        calibration: of that model.
        plane: of its map.
        text: it stands where a row's text stands in the template.
        check: called between layers; raises to stop.

    Raises:
        ArtifactError: the calibration belongs to another model.
        PromptError: the text is empty or too long.
        OptionError: the template has places for more than one text.
    """
    calibration.check_model(space)
    if not text.strip():
        raise PromptError("the text is empty; write a sentence of your own.")
    spec = TaskSpec.from_dict(calibration.task_info["spec"])
    column = spec.text_columns[0]
    others = [one for one in spec.text_columns[1:] if f"{{{one}}}" in spec.template]
    if others:
        raise OptionError(
            f"this calibration's prompts have a place for {shorten(others[0])!r} besides the text,"
            " which one sentence does not fill; read a whole prompt in the trace."
        )
    prompt = render(spec.template, (column,), {column: text.strip()})
    ids = space.model.tokenize(prompt, bos=spec.bos).ids
    raw, moved, before, after = read_both(space, calibration, ids, last=True, check=check)

    def stand(states: Tensor, said: Prediction) -> Stand:
        [[x, y]] = plane.place(states).tolist()
        sure = said.probabilities[0].tolist()
        best = int(said.predicted[0])
        return Stand(x, y, calibration.label_names[best], sure[best], tuple(sure))

    return OwnText(
        text.strip(), prompt, calibration.label_names, stand(raw, before), stand(moved, after)
    )
