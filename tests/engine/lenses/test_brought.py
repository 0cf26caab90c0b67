"""A lens fitted on a text that is brought: by NumPy, in a folder, and for its model alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import PROMPT, Spaces

from engine.errors import ArtifactError, OptionError
from engine.lenses.brought import PIECE, pieces
from engine.lenses.linear import RIDGE, Settings, fit_linear
from engine.progress import drain

TEXT = " ".join(f"the {word} sat on {n} mats" for n in range(90) for word in ("cat", "dog", "king"))
FEW = Settings(scaled=40, measured=40)


def test_pieces_are_the_whole_text_and_bounded(spaces: Spaces) -> None:
    model = spaces["llama"].model
    found = pieces(model, TEXT, 10**6)
    assert "".join(model.tokenizer.decode(ids, skip_special_tokens=True) for ids in found) == TEXT
    assert all(1 <= len(ids) <= model.max_tokens for ids in found)
    assert len(TEXT) / PIECE <= len(found)
    assert sum(map(len, pieces(model, TEXT, 200))) < 200 + model.max_tokens
    for short in ("", "  \n ", "the cat"):
        with pytest.raises(OptionError, match="at least 64 tokens"):
            pieces(model, short, 1000)


def test_a_lens_of_a_text_is_ridge_regression_on_its_states(spaces: Spaces) -> None:
    """By NumPy in float64 on all pieces that are not held out; the factor leaves the direction."""
    model = spaces["llama"].model
    lens = drain(fit_linear(model, FEW, text=TEXT))
    assert lens.text == "the text that was brought"
    parts = pieces(model, TEXT, FEW.read)
    every = int(sum(map(len, parts)) / 80)
    aside = [n for n in range(len(parts)) if n % every == every - 1] or [len(parts) - 1]
    used = [model.read_out(model.states(ids).raw) for n, ids in enumerate(parts) if n not in aside]
    assert lens.positions + sum(len(parts[n]) for n in aside) == sum(map(len, parts))
    states = torch.cat(used, 1).double().numpy()
    assert states.shape[1] == lens.positions
    for layer in range(model.blocks):
        wide = np.concatenate([states[layer], np.ones((states.shape[1], 1))], 1)
        square = wide.T @ wide
        penalty = RIDGE * np.diag(square).mean() * np.eye(len(square))
        wanted = np.linalg.solve(square + penalty, wide.T @ states[-1])
        found = np.concatenate([lens.maps[layer].double(), lens.offsets[layer, None].double()])
        cosine = (found * wanted).sum() / np.linalg.norm(found) / np.linalg.norm(wanted)
        assert cosine > 0.999


def test_a_masked_model_may_be_brought_a_text(spaces: Spaces) -> None:
    lens = drain(fit_linear(spaces["bert"].model, FEW, text=TEXT))
    assert lens.positions > 0
    assert [row.layer for row in lens.rows] == list(range(spaces["bert"].model.blocks + 1))


def test_a_folder_is_read_by_its_model_alone(spaces: Spaces, tmp_path: Path) -> None:
    space = spaces.fresh("llama")
    lens = drain(space.fit_lens("linear", text=TEXT, folder=tmp_path / "mine"))
    plain = space.trace(PROMPT, lens="linear", frame="head", geometry="matmul").top_ids
    other = spaces.fresh("llama")
    again = other.open_lens(tmp_path / "mine")
    assert again.digest == lens.digest
    found = other.trace(PROMPT, lens="linear", frame="head", geometry="matmul").top_ids
    assert np.array_equal(found, plain)
    with pytest.raises(ArtifactError, match="belongs to another model"):
        spaces["gpt2"].open_lens(tmp_path / "mine")
    with pytest.raises(ArtifactError, match="belongs to another model"):
        spaces["gpt2"].use_lens(lens)
    with pytest.raises(ArtifactError, match="no lens in"):
        other.open_lens(tmp_path)
    file = next((tmp_path / "mine").iterdir())
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match="damaged"):
        other.open_lens(tmp_path / "mine")
