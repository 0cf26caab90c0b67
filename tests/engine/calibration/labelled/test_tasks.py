"""Rows → prompts, splits and label tokens: seeded, by class, without leaks, and said."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import planted_tasks
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import Spaces, made
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from engine import LatentSpace, load
from engine.calibration.labelled.known import KNOWN_TASKS, example_sets, known_spec
from engine.calibration.labelled.rows import Row
from engine.calibration.labelled.spec import TaskSpec, check_template, render
from engine.calibration.labelled.tables import Table
from engine.calibration.labelled.tasks import SPLITS, make_task, shuffled_labels
from engine.calibration.labelled.words import default_words, label_tokens, word_ids
from engine.errors import OptionError


def _table(pairs: list[tuple[str, str]]) -> Table:
    rows = tuple(Row(i + 2, {"text": t, "label": y}) for i, (t, y) in enumerate(pairs))
    return Table("t.csv", ("text", "label"), rows, ())


@given(st.text(max_size=40))
def test_a_cell_goes_into_the_prompt_as_it_is(cell: str) -> None:
    assert render("a {text} {{b}} {text}", ("text",), {"text": cell}) == f"a {cell} {{b}} {cell}"


def test_columns_are_placed_by_name_and_joined_as_text() -> None:
    values = {"p": "{h} one", "h": "two {0.__class__}"}
    assert render("P: {p}\nH: {h}", ("p", "h"), values) == "P: {h} one\nH: two {0.__class__}"
    assert render("{text}?", ("p", "h"), values) == "{h} one two {0.__class__}?"


@pytest.mark.parametrize("template", ["no place", "{other}: {text}", "{label} {text}", "{} {text}"])
def test_a_template_that_does_not_fit_is_refused(template: str) -> None:
    with pytest.raises(OptionError):
        check_template(template, ("text",))


def test_a_share_for_validation_is_one_of_the_rows_that_are_used(spaces: Spaces) -> None:
    """Few training rows take few beside them, whatever the file has; never more than the share."""
    model = spaces["llama"].model
    table = planted_tasks.table(400, ("king", "cat"))

    def sizes(**changes: object) -> list[int]:
        spec = TaskSpec(template="{text} It:", test=100, seed=1, **changes)  # type: ignore[arg-type]
        task = make_task(spec, table, model)
        return [task.size(s) for s in SPLITS]

    assert sizes(valid=0.1) == [270, 30, 100]
    assert sizes(valid=0.1, train=90) == [90, 10, 100]
    assert sizes(valid=0.1, train=269) == [269, 30, 100]
    assert sizes(valid=0.01, train=20)[1] >= 1
    assert sizes(valid=0, train=90) == [90, 0, 100]
    assert sizes(valid=50, train=90) == [90, 50, 100]


def test_splits_are_disjoint_seeded_and_keep_the_shares(spaces: Spaces) -> None:
    space = spaces["llama"]
    labels = ("king",) * 5 + ("cat",) * 3 + ("dog",) * 2
    spec = TaskSpec(template="{text} It:", test=0.25, valid=0.2, seed=1)
    table = planted_tasks.table(400, labels)
    one, again = (make_task(spec, table, space.model) for _ in range(2))
    assert one.fingerprint == again.fingerprint
    assert one.texts == again.texts
    other = make_task(replace(spec, seed=2), table, space.model)
    assert other.texts["test"] != one.texts["test"]
    assert [one.size(s) for s in SPLITS] == [240, 60, 100]
    texts = [set(one.texts[s]) for s in SPLITS]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 400
    for split in SPLITS:
        shares = np.bincount(one.labels[split], minlength=3) / one.size(split)
        wanted = [labels.count(name) / 10 for name in one.label_names]
        assert shares == pytest.approx(wanted, abs=0.02)
    # Every row kept its own label, prompt and ids.
    by_line = {row.line: row for row in table.rows}
    for split in SPLITS:
        for i, line in enumerate(one.lines[split]):
            assert one.texts[split][i] == by_line[line].values["text"]
            assert one.label_names[one.labels[split][i]] == by_line[line].values["label"]
            assert one.prompts[split][i] == f"{by_line[line].values['text']} It:"
            assert one.ids[split][i] == space.tokenize(one.prompts[split][i]).ids


def test_sizes_in_rows_and_a_given_test_table(spaces: Spaces) -> None:
    model = spaces["llama"].model
    spec = TaskSpec(template="{text}:", train=50, valid=20, test=30)
    task = make_task(spec, planted_tasks.table(200), model)
    assert [task.size(s) for s in SPLITS] == [50, 20, 30]
    own = planted_tasks.table(60, seed=9)
    given_ = make_task(replace(spec, test=0.25), planted_tasks.table(200), model, test=own)
    assert given_.size("test") == 60
    assert set(given_.texts["test"]) == set(own.column("text"))
    capped = make_task(spec, planted_tasks.table(200), model, test=own, valid=own)
    assert capped.size("test") == 30
    assert not set(capped.texts["valid"]) & set(capped.texts["test"])


def test_the_same_text_is_never_in_two_splits(spaces: Spaces) -> None:
    model = spaces["llama"].model
    pairs = [(f"the king {i // 3} ran", "ab"[i // 3 % 2]) for i in range(150)]
    pairs += [("  The KING  4 ran", "a"), ("the king 5 ran", "a")]
    task = make_task(TaskSpec(template="{text}", test=0.3, valid=0.2), _table(pairs), model)
    keys = [{" ".join(t.lower().split()) for t in task.texts[s]} for s in SPLITS]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]
    assert task.report.duplicates["contradictions"] == 1
    assert any("two labels" in w for w in task.report.warnings)


def test_leaks_between_tables_are_counted_and_dropped_or_kept(spaces: Spaces) -> None:
    model = spaces["llama"].model
    train, test = planted_tasks.table(80), planted_tasks.table(80, seed=4)
    mixed = replace(test, rows=test.rows[:20] + train.rows[:10])
    spec = TaskSpec(template="{text}", valid=0)
    task = make_task(spec, train, model, test=mixed)
    assert task.report.duplicates["between"] == 10
    assert task.size("train") == 70
    assert not set(task.texts["train"]) & set(task.texts["test"])
    kept = make_task(replace(spec, keep_leaks=True), train, model, test=mixed)
    assert kept.size("train") == 80
    assert kept.report.duplicates["between"] == 10


def test_rows_without_text_or_label_are_listed(spaces: Spaces) -> None:
    pairs = [("the cat", "a"), (" ", "b"), ("the dog", ""), ("\x00\ud800", "a")]
    pairs += [(f"a house {i}", "ab"[i % 2]) for i in range(40)]
    task = make_task(TaskSpec(template="{text}", bos="no"), _table(pairs), spaces["gpt2"].model)
    found = [(p.line, p.reason) for p in task.report.problems]
    assert found == [(3, "no text"), (4, "no label"), (5, "no text")]
    assert sum(task.size(s) for s in SPLITS) == 41


def test_a_text_that_is_too_long_is_cut_at_its_end(spaces: Spaces) -> None:
    model = spaces["gpt2"].model
    long = "the old king ran to the house " * 60
    pairs = [(long, "a")] + [(f"a cat {i}", "ab"[i % 2]) for i in range(40)]
    task = make_task(TaskSpec(template="Say: {text}\nType:"), _table(pairs), model)
    assert task.report.trimmed == 1
    prompts = [p for s in SPLITS for p in task.prompts[s]]
    (cut,) = [p for p in prompts if len(p) > 100]
    ids = model.tokenize(cut).ids
    assert cut.startswith("Say: the old king")
    assert cut.endswith("\nType:")
    assert model.max_tokens - 8 <= len(ids) <= model.max_tokens
    with pytest.raises(OptionError, match="room"):
        make_task(TaskSpec(template="x {text} " + "y " * 300), _table(pairs), model)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("ending", ["\nType:", " = ", '"', ""])
def test_a_word_is_the_tokens_that_continue_the_prompt(
    spaces: Spaces, name: str, ending: str
) -> None:
    model = spaces[name].model
    found = word_ids(model, "king", ending)
    text = "".join(model.vocabulary_texts.texts[i] for i in found)
    assert text.strip() == "king"


def test_label_words_of_a_sentencepiece_vocabulary(stories: LatentSpace) -> None:
    found = word_ids(stories.model, "happy", "\nIt:")
    assert "".join(stories.vocabulary.texts[i] for i in found) == " happy"


def test_rules_for_words_of_several_tokens(spaces: Spaces) -> None:
    model = spaces["gpt2"].model
    words = ["kingdom", "kingship", "cat"]

    def tokens(rule: str) -> tuple:
        return label_tokens(model, words, words, ending="\nIt:", rule=rule)

    first = tokens("first")
    assert first[0].ids[0] == first[1].ids[0]  # they begin alike …
    used = [t.id_used for t in first]
    assert len(set(used)) == 3  # … so the first token that differs counts
    assert all(t.id_used in t.ids for t in first)
    assert "begin alike" in first[0].rule
    last = tokens("last")
    assert [t.id_used for t in last] == [t.ids[-1] for t in last]
    mean = tokens("mean")
    assert [t.mean for t in mean] == [len(t.ids) > 1 for t in mean]
    with pytest.raises(OptionError, match="same label word"):
        label_tokens(model, ["a", "b"], ["cat", "cat"], ending=":", rule="first")
    with pytest.raises(OptionError, match="rule"):
        label_tokens(model, ["a", "b"], ["cat", "dog"], ending=":", rule="all")


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=2, max_size=5))
def test_the_tokens_that_count_are_always_different(words: list[list[int]]) -> None:
    from engine.calibration.labelled.words import _places

    ids = [tuple(w) for w in words]
    if len(set(ids)) < len(ids):
        return
    try:
        places = _places(ids, from_end=False)
    except OptionError:
        return  # refused, with a sentence
    used = [own[p] for own, p in zip(ids, places, strict=True)]
    assert len(set(used)) == len(used)


def test_shuffled_labels_keep_counts_and_the_test_rows(spaces: Spaces) -> None:
    task = planted_tasks.task(spaces["llama"], 200)
    control = shuffled_labels(task, 1)
    both = ("train", "valid")
    before = Counter(np.concatenate([task.labels[s] for s in both]).tolist())
    assert Counter(np.concatenate([control.labels[s] for s in both]).tolist()) == before
    assert np.array_equal(control.labels["test"], task.labels["test"])
    assert (control.labels["train"] != task.labels["train"]).mean() > 0.4
    assert control.fingerprint != task.fingerprint
    again = shuffled_labels(task, 1)
    assert np.array_equal(again.labels["train"], control.labels["train"])
    assert "shuffled" in control.note


def test_the_settings_survive_json_and_unknown_ones_are_refused() -> None:
    spec = TaskSpec(text_columns=("a", "b"), label_words={"x": "y"}, train=5, valid=0.2)
    assert TaskSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(OptionError, match="colour"):
        TaskSpec.from_dict({"colour": 1})


def test_what_cannot_be_a_task_is_refused_in_one_sentence(spaces: Spaces) -> None:
    model = spaces["llama"].model
    table = planted_tasks.table(30)
    bad = [
        TaskSpec(text_columns=("body",)),
        TaskSpec(label_column="text"),
        TaskSpec(label_column="none"),
        TaskSpec(text_columns=()),
        TaskSpec(test=30),
        TaskSpec(test=-1),
        TaskSpec(valid=1.5),
        TaskSpec(test=0),
        TaskSpec(word_rule="best"),
        TaskSpec(label_words={"king": "cat"}),
        TaskSpec(train=1),
    ]
    for spec in bad:
        with pytest.raises(OptionError) as caught:
            make_task(spec, table, model)
        assert "\n" not in str(caught.value)
    with pytest.raises(OptionError, match="two are needed"):
        make_task(TaskSpec(), planted_tasks.table(20, ("a",)), model)
    many = planted_tasks.table(150, tuple(f"label {i}" for i in range(150)))
    with pytest.raises(OptionError, match="150"):
        make_task(TaskSpec(), many, model)


def test_known_tasks_name_their_labels(small: LatentSpace) -> None:
    for name, known in KNOWN_TASKS.items():
        spec = known_spec(name)
        names = list(known.label_words)
        tokens = label_tokens(
            small.model,
            names,
            [known.label_words[n] for n in names],
            ending="\nType:",
            rule="first",
        )
        assert len({t.id_used for t in tokens}) == len(names)
        assert spec.template == known.template
    with pytest.raises(OptionError, match="known tasks"):
        known_spec("imdb")


def test_the_sets_that_ship_make_tasks(small: LatentSpace) -> None:
    sets = example_sets()
    if not sets:
        pytest.skip("engine/examples holds no set")
    for ready in sets.values():
        task = make_task(ready.spec, ready.table, small.model)
        assert not task.report.problems
        assert len(ready.texts) == len(ready.labels) == len(ready.table.rows)
        assert task.classes >= 2


# --- label words as given -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["-1", "0", "1"], ["-1", "0", "1"]),
        (["B", "B-", "B+"], ["B", "B-", "B+"]),
        (["C", "C++", "C#"], ["C", "C++", "C#"]),
        (["1.0", "-0.5", "+2", "\u22121"], ["1.0", "-0.5", "+2", "\u22121"]),
        (["_", "a_b", "__"], ["_", "a_b", "__"]),
        (["\u597d", "\u043f\u043b\u043e\u0445\u043e"],
         ["\u597d", "\u043f\u043b\u043e\u0445\u043e"]),
        (["World", "Not_Spam", "Sci-Fi"], ["world", "not spam", "sci fi"]),
        (["US", "us"], ["US", "us"]),
        (["COVID-19", "flu"], ["COVID-19", "flu"]),
    ],
)  # fmt: skip
def test_a_label_is_its_own_word_with_every_mark(labels: list[str], words: list[str]) -> None:
    assert default_words(labels) == words


def test_labels_that_differ_in_a_mark_are_told_apart(spaces: Spaces) -> None:
    """The tokens are those that stand behind the prompt, by the tokenizer alone."""
    model = spaces["gpt2"].model
    for labels in (["-1", "1"], ["-1", "0"], ["B", "B-"], ["\u597d", "bad"]):
        rows = [(f"text {i}", labels[i % 2]) for i in range(12)]
        task = make_task(TaskSpec(), _table(rows), model)
        used = {token.label: token for token in task.label_tokens}
        assert set(used) == set(labels)
        assert len({token.id_used for token in used.values()}) == 2
        for label, token in used.items():
            assert token.word == label
            spelt = model.tokenizer.decode(list(token.ids)).strip()
            assert spelt == label, "its tokens spell the word, and nothing but it"
            assert model.tokenizer.decode([token.ids[0]]).strip(), "no token of a space alone"


def test_a_word_that_the_vocabulary_does_not_know_is_refused(tmp_path: Path) -> None:
    raw = Tokenizer(WordLevel({"<unk>": 0, "good": 1, "x": 2, ":": 3}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 4}
    folder = made("GPT2LMHeadModel", tmp_path, tokenizer=tokenizer, **sizes)
    model = load(folder, device="cpu", offline=True, cache_dir=tmp_path / "cache").model
    assert word_ids(model, "good", ":") == (1,)
    with pytest.raises(OptionError, match="does not know"):
        word_ids(model, "\u597d", ":")
