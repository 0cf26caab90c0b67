"""What figures and pages call layers, scores and distances: one name each, with its unit."""

from __future__ import annotations

GEOMETRIES = (
    ("cosine", "cosine", "The angle to each token's vector; the paper's reading."),
    ("l2", "squared L2", "The distance to each token's vector."),
    ("matmul", "matrix product", "The inner product, as the model's own head computes it."),
)
FRAMES = (
    ("output", "semantic bases (output side)"),
    ("input", "input embeddings"),
    ("head", "raw head rows"),
    ("tight", "tight frame"),
    ("random", "random (control)"),
)
LABELS = dict([*((k, v) for k, v, _ in GEOMETRIES), *FRAMES])


def layer_label(layer: int) -> str:
    """A layer's name on an axis: its number, and ``emb`` for the embedding."""
    return "emb" if layer == 0 else str(layer)


def score_name(geometry: str) -> str:
    """What a score is, with its unit."""
    return {
        "cosine": "cosine (−1…1)",
        "l2": "minus squared distance",
        "matmul": "inner product (logit)",
    }[geometry]


def border_unit(geometry: str) -> str:
    """The unit of the distance to a region's border."""
    return "radians" if geometry == "cosine" else "length in the state's space"
