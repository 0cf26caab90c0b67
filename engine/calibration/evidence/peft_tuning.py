"""LoRA and IA3 through `peft`: the competitors that train inside the model (paper §4, Table 4).

LoRA (Hu et al. 2022) adds a product of two thin matrices to the attention's query, key and value
projections; IA3 (Liu et al. 2022) scales their outputs and the input of the MLP's second matrix.
Both get the cross-entropy over the label tokens at the last position of the zero-shot prompt.

The adapters sit in a copy of the model, so that whoever reads the model between two steps reads
the model as it is; the copy goes when the method ends. Of the epochs the one with the most
validation rows right is kept.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.calibration.evidence.protocol import MethodContext, Outcome, Stopwatch, softmax
from engine.calibration.evidence.retrieval import stratified
from engine.calibration.labelled.words import LabelToken
from engine.cost import give_memory_back
from engine.errors import BudgetExceeded, NonFiniteError, UnsupportedModel
from engine.model.anatomy import hidden_argument
from engine.model.language_model import LanguageModel
from engine.model.placement import check_trainable
from engine.model.texts import batches, padded
from engine.progress import Progress, Steps

AdapterName = Literal["lora", "ia3"]
RANK: Final = 8
"""r of LoRA; its factor α is twice that."""
LEARNING_RATES: Final[Mapping[AdapterName, float]] = {"lora": 2e-3, "ia3": 2e-2}
"""Of AdamW, falling linearly to zero. IA3 has few parameters that start at one."""
_POOL: Final = 8
PART_TOKENS: Final = 2048
"""Tokens of one pass, padding included: whoever clicks waits for one pass at most."""
GRADIENT_TOKENS: Final = 256
"""The same of a pass that holds its activations; gradients of a batch are added up over parts."""
MOST_NORM: Final = 1.0
"""Gradients are clipped to this length."""
_ATTENTION_INPUTS: Final = frozenset(
    {
        *("q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin", "query", "key", "value"),
        *("qkv_proj", "c_attn", "query_key_value", "Wqkv", "wqkv", "qkv", "attn_qkv", "in_proj"),
    }
)


class _Reached(Exception):
    """The head was reached; what follows is not needed."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


@dataclass(frozen=True)
class Adapted:
    """A copy of a model with adapters in it."""

    module: Any
    head: nn.Module
    parameters: dict[str, nn.Parameter]
    """The adapters' own, by name: all that is trained."""
    targets: tuple[str, ...]
    """Names of the matrices that have one."""

    @property
    def count(self) -> int:
        """Trained numbers."""
        return sum(p.numel() for p in self.parameters.values())


def adapt(model: LanguageModel, kind: AdapterName, *, seed: int) -> Adapted:
    """Copy a model and put adapters into the copy.

    Args:
        model: stays as it is.
        kind: ``lora`` or ``ia3``.
        seed: of the adapters' first values.

    Raises:
        UnsupportedModel: no attention projection was found, or the model lies on several devices.
        BudgetExceeded: a second copy of the weights does not fit the memory.
    """
    from peft import IA3Config, LoraConfig, inject_adapter_in_model

    check_trainable(model.module)
    _check_room(model)
    attention, second = target_modules(model)
    base = copy.deepcopy(model.module)
    for parameter in base.parameters():
        parameter.requires_grad_(False)
    before = {id(p) for p in base.parameters()}
    head = base.get_submodule(model.anatomy.head_path)
    turned = not isinstance(base.get_submodule(attention[0]), nn.Linear)  # GPT-2 keeps W as in×out
    targets = attention if kind == "lora" else (*attention, *second)
    config: Any
    if kind == "lora":
        config = LoraConfig(
            r=RANK, lora_alpha=2 * RANK, target_modules=list(targets), fan_in_fan_out=turned
        )
    else:
        config = IA3Config(
            target_modules=list(targets), feedforward_modules=list(second), fan_in_fan_out=turned
        )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's remarks on settings that are as they should be
        torch.manual_seed(seed)
        inject_adapter_in_model(config, base)
    own = {n: p for n, p in base.named_parameters() if id(p) not in before}
    for parameter in own.values():
        parameter.requires_grad_(True)
    return Adapted(base.eval(), head, own, targets)


def _check_room(model: LanguageModel) -> None:
    need = sum(p.numel() * p.element_size() for p in model.module.parameters())
    device = model.anatomy.weight.device
    if device.type == "cuda":
        free = int(torch.cuda.mem_get_info(device)[0])
    else:
        free = int(psutil.virtual_memory().available)
    if 2 * need > free:  # the copy, and what training holds beside it
        raise BudgetExceeded(
            f"LoRA and IA3 work on a copy of the model, which needs about {2 * need / 2**20:,.0f}"
            f" MiB, and {free / 2**20:,.0f} MiB are free; leave these methods out."
        )


