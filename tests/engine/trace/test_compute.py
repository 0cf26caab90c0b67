"""A trace against the model's own states and logits, brute force, and the laws of transitions."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, PROMPT, Spaces, hooks
from torch import Tensor

from engine import GEOMETRIES, LatentSpace
from engine.errors import LayerError, OptionError, TokenError, WorkError
from engine.frames.kinds import FRAMES
from engine.model.ranges import parse_range
from engine.reading.similarity import scores
from engine.trace.compute import default_pins, find_crossings

STATE = 1e-5
"""Of a state against Hugging Face's own, relative to the largest number in it."""


def final_logits(space: LatentSpace, ids: tuple[int, ...]) -> Tensor:
    """The model's own logits, by calling the module with nothing of ours around it."""
    given = torch.tensor([ids])
    with torch.no_grad():
        out = space.model.module(input_ids=given, attention_mask=torch.ones_like(given))
    logits: Tensor = out.logits[0].float()
    return logits


def read_states(space: LatentSpace, prompt: str = PROMPT) -> Tensor:
    """Every layer past the final norm, once."""
    return space.model.read_out(space.model.states(space.tokenize(prompt).ids).raw)


# --- states ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_states_are_those_of_the_model_and_the_last_is_before_the_norm(
    spaces: Spaces, name: str
) -> None:
    """Layers 0 … L−1 equal output_hidden_states; layer L equals what enters the final norm."""
    space = spaces[name]
    ids = space.tokenize(PROMPT).ids
    states = space.model.states(ids)
    assert states.ids == ids
    assert states.raw.shape == (space.model.blocks + 1, len(ids), 32)
    assert states.raw.dtype == torch.float32
    entered: list[Tensor] = []
    first = space.model.anatomy.readout[0]
    handle = first.register_forward_pre_hook(lambda m, args: entered.append(args[0].detach()))
    given = torch.tensor([ids])
    with torch.no_grad():
        out = space.model.module(
            input_ids=given, attention_mask=torch.ones_like(given), output_hidden_states=True
        )
    handle.remove()
    scale = float(states.raw.abs().max())
    assert len(out.hidden_states) == space.model.blocks + 1
    for layer in range(space.model.blocks):
        theirs = out.hidden_states[layer][0]
        torch.testing.assert_close(states.raw[layer], theirs, rtol=0, atol=STATE * scale)
    torch.testing.assert_close(states.raw[-1], entered[0][0], rtol=0, atol=STATE * scale)


def test_taking_states_leaves_no_hook_and_no_gradient(spaces: Spaces) -> None:
    space = spaces["llama"]
    before = hooks(space)
    states = space.model.states((1, 2, 3))
    assert hooks(space) == before
    assert not states.raw.requires_grad
    assert not states.raw.is_inference(), "so that one can differentiate through a reading"
    x = space.model.states((1, 2, 3)).raw[1].clone().requires_grad_()
    scores(space.frame("output"), x).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


# --- readings in a trace --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ARCHITECTURES, "deficient", "padded", "wide"])
def test_the_final_answer_is_the_argmax_of_the_models_logits(spaces: Spaces, name: str) -> None:
    space = spaces[name]
    trace = space.trace(PROMPT)
    logits = final_logits(space, space.tokenize(PROMPT).ids)
    assert trace.final_ids.tolist() == logits.argmax(1).tolist()
    wanted = torch.softmax(logits.double(), 1).amax(1)
    np.testing.assert_allclose(trace.final_probabilities, wanted, rtol=1e-3, atol=1e-6)
    # The last layer, read by the matrix product on the head, is the model itself.
    head = space.trace(PROMPT, geometry="matmul", frame="head")
    assert head.agrees[-1].all()
    assert (head.final_rank[-1] == 1).all()
    assert np.abs(head.divergence[-1]).max() <= 1e-5
    np.testing.assert_allclose(head.final_probability[-1], wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "phi", "opt_proj", "bert"])
