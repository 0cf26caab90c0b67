"""LoRA and IA3: what they touch, what they leave, and that they learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from method_tasks import small_context
from tiny_models import Spaces

from engine.calibration.evidence import peft_tuning
from engine.calibration.evidence.methods import METHODS
from engine.calibration.evidence.peft_tuning import (
    LabelReader,
    _batches,
    adapt,
    target_modules,
    train_adapter,
)
from engine.calibration.evidence.prompting import label_logits
from engine.calibration.evidence.protocol import Stopwatch
from engine.errors import UnsupportedModel
from engine.progress import drain

MODELS = ("gpt2", "llama", "gpt_neox", "opt", "gemma2")


def snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in module.named_parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_targets_by_name_and_by_shape(spaces: Spaces, name: str) -> None:
    """Query, key and value in every block; and the matrix that leads out of every MLP."""
    model = spaces[name].model
    attention, second = target_modules(model)
    per_block = {"gpt2": 1, "gpt_neox": 1}.get(name, 3)
    assert len(attention) == per_block * model.blocks
    assert len(second) == model.blocks
    ends = {"gpt2": "mlp.c_proj", "gpt_neox": "dense_4h_to_h", "opt": "fc2"}
    assert all(n.endswith(ends.get(name, "down_proj")) for n in second)


def test_a_model_without_known_names_is_refused(spaces: Spaces) -> None:
    """A sentence, and nothing adapted."""
    model = spaces["llama"].model
    renamed = model.module.named_modules
    try:
        model.module.named_modules = lambda: [(n.replace("_proj", "_x"), m) for n, m in renamed()]
        with pytest.raises(UnsupportedModel, match="nothing to adapt"):
            target_modules(model)
    finally:
        del model.module.named_modules


@pytest.mark.parametrize("kind", ["lora", "ia3"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_an_untrained_adapter_changes_nothing(spaces: Spaces, name: str, kind: str) -> None:
    """Both start as the identity: the copy's label logits are the model's own."""
    context = small_context(spaces[name])
    model, task = context.space.model, context.task
    adapted = adapt(model, kind, seed=0)
    reader = LabelReader(adapted, model, task.label_tokens)
    with torch.no_grad():
        found = reader.logits(task.ids["test"][:7]).double().numpy()
    hand = label_logits(model, context.states.normed["test"][:7], task.label_tokens)
    np.testing.assert_allclose(found, hand, atol=2e-4)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_training_changes_the_adapters_and_nothing_else(
    spaces: Spaces, name: str, kind: str
) -> None:
    """Bit by bit: the copy's own weights, the model's weights; and the adapters did move."""
    context = small_context(spaces[name])
    model, task = context.space.model, context.task
    original = snapshot(model.module)
    adapted = adapt(model, kind, seed=0)
    before = snapshot(adapted.module)
    history = drain(
        train_adapter(
            adapted,
            LabelReader(adapted, model, task.label_tokens),
            (task.ids["train"], task.labels["train"]),
            ((), np.zeros(0, dtype=np.int64)),
            learning_rate=1e-2,
            epochs=1,
            batch=8,
            seed=0,
            watch=Stopwatch(),
        )
    )
    assert history == []
    after = snapshot(adapted.module)
    changed = {n for n in after if not torch.equal(after[n], before[n])}
    assert changed
    assert changed <= set(adapted.parameters)
    if kind == "ia3":
        assert changed == set(adapted.parameters)
    assert all(torch.equal(p, original[n]) for n, p in model.module.named_parameters())
    assert adapted.count == sum(p.numel() for n, p in after.items() if n in adapted.parameters)


def test_parameter_counts_by_formula(spaces: Spaces) -> None:
    """LoRA: r·(in + out) per matrix; IA3: out of each projection, in of the MLP's second."""
    model = spaces["llama"].model
    config = model.module.config
    d, key, inner, blocks = 32, 16, config.intermediate_size, model.blocks
    lora = adapt(model, "lora", seed=0)
    assert lora.count == blocks * 8 * ((d + d) + 2 * (d + key))
    assert adapt(model, "ia3", seed=0).count == blocks * (d + 2 * key + inner)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_the_model_is_as_it_was_afterwards(spaces: Spaces, kind: str) -> None:
    """Weights, flags, modules and logits of the model after a whole run; and after a cancel."""
    context = small_context(spaces["llama"])
    module = context.space.model.module
    ids = context.task.ids["test"][0]
    logits, weights = context.space.model.logits(ids), snapshot(module)
    flags = {n: p.requires_grad for n, p in module.named_parameters()}
    names = [n for n, _ in module.named_modules()]
    outcome = drain(METHODS[kind].run(context))
    stopped = METHODS[kind].run(context)
    for _ in range(3):
        next(stopped)
    # Between two steps others read the model as it is.
    assert torch.equal(context.space.model.logits(ids), logits)
    stopped.close()
    assert [n for n, _ in module.named_modules()] == names
    assert {n: p.requires_grad for n, p in module.named_parameters()} == flags
    assert all(torch.equal(p, weights[n]) for n, p in module.named_parameters())
    assert torch.equal(context.space.model.logits(ids), logits)
    assert outcome.stored_bytes == 4 * outcome.settings["parameters"]
    assert outcome.scores.shape == (context.task.size("test"), 2)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_they_fit_what_they_are_shown(spaces: Spaces, kind: str) -> None:
    """Sixteen rows can be learned by heart, from a model that has most of them wrong or at par."""
    context = small_context(spaces["llama"])
    model, task = context.space.model, context.task
    ids, labels = task.ids["train"][:16], task.labels["train"][:16]
    adapted = adapt(model, kind, seed=0)
    reader = LabelReader(adapted, model, task.label_tokens)
    drain(
        train_adapter(
            adapted, reader, (ids, labels), ((), labels[:0]),
            learning_rate=2e-2, epochs=40, batch=8, seed=0, watch=Stopwatch(),
        )
    )  # fmt: skip
    with torch.no_grad():
        right = reader.logits(ids).argmax(1).numpy() == labels
    assert right.mean() >= 0.9


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_the_best_epoch_is_kept(spaces: Spaces, kind: str) -> None:
    """What the adapters answer in the end is the best of the epochs on the validation rows."""
    context = small_context(spaces["llama"])
    model, task = context.space.model, context.task
    adapted = adapt(model, kind, seed=0)
    reader = LabelReader(adapted, model, task.label_tokens)
    history = drain(
        train_adapter(
            adapted, reader,
            (task.ids["train"], task.labels["train"]), (task.ids["valid"], task.labels["valid"]),
            learning_rate=2e-2, epochs=4, batch=8, seed=0, watch=Stopwatch(),
        )
    )  # fmt: skip
    with torch.no_grad():
        right = reader.logits(task.ids["valid"]).argmax(1).numpy() == task.labels["valid"]
    assert len(history) == 4
    assert right.mean() == pytest.approx(max(history))


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_the_same_seed_gives_the_same_bits(spaces: Spaces, kind: str) -> None:
    """And another seed others."""
    context = small_context(spaces["llama"])
    outcome, again = (drain(METHODS[kind].run(context)) for _ in range(2))
    assert np.array_equal(outcome.scores, again.scores)
    other = drain(METHODS[kind].run(replace(context, seed=2)))
    assert not np.array_equal(outcome.scores, other.scores)


