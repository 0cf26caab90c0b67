"""A trace at its edges: numbers that are none, its JSON, one token, wrong options, single cells."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from same_numbers import ROUNDING
from tiny_models import NAN_LAYER, PROMPT, Spaces
from torch import Tensor

from engine import GEOMETRIES, TraceOptions
from engine.errors import LayerError, OptionError, PromptError, TokenError
from engine.frames.kinds import FRAMES
from engine.reading.similarity import divergence

# --- NaN ------------------------------------------------------------------------------------------


def test_states_that_are_not_finite_are_shown_as_such(spaces: Spaces) -> None:
    """A NaN in block 2: layers 2 and up have no ranking, the rest is read as ever."""
    space = spaces["nan"]
    assert not space.self_check.ok
    for options in (
        {},
        {"frame": "head", "geometry": "matmul"},
        {"centred": True},
        {"state": "raw"},
        {"layers": "2:"},
    ):
        trace = space.trace(PROMPT, **options)
        for i, layer in enumerate(trace.layers):
            sound = layer < NAN_LAYER
            assert trace.finite[i].all() == sound
            assert trace.finite[i].any() == sound
            assert ((trace.top_ids[i] >= 0) == sound).all()
            assert (np.isfinite(trace.entropy[i]) == sound).all()
            assert (np.isfinite(trace.border[i]) == sound).all()
        assert any("Not finite from layer 2" in w for w in trace.warnings)
        assert all(c.layer < NAN_LAYER for c in trace.crossings)
        plain = trace.to_dict()
        json.dumps(plain, allow_nan=False)
        for cell in plain["cells"]:
            if cell["layer"] >= NAN_LAYER:
                assert cell["top"] == []
                assert cell["finite"] is False
                assert cell["final_rank"] is None
                assert cell["entropy"] is None
                assert cell["region"] is None
                assert cell["agrees"] is False


def test_without_a_finite_last_layer_there_is_no_final_answer(spaces: Spaces) -> None:
    """Nothing is passed off as the model's answer where the model has none."""
    space = spaces["nan"]
    trace = space.trace(PROMPT)
    plain = trace.to_dict()
    for final in plain["final"]:
        assert final["id"] is None
        assert final["probability"] is None
    for cell in plain["cells"]:
        assert cell["final_rank"] is None
        assert cell["target_similarity"] is None
        assert cell["deviation"] is None
        assert cell["divergence"] is None
        assert cell["agrees"] is False
        assert cell["probability"] is None


def test_everything_else_survives_a_nan_as_well(spaces: Spaces) -> None:
    space = spaces["nan"]
    for layer in (0, 3):
        cell = space.cell(PROMPT, layer, 2)
        assert cell.finite == (layer < NAN_LAYER)
        json.dumps(cell.to_dict(), allow_nan=False)
    json.dumps(space.curves(PROMPT, [1, 2]).to_dict(), allow_nan=False)
    json.dumps(space.agreement(PROMPT).to_dict(), allow_nan=False)
    assert list(space.trace(PROMPT).rows())


# --- the contract ---------------------------------------------------------------------------------


def plain_cells(plain: dict[str, Any]) -> dict[tuple[int, int], dict[str, Any]]:
    return {(c["layer"], c["position"]): c for c in plain["cells"]}


@pytest.mark.parametrize("name", ["gpt2", "phi", "bert", "nan", "padded"])
def test_the_json_is_the_contract(spaces: Spaces, name: str) -> None:
    """Issue 2, point 11: the keys that stay, one cell per layer and position, valid JSON."""
    trace = spaces[name].trace(PROMPT, layers="0:4:2", positions="1:4", k=3)
    plain = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    assert {"model", "geometry", "frame", "tokens", "layers", "cells"} <= set(plain)
    assert plain["geometry"] == "cosine"
    assert plain["frame"] == "output"
    assert plain["layers"] == [0, 2]
    assert all({"id", "text"} <= set(t) for t in plain["tokens"])
    assert [t["id"] for t in plain["tokens"]] == list(spaces[name].tokenize(PROMPT).ids)
    cells = plain_cells(plain)
    assert set(cells) == {(layer, p) for layer in (0, 2) for p in (1, 2, 3)}
    assert len(plain["cells"]) == 6
    for cell in plain["cells"]:
        assert {"layer", "position", "top", "entropy", "final_rank"} <= set(cell)
        for entry in cell["top"]:
            assert {"id", "text", "score", "probability"} <= set(entry)
        assert len(cell["top"]) in (0, 3)
    rows = list(trace.rows())
    assert len(rows) == sum(len(c["top"]) for c in plain["cells"])


