"""What a trace would cost, without running it."""

from __future__ import annotations

from dataclasses import dataclass

from engine import LatentSpace, TraceOptions
from engine.progress import Check
from engine.trace.result import Cost


@dataclass(frozen=True)
class CostEstimate:
    """What a run would cost, with the tokens it was asked for."""

    tokens: int
    cost: Cost

    def to_dict(self) -> dict[str, object]:
        """As it stands in the JSON of ``/api/v1/cost``."""
        return {
            "tokens": self.tokens,
            "predicted_seconds": self.cost.predicted_seconds,
            "predicted_bytes": self.cost.predicted_bytes,
        }


def predict_cost(
    space: LatentSpace, prompt: str, options: TraceOptions, *, check: Check
) -> CostEstimate:
    """What a trace of this prompt would cost."""
    tokens = len(space.tokenize(prompt, bos=options.bos, chat=options.chat).ids)
    return CostEstimate(tokens, space.predict_cost(tokens, options))
