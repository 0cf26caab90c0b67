"""The frame of a selection, and words in groups."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from sklearn.decomposition import PCA

from engine import LatentSpace
from engine.errors import OptionError, TokenError
from engine.maps import MapMaker, MapOptions
from engine.maps.selection import find_expression, how_selected, split_words, word_groups

GROUPS = "numbers=two,three,four,five,six;family=mother,father,sister,brother;places=France,Italy"
CHOSEN = MapOptions(select=f"words:{GROUPS}", projection="selection")


@pytest.fixture(scope="module")
def maker(small: LatentSpace) -> MapMaker:
    return small.maps


def exact(maker: MapMaker, ids: list[int], preprocessing: str) -> np.ndarray:
    """The bases after preprocessing, written out by hand."""
    frame = maker.space.frame("output")
    x = frame.vectors(ids).double().numpy()
    if preprocessing == "centred":
        every = frame.vectors(range(maker.space.model.vocabulary)).double().numpy()
        return np.asarray(x - every.mean(0))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


@pytest.mark.parametrize("preprocessing", ["unit", "centred"])
def test_the_frame_of_a_selection_is_scikit_learns(maker: MapMaker, preprocessing: str) -> None:
    drawn = maker.map(
        MapOptions(select=CHOSEN.select, projection="selection", preprocessing=preprocessing)
    )
    ids = drawn.points.row.tolist()
    x = exact(maker, ids, preprocessing)
    pca = PCA(2, svd_solver="full").fit(x)
    axes = pca.components_
    axes = axes * np.sign(axes[[0, 1], np.abs(axes).argmax(1)])[:, None]
    wanted = (x - pca.mean_) @ axes.T
    np.testing.assert_allclose(drawn.coordinates, wanted, atol=1e-5 * np.abs(wanted).max())
    assert drawn.variance_shown == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-4)
    assert "bases shown" in drawn.title
    assert "of the bases shown" in drawn.axis_names[0]
    shared = maker.map(MapOptions(select=CHOSEN.select, preprocessing=preprocessing))
    assert shared.variance_shown is not None
    assert drawn.variance_shown is not None
    # No other plane shows more of these points: that is why it is offered.
    assert drawn.variance_shown > shared.variance_shown


def test_states_are_placed_in_the_frame_of_the_selection(maker: MapMaker) -> None:
    """The bases decide the frame; a prompt moves none of them, at no layer."""
    alone = maker.map(CHOSEN)
    for layer in (1, -1):
        options = MapOptions(
            select=CHOSEN.select, projection="selection", prompt="two mothers and", layer=layer
        )
        drawn = maker.map(options)
        np.testing.assert_array_equal(drawn.coordinates[: alone.n], alone.coordinates)
        assert drawn.axes is not None
        raw = maker.space.model.states(maker.space.tokenize("two mothers and").ids).raw[layer]
        state = maker.space.model.read_out(raw).double().numpy()
        state /= np.linalg.norm(state, axis=1, keepdims=True)
        np.testing.assert_allclose(drawn.coordinates[alone.n :], drawn.axes.place(state), atol=1e-5)
    near = maker.map(MapOptions(select="near:9", projection="selection", prompt="two mothers"))
    assert near.points.kinds[0] == ("basis", 9)


def test_words_of_a_kind_lie_together(maker: MapMaker) -> None:
    """What the first visit claims: in the model, and in the plane that is shown."""
    drawn = maker.map(CHOSEN)
    groups = np.array([drawn.points.group(i) for i in range(drawn.n)])
    for x in (exact(maker, drawn.points.row.tolist(), "unit"), drawn.coordinates.astype(float)):
        apart = np.linalg.norm(x[:, None] - x[None], axis=2)
        np.fill_diagonal(apart, np.inf)
        assert (groups[apart.argmin(1)] == groups).mean() > 0.9


def test_words_are_found_as_they_stand_in_running_text(maker: MapMaker) -> None:
    space = maker.space
    found = word_groups(space, GROUPS)
    assert {space.vocabulary.texts[i] for i, name in found.items() if name == "numbers"} == {
        " two", " three", " four", " five", " six"
    }  # fmt: skip
    assert word_groups(space, "two, #262,two") == {space.find_token(" two"): "", 262: ""}
    assert set(word_groups(space, "a=two;three")) == set(word_groups(space, "two,three"))
    with pytest.raises(TokenError):
        word_groups(space, "zzqq zz")
    points = maker.points(CHOSEN)
    colour = maker.colour(CHOSEN, "label")
    assert colour.codes is not None
    for i in range(len(points)):
        assert colour.names[colour.codes[i]] == found[int(points.row[i])] == points.group(i)


def test_a_selection_too_small_for_a_frame_is_a_sentence(maker: MapMaker) -> None:
    with pytest.raises(OptionError, match="more than 2 tokens and there are 2"):
        maker.map(MapOptions(select="words:two,three", projection="selection"))
    with pytest.raises(OptionError, match="choose vocabulary bases"):
        MapOptions(vocabulary="alone", projection="selection")


@pytest.mark.parametrize("expression", ["[[a]", "[a&&b]"])
def test_an_expression_with_an_old_meaning_is_no_warning(expression: str) -> None:
    """What Python may read otherwise one day is read as it is read now, in silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_expression(["a", "[", "b", "x"], expression)
    wanted = [i for i, c in enumerate("a[bx") if c in ("a[" if expression == "[[a]" else "ab&")]
    assert found.tolist() == wanted


