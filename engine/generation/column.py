"""What a finished token of a text under way brings: its column of the grid, and the whole text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.generation.options import GenerateOptions
from engine.generation.settling import DeepThinking
from engine.json_number import number, plain
from engine.model.prompts import Tokens
from engine.model.vocabulary import Token
from engine.reading.temperature import Temperature
from engine.trace.result import Floats, Ints, ModelInfo


@dataclass(frozen=True)
class Chance:
    """A token that could come next."""

    token: Token
    probability: float
    """By the model itself, softmax of its logits."""

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON contract."""
        return {"id": self.token.id, "text": self.token.text, "probability": self.probability}


@dataclass(frozen=True)
class Column:
    """A new token, and the states that it was chosen from: one column of a trace's grid.

    The states stand at the position before the token, where the model predicts it. Arrays are by
    layer, 0 to L; what is read and what it means is as in :class:`engine.trace.result.Trace`.
    """

    index: int
    """Of the new tokens, from 0."""
    position: int
    """Of the states, in the text."""
    before: Token
    """The token at that position."""
    token: Token
    """The new one."""
    probability: float
    """Of the new token by the model itself, softmax of its logits."""
    rank: int
    """Of the new token among the model's logits, from 1."""
    forced: bool
    """Whether it was forced, at a fork."""
    alternatives: tuple[Chance, ...]
    """The likeliest tokens here, by the model itself."""
    top_ids: Ints
    """layer × k, nearest first; −1 where the state is not finite."""
    top_scores: Floats
    top_probabilities: Floats
    entropy: Floats
    final_ranks: Ints
    """Of the model's answer, from 1; 0 where the state is not finite."""
    final_probabilities: Floats
    divergence: Floats
    """Jensen–Shannon divergence of each layer's reading from the last one's, nats."""
    settling_layer: int
    token_info: dict[int, Token]
    states: Floats
    """layer × d, as they were read."""

    @property
    def answer(self) -> Token:
        """The model's own: the likeliest token."""
        return self.alternatives[0].token

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract: numbers that are not finite are None."""
        out: dict[str, Any] = plain(
            {
                "index": self.index,
                "position": self.position,
                "id": self.token.id,
                "text": self.token.text,
                "label": self.token.label,
                "probability": self.probability,
                "rank": self.rank,
                "forced": self.forced,
                "settling_layer": self.settling_layer,
            }
        )
        out["alternatives"] = [one.to_dict() for one in self.alternatives]
        out["layers"] = [self._cell(layer) for layer in range(len(self.entropy))]
        return out

    def _cell(self, layer: int) -> dict[str, Any]:
        listed = zip(
            self.top_ids[layer],
            self.top_scores[layer],
            self.top_probabilities[layer],
            strict=True,
        )
        return {
            "layer": layer,
            "top": [
                {
                    "id": int(id),
                    "text": self.token_info[int(id)].text,
                    "score": number(score),
                    "probability": number(p),
                }
                for id, score, p in listed
                if id >= 0
            ],
            "entropy": number(self.entropy[layer]),
            "final_rank": int(self.final_ranks[layer]) or None,
            "probability": number(self.final_probabilities[layer]),
            "divergence": number(self.divergence[layer]),
        }


@dataclass(frozen=True)
class Generation:
    """A finished text with its columns."""

    model: ModelInfo
    options: GenerateOptions
    prompt: Tokens
    columns: tuple[Column, ...]
    continuation: str
    """What was written."""
    text: str
    """The prompt and what was written."""
    ended: bool
    """Whether the model ended the text; else it has as many tokens as were asked for."""
    temperature: Temperature
    """Of the reading."""
    thinking: DeepThinking

    @property
    def ids(self) -> tuple[int, ...]:
        """Of the whole text."""
        return (*self.prompt.ids, *(column.token.id for column in self.columns))

    @property
    def divergence(self) -> Floats:
        """layer × new token: Jensen–Shannon divergence from the last layer's reading, nats."""
        out: Floats = np.stack([column.divergence for column in self.columns], 1)
        return out

    def head(self) -> dict[str, Any]:
        """All of the JSON but the tokens."""
        return {
            "prompt": self.prompt.prompt,
            "text": self.text,
            "continuation": self.continuation,
            "ended": self.ended,
            **self.thinking.to_dict(),
            "prompt_tokens": [token.to_dict() for token in self.prompt.items],
            "temperature": self.temperature.value,
            "options": plain(self.options.to_dict()),
        }

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract (docs/api.md)."""
        return {**self.head(), "tokens": [column.to_dict() for column in self.columns]}
