"""The checkpoints and tables that were made after reports of other tools' users, where present."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import ROOT

from engine import LatentSpace, load
from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.tables import read_table
from engine.calibration.labelled.tasks import make_task
from engine.errors import LexiscopeError, PromptError
from engine.maps import MapOptions, TextSet

CASES = ROOT.parent / "shared" / "cases"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here"),
]
TEXT = "the boat sat"


def opened(name: str, tmp_path: Path) -> LatentSpace:
    return load(CASES / name, device="cpu", offline=True, cache_dir=tmp_path)


REFUSED = {
    "int8_unknown_method": "rowint8",
    "mlx_4bit": "quantised by MLX",
    "peft_adapter_only": "an adapter for 'some/base-model'",
    "cpmant": "9 states for 5 tokens",
    "bert_seqcls": "no output embedding",
    "roberta_514": "lm_head.dense",
    "t5": "encoder-decoder",
}
OPENED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "int8_ref": ("LlamaForCausalLM", "causal", {}),
    "bert_no_architectures": ("BertForMaskedLM", "masked", {}),
    "convbert": ("ConvBertForMaskedLM", "masked", {}),
    "gemma3_multimodal": ("Gemma3ForConditionalGeneration", "causal", {}),
    "qwen35_multimodal": ("Qwen3_5ForConditionalGeneration", "causal", {}),
    "bert_pretraining": ("BertForPreTraining", "masked", {}),
    "jamba_no_attention": (
        "JambaForCausalLM", "causal", {"experts_implementation": "eager", "use_cache": False},
    ),
    "bigbird_decoder": ("BigBirdForCausalLM", "causal", {}),
    "gpt1_words": ("OpenAIGPTLMHeadModel", "causal", {}),
    "holes": ("LlamaForCausalLM", "causal", {}),
    "padded_vocab": ("LlamaForCausalLM", "causal", {}),
    "chat_named_default": ("LlamaForCausalLM", "causal", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_rightly_is_one_true_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(LexiscopeError) as caught:
        opened(name, tmp_path)
    text = str(caught.value)
    assert REFUSED[name] in text
    assert text.endswith(".")
    assert "\n" not in text


@pytest.mark.parametrize("name", OPENED)
def test_what_opens_gives_the_logits_of_its_own_class_in_float64(name: str, tmp_path: Path) -> None:
    kind, direction, more = OPENED[name]
    space = opened(name, tmp_path)
    assert space.self_check.ok, space.self_check.summary
    assert space.model.anatomy.kind == direction
    how = {"experts_implementation": "eager"} if "experts_implementation" in more else {}
    model = getattr(transformers, kind).from_pretrained(CASES / name, **how).double().eval()
    ids = space.tokenize(TEXT).ids
    asked = {key: value for key, value in more.items() if key == "use_cache"}
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), **asked)
    wanted = (out.prediction_logits if "prediction_logits" in out else out.logits)[0]
    found = space.model.logits(ids).double()
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_tokens_are_named_by_their_ids(tmp_path: Path) -> None:
    holes = opened("holes", tmp_path)
    assert [t.text for t in holes.tokenize("boat quiet salt").items] == ["boat", "quiet", "salt"]
    words = opened("gpt1_words", tmp_path).vocabulary
    assert not any("</w>" in text for text in words.texts)
    assert not opened("added_not_resized", tmp_path).self_check.ok


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("chat_named_only", "rag, tool_use"),
        ("chat_raises", "system turn first"),
        ("chat_syntax", "endfo"),
        ("chat_undefined", "cannot"),
        ("chat_empty", "writes nothing"),
    ],
)
def test_a_template_that_fails_is_a_sentence(name: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=part):
        opened(name, tmp_path).tokenize(TEXT, chat=True)


def test_a_text_lies_where_it_lies_alone(tmp_path: Path) -> None:
    """On a map of texts, by the model whose padding shows."""
    space = opened("convbert", tmp_path)
    places = []
    for name in ("alone", "with_longer"):
        table = read_table(CASES / "pad" / f"{name}.csv")
        texts = TextSet(name=name, texts=table.column("text"), labels=table.column("label"))
        options = MapOptions(vocabulary="none", texts=texts, projection="shared")
        places.append(space.maps.map(options).coordinates[0])
    assert abs(places[0] - places[1]).max() <= 1e-5


ROWS = {
    "quote_opens_and_later_ends.tsv": (9, 1),
    "labels_minus1_0.csv": (12, 0),
    "labels_minus1_1.csv": (12, 0),
    "labels_B_Bminus.csv": (12, 0),
    "label_cjk_and_latin.csv": (12, 0),
    "json_nan_label.jsonl": (12, 0),
    "json_array_one_per_line.json": (12, 0),
    "decimal_label.parquet": (4, 0),
    "binary_text.parquet": (4, 0),
    "excel_sep_line.csv": (12, 0),
}


@pytest.mark.parametrize("name", ROWS)
def test_no_row_and_no_column_vanishes_in_silence(name: str) -> None:
    table = read_table(CASES / "tables" / name)
    assert (len(table.rows), len(table.notes)) == ROWS[name]
    assert {"text", "label"} == set(table.columns)
    assert not table.problems


def test_labels_are_read_through_their_own_tokens(tmp_path: Path) -> None:
    model = opened("int8_ref", tmp_path).model
    for name in [one for one in ROWS if one.startswith("label")]:
        table = read_table(CASES / "tables" / name)
        for token in make_task(TaskSpec(), table, model).label_tokens:
            assert token.word == token.label
            assert model.tokenizer.decode(list(token.ids)).strip() == token.label
            assert model.tokenizer.decode([token.ids[0]]).strip()
    table = read_table(CASES / "tables" / "json_nan_label.jsonl")
    task = make_task(TaskSpec(), table, model)
    assert task.label_names == ("0.0", "1.0")
    assert len(task.report.problems) == sum(not row.values["label"] for row in table.rows)
