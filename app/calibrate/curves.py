"""The curves of a calibration: how it learned, and what each layer of the model knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.calibrate.words import Numbers, share
from app.figures import calibrate as figures
from app.figures.calibrate import Chart, Series
from app.jobs.panel import curves
from app.web.words import seconds


@dataclass(frozen=True)
class Learning:
    """How the training went."""

    loss: Chart
    accuracy: Chart
    sentence: str


def learning(history: Sequence[Numbers], best: int | None, seconds_spent: float) -> Learning | None:
    """The curves of the training; None where nothing was trained."""
    epochs = [{"epoch": entry["number"], **entry} for entry in history]
    if not epochs:
        return None
    loss, accuracy = curves(epochs, best)
    last = int(epochs[-1]["epoch"])
    kept = f"kept that of epoch {best}, the best on the validation texts, " if best else ""
    return Learning(
        loss,
        accuracy,
        f"It went {last} epochs over the training texts, {kept}and took {seconds(seconds_spent)}.",
    )


def layer_curves(comparison: Numbers) -> Chart | None:
    """Accuracy of the bases and of a linear probe by layer; None where it was not measured."""
    curve = comparison.get("layers")
    if not curve:
        return None
    xs = [float(layer) for layer in curve["layers"]]

    def series(name: str, parts: Sequence[Numbers], colour: int, dash: str = "") -> Series:
        return Series(
            name,
            xs,
            [p["value"] for p in parts],
            [p.get("low") for p in parts],
            [p.get("high") for p in parts],
            colour,
            dash,
            dotted=True,
        )

    made = [series("nearest label basis", curve["reading"], 0)]
    if curve.get("probe"):
        made.append(series("linear probe", curve["probe"], 2, "6 4"))
    after = curve.get("after")
    if after:
        made.append(Series("after calibration", [xs[-1]], [after["value"]], colour=1, dotted=True))
    return figures.chart(
        made,
        label="Accuracy on the test texts of the nearest label basis and of a linear probe, layer "
        "by layer",
        x_title="layer (0 is the embedding)",
        y_title="accuracy",
        y_range=(0.0, 1.0),
        level=(float(comparison["chance"]), f"largest class {share(comparison['chance'])}"),
        shares=True,
    )


def layers_sentence(comparison: Numbers) -> str:
    """Where the label can be read best, in a sentence."""
    curve = comparison.get("layers")
    if not curve or not curve.get("probe"):
        return ""
    best = max(range(len(curve["probe"])), key=lambda i: curve["probe"][i]["value"])
    read = max(range(len(curve["reading"])), key=lambda i: curve["reading"][i]["value"])
    probe, bases = curve["layers"][best], curve["layers"][read]
    reached = share(curve["reading"][read]["value"])
    by_bases = (
        f"and by the nearest label basis ({reached})"
        if probe == bases
        else f"and at layer {bases} by the nearest label basis ({reached})"
    )
    return (
        f"The labels can be read best at layer {probe} by a linear probe"
        f" ({share(curve['probe'][best]['value'])}) {by_bases}; where the probe stands"
        " high and the bases low, the label is there but not in the direction of its word."
    )