@pytest.mark.parametrize("name", ["gpt2", "phi", "opt_proj", "bert", "nan"])
def test_a_prompt_of_one_token_is_read_in_full(spaces: Spaces, name: str) -> None:
    space = spaces[name]
    for geometry in GEOMETRIES:
        trace = space.trace("a", bos="no", geometry=geometry, k=50)
        assert len(trace.tokens) == 1
        json.dumps(trace.to_dict(), allow_nan=False)
        json.dumps(space.cell("a", -1, 0, bos="no", geometry=geometry).to_dict(), allow_nan=False)
    json.dumps(space.agreement("a", bos="no").to_dict(), allow_nan=False)
    json.dumps(space.curves("a", bos="no").to_dict(), allow_nan=False)


def test_fifty_sorted_ids(spaces: Spaces) -> None:
    """Row L5."""
    for geometry in GEOMETRIES:
        trace = spaces["llama"].trace(PROMPT, k=50, geometry=geometry)
        assert trace.top_ids.shape[2] == 50
        assert (np.diff(trace.top_scores, axis=2) <= 0).all()
        assert all(len(set(row)) == 50 for row in trace.top_ids.reshape(-1, 50).tolist())


@pytest.mark.parametrize(
    "wrong",
    [
        {"geometry": "euclid"},
        {"frame": "outptu"},
        {"state": "cooked"},
        {"k": 0},
        {"k": 51},
        {"k": 2.5},
        {"k": "5"},
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": "warm"},
        {"bos": "maybe"},
        {"colour": "red"},
        {"layers": 3},
        {"positions": [1]},
    ],
)
def test_an_option_out_of_range_is_refused_by_name(spaces: Spaces, wrong: dict[str, Any]) -> None:
    with pytest.raises((OptionError, LayerError)) as caught:
        spaces["gpt2"].trace(PROMPT, **wrong)
    assert next(iter(wrong)).rstrip("s") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_of_a_whole_trace_do_not_depend_on_what_was_asked_before(spaces: Spaces) -> None:
    a, b = spaces.fresh("phi"), spaces["phi"]
    b.trace("something else first", geometry="l2")
    for field in ("border", "divergence", "deviation", "entropy", "top_scores"):
        np.testing.assert_allclose(
            getattr(a.trace(PROMPT, frame="tight"), field),
            getattr(b.trace(PROMPT, frame="tight"), field),
            rtol=ROUNDING,
            atol=ROUNDING,
        )


# --- the cell -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"geometry": "l2", "frame": "tight"},
        {"centred": True},
        {"state": "raw"},
        {"words_only": True},
    ],
)
@pytest.mark.parametrize("name", ["gpt2", "phi", "gemma2"])
def test_a_cell_is_its_place_in_the_trace_and_more(
    spaces: Spaces, name: str, options: dict[str, Any]
) -> None:
    space = spaces[name]
    trace = space.trace(PROMPT, **options)
    cell = space.cell(PROMPT, 2, -3, **options)
    j = trace.positions[-3]
    assert cell.position == j
    assert cell.token == trace.tokens[j]
    for geometry, entries in cell.tables.items():
        assert [e.token.id for e in entries] == trace.readings[geometry].top_ids[2, j].tolist()
    assert cell.final.id == trace.final_ids[j]
    assert cell.share_sums == pytest.approx((1.0, 1.0), abs=1e-5)
    states = space.model.states(space.tokenize(PROMPT).ids).raw
    r = (states if options.get("state") == "raw" else space.model.read_out(states))[2].double()
    frame = space.frame(options.get("frame", "output"))
    b = frame.vectors(torch.arange(frame.size))
    here = r[j]
    if options.get("centred"):
        here, b = here - r.mean(0), b - b.mean(0)
    elif frame.shift is not None:
        here = here + frame.shift
    for entry in cell.nearest:
        wanted = float((here - b[entry.token.id]).norm())
        assert entry.distance == pytest.approx(wanted, rel=1e-4)
        cosine = float(here @ b[entry.token.id] / (here.norm() * b[entry.token.id].norm()))
        assert entry.cosine == pytest.approx(cosine, abs=1e-5)
    crossed = {c.layer for c in trace.crossings if c.position == j}
    assert {h.layer for h in cell.history if h.crossed} == crossed
    assert len(cell.history) == len(trace.layers)
    json.dumps(cell.to_dict(), allow_nan=False)


