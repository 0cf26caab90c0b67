"""Where a model keeps its parts: found by watching one short forward pass, not by their names.

A causal language model is, for us, a chain of tensors: the embedding, the blocks that each take
the state and return the next, the modules between the last block and the head (final norm,
`project_out`, BERT's transform), the head, and what is done to the head's product (scale, soft
cap). :func:`dissect` runs five tokens through the model, records what every module was given and
what it gave back, and follows the chain by comparing tensors. Whatever does not fit the chain
exactly is refused by name: a reading through a part that was missed would be wrong in silence.

Knows nothing about tokens' texts or semantic bases.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import UnsupportedModel, shorten
from engine.model.placement import runs_on, with_values


@dataclass(frozen=True)
class Anatomy:
    """The parts of one model, in the order in which a state passes them."""

    kind: str
    """``causal``, ``masked`` or ``bidirectional``."""
    embedding: nn.Module
    embedding_path: str
    embedding_scale: float
    """What the model multiplies an embedding row by before layer 1 (Gemma: √d)."""
    blocks: tuple[nn.Module, ...]
    blocks_path: str
    readout: tuple[nn.Module, ...]
    """What a state passes between the last block and the head: final norm and what follows it."""
    readout_paths: tuple[str, ...]
    head: nn.Module
    head_path: str
    logit_scale: float
    """Factor on the head's product (Cohere, Granite); 1 where there is none."""
    softcap: float | None
    """Gemma 2: logits are c·tanh(z/c)."""
    residual_width: int
    """Width of the states between the blocks."""
    fetched: Mapping[str, Tensor] = field(default_factory=dict)
    """Values of ``weight``, ``bias`` and ``embedding`` that accelerate keeps apart from their
    modules; fetched once, since each fetch may read the disk."""

    @property
    def weight(self) -> Tensor:
        """The head W, one row per token: v × d."""
        weight = self.fetched.get("weight", self.head.weight)
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The head's bias, v, where there is one."""
        bias = self.fetched.get("bias", getattr(self.head, "bias", None))
        return bias if isinstance(bias, Tensor) else None

    @property
    def embedding_rows(self) -> Tensor:
        """The embedding table, one row per token, where it lies: not always beside the head."""
        rows = self.fetched.get("embedding", self.embedding.weight)
        assert isinstance(rows, Tensor)
        return rows

    @property
    def tied(self) -> bool:
        """Whether head and embedding are one and the same tensor."""
        return self.embedding_rows.data_ptr() == self.weight.data_ptr()

    def read_out(self, states: Tensor) -> Tensor:
        """Take states of any layer to where the head reads: final norm and what follows.

        Args:
            states: ... × residual width, in any floating dtype.

        Returns:
            ... × d, float32, where the head lies.
        """
        out = states
        for module in self.readout:
            parameter = next(module.parameters(), None)
            if parameter is not None:
                out = out.to(runs_on(module), parameter.dtype)
            out = module(out)
        return out.to(self.weight.device, torch.float32)

    def finish(self, product: Tensor) -> Tensor:
        """The model's logits from the head's product W·r + b: scale, then soft cap."""
        logits = product if self.logit_scale == 1.0 else product * self.logit_scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def describe(self) -> list[tuple[str, str]]:
        """The parts as pairs of a name and what was found there, for people."""
        weight = self.weight
        return [
            ("kind", self.kind),
            ("embedding", self.embedding_path),
            ("embedding factor", f"{self.embedding_scale:g}"),
            ("blocks", f"{self.blocks_path} × {len(self.blocks)} ({_kind(self.blocks[0])})"),
            ("width between the blocks", str(self.residual_width)),
            (
                "between the last block and the head",
                ", ".join(
                    f"{p} ({_kind(m)})"
                    for p, m in zip(self.readout_paths, self.readout, strict=True)
                )
                or "nothing",
            ),
            ("head", f"{self.head_path} ({weight.shape[0]} × {weight.shape[1]})"),
            ("head bias", "yes" if self.bias is not None else "no"),
            ("head and embedding", "tied" if self.tied else "untied"),
            ("logit scale", f"{self.logit_scale:g}"),
            ("soft cap", "none" if self.softcap is None else f"{self.softcap:g}"),
        ]


@dataclass
class _Call:
    """What one module was given and gave back in the probe."""

    path: str
    module: nn.Module
    given: Tensor | None
    gave: Tensor | None = None
    times: int = 1


@dataclass
class _Record:
    calls: list[_Call] = field(default_factory=list)

    def of(self, module: nn.Module) -> _Call | None:
        """The module's own call."""
        return next((c for c in self.calls if c.module is module), None)


def first_tensor(value: Any) -> Tensor | None:
    """The hidden state in what a module takes or returns: a tensor, or the first one inside."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return next((v for v in value if isinstance(v, Tensor)), None)
    return None


def hidden_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The hidden state among a block's arguments."""
    given = first_tensor(args)
    return given if given is not None else first_tensor(kwargs.get("hidden_states"))


