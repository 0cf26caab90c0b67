"""A text that goes on against one trace of the finished text, transformers' own, brute force."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from same_numbers import ROUNDING
from tiny_models import ARCHITECTURES, PROMPT, Spaces, hooks, made
from torch import Tensor

import engine
from engine import GenerateOptions, LatentSpace, Limits, TraceOptions
from engine.errors import (
    Cancelled,
    LensMissing,
    NonFiniteError,
    OptionError,
    PromptError,
    TokenError,
)
from engine.frames.frame import Frame
from engine.generation.column import Column, Generation
from engine.generation.sampling import Sampler, distribution
from engine.generation.settling import (
    DeepThinking,
    Depth,
    as_sharp,
    deep_from,
    deep_thinking,
    jensen_shannon,
    read_layers,
    settling_layer,
)
from engine.generation.write import end_ids
from engine.model.prompts import Tokens
from engine.progress import drain
from engine.reading.similarity import scores
from engine.trace.compute import compute_trace, read_states
from engine.trace.result import Cost, Trace

CAUSAL = tuple(name for name in ARCHITECTURES if name != "bert")
READINGS = (
    TraceOptions(k=3),
    TraceOptions(k=3, frame="head", geometry="matmul"),
    TraceOptions(k=3, frame="dial", alpha=0.25, geometry="l2", temperature=0.7),
    TraceOptions(k=3, state="raw", words_only=True),
)


def one_trace(space: LatentSpace, ids: tuple[int, ...], options: TraceOptions) -> Trace:
    """The trace of a text given by its ids: one forward pass over all of it."""
    tokens = Tokens("", ids, space.vocabulary.prompt_tokens(ids), False)
    temperatures = space._temperatures_for(options, lambda: None)
    with torch.no_grad():
        found = read_states(
            space.model,
            space.frame,
            tokens,
            space.model.states(ids),
            options,
            temperatures=temperatures,
        )
        return compute_trace(
            space.model,
            space.frame,
            tokens,
            found,
            options,
            temperatures=temperatures,
            cost=Cost(0.0, 0),
        )


def assert_is_one_trace(space: LatentSpace, found: Generation) -> None:
    """Ids, ranks and numbers of every column are those of one trace of the finished text."""
    trace = one_trace(space, found.ids, found.options.reading)
    for column in found.columns:
        at = trace.positions.index(column.position)
        assert column.answer.id == trace.final_ids[at]
        assert column.alternatives[0].probability == pytest.approx(
            float(trace.final_probabilities[at]), abs=ROUNDING
        )
        np.testing.assert_array_equal(column.top_ids, trace.top_ids[:, at])
        np.testing.assert_array_equal(column.final_ranks, trace.final_rank[:, at])
        for own, theirs in (
            (column.top_scores, trace.top_scores),
            (column.top_probabilities, trace.top_probabilities),
            (column.entropy, trace.entropy),
            (column.final_probabilities, trace.final_probability),
        ):
            np.testing.assert_allclose(own, theirs[:, at], rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_text_that_goes_on_is_one_trace_of_the_finished_text(spaces: Spaces, name: str) -> None:
    """The law that tests the kept keys and values: 8 tokens of eleven architectures."""
    space = spaces[name]
    reading = READINGS[CAUSAL.index(name) % 2]
    found = space.generation(PROMPT, tokens=8, temperature=1.5, seed=3, reading=reading)
    assert len(found.columns) == 8 or found.ended
    assert found.columns[0].position == len(found.prompt.ids) - 1
    assert_is_one_trace(space, found)


@pytest.mark.parametrize("reading", READINGS)
def test_the_law_holds_for_other_readings(spaces: Spaces, reading: TraceOptions) -> None:
    space = spaces["llama"]
    assert_is_one_trace(space, space.generation(PROMPT, tokens=5, reading=reading))


def test_a_model_that_does_not_remember_reads_all_of_the_text_anew(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no keys and values the numbers are the same, and each step is given the whole text."""
    space = spaces["gpt2"]
    with_cache = space.generation(PROMPT, tokens=5)
    given: list[int] = []
    advance = space.model.advance

    def counted(ids: Tensor, past: Any = None, **more: Any) -> Any:
        given.append(ids.shape[1])
        return advance(ids, past, **more)

    monkeypatch.setattr(type(space.model), "remembers", property(lambda model: False))
    monkeypatch.setattr(space.model, "advance", counted)
    found = space.generation(PROMPT, tokens=5)
    start = len(found.prompt.ids)
    assert given == [start + i for i in range(5)]
    assert found.ids == with_cache.ids
    assert_is_one_trace(space, found)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_greedy_is_transformers_own_generate(spaces: Spaces, name: str) -> None:
    space = spaces[name]
    ids = space.tokenize(PROMPT).ids
    wanted = space.model.module.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=sorted(end_ids(space.model)),
        pad_token_id=1,
    )[0]
    found = space.generation(PROMPT, tokens=12)
    assert list(found.ids) == wanted.tolist()
    assert not any(column.forced for column in found.columns)
    assert all(column.rank == 1 for column in found.columns)


