"""The tables under a finished calibration: its rivals, the ablation, its settings.

As `app.calibrate.result`: saved figures in, finished text out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.calibrate.words import Numbers, between, share
from app.figures import calibrate as figures
from app.figures.calibrate import Dot
from app.web.words import seconds, size
from engine.frames import kinds

KINDS: Mapping[str, str] = {
    "model": "The model alone",
    "retrieval": "Retrieval from labelled texts",
    "trained": "Trained on the labels",
    "calibration": "Calibration",
    "control": "Controls: what chance and other bases give",
}


LOSSES: Mapping[str, str] = {
    "sm": "cosine",
    "mm": "product",
    "sm-gt": "own basis only",
    "sm-exp": "cosine, exponential",
    "mm-exp": "product, exponential",
}


TARGETS: Mapping[str, str] = {
    "module": "the calibration module, on the last state",
    "head": "a copy of the output head",
    "lora": "the model's layers by LoRA",
    "layers:all": "all layers of the model",
}


FRAMES: Mapping[str, str] = {
    one.name: one.title
    for one in sorted(
        kinds.FRAMES.values(), key=lambda one: (one.control, one.name != "output", one.name)
    )
}
"""The paper's bases first, controls last."""


@dataclass(frozen=True)
class MethodRow:
    """A method of the table of competitors."""

    name: str
    this: bool
    """Whether it is the calibration that the page is about."""
    dot: Dot | None
    accuracy: str
    interval: str
    macro_f1: str
    clusters: str
    """Adjusted Rand index and normalised mutual information; empty where they were not kept."""
    untaught: str
    """Accuracy by words that were never taught, with its interval; empty where it reads by none."""
    train: str
    infer: str
    memory: str
    stored: str
    note: str
    mark: str
    """Where nothing that was trained is in its figures."""


@dataclass(frozen=True)
class Competitors:
    """All methods on the same split."""

    findings: tuple[tuple[str, str, str], ...]
    """Sentences about all methods: whether a goal that was set beforehand is met (``ok``, ``fail``
    or ``note``), its sign, the text."""
    groups: tuple[tuple[str, bool, tuple[MethodRow, ...]], ...]
    """Methods of one kind: its name, whether they are controls, the methods."""
    left_out: tuple[str, ...]
    """Methods that could not be run, each with the reason."""
    seeds: str


@dataclass(frozen=True)
class Heat:
    """A cell of the ablation."""

    text: str
    interval: str
    heat: int
    best: bool


@dataclass(frozen=True)
class AblationTable:
    """Basis by loss and inference."""

    sentence: str
    marked: bool
    """Whether some figures, those with a star, hold nothing of a training."""
    losses: tuple[str, ...]
    """The first line of the head; each stands over its readings."""
    readings: tuple[str, ...]
    rows: tuple[tuple[str, bool, tuple[Heat | None, ...]], ...]
    """Each basis: its name, whether it is a control, and its cells: the reading without training,
    then each loss and inference after training."""


def competitors(evaluation: Numbers, own: str) -> Competitors:
    """The table of methods.

    Args:
        evaluation: what `Evaluation.to_dict` wrote for one task
            (`engine.calibration.evidence.evaluation`).
        own: the method that corresponds to the calibration of the page.
    """
    task = evaluation["tasks"][0]["name"]
    groups: dict[str, list[MethodRow]] = {}
    left_out = []
    for method in evaluation["methods"]:
        cell = method["tasks"].get(task)
        if cell is None:
            why = method["left_out"].get(task)
            left_out += [f"{method['title']}: {why}"] if why else []
            continue
        accuracy = cell["accuracy"]
        groups.setdefault(method["kind"], []).append(
            MethodRow(
                name=str(method["title"]),
                this=method["name"] == own,
                dot=figures.dot(accuracy["value"], accuracy["low"], accuracy["high"]),
                accuracy=share(accuracy["value"], 1),
                interval=between(accuracy),
                macro_f1=share(cell["macro_f1"]["value"], 1),
                clusters=f"{cell['ari']:.2f} {cell['nmi']:.2f}" if "ari" in cell else "",
                untaught=_untaught(cell.get("untaught")),
                train=seconds(cell["seconds_train"]),
                infer=seconds(cell["seconds_infer"]),
                memory=size(cell["peak_bytes"]),
                stored=size(cell["stored_bytes"]) if cell["stored_bytes"] else "nothing",
                note=" ".join(str(note) for note in cell["notes"]),
                mark="best epoch 0: the start" if cell.get("kept_start") else "",
            )
        )
    seeds = len(evaluation["seeds"])
    signs = {"met": ("ok", "✓"), "missed": ("fail", "✗")}
    return Competitors(
        findings=tuple(
            (*signs.get(one["verdict"], ("note", "i")), str(one["text"]))
            for one in evaluation["findings"]
        ),
        groups=tuple(
            (KINDS.get(kind, kind), kind == "control", tuple(groups[kind]))
            for kind in (*KINDS, *(set(groups) - set(KINDS)))
            if kind in groups
        ),
        left_out=tuple(left_out),
        seeds=f"{seeds} seed{'s' if seeds != 1 else ''}",
    )


