"""A finished calibration with plausible figures, in the shape in which it is saved."""

from __future__ import annotations

from typing import Any

import numpy as np

NAMES = ("world", "sports", "business", "technology")
TEXTS = (
    "Ministers left the overnight talks without a ceasefire, though both sides agreed to meet.",
    "Her second-half header sent the visitors through to the quarter-final.",
    "The retailer cut its forecast after a weak autumn and closed forty shops.",
    "The new phone keeps its charge for three days, the maker says.",
)


def part(value: float, half: float = 0.08) -> dict[str, float]:
    """A figure with its interval."""
    return {"value": value, "low": max(-1.0, value - half), "high": min(1.0, value + half)}


def side(counts: np.ndarray, ece: float, pull: float) -> dict[str, Any]:
    """One side of the comparison, out of its confusion matrix."""
    total, right = counts.sum(), np.trace(counts)
    classes = []
    for i, name in enumerate(NAMES):
        hit = counts[i, i]
        precision = hit / max(1, counts[:, i].sum())
        recall = hit / max(1, counts[i].sum())
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        classes.append({"label": name, "precision": precision, "recall": recall, "f1": f1,
                        "support": int(counts[i].sum())})  # fmt: skip
    return {
        "accuracy": part(right / total),
        "macro_f1": part(float(np.mean([c["f1"] for c in classes]))),
        "ece": part(ece, 0.04),
        "ari": pull - 0.15,
        "nmi": pull - 0.1,
        "own_similarity": part(pull, 0.02),
        "margin": part(pull - 0.25, 0.03),
        "knn": {"1": part(0.6 + pull / 5), "16": part(0.65 + pull / 5), "256": part(0.66)},
        "confusion": counts.tolist(),
        "per_class": classes,
    }