@pytest.mark.parametrize("frame", FRAMES)
def test_cells_equal_brute_force(spaces: Spaces, name: str, frame: str) -> None:
    """Top-k, ranks, entropy and probabilities of every cell from all scores, in float64."""
    space = spaces[name]
    trace = space.trace(PROMPT, frame=frame, k=6)
    states = read_states(space)
    assert trace.layers == tuple(range(space.model.blocks + 1))
    for geometry in GEOMETRIES:
        reading = trace.readings[geometry]
        t = trace.temperatures[geometry].value
        for i, layer in enumerate(trace.layers):
            every = scores(space.frame(frame), states[layer], geometry).double()
            best = every.topk(6, dim=1)
            np.testing.assert_allclose(reading.top_scores[i], best.values, rtol=1e-4, atol=1e-4)
            log_p = torch.log_softmax(every / t, dim=1)
            np.testing.assert_allclose(
                reading.entropy[i], -(log_p.exp() * log_p).sum(1), rtol=2e-3, atol=2e-3
            )
            np.testing.assert_allclose(
                reading.top_probabilities[i],
                log_p.exp().gather(1, best.indices),
                rtol=5e-3,
                atol=1e-6,
            )
            own = every.gather(1, torch.from_numpy(trace.final_ids)[:, None])
            grain = 1e-5 * every.abs().amax(1, keepdim=True)
            rank = torch.from_numpy(reading.final_rank[i])
            assert bool((rank >= 1 + (every > own + grain).sum(1)).all())
            assert bool((rank <= 1 + (every > own - grain).sum(1)).all())
            np.testing.assert_allclose(reading.final_score[i], own[:, 0], rtol=1e-4, atol=1e-4)
    agrees = trace.chosen.top_ids[:, :, 0] == trace.final_ids[None]
    assert (trace.agrees == agrees).all()


def test_regions_and_crossings_equal_brute_force(spaces: Spaces) -> None:
    """Row S3: a crossing wherever the nearest token changes from a layer to the next."""
    for name in ("gpt2", "phi", "cohere"):
        space = spaces[name]
        for geometry in GEOMETRIES:
            trace = space.trace(PROMPT, geometry=geometry)
            states = read_states(space)
            frame = space.frame("output")
            nearest = torch.stack([scores(frame, s, geometry).argmax(1) for s in states])
            assert trace.top_ids[:, :, 0].tolist() == nearest.tolist()
            wanted = [
                (p, layer, int(nearest[layer - 1, p]), int(nearest[layer, p]))
                for p in range(nearest.shape[1])
                for layer in range(1, len(nearest))
                if nearest[layer - 1, p] != nearest[layer, p]
            ]
            found = [(c.position, c.layer, c.from_id, c.to_id) for c in trace.crossings]
            assert found == wanted
            assert len(wanted) > 5
            assert (trace.border > -1e-6).all()
            assert (trace.border_ids != trace.top_ids[:, :, 0]).all()
            if geometry == "cosine":
                assert (trace.border <= math.pi / 2 + 1e-6).all()


@given(data=st.data())
def test_crossings_of_any_grid_equal_brute_force(data: st.DataObject) -> None:
    layers = data.draw(st.integers(1, 6))
    positions = data.draw(st.integers(1, 5))
    cells = st.lists(st.integers(0, 2), min_size=positions, max_size=positions)
    grid = np.array(data.draw(st.lists(cells, min_size=layers, max_size=layers)))
    finite = np.array(
        data.draw(
            st.lists(
                st.lists(st.booleans(), min_size=positions, max_size=positions),
                min_size=layers,
                max_size=layers,
            )
        )
    )
    found = find_crossings(grid, [2 * n for n in range(layers)], range(positions), finite)
    wanted = {
        (j, 2 * i, grid[i - 1, j], grid[i, j])
        for i in range(1, layers)
        for j in range(positions)
        if grid[i, j] != grid[i - 1, j] and finite[i, j] and finite[i - 1, j]
    }
    assert {(c.position, c.layer, c.from_id, c.to_id) for c in found} == wanted
    assert len(found) == len(wanted)


def test_divergence_of_each_layer_is_that_of_the_models_own_head(spaces: Spaces) -> None:
    space = spaces["gemma2"]
    trace = space.trace(PROMPT)
    states = read_states(space)
    head = space.frame("head")
    log_q = torch.stack([torch.log_softmax(scores(head, s, "matmul").double(), 1) for s in states])
    wanted = (log_q[-1].exp() * (log_q[-1] - log_q)).sum(-1)
    np.testing.assert_allclose(trace.divergence, wanted, rtol=1e-3, atol=2e-4)
    assert (trace.divergence >= 0).all()


