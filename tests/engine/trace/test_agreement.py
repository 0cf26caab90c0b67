"""Agreement of the readings with the model itself: by hand on tiny models, and the real figures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, spearmanr
from tiny_models import PROMPT, Spaces

from engine import GEOMETRIES, LatentSpace, TraceOptions
from engine.errors import InputError
from engine.frames.kinds import FRAMES
from engine.progress import drain
from engine.reading.similarity import scores
from engine.trace.agreement import Agreement, AgreementRow

STORY = (
    "Once upon a time, there was a little girl named Lily. She had a small brown dog named "
    "Max. Lily and Max liked to play in the park near the big tree. One sunny day, they saw a "
    "red ball under the tree. Lily wanted to play with the ball, but it was stuck in the mud. "
    "She pulled and pulled, but the ball did not move. Max started to dig with his paws. He "
    "was a very good dog. Soon the ball came out and Lily was so happy. She gave Max a big "
    'hug and said, "Thank you, Max! You are my best friend." Then a boy named Tom came to the '
    "park. He was sad because he lost his ball. Lily looked at the red ball and then at Tom. "
    'She did not want to give it away, but she knew it was the right thing to do. "Is this '
    'your ball?" she asked. Tom smiled and said, "Yes, it is my ball! Thank you so much." '
    "They all played together until the sun went down. Lily's mom called her to come home for "
    "dinner. Lily told her mom about the ball and the new friend. Her mom was very proud of "
    "her and gave her a cookie. That night, Lily went to bed with a smile. She had a dream "
    "about a big red ball in the sky."
)
"""A passage of our own, in the manner of the texts that the real model was trained on."""


def row(found: Agreement, geometry: str, frame: str) -> AgreementRow:
    (one,) = [r for r in found.rows if (r.geometry, r.frame) == (geometry, frame)]
    return one


@pytest.fixture(scope="module")
def real(stories: LatentSpace) -> Agreement:
    """On our own passage of a few hundred tokens."""
    return stories.agreement(STORY)


@pytest.fixture(scope="module")
def own_words(stories: LatentSpace) -> Agreement:
    """On the model's own most likely story: what it says after 'Once upon a time', 62 tokens."""
    ids = torch.tensor([stories.tokenize("Once upon a time").ids])
    with torch.no_grad():
        while ids.shape[1] < 62:
            best = stories.model.module(input_ids=ids).logits[0, -1].argmax()
            ids = torch.cat([ids, best.view(1, 1)], 1)
    text = stories.model.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert list(stories.tokenize(text).ids) == ids[0].tolist()
    return stories.agreement(text)


def last(found: Agreement, geometry: str, frame: str) -> float:
    return float(row(found, geometry, frame).top1[-1])


# --- the real model: method.md §2.7, model A ------------------------------------------------------


@pytest.mark.parametrize(
    ("geometry", "frame", "figure"),
    [
        ("cosine", "output", 0.68),
        ("l2", "output", 0.66),
        ("cosine", "head", 0.73),
        ("cosine", "tight", 0.85),
        ("share", "output", 0.84),
        ("cosine", "random", 0.0),
    ],
)
def test_the_figures_of_the_method_are_found_again(
    own_words: Agreement, geometry: str, frame: str, figure: float
) -> None:
    """All six to the last digit that is given, on the model's own words.

    The text they were measured on is not named; on the first 62 tokens of the greedy story they
    come out exactly (42, 41, 45, 53 and 52 of 62).
    """
    assert len(own_words.positions) == 62
    assert last(own_words, geometry, frame) == pytest.approx(figure, abs=0.0055)


@pytest.mark.parametrize(
    ("geometry", "frame", "least", "most"),
    [
        ("cosine", "output", 0.40, 0.60),
        ("l2", "output", 0.36, 0.56),
        ("cosine", "head", 0.64, 0.80),
        ("cosine", "tight", 0.58, 0.76),
        ("share", "output", 0.58, 0.76),
        ("cosine", "random", 0.0, 0.02),
    ],
)
def test_on_a_longer_text_of_ours_the_readings_agree_less(
    real: Agreement, geometry: str, frame: str, least: float, most: float
) -> None:
    """Measured .50, .44, .74, .65, .66, .00 on 463 tokens: agreement depends on the text."""
    assert 300 <= len(real.positions) <= 512
    assert real.layers == tuple(range(6))
    assert least <= last(real, geometry, frame) <= most


