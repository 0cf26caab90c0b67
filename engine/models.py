"""Open a language model, and take its hidden states.

A :class:`LanguageModel` is a Hugging Face model with its tokenizer and its :class:`Anatomy`.
Loading never runs code of the model's author: safetensors only, remote code only when asked for
in so many words. One thread owns a model: the one that loaded it.

Knows nothing about semantic bases.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from engine.anatomy import Anatomy, dissect, first_tensor, hidden_argument
from engine.errors import (
    LayerError,
    OptionError,
    PromptError,
    WorkError,
    shorten,
)
from engine.placement import devices, is_spread, runs_on, values_of
from engine.vocabulary import Token, Vocabulary

Check = Callable[[], None]
BOS: Final = ("auto", "yes", "no")


@dataclass(frozen=True)
class Limits:
    """How much one request may ask for."""

    max_characters: int = 32_000
    """Of a prompt, counted before it is tokenized: a tokenizer can stop a whole process."""
    max_tokens: int = 1024
    """Of a prompt; the model's own context limits it further."""
    max_k: int = 50
    """Tokens listed per cell."""
    memory_budget_mib: int = 512
    """For the temporaries of one reading and for the states of one prompt."""
    max_search: int = 200
    """Hits of a search in the vocabulary."""


@dataclass(frozen=True)
class Tokens:
    """A prompt as the model gets it."""

    prompt: str
    ids: tuple[int, ...]
    items: tuple[Token, ...]
    added_bos: bool
    """Whether a begin-of-text token stands in front that the prompt does not hold."""


@dataclass(frozen=True)
class States:
    """The hidden states of one prompt at every layer, before the final norm.

    `raw[l]` enters block l + 1; `raw[0]` is the embedding, `raw[-1]` what the last block gave.
    Hugging Face's own list differs: its last entry is already past the final norm.
    """

    ids: tuple[int, ...]
    raw: Tensor
    """layer × token × residual width, float32."""

    @property
    def bytes(self) -> int:
        """Memory held."""
        return self.raw.numel() * self.raw.element_size()


