"""The linear lens: least squares by NumPy, text that the model writes, files, and its use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import PROMPT, Spaces

from engine.errors import LensMissing, OptionError
from engine.lenses import LENSES, files, lens_of
from engine.lenses.kind import Lens
from engine.lenses.linear import RIDGE, Settings, _Moments, fit_linear
from engine.lenses.writing import written
from engine.progress import drain

FEW = Settings(texts=6, tokens=20, rounds=2, scaled=12, measured=12)


@pytest.fixture(scope="module")
def fitted(spaces: Spaces) -> Lens:
    return drain(fit_linear(spaces["llama"].model, FEW))


def test_a_planted_map_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 8, generator=generator)
    matrix, offset = torch.randn(8, 8, generator=generator), torch.randn(8, generator=generator)
    moments = _Moments(1, 8)
    for part in x.split(90):
        moments.add(0, part, part @ matrix + offset)
    found, b = moments.solve(0)
    # Ridge regression by NumPy in float64, on all rows at once.
    wide = np.concatenate([x.double().numpy(), np.ones((500, 1))], 1)
    square = wide.T @ wide
    penalty = RIDGE * np.diag(square).mean() * np.eye(9)
    wanted = np.linalg.solve(square + penalty, wide.T @ (x @ matrix + offset).double().numpy())
    np.testing.assert_allclose(found, wanted[:-1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(b, wanted[-1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found, matrix, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "phi"])
def test_what_is_written_is_read_as_one_whole_text_would_be(spaces: Spaces, name: str) -> None:
    """States taken while writing, with keys and values kept, equal one pass over the text."""
    model = spaces[name].model
    states = torch.stack(list(written(model, 3, 12, seed=5)), 2)
    ids: list[list[int]] = [[] for _ in range(3)]
    seen: list[torch.Tensor] = []

    def note(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        seen.append(kwargs["input_ids"])

    handle = model.module.register_forward_pre_hook(note, with_kwargs=True)
    again = torch.stack(list(written(model, 3, 12, seed=5)), 2)
    handle.remove()
    torch.testing.assert_close(states, again, rtol=0, atol=0)  # the same seed, the same text
    for row in range(3):
        ids[row] = [int(i) for step in seen for i in step[row]]
    for row in range(3):
        whole = model.states(ids[row]).raw
        scale = float(whole.abs().max())
        last = whole[:, -states.shape[2] :]
        torch.testing.assert_close(states[:, row], last, rtol=0, atol=2e-5 * scale)
    other = torch.stack(list(written(model, 3, 12, seed=6)), 2)
    assert not torch.equal(states, other)


def test_its_figures_are_those_of_a_second_route(spaces: Spaces, fitted: Lens) -> None:
    model = spaces["llama"].model
    assert [row.layer for row in fitted.rows] == list(range(model.blocks + 1))
    assert fitted.rows[-1].kl == fitted.rows[-1].kl_none == pytest.approx(0, abs=1e-6)
    assert fitted.rows[-1].top1 == 1
    assert fitted.positions + fitted.held_out < FEW.texts * FEW.tokens * FEW.rounds
    assert fitted.maps.dtype == torch.float16
    for row in fitted.rows[:-1]:
        assert row.kl >= 0
        assert row.kl_shuffled >= 0


@pytest.mark.slow
def test_on_the_model_that_ships_it_beats_no_lens_and_its_control(small: object) -> None:
    model = small.model  # type: ignore[attr-defined]
    found = drain(fit_linear(model, Settings(texts=24, tokens=40, rounds=2)))
    for row in found.rows[1:-2]:
        assert row.kl < 0.6 * row.kl_none, row
        assert row.top1 >= row.top1_none - 0.05, row
    middle = found.rows[4]
    assert middle.kl < 0.75 * middle.kl_shuffled


def test_a_trace_reads_through_it(spaces: Spaces, fitted: Lens) -> None:
    """Every layer's probabilities by head and product are softmax(W·(x·A + b)); the last's alone
    are the model's."""
    space = spaces.fresh("llama")
    space._lenses["linear"] = fitted
    asked = {"geometry": "matmul", "frame": "head"}
    found = space.trace(PROMPT, lens="linear", **asked)
    plain = space.trace(PROMPT, **asked)
    states = space.model.read_out(space.states(PROMPT).raw)
    weight = space.model.anatomy.weight.detach().double()
    for layer in (1, 2):
        x = states[layer].double() @ fitted.maps[layer].double() + fitted.offsets[layer].double()
        p = torch.softmax(x @ weight.T, 1)
        np.testing.assert_allclose(found.top_probabilities[layer][:, 0], p.amax(1), rtol=1e-3)
        kl = torch.log_softmax(states[-1].double() @ weight.T, 1)
        wanted = (kl.exp() * (kl - p.log())).sum(1)
        np.testing.assert_allclose(found.divergence[layer], wanted, rtol=2e-3, atol=1e-4)
    np.testing.assert_array_equal(found.top_ids[-1], plain.top_ids[-1])
    assert not np.array_equal(found.top_scores[1], plain.top_scores[1])
    cell = space.cell(PROMPT, 1, 2, lens="linear", **asked)
    assert cell.tables["matmul"][0].token.id == found.top_ids[1, 2, 0]
    curves = space.curves(PROMPT, [cell.tables["matmul"][0].token.id], position=2, lens="linear",
                          **asked)  # fmt: skip
    assert curves.ranks[0, 1] == 1
    table = space.agreement(PROMPT, lens="linear")
    assert len(table.rows) == len(space.agreement(PROMPT).rows)


def test_a_lens_that_was_not_fitted_is_refused_and_so_are_raw_states(spaces: Spaces) -> None:
    space = spaces.fresh("llama")
    with pytest.raises(LensMissing, match="not fitted"):
        space.trace(PROMPT, lens="linear")
    assert space.known_lens("linear") is None
    with pytest.raises(OptionError, match="state normed"):
        space.trace(PROMPT, lens="linear", state="raw")
    with pytest.raises(OptionError, match="lens must be one of none, linear"):
        space.trace(PROMPT, lens="contact")
    with pytest.raises(OptionError, match="needs no fitting"):
        drain(space.fit_lens("none"))
    assert lens_of("linear") is LENSES["linear"]


def test_a_masked_model_has_none(spaces: Spaces) -> None:
    with pytest.raises(OptionError, match="masked"):
        drain(fit_linear(spaces["bert"].model, FEW))


def test_it_is_kept_for_its_model_alone(fitted: Lens, tmp_path: Path) -> None:
    path = files.path_of(tmp_path, "linear", fitted.model)
    files.save(fitted, path)
    size = {"blocks": len(fitted.maps), "width": fitted.maps.shape[1]}
    again = files.load(path, model=fitted.model, **size)
    assert again is not None
    assert torch.equal(again.maps, fitted.maps)
    assert torch.equal(again.offsets, fitted.offsets)
    assert (again.rows, again.text) == (fitted.rows, fitted.text)
    assert files.load(path, model="another", **size) is None
    assert files.load(path, model=fitted.model, **size | {"blocks": 99}) is None
    assert files.load(tmp_path / "nothing", model=fitted.model, **size) is None
    path.write_bytes(path.read_bytes()[:-50])
    assert files.load(path, model=fitted.model, **size) is None