def test_what_stands_above_what_on_every_text(real: Agreement, own_words: Agreement) -> None:
    """The paper's cosine stands below head rows, tight frame and shares; the control at chance.

    Whether the tight frame or the head rows agree more depends on the text.
    """
    for found in (real, own_words):
        output, head, tight = (last(found, "cosine", f) for f in ("output", "head", "tight"))
        assert min(head, tight, last(found, "share", "output")) > output + 0.03
        assert output >= last(found, "l2", "output")
        for geometry in GEOMETRIES:
            assert last(found, geometry, "random") <= 0.03
        assert row(found, "cosine", "random").control
        assert not row(found, "cosine", "output").control
    assert last(own_words, "cosine", "tight") > last(own_words, "cosine", "head")


def test_the_product_with_the_head_is_the_model_itself(real: Agreement) -> None:
    """In the last layer everything agrees; before it, less the further down."""
    own = row(real, "matmul", "head")
    assert own.top1[-1] == 1.0
    assert own.overlap[-1] == 1.0
    assert own.rank_correlation[-1] == pytest.approx(1.0, abs=1e-6)
    assert own.final_rank[-1] == 1.0
    assert own.top1[0] < own.top1[3] < own.top1[5]


def test_the_control_knows_nothing(real: Agreement) -> None:
    for geometry in GEOMETRIES:
        control = row(real, geometry, "random")
        assert np.abs(control.rank_correlation[-1]) < 0.1
        assert control.overlap[-1] < 0.1


def test_the_round_trip_rate_of_the_real_model(stories: LatentSpace) -> None:
    """method.md §2.7: .54; recomputed here from a pseudo-inverse."""
    report = stories.frame_report("output")
    assert report.round_trip_rate == pytest.approx(0.54, abs=0.005)
    w = stories.model.anatomy.weight.detach().double()
    logits = torch.linalg.pinv(w).T @ w.T
    rate = float((logits.argmax(1) == torch.arange(512)).double().mean())
    assert report.round_trip_rate == pytest.approx(rate, abs=2 / 512)
    assert report.condition_number == pytest.approx(35, abs=1)
    assert report.rank == 64


def test_the_real_model_is_read_soundly(stories: LatentSpace) -> None:
    """Badge, last-layer parity and the exact resolution on real weights."""
    assert stories.self_check.ok, stories.self_check.summary
    ids = stories.tokenize(STORY).ids
    with torch.no_grad():
        own = stories.model.module(input_ids=torch.tensor([ids])).logits[0]
    states = stories.model.states(ids)
    ours = scores(stories.frame("head"), stories.model.read_out(states.raw[-1]), "matmul")
    assert float((ours - own).abs().max()) <= 1e-4
    cell = stories.cell("Once upon a time", 3, -1)
    assert cell.share_sums == pytest.approx((1.0, 1.0), abs=1e-5)


def test_the_shipped_model_is_read_soundly(small: LatentSpace) -> None:
    assert small.self_check.ok, small.self_check.summary
    trace = small.trace("The old king and the", geometry="matmul", frame="head")
    assert trace.agrees[-1].all()


# --- by hand, on tiny models ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "phi"])
def test_every_row_of_the_table_equals_a_count_by_hand(spaces: Spaces, name: str) -> None:
    """Row S4: top-1, top-k overlap, rank correlation and median rank, from all scores."""
    space = spaces[name]
    found = space.agreement(PROMPT, k=5)
    assert [(r.geometry, r.frame) for r in found.rows] == [
        *((g, f) for f in FRAMES for g in GEOMETRIES),
        ("share", "output"),
    ]
    states = space.model.read_out(space.model.states(space.tokenize(PROMPT).ids).raw)
    head, output = space.frame("head"), space.frame("output")
    own = scores(head, states[-1], "matmul")
    answer, listed = own.argmax(1), own.topk(5).indices
    stride = max(1, 300 // 512)
    own_ranks = own[:, ::stride].argsort(1).argsort(1).double().numpy()
    for r in found.rows:
        for i, layer in enumerate(found.layers):
            if r.geometry == "share":
                placed = output.place(states[layer]).double()
                w = space.model.anatomy.weight.detach().double()
                every = (placed @ w.T) * (placed @ output.vectors(torch.arange(300)).T)
            else:
                every = scores(space.frame(r.frame), states[layer], r.geometry).double()
            top = every.topk(5).indices
            first = (top[:, 0] == answer).double().mean()
            overlap = (top[:, :, None] == listed[:, None, :]).any(2).double().mean()
            mine = every.argsort(1).argsort(1).double().numpy()
            rho = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(mine, own_ranks, strict=True)])
            rank = 1 + (every > every.gather(1, answer[:, None])).sum(1)
            assert r.top1[i] == pytest.approx(float(first), abs=1e-6)
            assert r.overlap[i] == pytest.approx(float(overlap), abs=0.01)
            assert r.rank_correlation[i] == pytest.approx(float(rho), abs=1e-3)
            assert r.final_rank[i] == pytest.approx(float(rank.double().median()), abs=1)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert len(plain["rows"]) == 3 * len(FRAMES) + 1


