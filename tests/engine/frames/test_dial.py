"""The dial: powers of the frame operator on the head's rows, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power
from tiny_models import PROMPT, Spaces

from engine.errors import OptionError
from engine.frames.decomposition import decompose, square_norms
from engine.frames.frame import Frame
from engine.frames.kinds import FRAMES, build_frame, dial_words, key_of
from engine.frames.kinds.kind import Source

WEIGHT = torch.randn(90, 12, generator=torch.Generator().manual_seed(3))
WEIGHT *= torch.linspace(0.2, 4, 12)
"""A head whose directions weigh differently."""


def frame(key: str, **more: object) -> Frame:
    source = Source(
        weight=WEIGHT,
        embedding=WEIGHT,
        decomposition=decompose(WEIGHT),
        **more,  # type: ignore[arg-type]
    )
    return build_frame(key, source)


def by_numpy(alpha: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    w = WEIGHT.double().numpy()
    values, vectors = np.linalg.eigh(w.T @ w)
    power = (vectors * values**-alpha) @ vectors.T
    found: np.ndarray[tuple[int, int], np.dtype[np.float64]] = w @ power
    return found


@pytest.mark.parametrize("alpha", [-0.5, -0.1, 0.1, 0.3, 0.75, 0.99])
def test_the_vectors_are_powers_of_the_frame_operator_on_the_rows(alpha: float) -> None:
    wanted = by_numpy(alpha)
    found = frame(key_of("dial", alpha))
    np.testing.assert_allclose(found.vectors(torch.arange(90)), wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.norms, np.linalg.norm(wanted, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.mean, wanted.mean(0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("alpha", "other"), [(0.0, "head"), (0.5, "tight"), (1.0, "output")])
def test_at_three_places_it_is_the_frame_that_stands_there(alpha: float, other: str) -> None:
    bias = torch.linspace(-1, 1, 90)
    dial, known = frame(key_of("dial", alpha), bias=bias), frame(other, bias=bias)
    everything = torch.arange(90)
    assert torch.equal(dial.vectors(everything), known.vectors(everything))
    assert (dial.shift is None) == (known.shift is None)
    assert (dial.bias is None) == (known.bias is None), "the logits of the head, bias and all"


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8])
def test_its_spectrum_is_that_of_its_vectors(alpha: float) -> None:
    found = frame(key_of("dial", alpha))
    kind = FRAMES["dial"]
    assert kind.spectrum is not None
    values = kind.spectrum(decompose(WEIGHT).kept, found)
    b = by_numpy(alpha)
    wanted = np.linalg.eigvalsh(b.T @ b)[::-1]
    if alpha != 0.5:
        np.testing.assert_allclose(values, wanted, rtol=1e-8)
    else:  # the tight frame, which stands there, says so itself
        np.testing.assert_allclose(wanted, 1, rtol=1e-8)


def test_square_norms_are_the_leverage_and_the_lengths() -> None:
    head = decompose(WEIGHT)
    found = square_norms(WEIGHT, head, (-2.0, -1.0, 0.0))
    torch.testing.assert_close(found[:, 0].sqrt(), head.basis_norms)
    torch.testing.assert_close(found[:, 1], head.leverage)
    torch.testing.assert_close(found[:, 2].sqrt(), head.row_norms)


@pytest.mark.parametrize(
    ("name", "alpha", "says"),
    [
        ("output", 0.3, "alpha belongs to the frame dial"),
        ("dial", 1.5, "from -0.5 to 1"),
        ("dial", float("nan"), "from -0.5 to 1"),
        ("spiral", 0.3, "frame must be one of"),
    ],
)
def test_what_no_dial_has_is_refused(name: str, alpha: float, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        key_of(name, alpha)
    if name == "dial":
        with pytest.raises(OptionError):
            frame(f"dial:{alpha}")
    with pytest.raises(OptionError, match="number"):
        frame("dial:steep")


def test_a_trace_reads_by_it(spaces: Spaces) -> None:
    """Every layer's order by the dial is brute force's; at its end it is the semantic bases'."""
    space = spaces["phi"]
    found = space.trace(PROMPT, frame="dial", alpha=0.3)
    states = space.model.read_out(space.states(PROMPT).raw).double()
    b = space.frame("dial:0.3")
    placed = b.place(states)
    vectors = b.vectors(torch.arange(b.size))
    cosine = torch.nn.functional.normalize(placed, dim=-1) @ (
        torch.nn.functional.normalize(vectors, dim=-1).T
    )
    np.testing.assert_allclose(found.top_scores[..., 0], cosine.amax(-1), atol=1e-5)
    end = space.trace(PROMPT, frame="dial", alpha=1.0)
    known = space.trace(PROMPT, frame="output")
    assert np.array_equal(end.top_ids, known.top_ids)
    assert found.to_dict()["options"]["alpha"] == 0.3


@pytest.mark.parametrize("ridge", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("alpha", [None, 0.3])
def test_the_ridge_sister_is_a_solve(ridge: float, alpha: float | None) -> None:
    """(G + λ·λ̄·I)⁻¹·w_i by solving in float64; with α that power of the same matrix."""
    w = WEIGHT.double().numpy()
    g = w.T @ w
    added = g + ridge * np.trace(g) / 12 * np.eye(12)
    if alpha is None:
        wanted = np.linalg.solve(added, w.T).T
    else:
        wanted = w @ fractional_matrix_power(added, -alpha)
    found = frame(key_of("dial", alpha, ridge))
    np.testing.assert_allclose(found.vectors(torch.arange(90)), wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.norms, np.linalg.norm(wanted, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.mean, wanted.mean(0), rtol=1e-9, atol=1e-12)
    spectrum = FRAMES["dial"].spectrum
    assert spectrum is not None
    values = np.linalg.eigvalsh(wanted.T @ wanted)[::-1]
    np.testing.assert_allclose(spectrum(decompose(WEIGHT).kept, found), values, rtol=1e-8)


def test_a_ridge_between_nothing_and_everything() -> None:
    """None is the dial itself; a very large one turns every direction down alike: head rows."""
    everything = torch.arange(90)
    plain = frame(key_of("dial", 0.3)).vectors(everything)
    assert torch.equal(frame(key_of("dial", 0.3, 0.0)).vectors(everything), plain)
    large = frame(key_of("dial", None, 100.0)).vectors(everything)
    cosine = torch.nn.functional.cosine_similarity(large, WEIGHT.double(), dim=1)
    assert float(cosine.min()) > 0.999
    assert torch.equal(
        frame(key_of("dial", 0.0, 0.5)).vectors(everything), frame("head").vectors(everything)
    )
    assert dial_words("dial:1.0:0.01") == "α 1, ridge 0.01"
    assert (dial_words("dial"), dial_words("output")) == ("α 0.1", "")


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (("output", None, 0.3), "ridge belongs to the frame dial"),
        (("dial", None, 101.0), "ridge must be from 0 to 100"),
        (("dial", None, float("nan")), "ridge must be from 0 to 100"),
    ],
)
def test_a_ridge_out_of_place_is_refused(key: tuple[str, None, float], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        key_of(*key)
    for wrong in ("dial:1.0:flat", "dial:1:2:3"):
        with pytest.raises(OptionError, match="numbers"):
            frame(wrong)
