"""The same objective on the model's own layers: the last k, all, or LoRA through `peft`.

The paper trains behind the model only; this is the comparison. A copy of the model is trained, so
that the model itself never changes: the last-position state, after the final norm, goes to its
label's fixed basis (taken from the model as it was). Only the parameters of the blocks that are
asked for are trained; embedding, final norm and head stay. LoRA (Hu et al. 2022) adds two narrow
matrices to each query, key and value projection and trains these alone.

One step is a part of a batch: at most 256 tokens with gradients, 2,048 without, padding included.
Frozen blocks below the lowest trained one are run once (`engine.calibration.training.below`).
"""

from __future__ import annotations

import copy
import inspect
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Final

import psutil
import torch
from torch import Tensor, nn

from engine.calibration.labelled.tasks import Task
from engine.calibration.training.below import Below, read_below
from engine.calibration.training.calibrated import Calibration, Prediction, untrained
from engine.calibration.training.epochs import Learner, fit_temperature, measured, train_epochs
from engine.calibration.training.features import TaskStates
from engine.calibration.training.losses import clustering_loss
from engine.calibration.training.options import CalibrationOptions
from engine.checkpoints import Checkpoint
from engine.cost import give_memory_back
from engine.errors import BudgetExceeded, OptionError
from engine.model.anatomy import first_tensor
from engine.model.language_model import LanguageModel
from engine.model.placement import check_trainable
from engine.model.texts import batches, padded
from engine.progress import Progress, Steps
from engine.space import LatentSpace

PART_TOKENS: Final = 2048
GRADIENT_TOKENS: Final = 256
"""Tokens of a pass that holds its activations; a batch's gradients are added up over its parts."""
LORA_SCALE: Final = 2.0
"""alpha over rank."""
_ATTENTION: Final = (
    *("q_proj", "k_proj", "v_proj", "query", "key", "value"),
    *("c_attn", "query_key_value", "qkv_proj", "Wqkv", "qkv"),
)
"""What architectures call the projections to queries, keys and values."""
_CLIP: Final = 1.0
"""Largest norm of a step's gradient."""


def tune_model(
    space: LatentSpace, task: Task, options: CalibrationOptions, checkpoint: Checkpoint
) -> Steps[Calibration]:
    """Train blocks or LoRA on a copy of the model; :func:`engine.calibration.calibrate` calls it.

    Args:
        space: whose model.
        task: labels and label tokens.
        options: settings.
        checkpoint: where the training is kept, keyed by the other three.

    Raises:
        OptionError: more blocks than there are, or `peft` is not installed.
        BudgetExceeded: a copy of the model does not fit the memory.
        NonFiniteError: the loss became NaN or infinite.
    """
    try:
        return (yield from _tune(space, task, options, checkpoint))
    finally:  # the copy and its activations are gigabytes that the allocator would keep for itself
        give_memory_back()


def _tune(
    space: LatentSpace, task: Task, options: CalibrationOptions, checkpoint: Checkpoint
) -> Steps[Calibration]:
    begin = time.perf_counter()
    result = untrained(space, task, options)
    twin = prepare(space.model, options)
    trained = {n: p for n, p in twin.module.named_parameters() if p.requires_grad}
    result.trained_weights = sum(p.numel() for p in trained.values())
    device = result.centroids.labels.device
    labels = {s: torch.from_numpy(task.labels[s]).to(device) for s in ("train", "valid")}
    below = yield from read_below(
        twin,
        _lowest(twin),
        [*task.ids["train"], *task.ids["valid"]],
        part_tokens=PART_TOKENS,
    )
    total = options.used_epochs * task.size("train")

    def losses(chosen: Tensor) -> Iterator[tuple[int, Tensor]]:
        ids = task.ids["train"]
        by_length = sorted(chosen.tolist(), key=lambda i: (len(ids[i]), i))
        for part in batches(by_length, ids, GRADIENT_TOKENS, mixed=twin.pads):
            states = last_states(twin, [ids[i] for i in part], below)
            own = labels["train"][torch.tensor(part, device=device)]
            yield (
                len(part),
                clustering_loss(
                    options.loss, states, own, result.centroids, options.used_temperature
                ),
            )

    def judge(split: str, done: int) -> Steps[tuple[float, float]]:
        if not len(labels[split]):
            return math.nan, math.nan
        states = yield from _states(twin, task.ids[split], "validating", done, total, below)
        return measured(options, states, labels[split], result.centroids)

    learner = Learner(list(trained.values()), losses, judge, by_text=True, most_norm=_CLIP)
    best = yield from train_epochs(learner, options, task.size("train"), checkpoint, begin)
    result.history, result.best_epoch = tuple(best.history), best.epoch
    result.tuned = {name: p.detach().cpu().clone() for name, p in trained.items()}
    if task.size("valid"):
        states = yield from _states(twin, task.ids["valid"], "validating", total, total, below)
        fit_temperature(result, states, labels["valid"])
    result.seconds = best.seconds
    return result


def _lowest(twin: LanguageModel) -> int:
    """Number of the lowest block that is trained."""
    blocks = twin.anatomy.blocks
    return next(i for i, b in enumerate(blocks) if any(p.requires_grad for p in b.parameters()))


def predict(
    calibration: Calibration,
    space: LatentSpace,
    states: TaskStates,
    task: Task,
    split: str = "test",
) -> Steps[Prediction]:
    """The answers for one split, whatever was trained; one step is one batch."""
    calibrated = yield from calibrated_states(calibration, space, states, task, split)
    return calibration.read_calibrated(calibrated)


