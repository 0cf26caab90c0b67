"""Folders of models that want to run code or take all memory: refused before they are opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import PROMPT, Folders

import engine
from engine.errors import ModelError, ModelTooLarge, UnsafeModel
from engine.model.folder import check_folder

Change = Callable[[Path], None]


@pytest.fixture
def folder(folders: Folders, tmp_path: Path) -> Path:
    """A sound model's folder of one's own."""
    return Path(shutil.copytree(folders["gpt2"], tmp_path / "model"))


def setting(name: str, **values: Any) -> Change:
    """Write values into one of the folder's JSON files."""

    def change(folder: Path) -> None:
        path = folder / name
        found = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(found | values))

    return change


def code(name: str) -> Change:
    """A file that would leave a mark if it ran."""

    def change(folder: Path) -> None:
        mark = folder.parent / "ran"
        (folder / name).write_text(f"open({str(mark)!r}, 'w').close()\n")

    return change


class Bomb:
    """Leaves a mark when its pickle is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def pickled(name: str, *, alone: bool = True) -> Change:
    """Weights as a pickle, in the place of the sound ones or beside them."""

    def change(folder: Path) -> None:
        torch.save({"weight": Bomb(folder.parent / "ran")}, folder / name)
        if alone:
            (folder / "model.safetensors").unlink()

    return change


def index(target: str) -> Change:
    """Weights in parts, of which one lies where none may lie."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        pickled("pytorch_model.bin", alone=False)(folder)
        names = {"transformer.wte.weight": "model-00001-of-00002.safetensors",
                 "transformer.wpe.weight": target}  # fmt: skip
        body = {"metadata": {"total_size": 1}, "weight_map": names}
        (folder / "model.safetensors.index.json").write_text(json.dumps(body))

    return change


MAP = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddModel"}
EVIL: dict[str, tuple[Change, ...]] = {
    "a module and auto_map": (code("odd.py"), setting("config.json", auto_map=MAP)),
    "auto_map of another repository": (
        setting("config.json", auto_map={"AutoConfig": "evil/repository--odd.OddConfig"}),
    ),
    "auto_map deep in the configuration": (
        setting("config.json", text_config={"inner": {"auto_map": MAP}}),
    ),
    "a configuration that allows itself": (setting("config.json", trust_remote_code=True),),
    "a tokenizer's auto_map": (
        code("odd.py"),
        setting("tokenizer_config.json", auto_map={"AutoTokenizer": ["odd.Odd", None]}),
    ),
    "auto_map for generation": (setting("generation_config.json", auto_map=MAP),),
    "auto_map of a processor": (setting("processor_config.json", auto_map=MAP),),
    "a module beside": (code("modeling_odd.py"),),
    "compiled code beside": (code("modeling_odd.pyc"),),
    "a pickle": (pickled("pytorch_model.bin"),),
    "a pickle by another name": (pickled("model.pt"),),
    "a checkpoint": (pickled("weights.CKPT"),),
    "a part that is a pickle": (index("pytorch_model.bin"),),
    "a part outside the folder": (index("../../elsewhere.safetensors"),),
    "a part by its whole path": (index("/etc/passwd"),),
    "an adapter of another model": (
        setting("adapter_config.json", base_model_name_or_path="evil/model", peft_type="LORA"),
    ),
}


@pytest.mark.parametrize("name", EVIL)
def test_what_would_run_code_is_refused_before_any_library_sees_it(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    for change in EVIL[name]:
        change(folder)
    seen: list[str] = []
    for factory in (
        transformers.AutoConfig,
        transformers.AutoTokenizer,
        transformers.AutoModelForCausalLM,
    ):
        monkeypatch.setattr(
            factory, "from_pretrained", lambda *_, **__: seen.append("opened"), raising=True
        )
    with pytest.raises(UnsafeModel) as raised:
        engine.load(folder, device="cpu", offline=True, cache_dir=folder.parent / "cache")
    message = str(raised.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert str(folder) not in message
    assert seen == []
    assert not (folder.parent / "ran").exists()


def test_a_pickle_beside_sound_weights_is_left_alone(folder: Path, tmp_path: Path) -> None:
    pickled("pytorch_model.bin", alone=False)(folder)
    space = engine.load(folder, device="cpu", offline=True, cache_dir=tmp_path / "cache")
    assert space.trace(PROMPT).finite.all()
    assert not (tmp_path / "ran").exists()


def test_links_in_a_folder_are_followed(folders: Folders, tmp_path: Path) -> None:
    """As in the hub's cache, where every file is a link to a blob."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in folders["gpt2"].iterdir():
        (linked / path.name).symlink_to(path)
    space = engine.load(linked, device="cpu", offline=True, cache_dir=tmp_path / "cache")
    assert space.trace(PROMPT).finite.all()


@pytest.mark.parametrize(
    "values",
    [
        {"vocab_size": 2 * 10**9, "n_embd": 4096},
        {"vocab_size": 2 * 10**9, "n_embd": 10**6},
        {"n_embd": 10**9},
        {"n_layer": 10**9, "n_embd": 2},
        {"n_layer": 5000},
        {"n_layer": 10**30},
    ],
)
def test_sizes_of_another_world_are_refused_before_anything_is_made(
    folder: Path, values: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    setting("config.json", **values)(folder)
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM,
        "from_pretrained",
        lambda *_, **__: pytest.fail("it was built"),
    )
    with pytest.raises(ModelTooLarge, match=r"\.$"):
        engine.load(folder, device="cpu", offline=True, cache_dir=folder.parent / "cache")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 90_000, '{"a": \udcff}', "7"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_json_file_that_is_none_is_a_sentence(folder: Path, file: str, text: str) -> None:
    (folder / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"\.$"):
        check_folder(folder, "shown", trust_remote_code=False)


def test_a_configuration_of_gigabytes_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (folder / "config.json").open("wb") as file:
        file.truncate(5 * 2**30)  # a hole: it takes no room on the disk
    for reads in ("read_text", "read_bytes", "open"):
        monkeypatch.setattr(Path, reads, lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ModelError, match="64 MiB"):
        check_folder(folder, "shown", trust_remote_code=False)
