"""The clustering module: its size, its start, its slope."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.calibration.training.module import POOLINGS, CalibrationModule, weight_count
from engine.errors import OptionError


@pytest.mark.parametrize("d", [16, 160, 768, 4096])
def test_weights_besides_biases_and_norm_are_33_eighths_of_d_squared(d: int) -> None:
    assert weight_count(d) * 8 == 33 * d * d
    if d > 1000:
        return  # counted by formula only: 277 MB
    module = CalibrationModule(d)
    assert sum(t.numel() for t in module.matrices) * 8 == 33 * d * d
    counted = {id(t) for t in module.matrices}
    others = [n for n, p in module.named_parameters() if id(p) not in counted]
    assert all(n.endswith("bias") or n.startswith("norm.") for n in others)
    assert sum(p.numel() for p in module.parameters()) == 33 * d * d // 8 + d // 16 + 6 * d


def test_paper_sizes() -> None:
    assert round(weight_count(768) / 1e6, 2) == 2.43  # GPT-2
    assert round(weight_count(4096) / 1e6, 1) == 69.2  # Llama 3 8B


def test_a_width_that_16_does_not_divide_takes_the_nearest_bottleneck() -> None:
    assert CalibrationModule(20).squeeze.weight.shape == (1, 20)
    assert CalibrationModule(40).squeeze.weight.shape == (2, 40)
    assert weight_count(40) == 4 * 1600 + 2 * 40 * 2
    assert CalibrationModule(4).squeeze.weight.shape == (1, 4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_formula_by_a_plain_loop(pooling: str) -> None:
    """λ(r) = LN(MLP(r ⊙ CA(r))) in NumPy float64, one state and channel at a time."""
    d = 32
    module = CalibrationModule(d, pooling=pooling, start="random", seed=1)  # type: ignore[arg-type]
    states = torch.randn(3, d, generator=torch.Generator().manual_seed(2))
    p = {n: t.detach().numpy().astype(float) for n, t in module.named_parameters()}

    def bottleneck(x: np.ndarray) -> np.ndarray:
        hidden = np.maximum(p["squeeze.weight"] @ x + p["squeeze.bias"], 0)
        return p["excite.weight"] @ hidden + p["excite.bias"]

    for row, state in enumerate(states.numpy().astype(float)):
        average, maximum = np.empty(d), np.empty(d)
        for i in range(d):
            pool = {
                "position": [state[i]],
                "groups": state[i // 16 * 16 : i // 16 * 16 + 16],
                "channels": state,
            }[pooling]
            average[i], maximum[i] = np.mean(pool), np.max(pool)
        x = state * (bottleneck(average) + bottleneck(maximum))
        hidden = np.maximum(p["expand.weight"] @ x + p["expand.bias"], 0)
        y = p["contract.weight"] @ hidden + p["contract.bias"]
        y = (y - y.mean()) / np.sqrt(y.var() + 1e-5) * p["norm.weight"] + p["norm.bias"]
        assert module(states)[row].detach().numpy() == pytest.approx(y, abs=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_it_starts_as_the_layer_norm_of_its_input(pooling: str) -> None:
    module = CalibrationModule(48, pooling=pooling)  # type: ignore[arg-type]
    states = torch.randn(9, 48, generator=torch.Generator().manual_seed(3))
    expected = nn.functional.layer_norm(states, (48,))
    assert torch.allclose(module(states), expected, atol=1e-5)
    assert torch.allclose(module.attention(states), torch.ones(9, 48))


def test_standardised_input_is_the_input_less_centre_over_spread() -> None:
    centre, spread = torch.randn(16), torch.rand(16) + 0.5
    states = torch.randn(5, 16)
    plain = CalibrationModule(16, start="random", seed=4)
    fitted = CalibrationModule(16, start="random", seed=4, centre=centre, spread=spread)
    assert torch.allclose(fitted(states), plain((states - centre) / spread), atol=1e-6)


@pytest.mark.parametrize("start", ["identity", "random"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_gradient_is_the_finite_difference(pooling: str, start: str) -> None:
    """Central differences in float64, for ten numbers of every parameter and of the input."""
    torch.manual_seed(0)
    module = CalibrationModule(32, pooling=pooling, start=start, seed=5).double()  # type: ignore[arg-type]
    states = torch.randn(4, 32, dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, 32, dtype=torch.float64)

    def loss() -> Tensor:
        return (module(states) * target).sum()

    loss().backward()  # type: ignore[no-untyped-call]
    draw = torch.Generator().manual_seed(6)
    step = 1e-6
    for tensor in (states, *module.parameters()):
        assert tensor.grad is not None
        flat, slope = tensor.data.view(-1), tensor.grad.reshape(-1)
        for i in torch.randperm(len(flat), generator=draw)[:10].tolist():
            kept = float(flat[i])
            flat[i] = kept + step
            above = loss().item()
            flat[i] = kept - step
            below = loss().item()
            flat[i] = kept
            assert float(slope[i]) == pytest.approx(
                (above - below) / (2 * step), abs=1e-5, rel=1e-5
            )


def test_dropout_is_seeded_and_only_there_in_training() -> None:
    states = torch.randn(6, 32)
    one, two = (CalibrationModule(32, start="random", dropout=0.5, seed=7) for _ in range(2))
    assert torch.equal(one.train()(states), two.train()(states))
    assert not torch.equal(one(states), one(states))
    assert torch.equal(one.eval()(states), two.eval()(states))


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(OptionError, match="pooling"):
        CalibrationModule(16, pooling="rows")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="start"):
        CalibrationModule(16, start="zero")  # type: ignore[arg-type]
