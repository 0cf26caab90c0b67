"""A text goes on, token by token, and each new position is read at every layer as it is made.

One step of the model gives the states at a position and the logits after it; a token is chosen, the
states are read, and the column is handed out before the model takes its next step. Keys and values
of the text so far are kept where the model can go on from them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from engine.errors import NonFiniteError, OptionError, PromptError, TokenError
from engine.frames.frame import Frame
from engine.generation.column import Chance, Column, Generation
from engine.generation.options import GenerateOptions
from engine.generation.sampling import Sampler
from engine.generation.settling import deep_thinking, read_layers, settling_layer
from engine.lenses.kind import Lens
from engine.model.language_model import LanguageModel, States
from engine.model.prompts import Tokens
from engine.progress import Check, Progress, no_check
from engine.reading.temperature import Temperature
from engine.trace.compute import model_info, words_mask
from engine.trace.options import TraceOptions, prepare

ALTERNATIVES: Final = 8
"""Tokens that could come next, listed with each column."""


def check_room(model: LanguageModel, tokens: Tokens, options: GenerateOptions) -> None:
    """Refuse what the model cannot write.

    Raises:
        OptionError: a model that does not go on with a text, or more tokens than are allowed.
        PromptError: no room behind the prompt, or not enough of it.
        TokenError: a forced token that the vocabulary does not have.
    """
    if model.anatomy.kind != "causal":
        raise OptionError(
            "this model fills in or reads ahead and does not go on with a text; trace the prompt,"
            " or open a model that predicts the next token."
        )
    most = model.limits.max_new_tokens
    if options.tokens > most:
        raise OptionError(f"tokens must be from 1 to {most:,} here; got {options.tokens:,}.")
    count, room = len(tokens.ids), model.max_tokens - len(tokens.ids)
    if room < 1:
        raise PromptError(
            f"the prompt's {count:,} tokens fill the {model.max_tokens:,} that this model takes"
            " here, so none can follow; shorten it."
        )
    if room < options.tokens:
        raise PromptError(
            f"{room:,} tokens are left behind this prompt of {count:,}, for this model takes"
            f" {model.max_tokens:,} here; ask for at most {room:,}, or shorten the prompt."
        )
    for _, token in options.forced:
        if token >= model.vocabulary:
            raise TokenError(f"token id must be in [0, {model.vocabulary - 1}]; got {token}.")


class Reader:
    """Reads one position after the other in the same way.

    Args:
        model: whose states they are.
        frames: gives a frame by its key.
        options: how they are read.
        lens: the fitted lens of that; None reads without.
        temperatures: gives those of a reading by geometry; they may be measured first.
    """

    def __init__(
        self,
        model: LanguageModel,
        frames: Callable[[str], Frame],
        options: GenerateOptions,
        lens: Lens | None,
        temperatures: Callable[[TraceOptions, Check], Mapping[str, Temperature]],
    ) -> None:
        self.options, self.frames = options, frames
        self._model, self._lens, self._temperatures = model, lens, temperatures

    def temperature(self, check: Check) -> Temperature:
        """Of the reading."""
        reading = self.options.reading
        return self._temperatures(reading, check)[reading.geometry]

    @cached_property
    def frame(self) -> Frame:
        """By what is read."""
        return self.frames(self.options.reading.frame_key)

    @cached_property
    def _allowed(self) -> Tensor | None:
        words = self.options.reading.words_only
        return words_mask(self._model, self.frame.device) if words else None

    @torch.no_grad()
    def column(
        self,
        raw: Tensor,
        logits: Tensor,
        index: int,
        position: int,
        before: int,
        token: int,
        forced: bool,
        check: Check,
    ) -> Column:
        """The column of one position, from its states (layer × 1 × 1 × residual width)."""
        model, options, texts = self._model, self.options, self._model.vocabulary_texts
        log_p = torch.log_softmax(logits, 0)
        likely = log_p.topk(min(ALTERNATIVES, len(log_p)))
        got = prepare(
            model, States((before,), raw[:, 0]), options.reading, lens=self._lens, check=check
        )
        reading, apart = read_layers(
            self.frame,
            got.states,
            geometry=options.reading.geometry,
            temperature=self.temperature(check).value,
            k=options.reading.k,
            targets=likely.indices[None, :1].to(got.states.device),
            allowed=self._allowed,
            budget_bytes=model.limits.reading_bytes,
            check=check,
        )
        finite = got.finite[:, 0].cpu().numpy()

        def shown(values: Tensor) -> Any:
            out = values.detach().float().cpu().numpy()
            return np.where(finite.reshape(-1, *[1] * (out.ndim - 1)), out, np.nan)

        listed = shown(reading.scores)
        top_ids = np.where(np.isfinite(listed), reading.ids.cpu().numpy(), -1)
        divergence = shown(apart[:, 0])
        ids = {*top_ids.ravel().tolist(), *likely.indices.tolist()} - {-1}
        return Column(
            index=index,
            position=position,
            before=texts.token(before),
            token=texts.token(token),
            probability=float(log_p[token].exp()),
            rank=1 + int((logits > logits[token]).sum()),
            forced=forced,
            alternatives=tuple(
                Chance(texts.token(i), p)
                for i, p in zip(likely.indices.tolist(), likely.values.exp().tolist(), strict=True)
            ),
            top_ids=top_ids,
            top_scores=listed,
            top_probabilities=shown(reading.probabilities),
            entropy=shown(reading.entropy),
            final_ranks=np.where(finite, reading.ranks[:, 0].cpu().numpy(), 0),
            final_probabilities=shown(reading.target_probabilities[:, 0]),
            divergence=divergence,
            settling_layer=settling_layer(divergence, options.settled),
            token_info={i: texts.token(i) for i in ids},
            states=got.states[:, 0].cpu().numpy(),
        )


def write(
    model: LanguageModel, tokens: Tokens, reader: Reader, *, check: Check = no_check
) -> Iterator[Column]:
    """The columns of a text that goes on, each before the model takes its next step.

    Args:
        model: a causal one, with room for the text (:func:`check_room`).
        tokens: the prompt.
        reader: with how many tokens, chosen and read how.
        check: called before each block and between chunks of the vocabulary; raises to stop.

    Raises:
        NonFiniteError: the model's logits are not finite; the columns so far stand.
    """
    for one in _steps(model, tokens, reader.options, check):
        yield reader.column(*one, check)


def continuation(
    model: LanguageModel, tokens: Tokens, options: GenerateOptions, *, check: Check = no_check
) -> str:
    """What follows a prompt, as text; nothing is read.

    Args:
        model: a causal one, with room for the text (:func:`check_room`).
        tokens: the prompt.
        options: how many tokens, chosen how.
        check: called before each block; raises to stop.

    Raises:
        NonFiniteError: the model's logits are not finite.
    """
    chosen = [token for *_, token, _ in _steps(model, tokens, options, check)]
    return _continued(model.tokenizer, tokens.ids, chosen)


def _steps(
    model: LanguageModel, tokens: Tokens, options: GenerateOptions, check: Check
) -> Iterator[tuple[Tensor, Tensor, int, int, int, int, bool]]:
    """The text goes on: the states at a position (layer × 1 × 1 × residual width), the logits after
    it, the number of the new token, the position, the token there, the new one, and whether it was
    forced."""
    sampler, ends = Sampler(options), end_ids(model)
    ids = torch.tensor([tokens.ids])
    new, past = ids, None
    for index in range(options.tokens):
        states, whole, past = model.advance(new, past, check=check)
        logits = whole[0].cpu()
        position = ids.shape[1] - 1
        if not torch.isfinite(logits).all():
            raise NonFiniteError(
                f"after token {position} the model's logits are not finite, so no token follows;"
                " its states there can be traced."
            )
        token, forced = sampler.next(logits)
        before = int(ids[0, -1])
        yield states[:, :, -1:], logits, index, position, before, token, forced
        if token in ends:
            return
        chosen = torch.tensor([[token]])
        ids = torch.cat([ids, chosen], 1)
        new = chosen if model.remembers and past is not None else ids


def end_ids(model: LanguageModel) -> frozenset[int]:
    """Tokens with which this model ends a text."""
    own = getattr(getattr(model.module, "generation_config", None), "eos_token_id", None)
    given = own if isinstance(own, list | tuple) else [own]
    return frozenset(int(i) for i in (*given, model.tokenizer.eos_token_id) if i is not None)


def generation(
    model: LanguageModel, tokens: Tokens, reader: Reader, *, check: Check = no_check
) -> Generator[Column | Progress, None, Generation]:
    """The columns of :func:`write`, then the controls, in steps; returns the finished text."""
    columns = []
    for column in write(model, tokens, reader, check=check):
        columns.append(column)
        yield column
    options = reader.options
    thinking = yield from deep_thinking(
        torch.from_numpy(np.stack([one.states for one in columns], 1)).to(reader.frame.device),
        np.stack([one.divergence for one in columns], 1),
        reader.frames("random"),
        float(np.nanmean([one.entropy[-1] for one in columns])),
        geometry=options.reading.geometry,
        below=options.settled,
        seed=options.seed,
        budget_bytes=model.limits.reading_bytes,
        check=check,
    )
    ids = [one.token.id for one in columns]
    continuation = _continued(model.tokenizer, tokens.ids, ids)
    return Generation(
        model=model_info(model),
        options=options,
        prompt=tokens,
        columns=tuple(columns),
        continuation=continuation,
        text=tokens.prompt + continuation,
        ended=ids[-1] in end_ids(model),
        temperature=reader.temperature(check),
        thinking=thinking,
    )


def _continued(tokenizer: Any, prompt: tuple[int, ...], new: list[int]) -> str:
    """What new tokens add to the text; by themselves some tokenizers would drop the first space."""

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    before, whole = text([*prompt]), text([*prompt, *new])
    return whole[len(before) :] if whole.startswith(before) else text(new)