def _untaught(part: Numbers | None) -> str:
    return f"{share(part['value'], 1)}, {between(part)}" if part else ""


def ablation(table: Numbers) -> AblationTable:
    """Basis by loss and inference; deeper colour is more accurate."""
    rows = table["rows"]
    layers = list(dict.fromkeys(row.get("layer") for row in rows))  # not kept at first
    bases = list(dict.fromkeys(row["basis"] for row in rows))
    losses = list(dict.fromkeys(row["loss"] if row["trained"] else "" for row in rows))
    readings = list(dict.fromkeys(row["inference"] for row in rows))
    found = {
        (
            row.get("layer"),
            row["basis"],
            row["loss"] if row["trained"] else "",
            row["inference"],
        ): row
        for row in rows
    }
    values = [row["accuracy"]["value"] for row in rows]
    low, high = min(values), max(values)

    def cell(row: Numbers | None) -> Heat | None:
        if row is None:
            return None
        part, mark = row["accuracy"], "*" * bool(row.get("kept_start"))
        depth = 0 if high <= low else round(6 * (part["value"] - low) / (high - low))
        text = share(part["value"]) + mark
        return Heat(text, between(part), depth, part["value"] == high)

    return AblationTable(
        sentence=str(table["sentence"]),
        marked=any(row.get("kept_start") for row in rows),
        losses=tuple(LOSSES.get(loss, loss) if loss else "not trained" for loss in losses),
        readings=tuple("cosine" if one == "sm" else "product" for one in readings),
        rows=tuple(
            (
                f"layer {layer}: " * (len(layers) > 1) + FRAMES.get(basis, basis),
                basis in kinds.FRAMES and kinds.FRAMES[basis].control,
                tuple(
                    cell(found.get((layer, basis, loss, one)))
                    for loss in losses
                    for one in readings
                ),
            )
            for layer in layers
            for basis in bases
        ),
    )


def changed_words(changed: Numbers) -> str:
    """What differs from the default settings, in a line."""
    words = {"inference": {"sm": "cosine", "mm": "product"}, "loss": LOSSES, "frame": FRAMES}
    names = {
        "target": "", "loss": "loss: ", "frame": "bases: ", "inference": "read by ",
        "learning_rate": "learning rate ", "train": "texts to learn from at most ",
        "batch": "texts per step ",
    }  # fmt: skip

    def said(key: str, value: Any) -> str:
        if key == "target":
            return TARGETS.get(str(value), str(value)).removeprefix("the ")
        if key == "epochs":
            return f"{value} epochs at most"
        if key == "centroids":
            return "all bases compete"
        if key == "inference_over":
            return "probabilities over the vocabulary"
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        return names.get(key, key.replace("_", " ") + " ") + words.get(key, {}).get(shown, shown)

    return ", ".join(said(key, value) for key, value in changed.items()) or "default settings"


def facts(
    settings: Numbers, task: Numbers, more: Sequence[tuple[str, str]]
) -> tuple[tuple[str, str], ...]:
    """What it was made with, for a person."""

    def number(value: Any) -> str:
        if value == -1:
            return "last"
        return f"{value:g}" if isinstance(value, float) else str(value)

    target = str(settings.get("target", "module"))
    lines: list[tuple[str, str]] = [*more]
    lines += [
        ("What is trained", TARGETS.get(target, target)),
        ("Bases", FRAMES.get(str(settings.get("frame")), str(settings.get("frame")))),
        ("Centroids", "of the label words" if settings.get("centroids") == "labels" else
         "of the whole vocabulary"),
        ("Loss", LOSSES.get(str(settings.get("loss")), str(settings.get("loss")))),
    ]  # fmt: skip
    names = (
        ("temperature", "Temperature"), ("learning_rate", "Learning rate"), ("epochs", "Epochs"),
        ("batch", "Batch"), ("patience", "Patience"), ("layer", "Layer"), ("seed", "Seed"),
    )  # fmt: skip
    lines += [(name, number(settings[key])) for key, name in names if settings.get(key) is not None]
    if task.get("template"):
        lines.append(("Template", str(task["template"]).replace("\n", " ⏎ ")))
    return tuple(lines)