def test_fewer_rows_say_so(spaces: Spaces) -> None:
    """A cap on the rows is in the notes and the settings."""
    context = small_context(spaces["llama"], adapter_rows=12)
    outcome = drain(METHODS["ia3"].run(context))
    assert outcome.settings["rows"] == 12
    assert outcome.notes[0] == f"Trained on 12 of {context.task.size('train')} rows."


def test_batches_hold_every_row_once() -> None:
    """In random batches whose lengths lie close together."""
    ids = [[0] * n for n in np.random.default_rng(0).integers(3, 90, 130)]
    batches = _batches(ids, 8, np.random.default_rng(1))
    assert sorted(int(i) for b in batches for i in b) == list(range(130))
    assert max(len(b) for b in batches) == 8
    spans = [max(len(ids[i]) for i in b) - min(len(ids[i]) for i in b) for b in batches]
    assert np.mean(spans) < 25


def test_long_texts_are_trained_on_in_parts_with_the_same_gradient(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pass holds more tokens than allowed, and the step is that of the whole batch."""
    context = small_context(spaces["llama"])
    model, task = context.space.model, context.task
    ids, labels = task.ids["train"][:24], task.labels["train"][:24]
    ends: list[dict[str, torch.Tensor]] = []
    for limit in (2048, 60):
        monkeypatch.setattr(peft_tuning, "PART_TOKENS", limit)
        monkeypatch.setattr(peft_tuning, "GRADIENT_TOKENS", limit)
        adapted = adapt(model, "ia3", seed=0)
        reader = LabelReader(adapted, model, task.label_tokens)
        sizes: list[tuple[int, int]] = []
        read = reader.logits

        def counted(batch, read=read, sizes=sizes):  # type: ignore[no-untyped-def]
            sizes.append((len(batch), max(len(one) for one in batch)))
            return read(batch)

        monkeypatch.setattr(reader, "logits", counted)
        drain(
            train_adapter(
                adapted, reader, (ids, labels), (ids[:8], labels[:8]), learning_rate=1e-3,
                epochs=2, batch=12, seed=0, watch=Stopwatch(),
            )
        )  # fmt: skip
        assert all(count * longest <= limit or count == 1 for count, longest in sizes)
        assert sum(count for count, _ in sizes) == 2 * (24 + 8)
        ends.append({name: p.detach().clone() for name, p in adapted.parameters.items()})
    assert len(sizes) > 8
    for name, tensor in ends[0].items():
        assert torch.allclose(tensor, ends[1][name], atol=1e-5)
