"""One model's reading of one text, as another model's is set beside it.

A side answers from the open model, or from what was kept of it in a folder: so two models that do
not fit in memory together are compared one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.errors import OptionError
from engine.model.vocabulary import Token, Vocabulary
from engine.progress import Check, no_check
from engine.reading.similarity import scores
from engine.space import LatentSpace
from engine.trace.options import TraceOptions, final_answers, prepare
from engine.trace.result import Bools, ModelInfo

Cells = Sequence[tuple[int, int]]
"""(index of a layer, index of a position) of some states."""
Logits = Callable[[Cells], Tensor]
"""n × v of some states: score/T of every token, float32."""


@dataclass(frozen=True)
class SideFacts:
    """What stays of a side when it was compared: nothing that holds a model."""

    about: ModelInfo
    tokens: tuple[Token, ...]
    temperature: float
    answers: tuple[int, ...]
    """The model's own next token at each position; −1 where its last layer is not finite."""
    token_info: Mapping[int, Token]
    """Of every id that is named."""


@dataclass(frozen=True)
class Side:
    """What is read of a text at all layers and positions."""

    about: ModelInfo
    tokens: tuple[Token, ...]
    vocabulary: Vocabulary
    layers: tuple[int, ...]
    """All, or those that were asked for."""
    blocks: int
    """L of the model: its last layer's number."""
    states: Tensor
    """layer × position × d, as they are read; 0 where not finite."""
    finite: Bools
    """layer × position."""
    answers: tuple[int, ...]
    """The model's own next token at each position; −1 where its last layer is not finite."""
    temperature: float
    logits: Logits

    def facts(self, ids: Iterable[int]) -> SideFacts:
        """What stays of it.

        Args:
            ids: of the tokens that are named besides the answers.
        """
        named = {int(id) for id in (*ids, *self.answers) if id >= 0}
        info = {id: self.vocabulary.token(id) for id in sorted(named)}
        return SideFacts(self.about, self.tokens, self.temperature, self.answers, info)


def side_of(
    space: LatentSpace,
    prompt: str,
    options: TraceOptions,
    *,
    check: Check = no_check,
) -> Side:
    """One model's side; its vocabulary is passed over when the logits are asked for.

    Args:
        space: called on its thread, here and by `logits`.
        prompt: any text within the limits.
        options: how it is read. Without a temperature, the one that fits this model.
        check: raises to stop.

    Raises:
        PromptError, LayerError, OptionError: as for a trace.
    """
    model = space.model
    states = space.states(prompt, bos=options.bos, chat=options.chat, check=check)
    got = prepare(model, states, dataclasses.replace(options, positions=None),
                  lens=space.lens(options.lens), check=check)  # fmt: skip
    frame = space.frame(options.frame_key)
    found = space.temperatures(options.frame_key, check=check)[options.geometry].value
    warmth = options.temperature if options.temperature is not None else found
    budget = model.limits.reading_bytes
    ids, _ = final_answers(space.frame("head"), got.last, budget_bytes=budget, check=check)
    answered = got.answered.tolist()

    def logits(cells: Cells) -> Tensor:
        check()
        rows = got.states[[i for i, _ in cells], [j for _, j in cells]]
        with torch.no_grad():
            return scores(frame, rows, options.geometry, centred=options.centred) / warmth

    facts = ModelInfo(
        model.name, model.revision, model.fingerprint, model.device, model.dtype
    )  # fmt: skip
    return Side(
        about=facts,
        tokens=space.vocabulary.prompt_tokens(states.ids),
        vocabulary=space.vocabulary,
        layers=got.layers,
        blocks=model.blocks,
        states=got.states,
        finite=got.finite.cpu().numpy(),
        answers=tuple(id if ok else -1 for id, ok in zip(ids.tolist(), answered, strict=True)),
        temperature=warmth,
        logits=logits,
    )


def bytes_of(side: Side) -> int:
    """What :func:`keep` writes."""
    layers, positions = side.states.shape[:2]
    return int(layers * positions * side.vocabulary.size * 4)


def keep(side: Side, file: Path) -> Side:
    """The same side without its model: every score lies in a file.

    Args:
        side: of an open model, which may be let go afterwards.
        file: written whole; removed by the caller.

    Raises:
        OptionError: the disk has less room than it takes.
    """
    import shutil

    needed, free = bytes_of(side), shutil.disk_usage(file.parent).free
    if needed > free:
        raise OptionError(
            f"the first model's scores take {needed / 2**20:,.0f} MiB and {free / 2**20:,.0f} MiB"
            " are free on the disk; choose fewer layers or a shorter prompt."
        )
    shape = (*side.states.shape[:2], side.vocabulary.size)
    whole = np.memmap(file, np.float32, "w+", shape=shape)
    for n in range(shape[0]):
        whole[n] = side.logits([(n, j) for j in range(shape[1])]).cpu().numpy()
    whole.flush()
    read = np.memmap(file, np.float32, "r", shape=shape)

    def logits(cells: Cells) -> Tensor:
        return torch.from_numpy(read[[i for i, _ in cells], [j for _, j in cells]])

    return dataclasses.replace(side, states=side.states.cpu(), logits=logits)