def target_modules(model: LanguageModel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the attention's input projections, and of the MLPs' second matrices.

    The first by their usual names; the second by shape: outside attention, from the wide inside of
    the MLP back to the width of the states.

    Raises:
        UnsupportedModel: none of the first.
    """
    anatomy = model.anatomy
    attention, second = [], []
    inside = anatomy.blocks_path + "."
    for name, module in model.module.named_modules():
        weight = getattr(module, "weight", None)
        if not name.startswith(inside) or not isinstance(weight, Tensor) or weight.dim() != 2:
            continue
        if name.rsplit(".", 1)[-1] in _ATTENTION_INPUTS:
            attention.append(name)
            continue
        out, into = weight.shape if isinstance(module, nn.Linear) else weight.T.shape
        if out == anatomy.residual_width and into > out and "att" not in name.lower():
            second.append(name)
    if not attention:
        raise UnsupportedModel(
            "no query, key or value projection was found in this model's blocks under a known"
            " name, so LoRA and IA3 have nothing to adapt; leave these methods out."
        )
    return tuple(attention), tuple(second)


class LabelReader:
    """Class logits of a batch of prompts, through a copy of the model, with gradients."""

    def __init__(
        self, adapted: Adapted, model: LanguageModel, tokens: Sequence[LabelToken]
    ) -> None:
        self._adapted, self._anatomy = adapted, model.anatomy
        self.mixed = model.pads
        """Whether texts of different lengths may stand in one batch."""
        filler = model.tokenizer.pad_token_id
        fits = filler is not None and 0 <= filler < model.vocabulary
        self._filler = int(filler) if fits else 0
        groups = [list(t.ids) if t.mean else [t.id_used] for t in tokens]
        unique = sorted({i for group in groups for i in group})
        device = model.anatomy.weight.device
        self._ids = torch.tensor(unique, device=device)
        self._mix = torch.zeros(len(groups), len(unique), device=device)
        for row, group in enumerate(groups):
            for i in group:
                self._mix[row, unique.index(i)] = 1 / len(group)

    def logits(self, batch: Sequence[Sequence[int]]) -> Tensor:
        """n × C, float32."""
        given, mask, lengths = padded(batch, self._filler)
        where = next(self._adapted.module.parameters()).device
        hidden = self._reach(given.to(where), mask.to(where))
        rows = torch.arange(len(batch), device=hidden.device)
        last = hidden[rows, (lengths - 1).to(hidden.device)]
        weight, bias = self._adapted.head.weight, getattr(self._adapted.head, "bias", None)
        assert isinstance(weight, Tensor)
        product = last.float() @ weight[self._ids].float().T
        if isinstance(bias, Tensor):
            product = product + bias[self._ids].float()
        return self._anatomy.finish(product) @ self._mix.T

    def _reach(self, given: Tensor, mask: Tensor) -> Tensor:
        def stop(module: nn.Module, args: Any, kwargs: Any) -> None:
            hidden = hidden_argument(args, kwargs)
            assert hidden is not None
            raise _Reached(hidden)

        handle = self._adapted.head.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self._adapted.module(input_ids=given, attention_mask=mask)
        except _Reached as reached:
            return reached.hidden
        finally:
            handle.remove()
        raise UnsupportedModel("the copy of the model did not reach its head.")


def train_adapter(
    adapted: Adapted,
    reader: LabelReader,
    train: tuple[Sequence[Sequence[int]], NDArray[np.int64]],
    valid: tuple[Sequence[Sequence[int]], NDArray[np.int64]],
    *,
    learning_rate: float,
    epochs: int,
    batch: int,
    seed: int,
    watch: Stopwatch,
) -> Steps[list[float]]:
    """Train the adapters; one step is a part of a batch of at most `GRADIENT_TOKENS` tokens.

    Returns:
        Validation accuracy after each epoch (empty without validation rows); the adapters are
        left as they were after the best of them.

    Raises:
        NonFiniteError: the loss left the numbers.
    """
    ids, labels = train
    parameters = list(adapted.parameters.values())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    per_epoch = -(-len(ids) // batch)
    total, done = epochs * per_epoch, 0
    history: list[float] = []
    best: tuple[float, list[Tensor]] | None = None
    generator = np.random.default_rng([seed, 4])
    for epoch in range(epochs):
        for rows in _batches(ids, batch, generator):
            value = 0.0
            optimizer.zero_grad(set_to_none=True)
            parts = batches(rows.tolist(), ids, GRADIENT_TOKENS, mixed=reader.mixed)
            for number, part in enumerate(parts):
                if number:
                    yield Progress(done, total, "training adapters")
                with watch.training(), torch.enable_grad():
                    wanted = torch.from_numpy(labels[part])
                    logits = reader.logits([ids[i] for i in part])
                    loss = nn.functional.cross_entropy(logits, wanted.to(logits.device))
                    loss = loss * (len(part) / len(rows))
                    torch.autograd.backward(loss)
                    value += float(loss.detach())
                if not np.isfinite(value):
                    raise NonFiniteError(
                        "the loss of the adapters left the numbers; take a lower learning rate."
                    )
            with watch.training():
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * (1 - done / total)
                nn.utils.clip_grad_norm_(parameters, MOST_NORM)
                optimizer.step()
            done += 1
            yield Progress(done, total, "training adapters", {"loss": value, "epoch": epoch + 1.0})
        if len(valid[0]):
            scores = yield from read_all(reader, valid[0], batch, watch.training)
            right = float(np.mean(scores.argmax(1) == valid[1]))
            history.append(right)
            if best is None or right > best[0]:
                best = (right, [p.detach().clone() for p in parameters])
    if best is not None:
        with torch.no_grad():
            for parameter, kept in zip(parameters, best[1], strict=True):
                parameter.copy_(kept)
    return history


def _batches(
    ids: Sequence[Sequence[int]], batch: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """All rows once, in random batches of like length: rows are sorted within pools of eight."""
    order = generator.permutation(len(ids))
    out = []
    for start in range(0, len(order), _POOL * batch):
        pool = order[start : start + _POOL * batch]
        pool = pool[np.argsort([len(ids[int(i)]) for i in pool], kind="stable")]
        out += [pool[i : i + batch] for i in range(0, len(pool), batch)]
    return [out[int(i)] for i in generator.permutation(len(out))]


def read_all(
    reader: LabelReader,
    ids: Sequence[Sequence[int]],
    batch: int,
    clock: Callable[[], AbstractContextManager[None]],
) -> Steps[NDArray[np.float64]]:
    """Class logits of many prompts, in batches of like length: n × C."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    parts: list[Tensor] = []
    batch *= 2  # no gradients are held
    done = 0
    for start in range(0, len(order), batch):
        some = order[start : start + batch]
        for part in batches(some, ids, PART_TOKENS, mixed=reader.mixed):
            with clock(), torch.inference_mode():
                parts.append(reader.logits([ids[i] for i in part]).cpu())
            done += len(part)
            yield Progress(done, len(order), "reading with adapters")
    out = np.empty(tuple(torch.cat(parts).shape))
    out[order] = torch.cat(parts).double().numpy()
    return out


def adapter(context: MethodContext, *, kind: AdapterName) -> Steps[Outcome]:
    """LoRA or IA3 on query, key and value projections; IA3 on the MLPs' second matrix as well."""
    task, settings, model = context.task, context.settings, context.space.model
    watch = context.stopwatch()
    labels = task.labels["train"]
    wanted = settings.adapter_rows
    with watch.training():
        adapted = adapt(model, kind, seed=context.seed)
        reader = LabelReader(adapted, model, task.label_tokens)
        rows = np.arange(len(labels))
        if wanted is not None and wanted < len(labels):
            rows = stratified(labels, wanted, context.seed)
    yield Progress(0, 1, "training adapters")
    history = yield from train_adapter(
        adapted,
        reader,
        ([task.ids["train"][int(i)] for i in rows], labels[rows]),
        (task.ids["valid"], task.labels["valid"]),
        learning_rate=LEARNING_RATES[kind],
        epochs=settings.adapter_epochs,
        batch=settings.adapter_batch,
        seed=context.seed,
        watch=watch,
    )
    scores = yield from read_all(reader, task.ids["test"], settings.adapter_batch, watch.inferring)
    count = adapted.count
    del adapted, reader
    give_memory_back()
    notes = [] if len(rows) == len(labels) else [f"Trained on {len(rows)} of {len(labels)} rows."]
    if history:
        notes.append(f"Epoch {int(np.argmax(history)) + 1} of {len(history)} by validation.")
    return Outcome(
        kind,
        scores,
        softmax(scores),
        watch.train,
        watch.infer,
        4 * count,
        settings={
            "rows": len(rows),
            "epochs": settings.adapter_epochs,
            "batch": settings.adapter_batch,
            "learning_rate": LEARNING_RATES[kind],
            "parameters": count,
        },
        notes=tuple(notes),
    )
