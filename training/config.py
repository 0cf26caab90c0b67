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
    short_context: int | None = None
    """Tokens in a row of the first `short_steps` steps, a divisor of `context`: shorter rows are
    cheaper and teach as well while the model knows little. A step has as many tokens as any other.
    `None` is `context`."""
    short_steps: int = 0
    """Optimizer steps with short rows."""
    positions: int
    """Longest input the exported model declares, in tokens; at least `context`."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    weights: Mapping[str, float] = field(default_factory=lambda: {"prose": 0.62, "textbooks": 0.38})
    """Share of the training rows by source name."""
    rows: int
    """Rows of one optimizer step, of `context` tokens each."""
    rows_at_once: int
    """Rows of one forward pass, of `context` tokens each; divides `rows`."""
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

    def __post_init__(self) -> None:
        if self.context > self.positions:
            raise ValueError(
                f"A context of at most {self.positions} tokens, the positions the model declares, "
                f"is allowed; got {self.context}."
            )
        if self.context % (self.short_context or self.context):
            raise ValueError(
                f"Short rows must divide the context of {self.context} tokens; got "
                f"{self.short_context}."
            )


SMALL = Config(
    name="lexiscope-small",
    vocab_size=8192,
    width=160,
    layers=8,
    heads=5,
    hidden=432,
    context=512,
    short_context=256,
    short_steps=4000,
    positions=512,
    rows=8,
    rows_at_once=4,
    steps=9500,
    warmup_steps=100,
    matrix_rate=0.008,
    vector_rate=0.015,
    weight_decay=0.1,
    valid_every_steps=250,
    valid_rows=16,
    save_every_steps=100,
)
"""Two idle CPU cores for about two hours, at 0.69 s a step and later 0.80."""

LARGE = Config(
    name="lexiscope-large",
    vocab_size=8192,
    width=384,
    layers=10,
    heads=6,
    hidden=1024,
    context=512,
    positions=512,
    rows=256,
    rows_at_once=64,
    steps=4000,
    warmup_steps=200,
    matrix_rate=0.004,
    vector_rate=0.006,
    weight_decay=0.1,
    valid_every_steps=250,
    valid_rows=64,
    save_every_steps=250,
)
"""24 million parameters and 524 million tokens, for a GPU. Nobody has trained it yet: its rates
follow the field's practice for its size and were not measured."""

CONFIGS = {"small": SMALL, "large": LARGE}
"""By the name the command line knows."""