@contextmanager
def _recording(model: nn.Module) -> Iterator[_Record]:
    record = _Record()
    handles = []
    open_calls: dict[int, _Call] = {}

    def before(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            known = open_calls.get(id(module))
            if known is not None:
                known.times += 1
                return
            call = _Call(path, module, hidden_argument(args, kwargs))
            open_calls[id(module)] = call
            record.calls.append(call)

        return hook

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        call = open_calls[id(module)]
        if call.gave is None:
            call.gave = first_tensor(output)

    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(before(path), with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.shape != b.shape:
        return False
    if a.device != b.device:  # a model over several devices moves its states between them
        return bool(torch.equal(a.cpu(), b.cpu()))
    return a is b or a.data_ptr() == b.data_ptr() or bool(torch.equal(a, b))


def _kind(module: object) -> str:
    return type(module).__name__


@torch.no_grad()
def dissect(model: Any, *, kind: str = "causal") -> Anatomy:
    """Find a model's parts by one forward pass of five tokens.

    Args:
        model: a Hugging Face model with an output embedding, in eval mode.
        kind: ``causal``, ``masked`` or ``bidirectional``.

    Raises:
        UnsupportedModel: a part was not found, or the parts do not make up the logits; the
            message names the part.
    """
    name = _kind(model)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        raise UnsupportedModel(
            f"{name} has no output embedding (LM head), so it has no vocabulary to read states by;"
            " give a causal or masked language model with its head."
        )
    weight = getattr(head, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        raise UnsupportedModel(
            f"the output embedding of {name} is a {_kind(head)} without a plain weight matrix;"
            " give a model whose head is one matrix."
        )
    embedding = model.get_input_embeddings()
    if embedding is None or not isinstance(getattr(embedding, "weight", None), Tensor):
        raise UnsupportedModel(f"{name} has no input embedding with a plain weight matrix.")

    count = min(int(embedding.weight.shape[0]), int(weight.shape[0]))
    ids = torch.tensor([[i * (count - 1) // 7 for i in (1, 3, 2, 6, 4)]], device=runs_on(embedding))
    takes = inspect.signature(model.forward).parameters
    extra: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}
    with _recording(model) as record:
        try:
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra)
        except Exception as error:  # the architecture's own code: whatever it raises, it is unfit
            reason = shorten((str(error).strip().splitlines() or [_kind(error)])[0], 160)
            raise UnsupportedModel(
                f"{name} cannot run a probe of five tokens ({reason.rstrip('.')}), so its layers"
                " cannot be read."
            ) from error
    logits = getattr(output, "logits", None)
    head_call = record.of(head)
    if not isinstance(logits, Tensor) or head_call is None or head_call.gave is None:
        raise UnsupportedModel(f"{name} does not call its output embedding to make its logits.")

    blocks_path, blocks = _find_blocks(model, record, name)
    first, last = record.of(blocks[0]), record.of(blocks[-1])
    assert first is not None
    assert last is not None
    assert first.given is not None
    assert last.gave is not None
    readout = _find_readout(record, blocks_path, last, head_call, name)
    if first.given.shape[1] != ids.shape[1]:
        raise UnsupportedModel(
            f"{name} puts positions of its own beside the prompt's ({first.given.shape[1]} states"
            f" for {ids.shape[1]} tokens), so its states cannot be told by the prompt's tokens;"
            " choose another model."
        )
    scale, softcap = _find_finish(model, head_call.gave, logits.to(head_call.gave.device), name)
    fetched = _fetch(head, embedding)
    paths = {id(m): p for p, m in model.named_modules()}
    return Anatomy(
        kind=kind,
        embedding=embedding,
        embedding_path=paths.get(id(embedding), "?"),
        embedding_scale=_find_embedding_scale(
            record, embedding, fetched.get("embedding", embedding.weight), first.given, ids
        ),
        blocks=blocks,
        blocks_path=blocks_path,
        readout=tuple(c.module for c in readout),
        readout_paths=tuple(c.path for c in readout),
        head=head,
        head_path=paths.get(id(head), "?"),
        logit_scale=scale,
        softcap=softcap,
        residual_width=int(first.given.shape[-1]),
        fetched=fetched,
    )


def _fetch(head: nn.Module, embedding: nn.Module) -> dict[str, Tensor]:
    """The matrices that accelerate keeps apart from their modules, with their values."""
    found = {}
    for name, module, attribute in (
        ("weight", head, "weight"),
        ("bias", head, "bias"),
        ("embedding", embedding, "weight"),
    ):
        own = getattr(module, attribute, None)
        values = with_values(module, attribute)
        if isinstance(own, Tensor) and own.is_meta and values is not None:
            found[name] = values
    # Kept on the disk, a tied pair comes back as two tensors.
    if {"weight", "embedding"} <= found.keys() and _same(found["weight"], found["embedding"]):
        found["embedding"] = found["weight"]
    return found


def _find_blocks(model: nn.Module, record: _Record, name: str) -> tuple[str, tuple[nn.Module, ...]]:
    """The outermost list of modules through which the state passes one after the other."""
    found: list[tuple[int, str, tuple[nn.Module, ...]]] = []
    near: str | None = None
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) == 0:
            continue
        if any(path.startswith(f"{p}.") for _, p, _ in found):
            continue
        calls = [record.of(child) for child in module]
        if any(c is None or c.given is None or c.gave is None or c.times != 1 for c in calls):
            continue
        chain = [c for c in calls if c is not None]
        if any(c.given is not None and c.given.dim() != 3 for c in chain):
            continue
        if not all(_same(a.gave, b.given) for a, b in pairwise(chain)):
            near = path
            continue
        size = sum(p.numel() for p in module.parameters())
        found.append((size, path, tuple(module)))
    if not found:
        where = f" (the list {near!r} is not a plain chain)" if near else ""
        raise UnsupportedModel(
            f"the layers of {name} were not found: no list of modules passes the state from one to"
            f" the next{where}; such an architecture cannot be read layer by layer here."
        )
    _, path, blocks = max(found, key=lambda item: item[0])
    return path, blocks


def _find_readout(
    record: _Record, blocks_path: str, last: _Call, head: _Call, name: str
) -> list[_Call]:
    """The chain of modules from the last block to the head, each fed by the one before."""
    chain: list[_Call] = []
    current = last.gave
    start = record.calls.index(last) + 1
    for call in record.calls[start:]:
        if call is head:
            break
        inside = call.path.startswith(f"{blocks_path}.") or any(
            call.path.startswith(f"{c.path}.") for c in chain
        )
        above = head.path.startswith(f"{call.path}.") or call.path == ""
        if inside or above or not _same(call.given, current) or call.gave is None:
            continue
        if not _same(call.gave, current):
            chain.append(call)
        current = call.gave
    given, reach = head.given, current
    if given is not None and reach is not None and given.dim() == 3 and reach.dim() == 3:
        reach = reach[:, -given.shape[1] :, :] if reach.shape[-1] == given.shape[-1] else reach
    if not _same(given, reach):
        passed = ", ".join(c.path for c in chain) or "nothing"
        raise UnsupportedModel(
            f"the way from the last layer of {name} to its head has a step that is not a module"
            f" (found: {passed}); its final norm cannot be told, so its layers cannot be read."
        )
    return chain


def _find_finish(
    model: nn.Module, product: Tensor, logits: Tensor, name: str
) -> tuple[float, float | None]:
    """What is done to the head's product: nothing, a factor, a soft cap, or both."""
    z, y = product.double().flatten(), logits.double().flatten()
    tolerance = 1e-5 if logits.dtype == torch.float32 else 2e-2

    told = torch.isfinite(y)  # a token that is never said has a logit of −∞, a broken model NaN
    largest = y[told].abs().max().clamp_min(1e-12) if told.any() else y.new_tensor(1e-12)

    def close(a: Tensor) -> bool:
        error = (a - y)[told].abs()
        return bool((error <= tolerance * largest).all())

    if z.shape != y.shape:
        raise UnsupportedModel(f"{name} drops or adds logits after its head.")
    config: Any = getattr(model, "config", None)
    text: Any = config.get_text_config() if hasattr(config, "get_text_config") else config
    # A declared cap is tried first: on small logits it is within the tolerance of no cap at all.
    for attribute in ("final_logit_softcapping", "logits_soft_cap"):
        cap = getattr(text, attribute, None)
        if cap and close(float(cap) * torch.tanh(z / float(cap))):
            return 1.0, float(cap)
    if close(z):
        return 1.0, None
    both = told & torch.isfinite(z)
    factor = float((z[both] @ y[both]) / (z[both] @ z[both]).clamp_min(1e-300))
    for named in (getattr(text, "logit_scale", None), getattr(text, "lm_head_multiplier", None)):
        if named and abs(float(named) - factor) < 1e-2 * abs(factor):
            factor = float(named)
    divisor = getattr(text, "logits_scaling", None)
    if divisor and abs(1.0 / float(divisor) - factor) < 1e-2 * abs(factor):
        factor = 1.0 / float(divisor)
    if close(z * factor):
        return factor, None
    raise UnsupportedModel(
        f"{name} changes the product of its head in a way that is neither a factor nor a soft cap,"
        " so its logits cannot be reproduced."
    )


def _find_embedding_scale(
    record: _Record, embedding: nn.Module, weight: Tensor, state: Tensor, ids: Tensor
) -> float:
    """The factor between an embedding row and what enters layer 1, where it is one."""
    rows = weight[ids.to(weight.device)].double()
    call = record.of(embedding)
    seen = [state] + ([call.gave] if call is not None and call.gave is not None else [])
    for tensor in seen:
        if tensor.shape != rows.shape:
            continue
        t = tensor.to(rows.device).double()
        factor = float((rows * t).sum() / (rows * rows).sum().clamp_min(1e-300))
        error = (rows * factor - t).abs().max() / t.abs().max().clamp_min(1e-12)
        if float(error) < (1e-4 if weight.dtype == torch.float32 else 2e-2):
            return 1.0 if abs(factor - 1.0) < 1e-6 else factor
    return 1.0
