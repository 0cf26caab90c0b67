"""The last-position states of many texts, in batches of like length.

What a classifier reads: one state per prompt, at the place where the model would go on writing.
Knows nothing about labels or bases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from engine.errors import BudgetExceeded, LayerError, PromptError
from engine.model.language_model import LanguageModel
from engine.progress import Progress, Steps


@dataclass(frozen=True)
class TextStates:
    """One state per text and layer, in the order in which the texts were given."""

    raw: Tensor
    """text × layer × residual width, float32, before the final norm."""
    layers: tuple[int, ...]
    """Layer numbers of the second axis; 0 is the embedding, L what the last block gave."""
    lengths: tuple[int, ...]
    """Tokens of each text."""

    def at(self, layer: int) -> Tensor:
        """text × residual width of one layer."""
        return self.raw[:, self.layers.index(layer)]


def text_states(
    model: LanguageModel,
    ids: Sequence[Sequence[int]],
    *,
    layers: Sequence[int] | None = None,
    batch_tokens: int = 2048,
) -> Steps[TextStates]:
    """Each text's last-position state at some layers; one step is one batch.

    Texts are sorted by length, so that little is padded: a batch holds at most `batch_tokens`
    tokens, padding included, or a single text. Nothing is held on to between two steps but the
    states that are done.

    Args:
        model: whose states; called on the thread that owns it.
        ids: token ids, one list per text.
        layers: which layers, −1 is the last; None is all.
        batch_tokens: size of a batch.

    Raises:
        LayerError: a layer that is not there.
        PromptError: no text, an empty one, or one that is too long; counted from 1.
        BudgetExceeded: the states would not fit the memory budget.
    """
    count = model.blocks + 1
    chosen = (
        tuple(range(count))
        if layers is None
        else tuple(dict.fromkeys(layer_number(x, count) for x in layers))
    )
    _check(model, ids, len(chosen))
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    raw = torch.empty(
        len(ids),
        len(chosen),
        model.anatomy.residual_width,
        device=model.anatomy.weight.device,
    )
    done = 0
    for batch in batches(order, ids, batch_tokens, mixed=model.pads):
        states = model.last_states([ids[i] for i in batch], chosen)
        raw[torch.tensor(batch, device=raw.device)] = states
        done += len(batch)
        yield Progress(done, len(ids), "reading the texts")
    return TextStates(raw, chosen, tuple(len(text) for text in ids))


def layer_number(layer: int, count: int) -> int:
    """A layer's number in [0, count); negative ones count from the last."""
    if not -count <= layer < count:
        raise LayerError(f"layer must be in [0, {count - 1}] for this model; got {layer}.")
    return layer % count


def _check(model: LanguageModel, ids: Sequence[Sequence[int]], layers: int) -> None:
    if not ids:
        raise PromptError("there is no text to read; give at least one.")
    for number, text in enumerate(ids, start=1):
        if not 1 <= len(text) <= model.max_tokens:
            raise PromptError(
                f"text {number} has {len(text):,} tokens; this model reads 1 to"
                f" {model.max_tokens:,}."
            )
    need = 4 * len(ids) * layers * model.anatomy.residual_width
    limit = model.limits.memory_budget_mib * 2**20
    if need > limit:
        raise BudgetExceeded(
            f"the states of {len(ids):,} texts at {layers} layers need {need / 2**20:,.0f} MiB and"
            f" the budget is {limit / 2**20:,.0f} MiB; take fewer texts or layers."
        )


def batches(
    order: Sequence[int], ids: Sequence[Sequence[int]], batch_tokens: int, *, mixed: bool = True
) -> Iterator[list[int]]:
    """Neighbours in `order`, as many as fit; the last of a batch is its longest.

    Args:
        order: of the texts, by length.
        ids: of each text.
        batch_tokens: of a batch, padding included.
        mixed: whether texts of different lengths may stand in one batch
            (:attr:`engine.model.language_model.LanguageModel.pads`).
    """
    batch: list[int] = []
    for i in order:
        full = len(ids[i]) * (len(batch) + 1) > batch_tokens
        if batch and (full or not (mixed or len(ids[i]) == len(ids[batch[0]]))):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def padded(batch: Sequence[Sequence[int]], filler: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids padded on the right, 1 where no padding is, and how many each text has."""
    lengths = torch.tensor([len(ids) for ids in batch])
    rows = [torch.tensor(list(ids)) for ids in batch]
    given = pad_sequence(rows, batch_first=True, padding_value=filler)
    return given, (torch.arange(given.shape[1]) < lengths[:, None]).long(), lengths
