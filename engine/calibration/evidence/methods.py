"""The methods by name: competitors, variants of calibration, controls.

Everything that is compared runs on the same rows with the same seed; what is left open by papers
is decided in the module of the method and said in its notes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from engine.calibration.evidence import peft_tuning, probes, prompting, retrieval
from engine.calibration.evidence.protocol import Method, MethodContext, Outcome, Plain
from engine.calibration.labelled.tasks import shuffled_labels
from engine.calibration.training.train import calibrate
from engine.cost import measured
from engine.errors import OptionError, shorten
from engine.progress import Steps

PAPER: Final = "Gu et al. 2024, arXiv 2401.16184"


def _calibration(
    name: str, *, shuffle: bool = False, **changes: Any
) -> Callable[[MethodContext], Steps[Outcome]]:
    """Calibration with some settings fixed; on shuffled training labels for the control."""

    def work(context: MethodContext) -> Steps[Outcome]:
        options = replace(context.settings.calibration, seed=context.seed, **changes)
        task = shuffled_labels(context.task, context.seed) if shuffle else context.task
        states = replace(context.states, task=task.fingerprint)  # the same texts, other labels
        calibration, seconds = yield from context.timed(
            calibrate(context.space, states, task, options)
        )
        watch = context.stopwatch(context.train_seconds + seconds, context.test_seconds)
        with watch.inferring():
            found = calibration.read(context.states.normed["test"])
            scores = found.scores.double().cpu().numpy()
            probabilities = found.probabilities.double().cpu().numpy()
        kept = ("frame", "centroids", "loss", "inference", "target", "temperature")
        settings = {key: value for key, value in options.to_dict().items() if key in kept}
        settings["best_epoch"] = calibration.best_epoch
        return Outcome(
            name,
            scores,
            probabilities,
            watch.train,
            watch.infer,
            calibration.stored_bytes,
            settings=settings,
            notes=(f"Epoch {calibration.best_epoch} of {len(calibration.history)} by validation.",),
        )

    return work


VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "calibration-sm": {"target": "module", "loss": "sm", "inference": "sm"},
        "calibration-mm": {"target": "module", "loss": "mm", "inference": "sm"},
        "calibration-sm-gt": {"target": "module", "loss": "sm-gt", "inference": "sm"},
        "head-only": {"target": "head"},
    }
)
"""What a method fixes of the options of a calibration: the rest is as set."""


_ALL: Final[tuple[Method, ...]] = (
    Plain("zero-shot", "Zero-shot logits", "states", "model", "the model", prompting.zero_shot),
    Plain(
        "zero-shot-cosine",
        "Zero-shot cosine to bases",
        "states",
        "model",
        f"{PAPER}, Alg. 1",
        prompting.zero_shot_cosine,
    ),
    Plain(
        "in-context",
        "In-context learning",
        "prompts",
        "model",
        "Brown et al. 2020",
        prompting.in_context,
    ),
    Plain(
        "contextual-calibration",
        "Contextual calibration",
        "prompts",
        "model",
        "Zhao et al. 2021",
        prompting.contextual_calibration,
    ),
    Plain(
        "knn-prompting",
        "kNN prompting",
        "prompts",
        "retrieval",
        "Xu et al. 2023",
        retrieval.knn_prompting,
    ),
    Plain("knn-lm", "kNN-LM", "states", "retrieval", "Khandelwal et al. 2020", retrieval.knn_lm),
    Plain(
        "class-mean",
        "Nearest class mean",
        "states",
        "retrieval",
        "Tibshirani et al. 2002",
        retrieval.class_mean,
    ),
    Plain(
        "linear-probe",
        "Linear probe",
        "states",
        "trained",
        "Alain and Bengio 2017",
        probes.linear_probe,
    ),
    Plain("lora", "LoRA", "gradients", "trained", "Hu et al. 2022", peft_tuning.lora),
    Plain("ia3", "IA3", "gradients", "trained", "Liu et al. 2022", peft_tuning.ia3),
    Plain(
        "calibration-sm",
        "Calibration [sm]",
        "states",
        "calibration",
        PAPER,
        _calibration("calibration-sm", **VARIANTS["calibration-sm"]),
    ),
    Plain(
        "calibration-mm",
        "Calibration [mm]",
        "states",
        "calibration",
        PAPER,
        _calibration("calibration-mm", **VARIANTS["calibration-mm"]),
    ),
    Plain(
        "calibration-sm-gt",
        "Calibration [sm-gt]",
        "states",
        "calibration",
        PAPER,
        _calibration("calibration-sm-gt", **VARIANTS["calibration-sm-gt"]),
    ),
    Plain(
        "head-only",
        "The head alone, same objective",
        "states",
        "calibration",
        "ours",
        _calibration("head-only", **VARIANTS["head-only"]),
    ),
    Plain(
        "random-bases",
        "Calibration to random bases",
        "states",
        "control",
        "ours",
        _calibration("random-bases", target="module", loss="sm", inference="sm", frame="random"),
    ),
    Plain(
        "head-rows",
        "Calibration to head rows",
        "states",
        "control",
        "ours",
        _calibration("head-rows", target="module", loss="sm", inference="sm", frame="head"),
    ),
    Plain(
        "input-rows",
        "Calibration to embedding rows",
        "states",
        "control",
        "ours",
        _calibration("input-rows", target="module", loss="sm", inference="sm", frame="input"),
    ),
    Plain(
        "shuffled-labels",
        "Calibration on shuffled labels",
        "states",
        "control",
        "ours",
        _calibration(
            "shuffled-labels",
            shuffle=True,
            start="random",  # the start at the identity gives the untrained reading, not chance
            target="module",
            loss="sm",
            inference="sm",
        ),
    ),
)
METHODS: Final[Mapping[str, Method]] = MappingProxyType({m.name: m for m in _ALL})
"""Every method by name, in the order of the tables."""


def methods_named(names: str) -> tuple[Method, ...]:
    """Methods from ``all``, ``fast`` (nothing but the zero-shot states) or names with commas.

    Raises:
        OptionError: an unknown name, or none.
    """
    if names == "all":
        return _ALL
    if names == "fast":
        return tuple(m for m in _ALL if m.needs == "states")
    chosen = list(dict.fromkeys(word.strip() for word in names.split(",") if word.strip()))
    unknown = [n for n in chosen if n not in METHODS]
    if unknown or not chosen:
        raise OptionError(
            f"methods must be all, fast or some of {', '.join(METHODS)}; got"
            f" {shorten(unknown[0] if unknown else names)!r}."
        )
    return tuple(METHODS[n] for n in chosen)


def run_method(method: Method, context: MethodContext) -> Steps[Outcome]:
    """Run one and add its peak memory.

    The peak is that of the whole process: where others work between the steps, theirs is in it.
    """
    with measured(context.space.model.anatomy.weight.device) as spent:
        outcome = yield from method.run(context)
    return replace(outcome, peak_bytes=spent.bytes)