def brute(logits: np.ndarray[Any, Any], t: float, k: int | None, p: float | None) -> Any:
    """Temperature, then the k likeliest, then the fewest whose sum is at least p: float64."""
    z = logits.astype(np.float64) / t
    q = np.exp(z - z.max())
    order = np.argsort(-q, kind="stable")
    kept = order[: k or len(order)]
    share = q[kept] / q[kept].sum()
    if p is not None:
        kept = kept[: int(np.searchsorted(share.cumsum(), p - 1e-12)) + 1]
    out = np.zeros_like(q)
    out[kept] = q[kept] / q[kept].sum()
    return out


@pytest.mark.parametrize(
    ("t", "k", "p"),
    [(1.0, None, None), (0.6, None, None), (1.7, 5, None), (1.0, None, 0.8), (0.8, 40, 0.55)],
)
def test_the_distribution_of_the_draws(t: float, k: int | None, p: float | None) -> None:
    logits = 3 * torch.randn(300, generator=torch.Generator().manual_seed(5))
    options = GenerateOptions(temperature=t, top_k=k, top_p=p)
    wanted = brute(logits.numpy(), t, k, p)
    np.testing.assert_allclose(distribution(logits, options).numpy(), wanted, atol=1e-12)


def test_a_temperature_may_be_a_whole_number() -> None:
    logits = torch.arange(5.0)
    torch.testing.assert_close(
        distribution(logits, GenerateOptions(temperature=1)), logits.double().softmax(0)
    )


def test_draws_follow_the_distribution() -> None:
    """10,000 draws: each token as often as its probability says, within five standard errors; and
    none of those that top-k left out."""
    logits = torch.randn(12, generator=torch.Generator().manual_seed(1))
    options = GenerateOptions(temperature=0.9, top_k=6, seed=11, tokens=100_000)
    sampler, count = Sampler(options), 10_000
    seen = np.bincount([sampler.next(logits)[0] for _ in range(count)], minlength=12) / count
    p = brute(logits.numpy(), 0.9, 6, None)
    assert (np.abs(seen - p) <= 5 * np.sqrt(p * (1 - p) / count)).all()


def test_the_same_seed_writes_the_same_text(spaces: Spaces) -> None:
    space, other = spaces["llama"], spaces.fresh("llama")
    options = GenerateOptions(tokens=10, temperature=2.0, seed=4)
    first = space.generation(PROMPT, options)
    assert space.generation(PROMPT, options).ids == first.ids
    assert other.generation(PROMPT, options).ids == first.ids
    texts = {space.generation(PROMPT, options, seed=seed).ids for seed in range(6)}
    assert len(texts) > 1


def test_a_fork_keeps_what_stands_before_it_and_goes_on_from_its_token(spaces: Spaces) -> None:
    space = spaces["qwen3"]
    trunk = space.generation(PROMPT, tokens=8, temperature=1.2, seed=2)
    other = trunk.columns[3].alternatives[2].token.id
    fork = space.generation(PROMPT, tokens=8, temperature=1.2, seed=2, forced=((3, other),))
    start = len(trunk.prompt.ids)
    assert fork.ids[: start + 3] == trunk.ids[: start + 3]
    assert fork.columns[3].token.id == other
    assert [column.forced for column in fork.columns][:5] == [False, False, False, True, False]
    assert fork.columns[3].rank == 3
    assert fork.columns[3].probability == pytest.approx(
        trunk.columns[3].alternatives[2].probability
    )
    assert_is_one_trace(space, fork)


