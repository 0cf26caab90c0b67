"""Any words asked of a saved calibration: what was typed, and the states that it is asked of.

Beside a comparison lie the test states that it was measured on: as the model leaves them, moved by
the calibration, and moved by the two controls. So words can be asked of it later without its texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from engine import LatentSpace
from engine.calibration.evidence.own_text import PLANE
from engine.calibration.evidence.plane import Plane
from engine.calibration.evidence.untaught import (
    Asked,
    Moved,
    Untaught,
    ask_by_words,
    measure_untaught,
)
from engine.calibration.evidence.untaught_words import TaskLabels, words_given
from engine.calibration.training.calibrated import Calibration
from engine.errors import ArtifactError, OptionError, shorten

MOVED: Final = "moved.safetensors"
ROWS: Final = 1000
"""Test texts whose states are kept at most, evenly chosen."""
HELP: Final = "write good, bad or a line such as positive = good, great for each label"


def words_by_label(text: str) -> dict[str, tuple[str, ...]]:
    """From ``label = word, word``, one label on a line or between semicolons.

    Raises:
        OptionError: a part without its label or its words.
    """
    found = {}
    for part in text.replace(";", "\n").splitlines():
        if not part.strip():
            continue
        label, sign, words = part.partition("=")
        given = words_of(words)
        if not sign or not label.strip() or not given:
            raise OptionError(f"{shorten(part.strip())!r} is no label = word, word; {HELP}.")
        found[label.strip()] = given
    return found


def words_of(text: str) -> tuple[str, ...]:
    """Words between commas, each once."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def save_moved(moved: Moved, truth: NDArray[np.int64], plane: Plane, path: Path) -> None:
    """Keep the states that a comparison was measured on, of :data:`ROWS` test texts at most, and
    the plane in which they are drawn."""
    chosen = torch.linspace(0, len(truth) - 1, min(ROWS, len(truth))).round().long()
    named = {"before": moved.before, "after": moved.after}
    for name in ("random", "shuffled"):
        named |= {f"{name}.{i}": own for i, own in enumerate(getattr(moved, name))}
    tensors = {name: own[chosen].float().contiguous() for name, own in named.items()}
    tensors |= dict(zip(PLANE, map(torch.from_numpy, (plane.axes, plane.centre)), strict=True))
    save_file({**tensors, "truth": torch.from_numpy(truth)[chosen].clone()}, path)


def load_states(path: Path) -> dict[str, torch.Tensor]:
    """What was kept.

    Raises:
        ArtifactError: nothing was, or it is damaged.
    """
    tensors: dict[str, torch.Tensor] = {}
    with suppress(OSError, SafetensorError):
        tensors = load_file(path)
    if not {"before", "after", "truth"} <= tensors.keys():
        raise ArtifactError(
            "The test states of this calibration were not kept or are damaged, so nothing more can"
            " be asked of it; run it again."
        )
    return tensors


def load_moved(path: Path) -> tuple[Moved, NDArray[np.int64]]:
    """The states of the test texts after each training, and their classes; raises as
    :func:`load_states` does."""
    tensors = load_states(path)
    parts: dict[str, Any] = {"before": tensors["before"], "after": tensors["after"]}
    for name in ("random", "shuffled"):
        parts[name] = tuple(own for key, own in tensors.items() if key.startswith(f"{name}."))
    return Moved(**parts), tensors["truth"].numpy()


def ask(
    space: LatentSpace,
    calibration: Calibration,
    held: tuple[Moved, NDArray[np.int64]],
    text: str,
) -> Untaught | Asked:
    """Accuracy by words for each label, or which of a list of words is nearest.

    Args:
        space: the calibration's model.
        calibration: what is asked.
        held: the states of its test texts, and their classes.
        text: ``label = word, word`` for each label, or words with commas.

    Raises:
        OptionError: words that cannot be used.
    """
    moved, truth = held
    labels = TaskLabels.from_info(calibration.task_info)
    if "=" not in text:
        return ask_by_words(space, calibration.options, labels, words_of(text), moved, truth)
    words = words_given(space, labels, words_by_label(text))
    device = calibration.centroids.labels.device
    said = calibration.read_calibrated(moved.after.to(device)).predicted.numpy()
    return measure_untaught(
        space,
        calibration.options,
        words,
        moved,
        truth,
        taught=float(np.mean(said == truth)),
        seed=calibration.options.seed,
    )


def document(found: Untaught | Asked) -> Mapping[str, Any]:
    """As JSON has it: ``measured`` or ``nearest``, the other null."""
    measured = found.to_dict() if isinstance(found, Untaught) else None
    nearest = found.to_dict() if isinstance(found, Asked) else None
    return {"measured": measured, "nearest": nearest}