def calibrated_states(
    calibration: Calibration,
    space: LatentSpace,
    states: TaskStates,
    task: Task,
    split: str = "test",
) -> Steps[Tensor]:
    """Calibrated states of one split: n × d. Tuned layers run its texts again.

    Raises:
        ArtifactError: the calibration belongs to another model.
    """
    calibration.check_model(space)
    if calibration.options.kind not in ("layers", "lora"):
        yield Progress(0, 1, "reading")
        return calibration.apply(states.at(calibration.options.layer)[split])
    ids = task.ids[split]
    if not ids:
        return torch.empty(0, space.model.width)
    twin = tuned_model(calibration, space.model)
    try:
        return (yield from _states(twin, ids, "reading the texts", 0, len(ids)))
    finally:
        del twin
        give_memory_back()


def tuned_model(calibration: Calibration, model: LanguageModel) -> LanguageModel:
    """A copy of the model with what was trained put in."""
    twin = prepare(model, calibration.options)
    own = dict(twin.module.named_parameters())
    with torch.no_grad():
        for name, value in calibration.tuned.items():
            own[name].copy_(value)
    return twin


def prepare(model: LanguageModel, options: CalibrationOptions) -> LanguageModel:
    """A float32 copy in which exactly the parameters to be trained ask for gradients."""
    need = 4 * model.parameters
    free = psutil.virtual_memory().available
    if need > free // 2:
        raise BudgetExceeded(
            f"tuning layers needs a copy of {model.name} and its gradients, about"
            f" {4 * need / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free; calibrate behind"
            " the model (target module) instead."
        )
    check_trainable(model.module)
    module = copy.deepcopy(model.module).float()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    twin = LanguageModel(
        module,
        model.tokenizer,
        name=f"{model.name} (tuned copy)",
        revision=model.revision,
        kind=model.anatomy.kind,
        limits=model.limits,
    )
    if options.kind == "lora":
        _add_lora(twin, options)
        return twin
    count = len(twin.anatomy.blocks)
    wanted = options.target.split(":")[1]
    k = count if wanted == "all" else int(wanted)
    if k > count:
        raise OptionError(
            f"this model has {count} blocks, so at most layers:{count} can be tuned; got"
            f" {options.target}."
        )
    for block in twin.anatomy.blocks[count - k :]:
        block.requires_grad_(True)
    return twin


def _add_lora(twin: LanguageModel, options: CalibrationOptions) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise OptionError(
            "LoRA needs the package `peft`, which is not installed; install it or choose another"
            " target."
        ) from None
    names = _projections(twin)
    modules = dict(twin.module.named_modules())
    config = LoraConfig(
        r=options.rank,
        lora_alpha=LORA_SCALE * options.rank,
        lora_dropout=0.0,
        target_modules=names,
        # transformers' Conv1D (GPT-2) holds its matrix the other way round.
        fan_in_fan_out=not isinstance(modules[names[0]], nn.Linear),
    )
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(options.seed)
        inject_adapter_in_model(config, twin.module)
    for name, parameter in twin.module.named_parameters():
        parameter.requires_grad_("lora_" in name)
    twin.module.eval()


def _projections(twin: LanguageModel) -> list[str]:
    """Paths of the query, key and value projections of every block; of all matrices if none."""
    found, every = [], []
    for name, module in twin.module.named_modules():
        weight = getattr(module, "weight", None)
        matrix = isinstance(weight, Tensor) and weight.dim() == 2
        inside = name.startswith(twin.anatomy.blocks_path + ".")
        if not inside or not matrix or isinstance(module, nn.Embedding):
            continue
        every.append(name)
        if name.rsplit(".", 1)[-1] in _ATTENTION:
            found.append(name)
    return found or every


def last_states(
    twin: LanguageModel, batch: Sequence[Sequence[int]], below: Below | None = None
) -> Tensor:
    """What the head reads at each text's last position, with gradients: n × d, float32.

    With `below` the pass begins at the lowest trained block.
    """
    anatomy = twin.anatomy
    weight = anatomy.embedding.weight
    assert isinstance(weight, Tensor)
    given, mask, lengths = padded(batch)
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        tensor = first_tensor(output)
        assert tensor is not None
        kept.append(tensor)

    takes = inspect.signature(twin.module.forward).parameters
    extra: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}
    if "logits_to_keep" in takes:
        extra["logits_to_keep"] = 1
    handle = anatomy.blocks[-1].register_forward_hook(keep)
    try:
        with nullcontext() if below is None else below.entering(batch):
            twin.module(
                input_ids=given.to(weight.device), attention_mask=mask.to(weight.device), **extra
            )
    finally:
        handle.remove()
    (states,) = kept
    rows = torch.arange(len(batch), device=states.device)
    return anatomy.read_out(states[rows, (lengths - 1).to(states.device)])


def _states(
    twin: LanguageModel,
    ids: Sequence[Sequence[int]],
    note: str,
    done: int,
    total: int,
    below: Below | None = None,
) -> Steps[Tensor]:
    """States after the final norm, without gradients."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    device = twin.anatomy.weight.device
    out = torch.empty(len(ids), twin.width, device=device)
    for part in batches(order, ids, PART_TOKENS, mixed=twin.pads):
        with torch.no_grad():
            states = last_states(twin, [ids[i] for i in part], below)
        out[torch.tensor(part, device=device)] = states
        yield Progress(done, total, note)
    return out