def test_a_column_is_handed_out_before_the_model_takes_its_next_step(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = spaces["llama"]
    steps: list[int] = []
    advance = space.model.advance

    def counted(ids: Tensor, past: Any = None, **more: Any) -> Any:
        steps.append(ids.shape[1])
        return advance(ids, past, **more)

    monkeypatch.setattr(space.model, "advance", counted)
    for count, column in enumerate(space.generate(PROMPT, tokens=4), start=1):
        assert isinstance(column, Column)
        assert len(steps) == count
    assert steps[1:] == [1, 1, 1]


def test_work_stops_between_two_blocks_and_leaves_no_hooks(spaces: Spaces) -> None:
    space = spaces["llama"]
    before = hooks(space)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == wanted:
            raise Cancelled("enough")

    wanted = 0
    list(space.generate(PROMPT, tokens=2, check=check))
    whole = calls
    for wanted in (1, whole // 2, whole - 1):
        calls = 0
        with pytest.raises(Cancelled):
            list(space.generate(PROMPT, tokens=2, check=check))
        assert calls == wanted
    assert hooks(space) == before


def test_the_text_ends_where_the_model_ends_it(spaces: Spaces) -> None:
    """Its end token, forced in the middle: it is the last one."""
    space = spaces["llama"]
    found = space.generation(PROMPT, tokens=6, forced=((2, 1),))
    assert found.ended
    assert len(found.columns) == 3
    assert not space.generation(PROMPT, tokens=2, forced=((1, 50),)).ended


def test_the_text_is_the_prompt_with_what_was_written(spaces: Spaces) -> None:
    space = spaces["gpt2"]
    found = space.generation(PROMPT, tokens=6, temperature=1.0, seed=1)
    tokenizer = space.model.tokenizer
    assert found.text == PROMPT + found.continuation
    assert found.text == tokenizer.decode(list(found.ids), clean_up_tokenization_spaces=False)


def test_a_chat_goes_on_as_the_assistant(spaces: Spaces) -> None:
    space = spaces["llama"]
    found = space.generation("Hello", tokens=3, reading=TraceOptions(chat=True))
    assert found.prompt.ids == space.tokenize("Hello", chat=True).ids
    assert_is_one_trace(space, found)


# --- settling -------------------------------------------------------------------------------------


def brute_js(space: LatentSpace, found: Generation) -> np.ndarray[Any, Any]:
    """JS of every layer's softmax from the last one's, float64, from the states of one pass."""
    reading = found.options.reading
    raw = space.model.states(found.ids).raw
    normed = space.model.read_out(raw)
    values = torch.stack(
        [
            scores(space.frame(reading.frame_key), normed[:, one.position], reading.geometry)
            for one in found.columns
        ],
        1,
    ).double()
    p = torch.softmax(values / found.temperature.value, -1).numpy()
    q = p[-1:]
    m = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p / m), 0) + np.where(q > 0, q * np.log(q / m), 0)
    return np.asarray(terms.sum(-1) / 2)


@pytest.mark.parametrize("name", ["llama", "gemma2", "opt_proj"])
@pytest.mark.parametrize("reading", READINGS[:2])
def test_settling_against_brute_force(spaces: Spaces, name: str, reading: TraceOptions) -> None:
    """The divergences, and the first layer from which on all are below the threshold."""
    space = spaces[name]
    found = space.generation(PROMPT, tokens=6, seed=1, temperature=1.0, reading=reading)
    wanted = brute_js(space, found)
    np.testing.assert_allclose(found.divergence, wanted, atol=ROUNDING)
    blocks = space.model.blocks
    for below in (0.01, 0.1, 0.4):
        settled = [
            next(layer for layer in range(blocks + 1) if (wanted[layer:, j] < below).all())
            for j in range(len(found.columns))
        ]
        own = space.generation(PROMPT, found.options, settled=below)
        assert [column.settling_layer for column in own.columns] == settled
        deep = sum(layer >= math.ceil(0.85 * blocks) for layer in settled)
        assert own.thinking.found.ratio == deep / len(settled)
        assert own.to_dict()["deep_thinking_ratio"] == deep / len(settled)


