"""Nearest contexts: the states of other texts that come nearest to one state.

A token says what a state is near to in the vocabulary; a context says in which texts the model was
in such a state. Cosine of what the head would read, at the same layer, exact over a bank
(:mod:`engine.trace.bank`). The control is the same texts with their tokens shuffled: where it comes
as near, the token itself is what is alike, and not what it stands in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import psutil
import torch
from safetensors import SafetensorError
from torch import Tensor

from engine.errors import BudgetExceeded, LayerError, OptionError, PromptError
from engine.json_number import plain
from engine.model.language_model import LanguageModel, States
from engine.model.prompts import Tokens
from engine.model.vocabulary import Token
from engine.progress import Check, Progress, Steps, no_check
from engine.trace.bank import (
    LONGEST,
    SIDES,
    Bank,
    BankTexts,
    Parts,
    built_in,
    bytes_of,
    load,
    path_of,
    save,
)

MOST: Final = 10
"""Contexts of a list at most."""
_AROUND: Final = 12
"""Tokens that are shown before and after the one that is meant."""
_KEPT: Final = 4
"""Banks of full size whose bytes all files may take together."""


class Space(Protocol):
    """What a bank needs of a latent space."""

    model: LanguageModel
    seed: int

    def tokenize(self, prompt: str, *, bos: str = "auto", chat: bool = False) -> Tokens:
        """Token ids and texts of a prompt."""

    def states(
        self, prompt: str, *, bos: str = "auto", chat: bool = False, check: Check = no_check
    ) -> States:
        """Hidden states of a prompt before the final norm."""

    def predict_pass(self, tokens: int) -> float:
        """Seconds of a forward pass."""


@dataclass(frozen=True)
class Plan:
    """What building a bank would take."""

    texts: int
    left_out: int
    positions: int
    bytes: int
    predicted_seconds: float


@dataclass(frozen=True)
class Context:
    """A state of another text."""

    text: str
    layer: int
    position: int
    cosine: float
    tokens: tuple[Token, ...]
    """The ones around it, itself among them."""
    lit: int
    """Which of `tokens` it is."""


@dataclass(frozen=True)
class Contexts:
    """The states of a bank that come nearest to one state."""

    layer: int
    position: int
    token: Token
    bank: str
    title: str
    texts: int
    """Of the bank, but those that begin like the prompt: there the state is the same."""
    positions: int
    near: tuple[Context, ...]
    """One of each text, nearest first; none where the state is not finite."""
    shuffled: float
    """The nearest cosine in the same texts with their tokens shuffled."""
    median: float
    """Of the cosines of all positions of the bank."""

    @property
    def beyond_control(self) -> bool:
        """Whether the nearest text comes nearer than every shuffled one."""
        return bool(self.near) and self.near[0].cosine > self.shuffled

    @property
    def sentence(self) -> str:
        """The same in words."""
        if not self.near:
            return "There is no other text to compare, or the state holds NaN or infinite numbers."
        told = (
            f"Of {self.positions:,} states of {self.texts:,} other texts at layer {self.layer} the"
            f" nearest has a cosine of {self.near[0].cosine:.3f}; half of them have less than"
            f" {self.median:.3f}."
        )
        if self.beyond_control:
            return f"{told} With their words shuffled the nearest has {self.shuffled:.3f}."
        return (
            f"{told} With their words shuffled the nearest has {self.shuffled:.3f}, no less: it is"
            " the word that is alike, and not what it stands in."
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        out: dict[str, Any] = plain(self)
        return out | {"beyond_control": self.beyond_control, "sentence": self.sentence}


class ContextFinder:
    """The banks of one space: built once per model and texts, kept in the cache.

    Args:
        space: whose states; called on its thread.
        cache_dir: where banks are kept; None keeps the latest in memory.
    """

    def __init__(self, space: Space, cache_dir: Path | None) -> None:
        self._space = space
        self._cache_dir = cache_dir
        self._held: tuple[str, Bank, Parts] | None = None

    @property
    def limit(self) -> int:
        """Bytes that a bank may have: half of the memory budget."""
        return self._space.model.limits.reading_bytes

    def plan(self, source: BankTexts | None = None, *, check: Check = no_check) -> Plan:
        """What a bank of these texts would take, without running the model.

        Raises:
            OptionError, BudgetExceeded: as :meth:`build`.
        """
        source = source or built_in()
        chosen = self._choose(source, check)
        positions = sum(len(ids) for _, ids in chosen)
        seconds = sum(self._space.predict_pass(len(ids)) for _, ids in chosen)
        return Plan(
            texts=len(chosen),
            left_out=len(source.texts) - len(chosen),
            positions=positions,
            bytes=bytes_of(positions, self._layers, self._width),
            predicted_seconds=len(SIDES) * seconds,
        )

    def known(self, source: BankTexts | None = None) -> Bank | None:
        """The bank of these texts; None where it is not built yet.

        Raises:
            ArtifactError: its file is damaged or another model's.
        """
        digest = (source or built_in()).digest
        if self._held is not None and self._held[0] == digest:
            return self._held[1]
        if self._cache_dir is None:
            return None
        model = self._space.model.fingerprint
        return load(path_of(self._cache_dir, digest, model), model=model)

    def build(self, source: BankTexts | None = None) -> Steps[Bank]:
        """Read every text, as it is and shuffled, and keep the states; one step is one text.

        Raises:
            OptionError: none of the texts can be read.
            BudgetExceeded: not even one fits, or less memory is free than it needs.
        """
        source = source or built_in()
        begin = time.perf_counter()
        chosen = self._choose(source, no_check)
        positions = sum(len(ids) for _, ids in chosen)
        need, free = bytes_of(positions, self._layers, self._width), _free()
        if need > free:
            raise BudgetExceeded(
                f"a bank of {positions:,} positions needs {need / 2**20:,.0f} MiB and"
                f" {free / 2**20:,.0f} MiB are free; take fewer texts."
            )
        shape = (self._layers, positions, self._width)
        parts = {side: torch.empty(shape, dtype=torch.float16) for side in SIDES}
        random = np.random.default_rng(self._space.seed)
        at = 0
        for done, (_, ids) in enumerate(chosen):
            yield Progress(done, len(chosen), "reading the texts")
            for side, own in zip(SIDES, (ids, tuple(random.permutation(ids))), strict=True):
                parts[side][:, at : at + len(ids)] = self._units(own)
            at += len(ids)
        bank = Bank(
            name=source.name,
            title=source.title,
            model=self._space.model.fingerprint,
            texts=tuple(text for text, _ in chosen),
            ids=tuple(ids for _, ids in chosen),
            left_out=len(source.texts) - len(chosen),
            width=self._width,
            layers=self._layers,
            seconds=time.perf_counter() - begin,
        )
        self._keep(source.digest, bank, parts)
        return bank

    def nearest(
        self,
        prompt: str,
        layer: int = -1,
        position: int = -1,
        source: BankTexts | None = None,
        *,
        count: int = 3,
        bos: str = "auto",
        chat: bool = False,
        check: Check = no_check,
    ) -> Contexts:
        """The states of other texts nearest to one of a prompt, one of each text.

        Args:
            prompt: any text.
            layer: 0 is the embedding, −1 the last.
            position: of the prompt's tokens; −1 is the last.
            source: what the bank is built of; None is what ships.
            count: contexts listed, 1 to 10.
            bos: as for a trace.
            chat: as for a trace.
            check: called before each step; raises to stop.

        Raises:
            OptionError: the bank is not built yet, or `count` is out of range.
            LayerError: a layer or position that is not there.
            ArtifactError: the bank's file is damaged or another model's.
        """
        if not isinstance(count, int) or not 1 <= count <= MOST:
            raise OptionError(f"count must be a whole number from 1 to {MOST}; got {count!r:.20}.")
        bank = self.known(source)
        if bank is None:
            raise OptionError(
                "the states of these texts are not in a bank of this model yet; build it in a cell"
                " of the page Read or with 'lexiscope contexts --build'."
            )
        digest = (source or built_in()).digest
        where: Path | Parts
        if self._held is not None and self._held[0] == digest:
            where = self._held[2]
        else:
            assert self._cache_dir is not None
            where = path_of(self._cache_dir, digest, bank.model)
        states = self._space.states(prompt, bos=bos, chat=chat, check=check)
        layer = _index("layer", layer, bank.layers)
        position = _index("position", position, len(states.ids))
        unit = self._units_of(states.raw[layer : layer + 1, position : position + 1])[0, 0]
        tokens = self._space.model.vocabulary_texts.prompt_tokens(states.ids)
        # Where a text begins like the prompt, causal attention gives the very same state.
        same = states.ids[: position + 1]
        others = [n for n, ids in enumerate(bank.ids) if ids[: position + 1] != same]
        near: tuple[Context, ...] = ()
        shuffled = median = float("nan")
        if others and bool(unit.any()):
            check()
            found = bank.similarities(SIDES[0], layer, unit, where)
            median = float(np.median(found))
            best = np.maximum.reduceat(found, bank.starts)
            first = sorted(others, key=lambda n: -best[n])[:count]
            near = tuple(self._context(bank, n, layer, found) for n in first)
            check()
            shuffled = float(bank.similarities(SIDES[1], layer, unit, where).max())
        return Contexts(
            layer=layer,
            position=position,
            token=tokens[position],
            bank=bank.name,
            title=bank.title,
            texts=len(others),
            positions=sum(len(bank.ids[n]) for n in others),
            near=near,
            shuffled=shuffled,
            median=median,
        )

    # --- inside ---

    @property
    def _layers(self) -> int:
        return self._space.model.blocks + 1

    @property
    def _width(self) -> int:
        return self._space.model.width

    def _context(self, bank: Bank, text: int, layer: int, found: Any) -> Context:
        start, ids = int(bank.starts[text]), bank.ids[text]
        at = int(found[start : start + len(ids)].argmax())
        first = max(at - _AROUND, 0)
        tokens = self._space.model.vocabulary_texts.prompt_tokens(ids)
        return Context(
            text=bank.texts[text],
            layer=layer,
            position=at,
            cosine=float(found[start + at]),
            tokens=tokens[first : at + _AROUND + 1],
            lit=at - first,
        )

    def _units(self, ids: tuple[int, ...]) -> Tensor:
        return self._units_of(self._space.model.states([int(i) for i in ids]).raw).half()

    @torch.no_grad()
    def _units_of(self, raw: Tensor) -> Tensor:
        """What the head would read, scaled to length 1; zero where it is not finite."""
        read = self._space.model.read_out(raw).float()
        finite = torch.isfinite(read).all(-1, keepdim=True)
        return torch.nn.functional.normalize(torch.where(finite, read, 0.0), dim=-1).cpu()

    def _choose(self, source: BankTexts, check: Check) -> list[tuple[str, tuple[int, ...]]]:
        """The texts that fit, with their tokens, in their order."""
        one = bytes_of(1, self._layers, self._width)
        out: list[tuple[str, tuple[int, ...]]] = []
        free = self.limit // one
        for text, ids in self._read(source):
            check()
            if len(ids) > free:
                break
            free -= len(ids)
            out.append((text, ids))
        if not out:
            if any(text.strip() for text in source.texts):
                raise BudgetExceeded(
                    f"not even one of the texts fits: a token takes {one / 1024:,.0f} KiB and a"
                    f" bank {self.limit / 2**20:,.0f} MiB at most; raise"
                    " LEXISCOPE_MEMORY_BUDGET_MIB."
                )
            raise OptionError("there is no text to read; give at least one.")
        return out

    def _read(self, source: BankTexts) -> Iterator[tuple[str, tuple[int, ...]]]:
        for whole in dict.fromkeys(source.texts):
            text = whole[:LONGEST].strip()
            while text:
                try:
                    yield text, self._space.tokenize(text).ids
                    break
                except PromptError:  # more tokens than the model reads
                    text = text[: len(text) // 2].strip()

    def _keep(self, digest: str, bank: Bank, parts: Parts) -> None:
        self._held = (digest, bank, parts)
        if self._cache_dir is None:
            return
        with suppress(OSError, SafetensorError):
            save(bank, parts, path_of(self._cache_dir, digest, bank.model))
            self._held = None
            files = [(p.stat().st_mtime, p) for p in self._cache_dir.glob("contexts-*.safetensors")]
            held = 0
            for _, path in sorted(files, reverse=True):  # the latest stay
                held += path.stat().st_size
                if held > _KEPT * self.limit:
                    path.unlink(missing_ok=True)


def _free() -> int:
    return int(psutil.virtual_memory().available)


def _index(what: str, number: int, count: int) -> int:
    if not -count <= number < count:
        raise LayerError(f"{what} must be in [0, {count - 1}]; got {number}.")
    return number % count
