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
from same_numbers import ROUNDING
from tiny_models import ARCHITECTURES, NAN_LAYER, PROMPT, Spaces, hooks, peak_bytes
from torch import Tensor

from engine import GEOMETRIES, LatentSpace, Limits, TraceOptions
from engine.errors import LayerError, OptionError, PromptError, TokenError, WorkError
from engine.frames.isotropy import isotropy
from engine.frames.kinds import FRAMES
from engine.model.ranges import parse_range
from engine.reading.similarity import divergence, scores
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


# --- isotropy -------------------------------------------------------------------------------------


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "d"), [(400, 16), (60, 200), (300, 300)])
def test_an_isotropic_gaussian_reads_one(n: int, d: int) -> None:
    found = isotropy(gaussian(n, d))
    assert found.raw == pytest.approx(1.0, abs=0.02)
    assert found.centred == pytest.approx(1.0, abs=0.02)
    assert found.spectral == pytest.approx(1.0, abs=0.06)


def test_a_cone_reads_zero_and_one_once_centred() -> None:
    """Row S5."""
    axis = torch.zeros(32)
    axis[3] = 100.0
    found = isotropy(gaussian(500, 32) + axis)
    assert found.raw == pytest.approx(0.0, abs=0.01)
    assert found.centred == pytest.approx(1.0, abs=0.02)
    assert found.spectral == pytest.approx(1.0, abs=0.06)


def test_few_directions_read_as_few() -> None:
    """All variance in one direction: 1/d of what a ball has, whatever the scale."""
    line = gaussian(800, 1) * torch.ones(1, 20)
    assert isotropy(line).spectral == pytest.approx(1 / 20, rel=0.05)
    x = gaussian(50, 8)
    a, b = isotropy(x), isotropy(1e6 * x)
    assert a.raw == pytest.approx(b.raw, abs=1e-9)
    assert a.spectral == pytest.approx(b.spectral, rel=1e-6)


@given(n=st.integers(2, 12), d=st.integers(1, 6), seed=st.integers(0, 999))
def test_isotropy_is_the_mean_pairwise_cosine(n: int, d: int, seed: int) -> None:
    x = gaussian(n, d, seed).double()

    def by_pairs(y: Tensor) -> float:
        u = y / y.norm(dim=1, keepdim=True)
        cosine = u @ u.T
        mean = (cosine.sum() - cosine.diagonal().sum()) / (n * (n - 1))
        return float((1 - mean).clamp(0, 1))

    found = isotropy(x)
    assert found.raw == pytest.approx(by_pairs(x), abs=1e-9)
    assert 0 <= found.spectral <= 1


@given(n=st.integers(3, 12), d=st.integers(2, 6), seed=st.integers(0, 999))
def test_centred_isotropy_is_the_mean_absolute_cosine_against_chance(
    n: int, d: int, seed: int
) -> None:
    """Chance is drawn, not computed: |first coordinate| of uniform directions."""
    x = gaussian(n, d, seed).double()
    y = x - x.mean(0)
    u = y / y.norm(dim=1, keepdim=True)
    cosine = (u @ u.T).abs()
    mean = (cosine.sum() - cosine.diagonal().sum()) / (n * (n - 1))
    many = gaussian(200_000, d, 7).double()
    chance = float((many[:, 0] / many.norm(dim=1)).abs().mean())
    expected = min(max(float((1 - mean) / (1 - chance)), 0.0), 1.0)
    assert isotropy(x).centred == pytest.approx(expected, abs=0.02)


def test_a_line_reads_zero_centred_however_far_it_lies() -> None:
    line = gaussian(300, 1) * torch.ones(1, 20) + 5.0 * gaussian(1, 20, seed=1)
    assert isotropy(line).centred == pytest.approx(0.0, abs=1e-6)


def test_isotropy_of_nothing_is_not_a_number() -> None:
    for x in (
        torch.zeros(1, 4),
        torch.zeros(0, 4),
        torch.zeros(5, 4),
        torch.full((3, 4), float("nan")),
    ):
        assert math.isnan(isotropy(x).raw)


@pytest.mark.parametrize("name", ["gpt2", "phi"])
def test_isotropy_in_a_trace_is_that_of_its_states_and_nearest_bases(
    spaces: Spaces, name: str
) -> None:
    space = spaces[name]
    trace = space.trace(PROMPT, k=5)
    states, frame = read_states(space), space.frame("output")
    for i, found in enumerate(trace.isotropy):
        whole = isotropy(states[i])
        assert found.layer == i
        assert found.raw == pytest.approx(whole.raw, abs=1e-5)
        assert found.centred == pytest.approx(whole.centred, abs=1e-5)
        assert found.spectral == pytest.approx(whole.spectral, abs=1e-5)
        near = [isotropy(frame.vectors(row)) for row in trace.top_ids[i]]
        assert found.near_raw == pytest.approx(sum(n.raw for n in near) / len(near), abs=1e-5)
        assert found.near_centred == pytest.approx(
            sum(n.centred for n in near) / len(near), abs=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("geometry", ["cosine", "l2"])
def test_a_trace_stays_within_its_memory(spaces: Spaces, geometry: str) -> None:
    """With 50 listed tokens in 320 dimensions, whose vectors alone would be 15 MiB."""
    space = spaces.fresh("wide", limits=Limits(memory_budget_mib=8))
    prompt = "a" * 120
    wanted = spaces["wide"].trace(prompt, k=50, geometry=geometry)
    space.states(prompt)
    # The budget holds for each reading; the answer itself and the states come on top.
    assert peak_bytes(lambda: space.trace(prompt, k=50, geometry=geometry)) <= 9 * 2**20
    for a, b in zip(
        space.trace(prompt, k=50, geometry=geometry).isotropy, wanted.isotropy, strict=True
    ):
        assert a.near_raw == pytest.approx(b.near_raw, rel=1e-4)
        assert a.near_centred == pytest.approx(b.near_centred, rel=1e-4)


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
