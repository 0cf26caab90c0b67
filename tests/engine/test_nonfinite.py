"""NaN and infinity in a model: what is finite is shown, what is not is named, nothing is ranked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from same_numbers import ROUNDING
from tiny_models import PROMPT, Spaces
from torch import nn

import engine
from engine import LatentSpace
from engine.errors import NonFiniteError
from engine.frames.kinds.head import NEVER
from engine.maps import MapOptions, verify
from engine.model.language_model import LanguageModel
from engine.reading.geometries import GEOMETRIES

pytestmark = pytest.mark.slow

BAD = [float("nan"), float("inf"), -float("inf")]
LATE = 2
"""The block whose output is spoilt, counted from 0: layer 3 is what it gives."""
POSITION = 4


def spoil(space: LatentSpace, block: int, where: slice | int, value: float) -> None:
    """Make the states that a block gives not finite at some positions."""

    def change(module: nn.Module, args: Any, output: Any) -> Any:
        states = (output[0] if isinstance(output, tuple) else output).clone()
        states[:, where] = value
        return (states, *output[1:]) if isinstance(output, tuple) else states

    space.model.anatomy.blocks[block].register_forward_hook(change)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_late_layers_that_are_not_finite_leave_the_others_as_they_were(
    spaces: Spaces, name: str, value: float
) -> None:
    sound = spaces[name].trace(PROMPT, layers=f"0:{LATE + 1}")
    space = spaces.fresh(name)
    spoil(space, LATE, slice(None), value)
    trace = space.trace(PROMPT)
    assert trace.finite[: LATE + 1].all()
    assert not trace.finite[LATE + 1 :].any()
    assert any(f"Not finite from layer {LATE + 1} on" in one for one in trace.warnings)
    for geometry in GEOMETRIES:
        mine, theirs = trace.readings[geometry], sound.readings[geometry]
        np.testing.assert_array_equal(mine.top_ids[: LATE + 1], theirs.top_ids)
        np.testing.assert_allclose(
            mine.top_scores[: LATE + 1], theirs.top_scores, rtol=ROUNDING, atol=ROUNDING
        )
        assert (mine.top_ids[LATE + 1 :] == -1).all()
        assert np.isnan(mine.top_scores[LATE + 1 :]).all()
        assert np.isnan(mine.entropy[LATE + 1 :]).all()
        assert not mine.final_rank.any()  # without an answer there is no rank of it, at any layer
    document = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    above = [cell for cell in document["cells"] if cell["layer"] > LATE]
    assert above
    assert all(cell["top"] == [] and cell["finite"] is False for cell in above)
    assert all(cell["entropy"] is None and cell["region"] is None for cell in above)
    assert all(one["id"] is None for one in document["final"])


@pytest.mark.parametrize("value", BAD)
def test_one_position_alone_is_not_finite(spaces: Spaces, value: float) -> None:
    space = spaces.fresh("llama")
    spoil(space, LATE, POSITION, value)
    trace = space.trace(PROMPT)
    expected = np.ones_like(trace.finite)
    expected[LATE + 1 :, POSITION] = False
    np.testing.assert_array_equal(trace.finite, expected)
    assert trace.final_ids[POSITION] == -1
    others = [p for p in trace.positions if p != POSITION]
    whole = spaces["llama"].trace(PROMPT)
    np.testing.assert_array_equal(trace.top_ids[:, others], whole.top_ids[:, others])
    np.testing.assert_array_equal(trace.final_rank[:, others], whole.final_rank[:, others])
    cell = space.cell(PROMPT, LATE + 1, POSITION)
    assert not cell.finite
    assert cell.nearest == ()
    assert all(entries == () for entries in cell.tables.values())
    assert json.loads(json.dumps(cell.to_dict(), allow_nan=False))["border"] is None
    assert space.cell(PROMPT, LATE + 1, POSITION + 1).finite


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("where", [slice(None), POSITION])
def test_curves_and_agreement_say_where_the_numbers_end(
    spaces: Spaces, where: slice | int, value: float
) -> None:
    space = spaces.fresh("gpt2")
    spoil(space, LATE, where, value)
    curves = space.curves(PROMPT, [5, 7], position=POSITION)
    assert any(f"layer {LATE + 1}" in one for one in curves.warnings)
    assert np.isfinite(curves.scores[:, : LATE + 1]).all()
    assert np.isnan(curves.scores[:, LATE + 1 :]).all()
    assert (curves.ranks[:, LATE + 1 :] == 0).all()
    agreement = space.agreement(PROMPT)
    assert any(f"layer {LATE + 1}" in one for one in agreement.warnings)
    for found in (curves, agreement):
        plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert plain["warnings"]
    tops = np.array([row.top1 for row in agreement.rows])
    if isinstance(where, slice):
        assert np.isnan(tops).all()  # no answer anywhere, so nothing to agree with
    else:
        assert np.isfinite(tops).all()
    assert spaces["gpt2"].agreement(PROMPT).warnings == ()


@pytest.mark.parametrize(
    "options",
    [
        {"state": "raw"},
        {"centred": True},
        {"words_only": True},
        {"geometry": "l2", "frame": "head"},
        {"frame": "random", "k": 50},
        {"layers": f"{LATE + 1}", "positions": f"{POSITION}"},
    ],
)
def test_no_option_ranks_what_is_not_finite(spaces: Spaces, options: dict[str, Any]) -> None:
    space = spaces.fresh("llama")
    spoil(space, LATE, POSITION, float("nan"))
    trace = space.trace(PROMPT, **options)
    hidden = ~trace.finite
    assert hidden.sum() == 1
    for reading in trace.readings.values():
        assert (reading.top_ids[hidden] == -1).all()
        assert np.isnan(reading.top_probabilities[hidden]).all()
    json.dumps(trace.to_dict(), allow_nan=False)
    list(trace.rows())


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_final_norm_that_is_nan_leaves_raw_states_to_look_at(spaces: Spaces, name: str) -> None:
    space = spaces.fresh(name)
    with torch.no_grad():
        next(space.model.anatomy.readout[0].parameters()).fill_(float("nan"))
    check = space.run_self_check()
    assert not check.ok
    found = next(item for item in check.items if item.name == "finite states")
    assert "from layer 0 on" in found.value
    trace = space.trace(PROMPT)
    assert not trace.finite.any()
    assert any("Not finite from layer 0" in one for one in trace.warnings)
    drawn = space.maps.map(MapOptions(prompt=PROMPT, layer=1, state="raw"))
    assert np.isfinite(drawn.coordinates).all()


def test_the_self_check_names_the_first_layer(spaces: Spaces) -> None:
    space = spaces.fresh("llama")
    spoil(space, 1, slice(None), float("inf"))
    check = space.run_self_check()
    found = next(item for item in check.items if item.name == "finite states")
    assert (found.ok, found.value) == (False, "NaN or infinity from layer 2 on")
    assert "layers 0 to 1 are finite" in found.reason
    assert "from layer 2 on" in check.summary


@pytest.mark.parametrize("part", ["block", "norm", "embedding"])
def test_a_checkpoint_with_nan_opens_and_says_so(spaces: Spaces, tmp_path: Path, part: str) -> None:
    """NaN in the weights on the disk, not put there afterwards: it loads, and the badge is red."""
    folder = spaces.folders["llama"]
    module, tokenizer = _open(folder)
    weights: dict[str, Callable[[], torch.Tensor]] = {
        "block": lambda: module.model.layers[LATE].mlp.down_proj.weight,
        "norm": lambda: module.model.norm.weight,
        "embedding": lambda: module.model.embed_tokens.weight,
    }
    with torch.no_grad():
        weights[part]()[:] = float("nan")
    module.save_pretrained(tmp_path / "spoilt")
    tokenizer.save_pretrained(tmp_path / "spoilt")
    space = engine.load(tmp_path / "spoilt", device="cpu", offline=True, cache_dir=tmp_path)
    assert not space.self_check.ok
    first = {"block": LATE + 1, "norm": 0, "embedding": 0}[part]
    trace = space.trace(PROMPT)
    assert trace.finite[:first].all()
    assert not trace.finite[first:].any()
    assert any(f"Not finite from layer {first} on" in one for one in trace.warnings)


def _open(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


# The head's bias


def with_bias(space: LatentSpace, values: dict[int, float]) -> LatentSpace:
    """The same model with a head bias of zeros and some other values."""
    module = space.model.module
    bias = torch.zeros(space.model.vocabulary)
    for token, value in values.items():
        bias[token] = value
    module.lm_head.bias = nn.Parameter(bias, requires_grad=False)
    return LatentSpace(LanguageModel(module, space.model.tokenizer, name="biased"))


def test_tokens_that_are_masked_by_minus_infinity_are_never_said(spaces: Spaces) -> None:
    masked = (3, 70, 71)
    space = with_bias(spaces.fresh("llama"), dict.fromkeys(masked, -float("inf")))
    plain = with_bias(spaces.fresh("llama"), {})
    assert space.self_check.ok, space.self_check.summary
    note = next(item for item in space.self_check.items if item.name == "masked tokens")
    assert (note.level, note.value) == ("note", f"3 of {space.model.vocabulary:,}")
    trace = space.trace(PROMPT, frame="head", geometry="matmul", k=50)
    logits = space.model.logits(space.tokenize(PROMPT).ids)
    own = torch.log_softmax(logits.double(), -1)
    entropy = -(own.exp() * own.masked_fill(torch.isneginf(own), 0.0)).sum(-1)
    np.testing.assert_allclose(trace.entropy[-1], entropy, rtol=1e-5)
    assert not np.isin(trace.top_ids[-1], masked).any()
    assert np.isfinite(trace.divergence).all()
    np.testing.assert_allclose(trace.divergence[-1], 0.0, atol=1e-5)
    # The other frames know nothing of it: a token that is never said moves no state.
    np.testing.assert_array_equal(space.trace(PROMPT).top_ids, plain.trace(PROMPT).top_ids)
    curves = space.curves(PROMPT, [3], frame="head", geometry="matmul")
    assert (curves.probabilities == 0).all()
    assert (curves.ranks > space.model.vocabulary - len(masked)).all()
    assert curves.scores.max() < NEVER / 2
    bias = space.frame_report("output").to_dict()["bias"]
    assert json.dumps(bias, allow_nan=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bias_that_is_no_mask_is_refused_when_the_model_is_opened(
    spaces: Spaces, value: float
) -> None:
    with pytest.raises(NonFiniteError, match="bias of this model's head") as raised:
        with_bias(spaces.fresh("llama"), {5: value})
    assert str(raised.value).endswith(".")


# Maps


def test_a_map_draws_the_states_that_are_finite_and_names_the_others(spaces: Spaces) -> None:
    space = spaces.fresh("gpt2")
    spoil(space, LATE, POSITION, float("nan"))
    options = MapOptions(prompt=PROMPT, layer=LATE + 1)
    sound = spaces["gpt2"].maps.map(options)
    drawn = space.maps.map(options)
    v = space.model.vocabulary
    missing = np.flatnonzero(~np.isfinite(drawn.coordinates).all(axis=1))
    assert missing.tolist() == [v + POSITION]
    kept = np.delete(np.arange(drawn.n), missing)
    np.testing.assert_allclose(
        drawn.coordinates[kept], sound.coordinates[kept], rtol=1e-5, atol=1e-5
    )
    told = [one for one in drawn.warnings if "NaN or infinity" in one]
    assert told == [
        f"1 of {len(drawn.points.prompt)} states of layer {LATE + 1} holds NaN or infinity: no"
        " place is drawn for it, and nothing is fitted on it."
    ]
    assert np.isfinite(drawn.border.low).all()
    assert np.isfinite(drawn.border.high).all()
    assert not drawn.border.outside[missing].any()
    document = json.loads(json.dumps(drawn.to_dict(), allow_nan=False))
    assert document["coordinates"][missing[0]] == [None, None]
    assert drawn.row(int(missing[0]))["x"] is None
    assert verify(space.maps, document | {"coordinates": drawn.coordinates}).ok


def test_what_needs_every_point_says_so_and_the_rest_goes_on(spaces: Spaces) -> None:
    space = spaces.fresh("gpt2")
    spoil(space, LATE, POSITION, float("inf"))
    studio, v = space.maps, space.model.vocabulary
    options = MapOptions(prompt=PROMPT, layer=LATE + 1)
    assert studio.quality(options).sentence
    near = studio.neighbours(options, 5, k=200)
    assert v + POSITION not in {one.index for one in near.neighbours}
    near = studio.neighbours(options, v + POSITION + 1)
    assert len(near.neighbours) == 10
    lost = studio.neighbours(options, v + POSITION, layer_b=0)
    assert (lost.neighbours, lost.bases) == ((), ())
    refused: list[Callable[[], object]] = [
        lambda: studio.changes(options, replace(options, layer=0)),
        lambda: studio.distortion(options),
        lambda: studio.umap_problem(MapOptions(prompt=PROMPT, layer=LATE + 1, projection="umap")),
    ]
    for ask in refused:
        with pytest.raises(NonFiniteError, match=r"NaN or infinity.*\.$"):
            ask()
    colours = studio.colour(options, "norm").to_dict()
    json.dumps(colours, allow_nan=False)


@pytest.mark.parametrize("projection", ["shared", "layer", "selection"])
@pytest.mark.parametrize("preprocessing", ["raw", "centred", "unit", "standardised"])
def test_every_projection_and_preprocessing_leaves_the_gap(
    spaces: Spaces, projection: str, preprocessing: str
) -> None:
    space = spaces.fresh("gpt2")
    spoil(space, LATE, POSITION, float("nan"))
    drawn = space.maps.map(
        MapOptions(
            prompt=PROMPT,
            layer=LATE + 1,
            projection=projection,
            preprocessing=preprocessing,
        )
    )
    missing = np.flatnonzero(~np.isfinite(drawn.coordinates).all(axis=1))
    assert missing.tolist() == [space.model.vocabulary + POSITION]


def test_a_map_of_states_alone_of_which_none_is_finite_is_a_sentence(spaces: Spaces) -> None:
    space = spaces.fresh("gpt2")
    spoil(space, 0, slice(None), float("nan"))
    with pytest.raises(NonFiniteError, match="every state of this map"):
        space.maps.map(MapOptions(vocabulary="none", prompt=PROMPT, layer=2))
    with pytest.raises(NonFiniteError, match="near the prompt"):
        space.maps.map(MapOptions(prompt=PROMPT, layer=2, select="near:5"))
    drawn = space.maps.map(MapOptions(prompt=PROMPT, layer=2))  # the bases are there
    assert np.isfinite(drawn.coordinates[: space.model.vocabulary]).all()
