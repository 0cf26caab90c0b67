"""Two models over many texts: laws, one text at a time, a planted difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import Spaces, rewrite

import engine
from engine.compare import compare_models
from engine.compare.over_texts import FIRST, compare_over
from engine.errors import OptionError
from engine.progress import drain

TEXTS = (
    "The king and the queen.",
    "Once upon a time there was a dog",
    "It was a sunny day and the cat was happy",
    "a",
)


def test_a_model_beside_itself_is_0_over_every_text(spaces: Spaces) -> None:
    space = spaces["llama"]
    found = drain(compare_over(space, space, TEXTS))
    assert found.texts == found.agree == len(TEXTS)
    for one in found.layers:
        assert (one.js, one.interval, one.agreement, one.difference) == (0, (0, 0), 1, 0)
        assert one.words == (), "no words of a difference that is none"
        assert one.by_chance is not None


def test_the_same_as_one_text_after_another(spaces: Spaces) -> None:
    first, other = spaces["llama"], spaces["mistral"]
    found = drain(compare_over(first, other, TEXTS))
    alone = [compare_models(first, other, text) for text in TEXTS]
    last = np.stack([one.js[:, -1] for one in alone])
    assert [one.js for one in found.layers] == pytest.approx(last.mean(0).tolist(), rel=1e-4)
    assert all(low <= js <= high for js, (low, high) in ((o.js, o.interval) for o in found.layers))
    order = np.argsort(-last[:, -1]) + 1
    assert [one.number for one in found.most] == order.tolist()
    agreement = np.stack([one.agreement[:, -1] for one in alone]).mean(0)
    assert [one.agreement for one in found.layers] == pytest.approx(agreement.tolist())
    means = []
    for one in alone:
        some = [a for a, _ in one.pairs][1 : FIRST + 1] or [0]
        ids = [token.id for token in one.sides[0].tokens]
        read = [space.model.read_out(space.model.states(ids).raw) for space in (first, other)]
        means.append([states[:, some].double().mean(1) for states in read])
    apart = sum((b - a for a, b in means), torch.zeros(())) / len(means)
    assert [one.difference for one in found.layers] == pytest.approx(apart.norm(dim=1).tolist())
    chance = (means[0][0] + means[1][0] - means[2][0] - means[3][0]) / 2
    assert [one.by_chance for one in found.layers] == pytest.approx(chance.norm(dim=1).tolist())


def test_a_planted_direction_is_named(spaces: Spaces, tmp_path: Path) -> None:
    """A copy whose final norm adds a multiple of one head row says that token."""
    first = spaces["gpt2"]
    token = 77
    basis = first.frame("output").vectors([token])[0]
    folder = tmp_path / "pushed"
    import shutil

    shutil.copytree(spaces.folders["gpt2"], folder)

    def push(tensors: dict[str, torch.Tensor]) -> None:
        name = next(one for one in tensors if one.endswith("ln_f.bias"))
        tensors[name] = (tensors[name].double() + 40 * basis / basis.norm()).float()

    other = engine.load(rewrite(folder, push), offline=True, cache_dir=tmp_path / "cache")
    found = drain(compare_over(first, other, TEXTS))
    for one in found.layers:
        assert one.words[0].id == token
        assert one.difference == pytest.approx(40, rel=1e-3)


def test_texts_that_cannot_be_read_are_listed(spaces: Spaces) -> None:
    long = "dog " * 500
    found = drain(compare_over(spaces["llama"], spaces["mistral"], [*TEXTS, long]))
    assert found.texts == len(TEXTS)
    assert [n for n, _ in found.skipped] == [len(TEXTS) + 1]
    with pytest.raises(OptionError, match="none of the 1 texts could be read"):
        drain(compare_over(spaces["llama"], spaces["mistral"], [long]))
