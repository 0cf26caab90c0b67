"""Which token comes next: the likeliest, or one drawn from what temperature, k and p leave."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.generation.options import GenerateOptions


def distribution(logits: Tensor, options: GenerateOptions) -> Tensor:
    """The probabilities that the next token is drawn from.

    softmax(z/T), of which top-k and then top-p keep the likeliest tokens, as in transformers'
    `generate`, whose processors these are.

    Args:
        logits: z of the whole vocabulary (v).
        options: whose `drawn_at` is a number.

    Returns:
        v, float64 on the CPU; sums to 1.
    """
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    assert options.drawn_at is not None
    ids = torch.empty(1, 0, dtype=torch.long)  # the processors take the text and look not at it
    scores = TemperatureLogitsWarper(options.drawn_at)(ids, logits.cpu().double()[None])
    if options.top_k is not None:
        scores = TopKLogitsWarper(options.top_k)(ids, scores)
    if options.top_p is not None and options.top_p < 1:
        scores = TopPLogitsWarper(options.top_p)(ids, scores)
    out: Tensor = scores[0].softmax(0)
    return out


class Sampler:
    """Chooses the tokens of one text, from one sequence of seeded numbers."""

    def __init__(self, options: GenerateOptions) -> None:
        self._options = options
        self._forced = dict(options.forced)
        self._generator = torch.Generator().manual_seed(options.seed)
        self._count = 0

    def next(self, logits: Tensor) -> tuple[int, bool]:
        """The id of the next token, and whether it was forced.

        Drawn by the inverse of the distribution function at the next number u of the sequence: the
        first token where the sum of probabilities exceeds u. So the draw behind a fork is that of
        the same place without it.

        Args:
            logits: of the whole vocabulary (v), finite.
        """
        u = torch.rand(1, generator=self._generator, dtype=torch.float64)
        number, self._count = self._count, self._count + 1
        if number in self._forced:
            return self._forced[number], True
        if self._options.drawn_at is None:
            return int(logits.argmax()), False
        sums = distribution(logits, self._options).cumsum(0)
        return int(
            torch.searchsorted(sums, u * sums[-1], right=True).clamp_max(len(sums) - 1)
        ), False