def test_layers_and_positions_may_be_chosen(spaces: Spaces) -> None:
    space = spaces["llama"]
    whole, part = space.agreement(PROMPT), space.agreement(PROMPT, layers="1:4:2")
    assert part.layers == (1, 3)
    for a, b in zip(whole.rows, part.rows, strict=True):
        np.testing.assert_allclose(a.top1[[1, 3]], b.top1, atol=1e-6)
    one = space.agreement(PROMPT, positions="-1")
    assert set(np.unique([r.top1 for r in one.rows])) <= {0.0, 1.0}


TEXTS = ("the cat sat on", "The dog ran", "a king and a queen", "red ball under the", "old mat the",
         "once upon a", "she was")  # fmt: skip


def test_over_a_set_every_figure_is_counted_at_the_last_positions(spaces: Spaces) -> None:
    """By NumPy in float64 over all texts, reading by reading and layer by layer."""
    space = spaces["llama"]
    k = 4
    found = drain(space.agreement_over(TEXTS, k=k, layers="1:"))
    blocks = space.model.blocks
    assert found.layers == tuple(range(1, blocks + 1))
    assert len(found.positions) == len(TEXTS)
    raw = [space.states(text).raw[:, -1] for text in TEXTS]
    states = space.model.read_out(torch.stack(raw, 1)).double().numpy()  # layer × text × d
    own = states[-1] @ space.frame("head").vectors(range(space.model.vocabulary)).numpy().T
    answers = own.argmax(1)
    sample = np.arange(0, own.shape[1], max(1, own.shape[1] // 512))[:1024]
    for frame in ("output", "tight", "random"):
        b = space.frame(frame).vectors(range(space.model.vocabulary)).numpy()
        one = row(found, "cosine", frame)
        for place, layer in enumerate(found.layers):
            cosine = states[layer] @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
            cosine /= np.linalg.norm(states[layer], axis=1, keepdims=True)
            hits = cosine.argmax(1) == answers
            assert one.top1[place] == pytest.approx(hits.mean())
            low, high = binomtest(int(hits.sum()), len(TEXTS)).proportion_ci(method="wilson")
            assert one.top1_interval[place] == pytest.approx([low, high], abs=1e-6)
            near, theirs = (np.argsort(-x, axis=1)[:, :k] for x in (cosine, own))
            shared = [len(set(a) & set(b)) / k for a, b in zip(near, theirs, strict=True)]
            assert one.overlap[place] == pytest.approx(np.mean(shared))
            rho = [spearmanr(a[sample], b[sample]).statistic
                   for a, b in zip(cosine, own, strict=True)]  # fmt: skip
            assert one.rank_correlation[place] == pytest.approx(np.mean(rho), abs=1e-3)
            ranks = (cosine > cosine[np.arange(len(TEXTS)), answers][:, None]).sum(1) + 1
            assert one.final_rank[place] == np.sort(ranks)[(len(ranks) - 1) // 2]
    assert row(found, "matmul", "head").top1[-1] == 1
    assert found is space.known_agreement(TEXTS, TraceOptions(k=k, layers="1:"))
    assert space.known_agreement(TEXTS[:2], TraceOptions(k=k, layers="1:")) is None


def test_one_text_of_a_set_is_that_prompt_s_last_position(spaces: Spaces) -> None:
    space = spaces["gpt2"]
    alone = drain(space.agreement_over([PROMPT], k=5))
    whole = space.agreement(PROMPT, k=5, positions="-1")
    for a, b in zip(alone.rows, whole.rows, strict=True):
        assert (a.geometry, a.frame) == (b.geometry, b.frame)
        for name in ("top1", "overlap", "rank_correlation", "final_rank", "top1_interval"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-5)


def test_a_set_that_cannot_be_read_is_one_sentence(spaces: Spaces) -> None:
    space = spaces["llama"]
    for texts, settings, says in (
        (["a", ""], {}, "text 2 of the set"),
        ([], {}, "no text"),
        (["a"], {"centred": True}, "not centred"),
        (["a"], {"state": "raw"}, "not centred"),
        (["a"], {"layers": "99"}, "layer"),
    ):
        with pytest.raises(InputError, match=says):
            drain(space.agreement_over(texts, **settings))