class LanguageModel:
    """A model whose parts are known and whose states can be taken.

    Args:
        model: a Hugging Face model in eval mode.
        tokenizer: its tokenizer.
        name: what people call it.
        revision: commit of the hub, or ``local``.
        kind: ``causal`` or ``masked``.
        limits: what one request may ask for.

    Raises:
        UnsupportedModel: a part that the readings need was not found.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        revision: str = "local",
        kind: str = "causal",
        limits: Limits | None = None,
    ) -> None:
        self.module: Any = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self.limits = limits or Limits()
        self._owner = threading.get_ident()
        self.anatomy: Anatomy = dissect(self.module, kind=kind)
        self.vocabulary_texts = Vocabulary(tokenizer, self.vocabulary)
        self.fingerprint = _fingerprint(self.module)
        self._forward_takes = _parameters(self.module)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.no_truncation()
            backend.no_padding()

    @property
    def architecture(self) -> str:
        """Class name, such as ``LlamaForCausalLM``."""
        return type(self.module).__name__

    @property
    def device(self) -> str:
        """Where the weights lie: ``cpu``, ``cuda:0`` …; several are separated by commas."""
        if not self.spread:
            return str(self.anatomy.weight.device)
        return ", ".join("elsewhere" if d == "meta" else d for d in devices(self.module))

    @property
    def spread(self) -> bool:
        """Whether the weights lie on more than one device, or some are fetched for each call."""
        return is_spread(self.module)

    @property
    def input_device(self) -> torch.device:
        """Where token ids must lie."""
        return runs_on(self.anatomy.embedding)

    @property
    def dtype(self) -> str:
        """Of the head: ``float32``, ``bfloat16`` …"""
        return str(self.anatomy.weight.dtype).removeprefix("torch.")

    @property
    def blocks(self) -> int:
        """L, the number of blocks; there are L + 1 layers of states."""
        return len(self.anatomy.blocks)

    @property
    def width(self) -> int:
        """d, what the head reads."""
        return int(self.anatomy.weight.shape[1])

    @property
    def vocabulary(self) -> int:
        """v, the rows of the head."""
        return int(self.anatomy.weight.shape[0])

    @property
    def parameters(self) -> int:
        """How many numbers the model holds; tied ones once."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def tied(self) -> bool:
        """Whether head and embedding are the same tensor."""
        return self.anatomy.tied

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer knows how to write a chat."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def has_bos(self) -> bool:
        """Whether there is a begin-of-text token."""
        return self.tokenizer.bos_token_id is not None

    @property
    def max_tokens(self) -> int:
        """What a prompt may have: the setting, or the model's context where that is less."""
        config = self.module.config
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        for name in ("max_position_embeddings", "max_seq_len"):  # the latter is MPT's
            context = getattr(text, name, None)
            if isinstance(context, int) and context > 0:
                return min(self.limits.max_tokens, context)
        return self.limits.max_tokens

    def tokenize(self, prompt: str, *, bos: str = "auto", chat: bool = False) -> Tokens:
        """Turn a prompt into token ids.

        Args:
            prompt: any text; its characters are counted before anything is done with it.
            bos: ``auto`` as the tokenizer does it, ``yes`` with and ``no`` without its
                begin-of-text token.
            chat: write the prompt as a user's turn by the model's chat template (which then
                decides about the begin-of-text token).

        Raises:
            PromptError: empty, not text, too long, or no chat template.
        """
        if bos not in BOS:
            raise OptionError(f"bos must be one of {', '.join(BOS)}; got {shorten(str(bos))!r}.")
        limit = self.limits.max_characters
        if len(prompt) > limit:
            raise PromptError(
                f"a prompt may have at most {limit:,} characters, this one has {len(prompt):,};"
                " shorten it."
            )
        if not prompt.strip("\x00"):
            raise PromptError("the prompt is empty; type at least one character.")
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError:
            raise PromptError(
                "the prompt holds half of a surrogate pair, which is no text; remove it."
            ) from None
        if chat:
            ids, added = self._chat_ids(prompt), False
        else:
            ids, added = self._plain_ids(prompt, bos)
        if not ids:
            raise PromptError("the prompt has no token for this model; type some text.")
        if len(ids) > self.max_tokens:
            raise PromptError(
                f"a prompt may have at most {self.max_tokens:,} tokens for this model, this one has"
                f" {len(ids):,}; shorten it."
            )
        if max(ids) >= self.vocabulary:
            raise PromptError(
                f"token {max(ids)} of this prompt has no row in the model's head"
                f" ({self.vocabulary:,} rows); remove that character."
            )
        return Tokens(prompt, tuple(ids), self.vocabulary_texts.prompt_tokens(ids), added)

    def _chat_ids(self, prompt: str) -> list[int]:
        if not self.has_chat_template:
            raise PromptError(
                "this model has no chat template; switch 'chat' off to give it the prompt as it is."
            )
        encoded = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )
        return [int(i) for i in encoded["input_ids"]]

    def _plain_ids(self, prompt: str, bos: str) -> tuple[list[int], bool]:
        special = bos != "no"
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            # encode_batch lets other threads run meanwhile; encode holds the interpreter's lock.
            ids = list(backend.encode_batch([prompt], add_special_tokens=special)[0].ids)
        else:
            ids = [int(i) for i in self.tokenizer.encode(prompt, add_special_tokens=special)]
        begin = self.tokenizer.bos_token_id
        if bos == "yes":
            if begin is None:
                raise PromptError("this model has no begin-of-text token; set 'bos' to auto or no.")
            if not ids or ids[0] != begin:
                ids.insert(0, int(begin))
        if not special or begin is None or not ids or ids[0] != begin:
            return ids, False
        # The prompt may hold that token itself, in front.
        held = prompt.lstrip().startswith(str(self.tokenizer.bos_token))
        return ids, not held or ids[1:2] == [begin]

    def layer_numbers(self, text: str | None) -> tuple[int, ...]:
        """Layers from ``0:6``, ``0:12:2``, ``3``, ``-1`` or None for all.

        A range is half open, as in Python; layer L (or −1) is what the head reads.

        Raises:
            LayerError: not of that form, out of range, or empty.
        """
        return parse_range(text, self.blocks + 1, "layer", f"this {self.blocks}-layer model")

    def states(self, ids: Sequence[int], *, check: Check | None = None) -> States:
        """One forward pass; the state at every layer, before the final norm.

        Args:
            ids: token ids of one prompt.
            check: called before each block, each readout module and the head; raises to stop.
        """
        self._mine()
        given = torch.tensor([list(ids)], device=self.input_device)
        home = self.anatomy.weight.device
        kept: list[Tensor] = []

        def keep(tensor: Tensor | None) -> None:
            assert tensor is not None
            kept.append(tensor.detach()[0].to(home, torch.float32, copy=True))

        with torch.inference_mode(), self._hooked(keep, check):
            self.module(
                input_ids=given, attention_mask=torch.ones_like(given), **self._cheap_head()
            )
        return States(tuple(int(i) for i in ids), torch.stack(kept))

    def last_states(
        self,
        batch: Sequence[Sequence[int]],
        layers: Sequence[int],
        *,
        check: Check | None = None,
    ) -> Tensor:
        """The states at each prompt's last position, of several prompts in one forward pass.

        Shorter prompts are padded on the right and the padding is masked, so that each state is
        what the prompt alone would give (up to the rounding of a larger matrix product).

        Args:
            batch: token ids, one list per prompt.
            layers: which layers, 0 to L.
            check: as in :meth:`states`.

        Returns:
            prompt × layer × residual width, float32, before the final norm, where the head lies.
        """
        self._mine()
        lengths = torch.tensor([len(ids) for ids in batch])
        width = int(lengths.max())
        filler = self.tokenizer.pad_token_id
        filler = 0 if filler is None or not 0 <= filler < self.vocabulary else int(filler)
        given = torch.full((len(batch), width), filler, dtype=torch.long)
        mask = torch.zeros_like(given)
        for row, ids in enumerate(batch):
            given[row, : len(ids)] = torch.tensor(list(ids))
            mask[row, : len(ids)] = 1
        where, home = self.input_device, self.anatomy.weight.device
        wanted = {layer: place for place, layer in enumerate(layers)}
        kept: list[Tensor | None] = [None] * len(wanted)
        seen = 0

        def keep(tensor: Tensor | None) -> None:
            nonlocal seen
            assert tensor is not None
            if seen in wanted:
                rows = torch.arange(len(batch), device=tensor.device)
                last = tensor.detach()[rows, (lengths - 1).to(tensor.device)]
                kept[wanted[seen]] = last.to(home, torch.float32, copy=True)
            seen += 1

        with torch.inference_mode(), self._hooked(keep, check):
            self.module(
                input_ids=given.to(where), attention_mask=mask.to(where), **self._cheap_head()
            )
        states = [state for state in kept if state is not None]
        # Cloned outside of inference mode, so that the states may enter a graph of gradients.
        return torch.stack(states, dim=1).clone()

    def logits(self, ids: Sequence[int], *, check: Check | None = None) -> Tensor:
        """The model's own logits, untouched by us: token × v, float32, where the head lies."""
        self._mine()
        given = torch.tensor([list(ids)], device=self.input_device)
        with torch.inference_mode(), self._hooked(lambda _: None, check):
            out = self.module(input_ids=given, attention_mask=torch.ones_like(given))
        logits: Tensor = out.logits[0].to(self.anatomy.weight.device).float()
        return logits.clone()

    @torch.no_grad()
    def read_out(self, raw: Tensor) -> Tensor:
        """Final norm and what follows it: ... × residual width → ... × d, float32."""
        self._mine()
        return self.anatomy.read_out(raw)

    def _cheap_head(self) -> dict[str, Any]:
        """Arguments that keep the forward pass from making logits that nobody asked for."""
        extra: dict[str, Any] = {}
        if "use_cache" in self._forward_takes:
            extra["use_cache"] = False
        if "logits_to_keep" in self._forward_takes:
            extra["logits_to_keep"] = 1
        return extra

    @contextlib.contextmanager
    def _hooked(self, keep: Callable[[Tensor | None], None], check: Check | None) -> Iterator[None]:
        handles = []

        def stop_here(module: nn.Module, args: Any, kwargs: Any) -> None:
            if check is not None:
                check()

        def entry(module: nn.Module, args: Any, kwargs: Any) -> None:
            keep(hidden_argument(args, kwargs))

        def exit_(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            keep(first_tensor(output))

        anatomy = self.anatomy
        for module in (*anatomy.blocks, *anatomy.readout, anatomy.head):
            handles.append(module.register_forward_pre_hook(stop_here, with_kwargs=True))
        handles.append(anatomy.blocks[0].register_forward_pre_hook(entry, with_kwargs=True))
        for block in anatomy.blocks:
            handles.append(block.register_forward_hook(exit_, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def adopt(self, threads: int | None = None) -> None:
        """Make the calling thread the owner of this model; no other may use it from now on.

        Args:
            threads: of torch on the CPU, which go by the thread that computes; None: as they are.
        """
        self._owner = threading.get_ident()
        if threads is not None:
            torch.set_num_threads(max(1, threads))

    def _mine(self) -> None:
        if threading.get_ident() != self._owner:
            raise WorkError(
                "this model belongs to the thread that loaded it; submit the work to that thread."
            )


def parse_range(text: str | None, size: int, what: str, whose: str) -> tuple[int, ...]:
    """Numbers from Python's slice notation: ``a:b``, ``a:b:step``, ``n``, or None for all.

    Raises:
        LayerError: not of that form, out of range, or empty.
    """
    if text is None or not text.strip():
        return tuple(range(size))
    words = text.strip().split(":")
    try:
        if len(words) > 3 or len(text) > 40:
            raise ValueError
        numbers = [int(w) if w.strip() else None for w in words]
    except ValueError:
        raise LayerError(
            f"{what} must be a number or a range such as 0:6 or 0:12:2; got {shorten(text)!r}."
        ) from None
    for n in numbers[:2]:
        top = size if len(words) > 1 else size - 1
        if n is not None and not -size <= n <= top:
            raise LayerError(f"{what} must be in [0, {size - 1}] for {whose}; got {n}.")
    if len(numbers) == 1:
        assert numbers[0] is not None
        return (numbers[0] % size,)
    if len(numbers) == 3 and numbers[2] is not None and numbers[2] < 1:
        raise LayerError(f"the step of a {what} range must be at least 1; got {numbers[2]}.")
    chosen = tuple(range(size))[slice(*numbers)]
    if not chosen:
        raise LayerError(
            f"the {what} range {shorten(text)!r} is empty; {whose} has 0 to {size - 1}."
        )
    return chosen


def _parameters(module: nn.Module) -> frozenset[str]:
    import inspect

    return frozenset(inspect.signature(module.forward).parameters)


def _fingerprint(module: nn.Module) -> str:
    """A name for these weights: shapes, dtypes and up to 4096 values of each tensor (BLAKE2b)."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = values_of(module, name, tensor).detach().reshape(-1)
        some = flat[:: max(1, len(flat) // 4096)][:4096].cpu().contiguous()
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