def comparison(seed: int = 3, per_class: int = 20) -> dict[str, Any]:
    """What compare_before_after writes down."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), per_class)
    n = len(labels)
    bases = np.array([[-2.4, 1.7], [2.6, 1.9], [-2.2, -1.9], [2.3, -2.0]])
    drift = np.array([[0.4, 0.3], [1.0, 0.2], [0.1, -0.5], [0.5, -0.2]])
    before = drift[labels] * 0.8 + rng.normal(0, 0.75, (n, 2))
    after = bases[labels] * 0.85 + rng.normal(0, 0.45, (n, 2))
    lost = rng.random(n) < 0.16
    after[lost] = bases[(labels[lost] + rng.integers(1, 4, lost.sum())) % 4] * 0.7

    def nearest(points: np.ndarray) -> np.ndarray:
        return np.argmin(((points[:, None] - bases[None]) ** 2).sum(-1), axis=1)

    old, new = nearest(before), nearest(after)
    counts = [np.zeros((4, 4), int), np.zeros((4, 4), int)]
    rows = []
    for i in range(n):
        y, a, b = int(labels[i]), int(old[i]), int(new[i])
        counts[0][y, a] += 1
        counts[1][y, b] += 1
        kind = None
        if a != b:
            kind = "fixed" if b == y else "broken" if a == y else "changed"
        text = f"{TEXTS[y]} ({i})"
        rows.append({
            "index": i, "text": text, "prompt": f"Input: {text}\nType:", "label": NAMES[y],
            "predicted_before": NAMES[a], "predicted_after": NAMES[b],
            "probability_before": float(rng.uniform(0.26, 0.4)),
            "probability_after": float(rng.uniform(0.5, 0.98)), "flip": kind,
        })  # fmt: skip
    left, right = side(counts[0], 0.14, 0.18), side(counts[1], 0.06, 0.74)
    gain = right["accuracy"]["value"] - left["accuracy"]["value"]
    reading = [0.25, 0.27, 0.26, 0.29, 0.31, 0.36, left["accuracy"]["value"]]
    probe = [0.55, 0.6, 0.68, 0.74, 0.8, 0.84, 0.86]
    return {
        "sentence": "Calibration raised the accuracy on 80 test texts from "
        f"{left['accuracy']['value']:.0%} to {right['accuracy']['value']:.0%}; it is on a par with"
        " a linear probe on the same states, within the interval.",
        "task": {"name": "topics", "label_names": list(NAMES),
                 "label_words": ["world", "sports", "business", "technology"],
                 "train": 216, "valid": 24, "test": n},
        "chance": 0.25,
        "before": left,
        "after": right,
        "difference": {"accuracy": part(gain, 0.11), "macro_f1": part(gain, 0.11)},
        "warning": "",
        "baseline": {"name": "logits", "title": "the model's own answer", "accuracy": part(0.34),
                     "difference": part(right["accuracy"]["value"] - 0.34, 0.11)},
        "logits": {"accuracy": part(0.34)},
        "thresholds": {"accuracy": part(0.5), "macro_f1": part(0.5), "difference": part(0.3)},
        "probe": {"accuracy": part(0.86, 0.07), "difference": part(-0.02, 0.07), "settings": {}},
        "controls": [
            {"name": "shuffled-labels", "title": "Shuffled labels", "accuracy": part(0.26),
             "difference": part(0.5), "at_chance": True},
            {"name": "random-bases", "title": "Random bases", "accuracy": part(0.8),
             "difference": part(0.04), "at_chance": False},
        ],
        "layers": {"layers": list(range(7)), "reading": [part(x) for x in reading],
                   "probe": [part(x, 0.07) for x in probe], "after": right["accuracy"]},
        "map": {"before": before.tolist(), "after": after.tolist(), "bases": bases.tolist(),
                "labels": list(NAMES), "variance_shown_before": 0.31,
                "variance_shown_after": 0.72,
                "fitted_on": "principal components of the states before and the label words'"
                " bases"},
        "rows": rows,
        "flips": {k: sum(r["flip"] == k for r in rows) for k in ("fixed", "broken", "changed")},
        "seconds": 3.4,
    }  # fmt: skip


def history(epochs: int = 60) -> list[dict[str, Any]]:
    """A training that learns and then over-fits a little."""
    rng = np.random.default_rng(1)
    return [
        {"number": e, "train_loss": 1.39 * np.exp(-e / 16) + 0.12 + rng.normal(0, 0.004),
         "valid_loss": 1.33 * np.exp(-e / 14) + 0.3 + 0.002 * e + rng.normal(0, 0.008),
         "valid_accuracy": 0.25 + 0.6 * (1 - np.exp(-e / 9)), "seconds": 0.1 * e}
        for e in range(epochs + 1)
    ]  # fmt: skip


def competitors() -> dict[str, Any]:
    """What evaluate writes down."""
    table = [
        ("zero-shot", "Zero-shot logits", "model", 0.34, 0.0),
        ("in-context", "In-context learning", "model", 0.4, 0.0),
        ("contextual-calibration", "Contextual calibration", "model", 0.42, 0.1),
        ("knn-prompting", "kNN prompting", "retrieval", 0.74, 4.1),
        ("class-mean", "Nearest class mean", "retrieval", 0.81, 0.01),
        ("linear-probe", "Linear probe", "trained", 0.86, 0.4),
        ("lora", "LoRA", "trained", 0.88, 190.0),
        ("calibration-sm", "Calibration (cosine)", "calibration", 0.84, 6.0),
        ("calibration-sm-gt", "Calibration (own basis only)", "calibration", 0.8, 5.0),
        ("shuffled-labels", "Shuffled labels", "control", 0.26, 6.0),
    ]
    return {
        "tasks": [{"name": "topics"}],
        "methods": [
            {"name": name, "title": title, "kind": kind, "left_out": {}, "tasks": {"topics": {
                "accuracy": part(a), "macro_f1": part(a - 0.01), "seconds_train": s,
                "seconds_infer": 0.8, "peak_bytes": 180_000_000.0, "stored_bytes": 9_700_000.0,
                "notes": []}}}
            for name, title, kind, a, s in table
        ] + [{"name": "ia3", "title": "IA3", "kind": "trained", "tasks": {},
              "left_out": {"topics": "the package peft is not installed."}}],
        "findings": [
            {"text": "Calibration is better than kNN prompting by 10 points.", "verdict": "met",
             "goal": "at least kNN prompting"},
            {"text": "It is on a par with the linear probe.", "verdict": "said", "goal": ""},
            {"text": "It takes more than half the time.", "verdict": "missed", "goal": "half"},
        ],
        "seeds": [0, 1, 2],
    }  # fmt: skip


def ablation() -> dict[str, Any]:
    """What ablate writes down."""
    rng = np.random.default_rng(5)
    rows = []
    for i, basis in enumerate(("output", "head", "input", "tight", "random")):
        for loss in ("none", "sm", "mm", "sm-gt"):
            for read in ("sm", "mm"):
                value = 0.84 - 0.01 * i + float(rng.normal(0, 0.02))
                trained = loss != "none"
                accuracy = part(value if trained else 0.26 + 0.02 * (4 - i))
                rows.append(
                    {
                        "basis": basis,
                        "similarity": "cosine",
                        "loss": loss,
                        "inference": read,
                        "trained": trained,
                        "accuracy": accuracy,
                    }
                )
    return {"rows": rows, "sentence": "No basis is better than another beyond the interval."}