def test_settling_layers_of_known_divergences() -> None:
    assert settling_layer([0.3, 0.2, 0.05, 0.0], 0.1) == 2
    assert settling_layer([0.05, 0.2, 0.05, 0.0], 0.1) == 2
    assert settling_layer([0.3, 0.3, 0.3, 0.0], 0.1) == 3
    assert settling_layer([0.0, 0.0, 0.0, 0.0], 0.1) == 0
    assert settling_layer([0.0, math.nan, 0.0, 0.0], 0.1) == 2
    assert settling_layer([math.nan] * 4, 0.1) == 3
    assert [deep_from(blocks) for blocks in (1, 3, 20, 30)] == [1, 3, 17, 26]


def test_jensen_shannon_of_known_distributions() -> None:
    """Disjoint: ln 2; equal: 0; and it is symmetric, over several blocks of columns."""
    v = 20_000
    left, right = torch.zeros(v), torch.zeros(v)
    left[: v // 2] = right[v // 2 :] = 2 / v
    each = math.log(v / 2)
    apart = jensen_shannon(left, right, torch.tensor(2 * each))
    assert float(apart) == pytest.approx(math.log(2), abs=1e-5)
    assert float(jensen_shannon(left, left, torch.tensor(2 * each))) == pytest.approx(0, abs=1e-5)
    a, b = torch.randn(2, v, generator=torch.Generator().manual_seed(3)).softmax(1)
    both = -(a * a.log()).sum() - (b * b.log()).sum()
    m = (a.double() + b.double()) / 2
    wanted = ((a * (a / m).log()).sum() + (b * (b / m).log()).sum()) / 2
    for one, other in ((a, b), (b, a)):
        assert float(jensen_shannon(one, other, both)) == pytest.approx(float(wanted), abs=1e-5)


def test_a_small_budget_reads_the_layers_in_parts(spaces: Spaces) -> None:
    space = spaces["llama"]
    frame = space.frame("output")
    states = space.model.read_out(space.model.states(space.tokenize(PROMPT).ids).raw)[:, :3]
    asked: dict[str, Any] = {"geometry": "cosine", "temperature": 0.1, "k": 2}
    whole, apart = read_layers(frame, states, **asked)
    parts, again = read_layers(frame, states, budget_bytes=16 * frame.size * 3, **asked)
    torch.testing.assert_close(again, apart, rtol=ROUNDING, atol=1e-6)
    assert torch.equal(parts.ids, whole.ids)


def test_the_random_control_is_as_sharp_as_the_reading(spaces: Spaces) -> None:
    values = scores(spaces["llama"].frame("random"), torch.randn(5, 32), "cosine")
    t = as_sharp(values, 3.0)
    p = torch.softmax(values.double() / t, 1)
    assert float(-(p * p.log()).sum(1).mean()) == pytest.approx(3.0, abs=1e-3)


def test_the_random_control_against_brute_force(spaces: Spaces) -> None:
    space = spaces["llama"]
    found = space.generation(PROMPT, tokens=6, temperature=1.0, seed=1)
    states = torch.from_numpy(np.stack([one.states for one in found.columns], 1))
    frame = space.frame("random")
    entropy = float(np.mean([one.entropy[-1] for one in found.columns]))
    t = as_sharp(scores(frame, states[-1], "cosine"), entropy)
    values = torch.stack([scores(frame, one, "cosine") for one in states]).double()
    p = torch.softmax(values / t, -1)
    m = (p + p[-1:]) / 2
    js = ((p * (p / m).log()).sum(-1) + (p[-1:] * (p[-1:] / m).log()).sum(-1)) / 2
    settled = [settling_layer(column, 0.1) for column in js.T.tolist()]
    control = found.thinking.controls["random"]
    assert control.mean_layer == pytest.approx(np.mean(settled))
    assert control.deep == sum(layer >= 3 for layer in settled)


def test_shuffled_layers_settle_later_than_a_reading_that_settles_by_and_by() -> None:
    """A planted truth: readings that settle at layer 10 of 30 do not in a shuffled order."""
    divergence = np.zeros((31, 40), dtype=np.float32)
    divergence[:10] = 0.5
    frame_states = torch.randn(31, 40, 8)

    random = Frame("random", None, None, torch.ones(50), torch.zeros(8, dtype=torch.float64))
    found = drain(
        deep_thinking(
            frame_states, divergence, random, 2.0,
            geometry="cosine", below=0.1, seed=0, budget_bytes=2**20,
        )
    )  # fmt: skip
    assert found.found == Depth(40, 0, 10.0)
    assert found.controls["shuffled"].deep > 30
    assert found.controls["random"].deep > 30  # random states agree with the last in no layer
    assert not found.equalled_by
    assert found.sentence.startswith("0 of 40 tokens settle only at layer 26 of 30 or above: 0 %")


def test_the_sentence_is_withheld_where_a_control_does_as_well() -> None:
    found = DeepThinking(
        Depth(40, 20, 25.0), {"random": Depth(40, 19, 24.0), "shuffled": Depth(40, 40, 30.0)},
        26, 30, 0.1,
    )  # fmt: skip
    assert found.equalled_by == ("random",)
    assert "says nothing" in found.sentence
    assert found.to_dict()["withheld"]


# --- what cannot be asked -------------------------------------------------------------------------


def test_a_masked_model_is_refused(spaces: Spaces) -> None:
    with pytest.raises(OptionError, match="does not go on with a text"):
        spaces["bert"].generate(PROMPT)


def test_a_context_that_is_full(spaces: Spaces) -> None:
    space = spaces.fresh("gpt2", limits=Limits(max_tokens=20))
    count = len(space.tokenize("The king and the queen").ids)
    left = 20 - count
    with pytest.raises(PromptError, match=f"^{left} tokens are left .* at most {left}"):
        space.generate("The king and the queen", tokens=left + 1)
    whole = space.generation("The king and the queen", tokens=left)
    assert len(whole.ids) == 20 or whole.ended
    text = "x" * 20
    assert len(space.tokenize(text).ids) == 20
    with pytest.raises(PromptError, match="20 tokens fill the 20"):
        space.generate(text, tokens=1)


def test_a_model_whose_logits_are_not_finite(spaces: Spaces) -> None:
    with pytest.raises(NonFiniteError, match="logits are not finite"):
        list(spaces["nan"].generate(PROMPT, tokens=2))


@pytest.mark.parametrize(
    ("given", "kind", "what"),
    [
        ({"tokens": 0}, OptionError, "tokens must be a whole number from 1"),
        ({"tokens": 257}, OptionError, "tokens must be from 1 to 256"),
        ({"tokens": True}, OptionError, "tokens must be"),
        ({"temperature": -1.0}, OptionError, "temperature must be"),
        ({"temperature": math.nan}, OptionError, "temperature must be"),
        ({"top_p": 0.0}, OptionError, "top_p must be"),
        ({"top_k": 0}, OptionError, "top_k must be"),
        ({"seed": -1}, OptionError, "seed must be"),
        ({"settled": 0.7}, OptionError, "settled must be"),
        ({"forced": ((40, 1),)}, OptionError, "number of a new token"),
        ({"forced": ((0, -1),)}, TokenError, "token id"),
        ({"forced": ((0, 10**6),)}, TokenError, "token id must be in"),
        ({"reading": TraceOptions(centred=True)}, OptionError, "centring"),
        ({"reading": TraceOptions(layers="2")}, OptionError, "leave layers out"),
        ({"reading": TraceOptions(positions="2")}, OptionError, "leave positions out"),
        ({"reading": TraceOptions(lens="linear")}, LensMissing, "is not fitted"),
        ({"colour": 3}, OptionError, "the options are tokens, temperature"),
    ],
)
def test_mistakes_are_a_sentence(
    spaces: Spaces, given: dict[str, Any], kind: type[Exception], what: str
) -> None:
    """Each before anything is computed."""
    with pytest.raises(kind, match=what):
        spaces["llama"].generate(PROMPT, **given)


def test_a_state_space_model_goes_on(tmp_path: Path) -> None:
    """Mamba keeps a state of another kind: its text is read anew at each step."""
    transformers.logging.set_verbosity_error()
    folder = made(
        "MambaForCausalLM", tmp_path / "mamba",
        hidden_size=32, num_hidden_layers=2, state_size=4, intermediate_size=48,
    )  # fmt: skip
    space = engine.load(folder, device="cpu", offline=True, cache_dir=tmp_path)
    assert not space.model.remembers
    assert_is_one_trace(space, space.generation(PROMPT, tokens=4, temperature=1.0))