def test_what_is_no_expression_is_shown_as_it_was_written() -> None:
    with pytest.raises(OptionError, match=r"^`'\(\(` is no regular expression"):
        find_expression(["a"], "'((")


@pytest.mark.parametrize(
    ("select", "said"),
    [
        ("words:cat,dog", "2 of 90 tokens: the words cat,dog"),
        (
            "words:animals=cat,dog;colours=red",
            "2 of 90 tokens: the words that were named as animals, colours",
        ),
        ("all", "2 of 90 tokens: all"),
    ],
)
def test_what_was_selected_is_said_in_words(maker: MapMaker, select: str, said: str) -> None:
    v = maker.space.model.vocabulary
    found = how_selected(maker.space, MapOptions(select=select), 2)
    assert found.partition("; not drawn")[0] == said.replace("90", f"{v:,}")


def test_a_word_in_pieces_is_listed_and_the_others_are_drawn(maker: MapMaker) -> None:
    some = MapOptions(select="words:two,zzqq zz,three")
    assert split_words(maker.space, "two,zzqq zz,three") == ["zzqq zz"]
    drawn = maker.map(some)
    assert drawn.n == 2
    assert "not drawn, no single token of this model: zzqq zz" in drawn.how_chosen
    with pytest.raises(TokenError, match="tokens for this model"):
        maker.map(MapOptions(select="words:zzqq zz"))


@pytest.mark.parametrize(
    "expression",
    ["(?:()|a){1000000000}b", "(?:(?=(a)|)){99999999}b", "(|a|){4000000000,}b"],
)
def test_an_expression_that_takes_gigabytes_is_stopped_at_its_limit(expression: str) -> None:
    """Without a limit of memory each takes a gigabyte a second until its time is up."""
    with pytest.raises(OptionError, match="took more than 256 MiB and was stopped"):
        find_expression(["a" * 400] * 50, expression, seconds=30)


def test_many_long_texts_are_within_the_memory_of_an_expression() -> None:
    texts = ["\U0001f600" * 400] * 3000 + ["the end"]
    assert find_expression(texts, "e.d$").tolist() == [3000]


def test_no_expression_is_read_by_the_server_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading alone takes a fifth of a second for some of 150 characters."""
    read, compile = [], re.compile
    monkeypatch.setattr(re, "compile", lambda text, flags=0: read.append(text) or compile(text))
    assert find_expression(["a", "b"], "(?i)[A]").tolist() == [0]
    with pytest.raises(OptionError, match="is no regular expression"):
        find_expression(["a"], "(")
    assert not {"(?i)[A]", "("} & set(read)