def test_a_cell_that_was_not_read_is_refused(spaces: Spaces) -> None:
    space = spaces["gpt2"]
    for layer, position in ((9, 0), (-9, 0), (0, 99), (0, -99)):
        with pytest.raises(LayerError):
            space.cell(PROMPT, layer, position)
    with pytest.raises(LayerError):
        space.cell(PROMPT, 1, 0, layers="2:")


# --- bases of a token -----------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("frame", FRAMES)
def test_a_tokens_neighbours_equal_brute_force(spaces: Spaces, frame: str, geometry: str) -> None:
    for name in ("llama", "phi"):
        space = spaces[name]
        b = space.frame(frame).vectors(torch.arange(300))
        found = space.bases(260, frame=frame, geometry=geometry, k=7)
        every = {
            "cosine": (b @ b[260]) / (b.norm(dim=1) * b[260].norm()),
            "l2": -((b - b[260]) ** 2).sum(1),
            "matmul": b @ b[260],
        }[geometry]
        if geometry == "matmul" and frame == "head" and space.model.anatomy.bias is not None:
            every = every + space.model.anatomy.bias.detach().double()
        every[260] = -math.inf
        best = every.topk(7)
        assert [n.token.id for n in found.neighbours] == best.indices.tolist()
        scale = float(best.values.abs().max())
        assert [n.score for n in found.neighbours] == pytest.approx(
            best.values.tolist(), abs=1e-4 * scale
        )
        assert found.norm == pytest.approx(float(b[260].norm()), rel=1e-6)
        assert found.leverage == pytest.approx(float(space.decomposition.leverage[260]))
        w = space.model.anatomy.weight.detach().double()[260]
        assert found.self_logit == pytest.approx(float(w @ b[260]), rel=1e-6)
        plain = found.to_dict()
        assert {"id", "text", "norm", "leverage", "neighbours"} <= set(plain)
        assert all({"id", "text", "score"} <= set(n) for n in plain["neighbours"])
        json.dumps(plain, allow_nan=False)
    assert found.self_logit == pytest.approx(found.leverage) or frame != "output"


def test_a_token_is_found_by_id_text_or_hash(spaces: Spaces) -> None:
    space = spaces["gpt2"]
    id = space.tokenize(" king").ids[0]
    assert space.find_token(id) == space.find_token(f"#{id}") == space.find_token(" king") == id
    assert space.find_token("king") == id
    for wrong in (-1, 300, "", "#300", "king queen house", "x" * 300, "#99999999999999"):
        with pytest.raises((TokenError, PromptError)) as caught:
            space.find_token(wrong)
        assert "\n" not in str(caught.value)
    assert space.search("KING")[0].token.id == id
    texts = [h.token.text for h in space.search("the", limit=5)]
    assert all("the" in t.casefold() for t in texts)


def test_options_may_be_given_as_a_value_or_as_keywords(spaces: Spaces) -> None:
    space = spaces["gpt2"]
    options = TraceOptions(geometry="l2", k=4)
    assert space.trace(PROMPT, options) is space.trace(PROMPT, geometry="l2", k=4)
    assert space.trace(PROMPT, options, k=5).options == TraceOptions(geometry="l2", k=5)


def test_another_frame_does_not_ask_the_head_again(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers and the KL to them are of the model; other layers or a lens are asked for."""
    space, other, asked = spaces.fresh("llama"), spaces.fresh("llama"), []

    def counted(*given: Any, **more: Any) -> Tensor:
        asked.append(1)
        return divergence(*given, **more)

    space.trace(PROMPT)
    monkeypatch.setattr("engine.trace.compute.divergence", counted)
    again = space.trace(PROMPT, frame="tight", centred=True, k=3)
    assert not asked
    wanted = other.trace(PROMPT, frame="tight", centred=True, k=3)
    assert np.array_equal(again.final_ids, wanted.final_ids)
    np.testing.assert_allclose(again.divergence, wanted.divergence, atol=1e-5)
    asked.clear()
    space.trace(PROMPT, state="raw")
    space.trace(PROMPT, layers="1:3")
    assert len(asked) == 2
