"""What is trained and how: one frozen configuration per model. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Config:
    """One model and its training run."""

    name: str
    """The model's name on its card."""
    vocab_size: int
    """Tokens of the tokenizer and rows of the embedding and of the head."""
    width: int
    """Dimension of the residual stream."""
    layers: int
    """Decoder blocks."""
    heads: int
    """Attention heads; `width` is a multiple of it."""
    hidden: int
    """Dimension inside the SwiGLU."""
    context: int
    """Tokens in a training row."""
    positions: int
    """Longest input the exported model declares, in tokens; at least `context`."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    weights: Mapping[str, float] = field(default_factory=lambda: {"prose": 0.62, "textbooks": 0.38})
    """Share of the training rows by source name."""
    rows: int
    """Rows of one optimizer step."""
    rows_at_once: int
    """Rows of one forward pass; divides `rows`."""
    steps: int
    """Optimizer steps when the run is not limited by `--minutes`."""
    warmup_steps: int
    """Steps over which the rates rise linearly from zero."""
    matrix_rate: float
    """Peak learning rate of the hidden matrices, trained by Muon."""
    vector_rate: float
    """Peak learning rate of embedding, head and norms, trained by AdamW."""
    weight_decay: float
    """Decoupled weight decay of the matrices; norms and embedding have none."""
    clip: float = 1.0
    """Largest norm of the gradient, all parameters together."""
    valid_every_steps: int
    """Steps between two validations."""
    valid_rows: int
    """Rows of each source's held-out text in one validation."""
    save_every_steps: int
    """Steps between two checkpoints."""
    seed: int = 0
    """Seeds the initial weights and the order of the rows."""


SMALL = Config(
    name="lexiscope-small",
    vocab_size=8192,
    width=160,
    layers=8,
    heads=5,
    hidden=432,
    context=256,
    positions=512,
    rows=16,
    rows_at_once=8,
    steps=6000,
    warmup_steps=100,
    matrix_rate=0.008,
    vector_rate=0.015,
    weight_decay=0.1,
    valid_every_steps=250,
    valid_rows=32,
    save_every_steps=100,
)
"""Two CPU cores for about an hour."""

CONFIGS = {"small": SMALL}
"""By the name the command line knows."""
