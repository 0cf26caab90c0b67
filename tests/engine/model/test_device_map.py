"""A model over several devices gives the numbers that it gives on one, but for their rounding."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_devices import Placed, pretend_devices, spread
from same_numbers import assert_same
from tiny_models import PROMPT, Folders, Spaces
from torch import nn

import engine
from engine import LatentSpace
from engine.errors import ModelTooLarge, OptionError, UnsupportedModel
from engine.frames.kinds import FRAMES
from engine.interventions.action import Action
from engine.interventions.causal import causal_map
from engine.interventions.effect import effect
from engine.model.language_model import LanguageModel
from engine.model.placement import check_trainable, devices, with_values
from engine.progress import drain

pytestmark = pytest.mark.filterwarnings("ignore:at.*frobenius_norm:UserWarning")

OVER = (("llama", False), ("llama", True), ("gemma2", False), ("bert", False))
"""Head and embedding apart, by block and all else in one; tied, with a soft cap; a head with a bias
and a transform before it."""

Ask = Callable[[LatentSpace], Any]


def _trace(frame: str, space: LatentSpace) -> dict[str, Any]:
    return space.trace(PROMPT, frame=frame).to_dict()


def _effect(space: LatentSpace, **action: Any) -> dict[str, Any]:
    return effect(space, PROMPT, Action(**action)).to_dict()


QUESTIONS: dict[str, Ask] = {
    **{f"trace {frame}": partial(_trace, frame) for frame in FRAMES},
    "cell": lambda s: s.cell(PROMPT, layer=2, position=-1).to_dict(),
    "generation": lambda s: (
        s.model.anatomy.kind == "causal"
        and s.generation(PROMPT, tokens=4, top_p=0.9, seed=2).to_dict()
    ),
    "curves": lambda s: s.curves(PROMPT).to_dict(),
    "agreement": lambda s: s.agreement(PROMPT).to_dict(),
    "bases": lambda s: s.bases(5).to_dict(),
    "frame": lambda s: s.frame_report("output").to_dict(),
    "check": lambda s: s.self_check.ok,
    "last states": lambda s: s.model.last_states([[3, 4], [5, 6, 7]], [0, 1, 3]).cpu().tolist(),
    "steer": lambda s: _effect(s, kind="steer", random=1, layers="0:3", positions=":", target=5),
    "zero": lambda s: _effect(s, kind="zero", part="mlp", layers="2", positions=":", target=5),
    "causal": lambda s: drain(causal_map(s, PROMPT, f"{PROMPT[:-1]}!")).recovered.tolist(),
    "logits": lambda s: s.model.logits([3, 4, 5]).cpu().tolist(),
}
_TOLD = ("device", "cost", "seconds", "predicted_seconds", "from_cache")
"""What says where and how fast, not what was found."""


def found(value: Any) -> Any:
    """An answer without what depends on the place and the clock."""
    if isinstance(value, dict):
        return {k: found(v) for k, v in value.items() if k not in _TOLD}
    if isinstance(value, list | tuple):
        return [found(v) for v in value]
    return value


def places(model: LanguageModel, coarse: bool) -> dict[str, str]:
    """Embedding, blocks and head apart; a tied head beside its embedding.

    Coarse: all but the head in one piece, so that no part of it moves its own inputs.
    """
    anatomy, chosen = model.anatomy, {}
    if coarse:
        return {anatomy.blocks_path.split(".")[0]: "xla:1", anatomy.head_path: "xla:2"}
    blocks = anatomy.blocks_path
    for path, module in model.module.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if path == anatomy.head_path:
            chosen[path] = "xla:0" if anatomy.tied else "xla:2"
        elif path.startswith(f"{blocks}.") and "." not in path.removeprefix(f"{blocks}."):
            chosen[path] = "xla:0" if path.endswith(".0") else "xla:1"
        elif own and not any(path.startswith(f"{known}.") for known in chosen):
            after = path in anatomy.readout_paths
            chosen[path] = "xla:1" if after else "xla:0"
    return chosen


def eager(space: LatentSpace) -> LatentSpace:
    """The space with the attention that is written out in Python, as the pretended devices need."""
    space.model.module.set_attn_implementation("eager")
    return LatentSpace(space.model, cache_dir=None)


@pytest.fixture(scope="module")
def plain(spaces: Spaces) -> Callable[[str], LatentSpace]:
    known: dict[str, LatentSpace] = {}

    def get(name: str) -> LatentSpace:
        if name not in known:
            known[name] = eager(spaces.fresh(name))
        return known[name]

    return get


@pytest.fixture
def apart(plain: Callable[[str], LatentSpace]) -> Iterator[Callable[[str, bool], LatentSpace]]:
    """A tiny model whose parts lie on three devices that refuse to mix."""

    def get(name: str, coarse: bool) -> LatentSpace:
        whole = plain(name).model
        module = copy.deepcopy(whole.module)
        spread(module, places(whole, coarse))
        model = LanguageModel(module, whole.tokenizer, name=whole.name, kind=whole.anatomy.kind)
        return LatentSpace(model, cache_dir=None)

    with pretend_devices():
        yield get


def test_the_pretended_devices_refuse_to_mix() -> None:
    with pretend_devices():
        here = torch.ones(3, device="xla:0")
        there = here.to("xla:1")
        assert isinstance(there, Placed)
        assert there.device == torch.device("xla:1")
        with pytest.raises(RuntimeError, match="same device"):
            here + there
        with pytest.raises(RuntimeError, match="same device"):
            here @ torch.ones(3)
        assert float(here @ there.to("xla:0")) == 3.0
        assert (here * torch.tensor(2.0)).cpu().tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(("name", "coarse"), OVER)
@pytest.mark.slow
def test_on_three_devices_every_answer_is_that_of_one(
    name: str,
    coarse: bool,
    plain: Callable[[str], LatentSpace],
    apart: Callable[[str, bool], LatentSpace],
) -> None:
    spread_out = apart(name, coarse)
    one = plain(name)
    assert spread_out.model.fingerprint == one.model.fingerprint
    assert spread_out.model.spread
    assert not one.model.spread
    assert spread_out.model.device.startswith("xla:1, xla:2" if coarse else "xla:0, xla:1")
    assert spread_out.model.tied == one.model.tied
    for title, ask in QUESTIONS.items():
        try:
            wanted = found(ask(one))
        except OptionError:  # a frame that this model does not have
            with pytest.raises(OptionError):
                ask(spread_out)
            continue
        assert_same(found(ask(spread_out)), wanted, title)


@pytest.mark.parametrize("name", ["llama", "qwen3", "bert"])
@pytest.mark.slow
def test_weights_that_accelerate_keeps_elsewhere_give_the_same_numbers(
    name: str, plain: Callable[[str], LatentSpace]
) -> None:
    from accelerate import cpu_offload

    one = plain(name)
    module = cpu_offload(copy.deepcopy(one.model.module), execution_device=torch.device("cpu"))
    assert devices(module) == ("meta",), "nothing was taken away, so this would show nothing"
    model = LanguageModel(
        module, one.model.tokenizer, name=one.model.name, kind=one.model.anatomy.kind
    )
    away = LatentSpace(model, cache_dir=None)
    assert away.model.fingerprint == one.model.fingerprint
    assert away.model.tied == one.model.tied
    for title, ask in QUESTIONS.items():
        assert_same(found(ask(away)), found(ask(one)), title)
    assert devices(module) == ("meta",), "the weights stayed where they were fetched to"


def test_layers_on_the_disk_give_the_same_numbers(
    folders: Folders, spaces: Spaces, tmp_path: Path
) -> None:
    """Opened by a device map, as a notebook may: two blocks and the head stay in their file."""
    one = spaces["llama"]
    places = {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.layers.2": "disk",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "disk",
    }
    told: list[str] = []
    space = engine.load(
        folders["llama"],
        device="cpu",
        offline=True,
        cache_dir=tmp_path,
        device_map=places,
        tell=told.append,
    )
    assert space.model.spread
    assert space.model.device == "cpu, elsewhere"
    assert space.model.module.lm_head.weight.is_meta
    assert space.model.fingerprint == one.model.fingerprint
    for title in ("trace output", "trace head", "bases", "last states", "logits", "steer", "zero"):
        assert_same(found(QUESTIONS[title](space)), found(QUESTIONS[title](one)), title)
    assert told[0] == "reading the configuration"
    assert "reading the weights" in told
    assert told == list(dict.fromkeys(told)), "each phase is told once"


def test_training_of_a_spread_models_own_weights_is_refused(
    plain: Callable[[str], LatentSpace],
) -> None:
    from accelerate import cpu_offload

    module = copy.deepcopy(plain("llama").model.module)
    check_trainable(module)
    with pytest.raises(UnsupportedModel, match="spread over several devices"):
        check_trainable(cpu_offload(module, execution_device=torch.device("cpu")))


def test_weights_without_values_are_refused() -> None:
    with torch.device("meta"):
        empty = nn.Linear(2, 3)
    with pytest.raises(UnsupportedModel, match="no values"):
        with_values(empty)
    assert with_values(empty, "scale") is None


@pytest.mark.parametrize(
    ("device_map", "device", "why"),
    [
        ("auto", "cpu", "device cpu was asked for"),
        ("auto", "auto", "no CUDA device was found"),
        ("wildly", "auto", "must be one of"),
    ],
)
def test_a_device_map_that_cannot_be_followed_is_refused(
    folders: Folders, device_map: str, device: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionError, match=why):
        engine.load(folders["llama"], device=device, device_map=device_map, offline=True)


def test_without_accelerate_a_device_map_is_refused(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "accelerate" else real(name)
    )
    with pytest.raises(OptionError, match="needs the package accelerate"):
        engine.load(folders["llama"], device="cpu", device_map={"": "cpu"}, offline=True)


def test_a_model_that_would_end_on_the_disk_is_refused(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerate's last resort, chosen by itself, would take minutes a prompt."""
    import engine.model.opening

    def all_on_disk(*_: Any, **__: Any) -> tuple[nn.Module, dict[str, Any]]:
        module = nn.Linear(1, 1)
        module.hf_device_map = {"": "disk"}
        return module, {}

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", all_on_disk)
    monkeypatch.setattr(engine.model.opening, "check_device_map", lambda *_: None)
    with pytest.raises(ModelTooLarge, match="from the disk"):
        engine.load(folders["llama"], device="cpu", device_map="auto", offline=True)
