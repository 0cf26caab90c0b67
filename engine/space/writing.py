"""Letting a text go on, and reading it while it does."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from engine.generation.column import Column, Generation
from engine.generation.options import GenerateOptions
from engine.generation.write import Reader, check_room, continuation, generation, write
from engine.model.language_model import LanguageModel
from engine.model.prompts import Tokens
from engine.progress import Check, Progress, drain, no_check
from engine.space.fitted import Fitted
from engine.trace.options import with_settings


class Writing(Fitted):
    """Generation."""

    def generate(
        self,
        prompt: str,
        options: GenerateOptions | None = None,
        *,
        check: Check = no_check,
        **settings: Any,
    ) -> Iterator[Column]:
        """The text goes on; each new token with its column, before the model takes the next step.

        Args:
            prompt: any text within the limits.
            options: how many tokens, chosen and read how; or its fields as keywords.
            check: called before each block and between chunks of the vocabulary; raises to stop.

        Raises:
            PromptError, OptionError, TokenError: one sentence each, before anything is computed.
        """
        return write(*self._to_write(prompt, options, settings), check=check)

    def generation(
        self,
        prompt: str,
        options: GenerateOptions | None = None,
        *,
        check: Check = no_check,
        **settings: Any,
    ) -> Generation:
        """The same as a whole: the finished text, its columns, and how late its tokens settle."""
        return drain(self.generation_steps(prompt, options, check=check, **settings))

    def generation_steps(
        self,
        prompt: str,
        options: GenerateOptions | None = None,
        *,
        check: Check = no_check,
        **settings: Any,
    ) -> Generator[Column | Progress, None, Generation]:
        """The same in steps: a column each, then the controls; returns the finished text."""
        return generation(*self._to_write(prompt, options, settings), check=check)

    def continuation(
        self,
        prompt: str,
        options: GenerateOptions | None = None,
        *,
        check: Check = no_check,
        **settings: Any,
    ) -> str:
        """What follows a prompt, as text and without any reading; the same tokens as
        :meth:`generate` chooses."""
        model, tokens, reader = self._to_write(prompt, options, settings)
        return continuation(model, tokens, reader.options, check=check)

    def _to_write(
        self, prompt: str, options: GenerateOptions | None, settings: dict[str, Any]
    ) -> tuple[LanguageModel, Tokens, Reader]:
        """What a text that goes on needs, checked before anything is computed."""
        options = with_settings(options, settings, GenerateOptions)
        reading = self._options(options.reading, {})
        tokens = self.tokenize(prompt, bos=reading.bos, chat=reading.chat)
        check_room(self.model, tokens, options)
        lens = self.lens(reading.lens)
        frames, temperatures = self.frame, self._temperatures_for
        return self.model, tokens, Reader(self.model, frames, options, lens, temperatures)
