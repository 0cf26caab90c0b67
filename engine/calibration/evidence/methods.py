"""The methods by name: competitors, variants of calibration, controls.

Everything that is compared runs on the same rows with the same seed; what is left open by papers
is decided in the module of the method and said in its notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from engine.calibration.evidence import baselines, peft_tuning, probes, prompting, retrieval
from engine.calibration.evidence.protocol import Kind, Method, MethodContext, Outcome
from engine.calibration.labelled.tasks import shuffled_labels
from engine.calibration.training.train import calibrate
from engine.cost import measured
from engine.errors import OptionError, shorten
from engine.progress import Steps

PAPER: Final = "Gu et al. 2024, arXiv 2401.16184"


def _calibration(
    name: str,
    title: str,
    source: str = PAPER,
    kind: Kind = "calibration",
    *,
    shuffle: bool = False,
    **changes: Any,
) -> Method:
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
            moved = calibration.apply(context.states.normed["test"])
            found = calibration.read_calibrated(moved)
            scores = found.scores.double().cpu().numpy()
            probabilities = found.probabilities.double().cpu().numpy()
        kept = ("frame", "centroids", "loss", "inference", "target", "temperature")
        settings = {key: value for key, value in options.to_dict().items() if key in kept}
        settings["best_epoch"] = best = calibration.best_epoch
        last = len(calibration.history) - 1
        return Outcome(
            name,
            scores,
            probabilities,
            watch.train,
            watch.infer,
            calibration.stored_bytes,
            settings=settings,
            untaught=context.by_words(options, moved),
            notes=(calibration.warning or f"Epoch {best} of {last} by validation.",),
        )

    return Method(name, title, "states", kind, source, work)


VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "calibration-sm": {"target": "module", "loss": "sm", "inference": "sm"},
        "calibration-mm": {"target": "module", "loss": "mm", "inference": "sm"},
        "calibration-sm-gt": {"target": "module", "loss": "sm-gt", "inference": "sm"},
        "head-only": {"target": "head"},
    }
)
"""What a method fixes of the options of a calibration: the rest is as set."""
_SM: Final = VARIANTS["calibration-sm"]
_BASES: Final = f"{PAPER}, Alg. 1"


def _control(name: str, title: str, **changes: Any) -> Method:
    return _calibration(name, title, "ours", "control", **_SM, **changes)


_LORA, _IA3 = (partial(peft_tuning.adapter, kind=one) for one in peft_tuning.LEARNING_RATES)
_ALL: Final[tuple[Method, ...]] = (
    Method("zero-shot", "Zero-shot logits", "states", "model", "the model", prompting.zero_shot),
    Method("zero-shot-cosine", "Zero-shot cosine to bases", "states", "model", _BASES,
           prompting.zero_shot_cosine),
    Method("in-context", "In-context learning", "prompts", "model", "Brown et al. 2020",
           prompting.in_context),
    Method("contextual-calibration", "Contextual calibration", "prompts", "model",
           "Zhao et al. 2021", prompting.contextual_calibration),
    Method("knn-prompting", "kNN prompting", "prompts", "retrieval", "Xu et al. 2023",
           retrieval.knn_prompting),
    Method("knn-lm", "kNN-LM", "states", "retrieval", "Khandelwal et al. 2020", retrieval.knn_lm),
    Method("class-mean", "Nearest class mean", "states", "retrieval", "Tibshirani et al. 2002",
           retrieval.class_mean),
    Method("linear-probe", "Linear probe", "states", "trained", "Alain and Bengio 2017",
           probes.linear_probe),
    Method("lora", "LoRA", "gradients", "trained", "Hu et al. 2022", _LORA),
    Method("ia3", "IA3", "gradients", "trained", "Liu et al. 2022", _IA3),
    _calibration("calibration-sm", "Calibration [sm]", **_SM),
    _calibration("calibration-mm", "Calibration [mm]", **VARIANTS["calibration-mm"]),
    _calibration("calibration-sm-gt", "Calibration [sm-gt]", **VARIANTS["calibration-sm-gt"]),
    _calibration("head-only", "The head alone, same objective", "ours", **VARIANTS["head-only"]),
    Method("head-thresholds", "Head cosines with thresholds", "states", "control", "ours",
           baselines.head_thresholds),
    _control("random-bases", "Calibration to random bases", frame="random"),
    _control("head-rows", "Calibration to head rows", frame="head"),
    _control("input-rows", "Calibration to embedding rows", frame="input"),
    # The start at the identity gives the untrained reading, not chance.
    _control("shuffled-labels", "Calibration on shuffled labels", shuffle=True, start="random"),
)  # fmt: skip
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
