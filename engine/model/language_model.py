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
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import WorkError
from engine.model.anatomy import Anatomy, dissect, first_tensor, hidden_argument
from engine.model.origin import Origin
from engine.model.placement import devices, is_spread, runs_on, values_of
from engine.model.probing import PROBE, padding_shows, probe_ids
from engine.model.prompts import Tokens, has_chat_template, tokenize
from engine.model.ranges import parse_range
from engine.model.vocabulary import Vocabulary
from engine.progress import Check


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
    max_new_tokens: int = 256
    """That a text may be continued by at once."""
    max_search: int = 200
    """Hits of a search in the vocabulary."""

    @property
    def reading_bytes(self) -> int:
        """Of the memory budget, what the temporaries of one reading may take: half."""
        return self.memory_budget_mib * 2**19


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
        kind: ``causal``, ``masked`` or ``bidirectional``.
        limits: what one request may ask for.
        origin: where it comes from, as far as that is known.

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
        origin: Origin | None = None,
    ) -> None:
        self.module: Any = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self.limits = limits or Limits()
        self.origin = origin or Origin()
        self._owner = threading.get_ident()
        self.anatomy: Anatomy = dissect(self.module, kind=kind)
        self.vocabulary_texts = Vocabulary(tokenizer, self.vocabulary)
        self.fingerprint = _fingerprint(self.module)
        self.left_over: tuple[str, ...] = ()
        """Tensors of its file that belong to parts beside the language model."""
        self._forward_takes = _parameters(self.module)
        self.pads = True
        """Whether a text's states are the same beside a longer one; else only texts of one length
        go through the model together. Tried on a few tokens."""
        count = min(PROBE, self.max_tokens)
        probe = probe_ids(self.anatomy.embedding, count)
        layers = range(self.blocks + 1)
        self.pads = not padding_shows(
            lambda batch: self.last_states(batch, layers), probe, self.anatomy.weight.dtype
        )
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
        return has_chat_template(self.tokenizer)

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
        return tokenize(
            prompt,
            bos=bos,
            chat=chat,
            tokenizer=self.tokenizer,
            texts=self.vocabulary_texts,
            rows=self.vocabulary,
            max_characters=self.limits.max_characters,
            max_tokens=self.max_tokens,
        )

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
        what the prompt alone would give (up to the rounding of a larger matrix product). A model
        in which the padding shows all the same (a convolution over positions, say) gets prompts of
        one length at a time.

        Args:
            batch: token ids, one list per prompt.
            layers: which layers, 0 to L.
            check: as in :meth:`states`.

        Returns:
            prompt × layer × residual width, float32, before the final norm, where the head lies.
        """
        self._mine()
        if not self.pads and len({len(ids) for ids in batch}) > 1:
            out: list[Tensor] = [torch.empty(0)] * len(batch)
            order = sorted(range(len(batch)), key=lambda i: len(batch[i]))
            for _, own in groupby(order, key=lambda i: len(batch[i])):
                rows = list(own)
                found = self.last_states([batch[i] for i in rows], layers, check=check)
                for i, state in zip(rows, found, strict=True):
                    out[i] = state
            return torch.stack(out)
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

    @property
    def remembers(self) -> bool:
        """Whether its forward pass can go on from keys and values of earlier tokens."""
        return {"use_cache", "past_key_values"} <= self._forward_takes

    def advance(
        self, ids: Tensor, past: Any = None, *, check: Check | None = None
    ) -> tuple[Tensor, Tensor, Any]:
        """Read on from where texts of equal length are: states of the new tokens, what comes next.

        Args:
            ids: token ids (text × new tokens); all of them so far where the model does not
                remember (:attr:`remembers`).
            past: what the call before gave; None at the beginning.
            check: as in :meth:`states`.

        Returns:
            States (layer × text × new token × residual width, float32, before the final norm,
            where the head lies), logits after the last token (text × v, float32) and the past.
        """
        self._mine()
        home = self.anatomy.weight.device
        kept: list[Tensor] = []

        def keep(tensor: Tensor | None) -> None:
            assert tensor is not None
            kept.append(tensor.detach().to(home, torch.float32, copy=True))

        extra: dict[str, Any] = {}
        if self.remembers:
            extra = {"use_cache": True, "past_key_values": past}
        if "logits_to_keep" in self._forward_takes:
            extra["logits_to_keep"] = 1
        with torch.inference_mode(), self._hooked(keep, check):
            out = self.module(input_ids=ids.to(self.input_device), **extra)
        logits = out.logits[:, -1].to(home, torch.float32)
        past = getattr(out, "past_key_values", None)
        return torch.stack(kept), logits, past

    def logits(self, ids: Sequence[int], *, check: Check | None = None) -> Tensor:
        """The model's own logits, untouched by us: token × v, float32, where the head lies."""
        self._mine()
        given = torch.tensor([list(ids)], device=self.input_device)
        with torch.inference_mode(), self._hooked(lambda _: None, check):
            out = self.module(
                input_ids=given, attention_mask=torch.ones_like(given), **self._without_cache()
            )
        logits: Tensor = out.logits[0].to(self.anatomy.weight.device).float()
        return logits.clone()

    @torch.no_grad()
    def read_out(self, raw: Tensor) -> Tensor:
        """Final norm and what follows it: ... × residual width → ... × d, float32."""
        self._mine()
        return self.anatomy.read_out(raw)

    def _cheap_head(self) -> dict[str, Any]:
        """Arguments that keep the forward pass from making logits that nobody asked for."""
        extra = self._without_cache()
        if "logits_to_keep" in self._forward_takes:
            extra["logits_to_keep"] = 1
        return extra

    def _without_cache(self) -> dict[str, Any]:
        """Arguments that keep the forward pass from filling a cache that nobody goes on from."""
        return {"use_cache": False} if "use_cache" in self._forward_takes else {}

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