def test_raw_states_skip_the_norm_and_are_refused_where_widths_differ(spaces: Spaces) -> None:
    space = spaces["llama"]
    raw = space.model.states(space.tokenize(PROMPT).ids).raw
    trace = space.trace(PROMPT, state="raw", frame="input", geometry="l2")
    every = scores(space.frame("input"), raw[0], "l2")
    # At layer 0 a raw state is the embedding row itself, so it lies on its own input basis.
    assert trace.top_ids[0, :, 0].tolist() == list(space.tokenize(PROMPT).ids)
    np.testing.assert_allclose(trace.top_scores[0, :, 0], every.amax(1), atol=1e-3)
    np.testing.assert_allclose(trace.state_norm, raw.norm(dim=-1), rtol=1e-5)
    with pytest.raises(OptionError, match="normed"):
        spaces["opt_proj"].trace(PROMPT, state="raw")


@pytest.mark.parametrize("name", ["gpt2", "phi"])
def test_centred_states_lose_the_layers_mean_and_bases_theirs(spaces: Spaces, name: str) -> None:
    """The mean is over the whole prompt, also where few positions are read; a head bias is gone."""
    space = spaces[name]
    states = read_states(space)
    trace = space.trace(PROMPT, centred=True, positions="3:9:2")
    b = space.frame("output").vectors(torch.arange(300))
    b = b - b.mean(0)
    for i, layer in enumerate(trace.layers):
        r = (states[layer].double() - states[layer].double().mean(0))[[3, 5, 7]]
        cosine = (r / r.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T
        np.testing.assert_allclose(trace.top_scores[i], cosine.topk(10).values, atol=2e-5)
        np.testing.assert_allclose(trace.state_norm[i], r.norm(dim=1), rtol=1e-4)
    with pytest.raises(OptionError, match="two"):
        space.trace("a", centred=True)


def test_a_temperature_changes_probabilities_and_no_order(spaces: Spaces) -> None:
    space = spaces["gpt2"]
    warm, cold = space.trace(PROMPT, temperature=1.0), space.trace(PROMPT, temperature=0.01)
    assert (warm.top_ids == cold.top_ids).all()
    assert (warm.final_rank == cold.final_rank).all()
    assert (warm.entropy >= cold.entropy).all()
    assert warm.temperature == 1.0
    # At T = 1 a softmax of cosines is all but uniform (method.md §2.3).
    assert warm.top_probabilities.max() <= math.e**2 / 300
    every = scores(space.frame("output"), read_states(space)[2], "cosine").double() / 0.01
    p = torch.softmax(every, 1).topk(10).values
    np.testing.assert_allclose(cold.top_probabilities[2], p, rtol=2e-2, atol=1e-6)


def test_words_only_lists_words_and_leaves_numbers_alone(spaces: Spaces) -> None:
    """Row L8: the same ids with the same numbers, less those that are no words."""
    space = spaces["gpt2"]
    every, words = space.trace(PROMPT, k=50), space.trace(PROMPT, k=12, words_only=True)
    is_word = space.vocabulary.is_word
    for i in range(len(every.layers)):
        for j in range(len(every.positions)):
            kept = [n for n, t in enumerate(every.top_ids[i, j]) if is_word(int(t))][:12]
            m = len(kept)
            assert words.top_ids[i, j, :m].tolist() == every.top_ids[i, j, kept].tolist()
            np.testing.assert_allclose(
                words.top_probabilities[i, j, :m], every.top_probabilities[i, j, kept], rtol=1e-5
            )
    assert all(is_word(int(t)) for t in words.top_ids.ravel())
    np.testing.assert_allclose(words.entropy, every.entropy, rtol=1e-5)
    assert (words.final_rank == every.final_rank).all()
    # The semantic region is a matter of the space, not of what is listed.
    assert words.crossings == every.crossings
    np.testing.assert_allclose(words.border, every.border, rtol=1e-3, atol=1e-6)
    assert (words.agrees == every.agrees).all()
    plain, listed = every.to_dict(), words.to_dict()
    assert [c["region"] for c in listed["cells"]] == [c["region"] for c in plain["cells"]]


# --- what is asked is what is computed ------------------------------------------------------------


def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many states each call of the final norm and of a reading was given."""
    import engine.trace.compute
    import engine.trace.options

    seen: list[int] = []
    whole = engine.trace.compute.read

    def counted(frame: Any, states: Tensor, **rest: Any) -> Any:
        seen.append(len(states))
        return whole(frame, states, **rest)

    monkeypatch.setattr(engine.trace.compute, "read", counted)
    monkeypatch.setattr(engine.trace.options, "read", counted)
    return seen


@pytest.mark.parametrize(
    ("layers", "positions", "wanted"),
    [
        ("1:3", None, ((1, 2), None)),
        ("0:4:2", "2:5", ((0, 2), (2, 3, 4))),
        ("-1", "-1", ((3,), (25,))),
        ("2", "0", ((2,), (0,))),
        (":", "::5", (None, None)),
    ],
)
def test_a_range_gives_the_numbers_of_the_whole_trace_and_reads_no_more(
    spaces: Spaces,
    monkeypatch: pytest.MonkeyPatch,
    layers: str,
    positions: str | None,
    wanted: tuple[tuple[int, ...] | None, tuple[int, ...] | None],
) -> None:
    """Row L7."""
    space = spaces.fresh("gpt2")
    whole = space.trace(PROMPT)
    seen = rows_read(monkeypatch)
    part = space.trace(PROMPT, layers=layers, positions=positions)
    tokens = len(whole.tokens)
    assert part.layers == (wanted[0] or whole.layers)
    assert part.positions == (wanted[1] or tuple(range(0, tokens, 5 if positions else 1)))
    assert max(seen) <= max(len(part.layers) * len(part.positions), len(part.positions))
    at = np.ix_(part.layers, part.positions)
    for field in (
        "border",
        "divergence",
        "deviation",
        "gain",
        "alignment",
        "target_similarity",
        "state_norm",
        "entropy",
    ):
        np.testing.assert_allclose(
            getattr(part, field), getattr(whole, field)[at], rtol=2e-4, atol=2e-5, err_msg=field
        )
    assert (part.top_ids == whole.top_ids[at]).all()
    assert (part.final_rank == whole.final_rank[at]).all()
    assert (part.final_ids == whole.final_ids[list(part.positions)]).all()
    assert part.tokens == whole.tokens


@pytest.mark.parametrize(
    "text", ["x", "4", "-5", "2:1", "0:5", "1:1", "::0", "::-1", "0:2:1:1", "9" * 50, "1.5", "0 2"]
)
def test_a_range_that_is_not_there_is_refused_in_one_sentence(spaces: Spaces, text: str) -> None:
    for field in ("layers", "positions"):
        prompt = PROMPT if field == "layers" else "a a a"
        space = spaces["gpt2"]
        with pytest.raises(LayerError) as caught:
            space.trace(prompt, **{field: text if field == "layers" else "9" + text})
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


@given(
    size=st.integers(1, 9),
    parts=st.lists(st.one_of(st.none(), st.integers(-12, 12)), min_size=1, max_size=3),
)
def test_ranges_mean_what_python_means(size: int, parts: list[int | None]) -> None:
    text = ":".join("" if p is None else str(p) for p in parts)
    try:
        found = parse_range(text, size, "layer", "this model")
    except LayerError:
        found = None
    everything = tuple(range(size))
    if not text:
        assert found == everything
    elif len(parts) == 1:
        n = parts[0]
        wanted = (everything[n],) if n is not None and -size <= n < size else None
        assert found == wanted
    elif found is not None:
        assert found == everything[slice(*parts)]
    else:
        outside = any(n is not None and not -size <= n <= size for n in parts[:2])
        backwards = len(parts) == 3 and parts[2] is not None and parts[2] < 1
        assert outside or backwards or not everything[slice(*parts)]


def test_switching_what_is_shown_never_runs_the_model_again(spaces: Spaces) -> None:
    """Row L4 and issue 2, point 7: geometry, frame, state, layers, temperature, k, filters."""
    space = spaces.fresh("llama")
    before = space.forward_passes
    for frame in FRAMES:
        space.temperatures(frame)  # reads a text of its own, once
    calls: list[None] = []
    handle = space.model.anatomy.blocks[0].register_forward_hook(lambda *_: calls.append(None))
    space.trace(PROMPT)
    assert space.forward_passes == before + 1
    for geometry in GEOMETRIES:
        for frame in FRAMES:
            space.trace(PROMPT, geometry=geometry, frame=frame)
    space.trace(PROMPT, state="raw")
    space.trace(PROMPT, centred=True, temperature=0.5, k=3, layers="1:3", words_only=True)
    space.cell(PROMPT, 2, 3, geometry="l2")
    space.curves(PROMPT, [1, 2])
    space.agreement(PROMPT)
    assert space.forward_passes == before + 1
    handle.remove()
    assert len(calls) == 1
    assert space.trace(PROMPT) is space.trace(PROMPT)


def test_another_geometry_passes_over_no_vocabulary(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read on a frame serves every geometry: the same trace, and nothing read again."""
    space, other = spaces.fresh("phi"), spaces.fresh("phi")
    for words_only in (False, True):
        space.trace(PROMPT, frame="tight", words_only=words_only)
        wanted = {
            name: other.trace(PROMPT, frame="tight", geometry=name, words_only=words_only)
            for name in reversed(GEOMETRIES)
        }

        def nothing(*_: object, **__: object) -> None:
            raise AssertionError("the vocabulary was passed over again")

        with monkeypatch.context() as patch:
            patch.setattr("engine.trace.compute.read", nothing)
            patch.setattr("engine.trace.compute.divergence", nothing)
            for name, one in wanted.items():
                found = space.trace(PROMPT, frame="tight", geometry=name, words_only=words_only)
                assert found.to_dict() == one.to_dict()


def test_cancelled_work_stops_between_layers(spaces: Spaces) -> None:
    """A check that raises at the second block: the blocks after it never run, no state is kept."""
    space = spaces.fresh("llama")
    ran: list[int] = []
    for n, block in enumerate(space.model.anatomy.blocks):
        block.register_forward_hook(lambda *_, n=n: ran.append(n))
    calls: list[None] = []

    class Stop(Exception):
        pass

    def check() -> None:
        calls.append(None)
        if len(calls) == 2:
            raise Stop

    with pytest.raises(Stop):
        space.trace("quite another prompt", check=check)
    assert ran == [0]
    assert space.forward_passes == 0
    trace = space.trace("quite another prompt")
    assert trace.finite.all()
    assert ran == [0, 0, 1, 2]


def test_a_check_is_called_throughout_the_reading_as_well(spaces: Spaces) -> None:
    space = spaces["gpt2"]
    space.trace(PROMPT)
    calls: list[None] = []
    space.trace(PROMPT, k=7, check=lambda: calls.append(None))
    assert len(calls) >= 4


def test_another_thread_may_not_take_states(spaces: Spaces) -> None:
    import threading

    space, caught = spaces["gpt2"], []

    def elsewhere() -> None:
        try:
            space.trace("a prompt that was never asked for")
        except WorkError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(caught) == 1


# --- pins -----------------------------------------------------------------------------------------


def test_default_pins_hold_a_token_that_wins_in_the_middle_only() -> None:
    """Row L6."""
    assert default_pins(np.array([5, 5, 9, 7, 7])) == (7, 5, 9)
    assert set(default_pins(np.array([1, 2, 3]))) == {1, 2, 3}
    assert default_pins(np.array([4, -1, -1])) == (4,)
    assert default_pins(np.array([-1])) == ()
    assert default_pins(np.arange(40)) == tuple(range(39, -1, -1)), "none is left out"


@pytest.mark.parametrize("name", ["gpt2", "llama", "phi"])
def test_every_token_that_is_top_at_the_last_position_is_pinned(spaces: Spaces, name: str) -> None:
    trace = spaces[name].trace(PROMPT)
    winners = trace.top_ids[:, -1, 0].tolist()
    assert set(trace.default_pins) == set(winners)
    assert len(set(winners[1:-1]) - {winners[0], winners[-1]}) > 0, "a mid-layer winner is planted"


def test_curves_are_the_numbers_of_the_cells(spaces: Spaces) -> None:
    space = spaces["phi"]
    trace = space.trace(PROMPT)
    curves = space.curves(PROMPT, position=4)
    nearest = trace.top_ids[:, 4, 0]
    assert {t.id for t in curves.tokens} == set(nearest.tolist())
    for n, token in enumerate(curves.tokens):
        for i in range(len(trace.layers)):
            every = scores(space.frame("output"), read_states(space)[i, 4:5], "cosine")[0]
            assert curves.scores[n, i] == pytest.approx(float(every[token.id]), abs=1e-5)
            p = torch.softmax(every.double() / trace.temperature, 0)[token.id]
            assert curves.probabilities[n, i] == pytest.approx(float(p), rel=1e-3)
            assert curves.ranks[n, i] == 1 + int((every > every[token.id]).sum())
    with pytest.raises(TokenError):
        space.curves(PROMPT, [300])
    for position in (99, -99):
        with pytest.raises(LayerError):
            space.curves(PROMPT, position=position)
    json.dumps(curves.to_dict(), allow_nan=False)


# --- transitions: our reconstruction, by its laws -------------------------------------------------


@pytest.mark.parametrize("name", [a for a in ARCHITECTURES if a != "opt_proj"])
@pytest.mark.parametrize("state", ["normed", "raw"])
def test_transitions_obey_their_laws(spaces: Spaces, name: str, state: str) -> None:
    """Row S12: D in [0, 2], gains telescope, ends are the input basis and the target's basis."""
    space = spaces[name]
    trace = space.trace(PROMPT, state=state)
    d = trace.deviation
    assert ((d >= -1e-6) & (d <= 2 + 1e-6)).all()
    assert np.isnan(trace.gain[0]).all()
    assert np.isnan(trace.alignment[0]).all()
    np.testing.assert_allclose(trace.gain[1:].sum(0), d[0] - d[-1], atol=1e-5)
    np.testing.assert_allclose(trace.gain[1:], d[:-1] - d[1:], atol=1e-5)
    assert (np.abs(trace.alignment[1:]) <= 1 + 1e-6).all()
    assert (np.abs(trace.target_similarity) <= 1 + 1e-6).all()
    ids = space.tokenize(PROMPT).ids
    raw = space.model.states(ids).raw
    h = (raw if state == "raw" else space.model.read_out(raw)).double()
    weight = space.model.anatomy.embedding.weight.detach().double()
    e = weight[list(ids)] * space.model.anatomy.embedding_scale
    s = space.frame("output").vectors(trace.final_ids)

    def unit(x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)

    np.testing.assert_allclose(d[0], 1 - (unit(h[0]) * unit(e)).sum(-1), atol=1e-5)
    np.testing.assert_allclose(d[-1], 1 - (unit(h[-1]) * unit(s)).sum(-1), atol=1e-5)
    steps = space.model.blocks
    for layer in range(1, steps + 1):
        share, below = layer / steps, (layer - 1) / steps
        v = (1 - share) * unit(e) + share * unit(s)
        u = (1 - below) * unit(e) + below * unit(s)
        np.testing.assert_allclose(d[layer], 1 - (unit(h[layer]) * unit(v)).sum(-1), atol=1e-5)
        along = (unit(h[layer] - h[layer - 1]) * unit(v - u)).sum(-1)
        np.testing.assert_allclose(trace.alignment[layer], along, atol=1e-5)
    shift = space.frame("output").shift
    placed = h if shift is None else h + shift
    np.testing.assert_allclose(trace.target_similarity, (unit(placed) * unit(s)).sum(-1), atol=1e-5)


def test_transitions_where_widths_differ_are_those_of_the_projected_space(spaces: Spaces) -> None:
    trace = spaces["opt_proj"].trace(PROMPT)
    d = trace.deviation
    assert ((d >= -1e-6) & (d <= 2 + 1e-6)).all()
    np.testing.assert_allclose(trace.gain[1:].sum(0), d[0] - d[-1], atol=1e-5)
