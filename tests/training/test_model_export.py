"""A checkpoint becomes a folder that loads, computes the same and tells nothing of the machine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.config import Config
from training.evaluate import score, token_losses
from training.export import SHARD_BYTES, export
from training.train import Run

BFLOAT16 = 2**-8
"""Relative spacing of bfloat16."""


@pytest.fixture(scope="module")
def run(toy_config: Config) -> Run:
    return Run.start(toy_config, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def exported(run: Run, toy_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    (out / "README.md").write_text("kept")
    (out / "model-00001-of-00009.safetensors").write_text("stale")
    export(run.model, toy_work / "tokenizer", out)
    return out


def test_an_export_gives_the_same_logits_up_to_bfloat16(run: Run, exported: Path) -> None:
    """Loaded by the Auto classes, the logits are those of the weights rounded to bfloat16."""
    loaded = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        expected, given = run.model(tokens).logits, loaded(tokens).logits
    # Two layers and two frames each round once: a few spacings of the largest logit.
    assert torch.allclose(given, expected, atol=8 * BFLOAT16 * float(expected.abs().max()))
    for name, weight in run.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.bfloat16().float()), name
    assert loaded.lm_head.weight.data_ptr() != loaded.model.embed_tokens.weight.data_ptr()


def test_the_run_is_not_changed_by_its_export(run: Run, exported: Path) -> None:
    """The network that goes on training keeps its dtype."""
    assert run.model.dtype == torch.float32
    assert exported.exists()


def test_an_export_keeps_the_card_and_removes_stale_weights(exported: Path) -> None:
    """Only weights and configuration are replaced."""
    assert (exported / "README.md").read_text() == "kept"
    assert [file.name for file in exported.glob("*.safetensors")] == ["model.safetensors"]


def test_an_export_records_its_dtype_and_no_path(
    exported: Path, toy_work: Path, toy_config: Config
) -> None:
    """The JSON files name bfloat16 and no folder of the machine."""
    config = json.loads((exported / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is False
    assert config["max_position_embeddings"] == toy_config.positions
    for file in exported.glob("*.json"):
        assert str(toy_work) not in file.read_text()


def test_the_shipped_files_are_small_and_name_no_folder(small_model: Path) -> None:
    """Every file of the small model is at most 15 MiB and tells nothing of where it was made."""
    for file in small_model.iterdir():
        assert file.stat().st_size <= SHARD_BYTES
        if file.suffix in {".json", ".md"} and file.name != "tokenizer.json":
            text = file.read_text()
            assert str(Path(__file__).parents[2]) not in text
            assert str(Path.home()) + "/" not in text


class _Uniform(torch.nn.Module):
    """Gives every token of a vocabulary the same score, and counts what it reads."""

    device = torch.device("cpu")

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.widest = 0

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        self.widest = max(self.widest, input_ids.shape[1])
        logits = torch.zeros(*input_ids.shape, self.vocabulary)
        return type("Output", (), {"logits": logits})()


@pytest.mark.parametrize("length", [2, 5, 16, 17, 18, 25, 100])
def test_every_token_is_scored_once(length: int) -> None:
    """Whatever the length, each token after the first has a score, and no window is too wide."""
    model: Any = _Uniform(64)
    losses = token_losses(model, torch.arange(length) % 64, window=16, windows_at_once=3)
    assert losses.shape == (length - 1,)
    assert torch.allclose(losses, torch.full_like(losses, math.log(64)))
    assert model.widest <= 16


def test_windows_do_not_change_what_they_need_not(run: Run) -> None:
    """The losses inside the first window are those of one forward pass."""
    tokens = torch.randint(0, 512, (60,), generator=torch.Generator().manual_seed(0))
    windowed = token_losses(run.model, tokens, window=32)
    with torch.no_grad():
        logits = run.model(tokens[None, :32]).logits[0]
    expected = torch.nn.functional.cross_entropy(logits, tokens[1:33], reduction="none")
    assert torch.allclose(windowed[:32], expected, atol=1e-5)


def test_bits_per_byte_of_a_uniform_model(toy_work: Path) -> None:
    """A model that knows nothing needs log2 of the vocabulary for each token."""
    tokenizer = AutoTokenizer.from_pretrained(toy_work / "tokenizer")
    texts = ["The dog barks.", "", "漢字"]
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    model: Any = _Uniform(512)
    measured = score(model, tokenizer, texts, window=16)
    size = sum(len(text.encode()) for text in texts)
    assert (measured.documents, measured.tokens, measured.utf8_bytes) == (2, tokens, size)
    assert measured.bits_per_byte == pytest.approx(9 * tokens / size)


def test_nothing_to_score_is_refused() -> None:
    """A text of empty documents has no bits per byte."""
    with pytest.raises(ValueError, match="all documents are empty"):
        score(_Uniform(2), _Empty(), [""], window=16)  # type: ignore[arg-type]


class _Empty:
    bos_token_id = 0

    def __call__(self, text: str, **options: bool) -> Any:
        return type("Encoding", (), {"input_ids": []})()
