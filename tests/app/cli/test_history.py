"""The history on the command line: listed, shown, as files, deleted; no model is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from asgi import PROMPT, TWIN, settings_with

from app.cli import main as cli
from app.history.kinds import KINDS
from app.model.open_model import facts_of
from app.model.recording import run_of
from app.storage.opening import writable_store
from app.storage.runs import Runs
from app.trace.reading import KeptTrace
from engine import LatentSpace


@pytest.mark.slow
def test_runs_are_listed_shown_exported_deleted_and_imported(
    reference: LatentSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any
) -> None:
    monkeypatch.setenv("LEXISCOPE_DATA_DIR", str(tmp_path / "data"))
    settings = settings_with(data_dir=tmp_path / "data", history_mib=4)
    runs = Runs(settings, KINDS)
    runs.store = writable_store(settings)
    facts = facts_of(reference)
    for text in (PROMPT, TWIN):
        trace = reference.trace(text)
        value = KeptTrace(
            trace, reference.finding(text, position=-1), reference.curves(text, (5,), position=-1)
        )
        runs.keep(run_of(facts, "trace", {"prompt": (text,)}, prompt=text, reading="cosine"), value)
    runs.store.close()

    def said(*words: str, status: int = 0) -> tuple[bytes, bytes]:
        assert cli.main(["history", *words]) == status
        out, told = capfdbinary.readouterr()
        return out, told

    listed = json.loads(said("list", "--json")[0])["runs"]
    assert [one["prompt"] for one in listed] == [TWIN, PROMPT]
    first, second = said("list")[0].decode().splitlines()
    assert TWIN in first
    assert PROMPT in second
    shown = json.loads(said("show", second[:8])[0])
    assert shown["result"]["tokens"] == [t.to_dict() for t in reference.trace(PROMPT).tokens]

    file = tmp_path / "all.safetensors"
    said("export", "all", "--out", str(file))
    said("delete", second[:8])
    assert PROMPT not in said("list")[0].decode()
    assert b"no run under this id" in said("show", second[:8], status=2)[1]
    assert b"2 runs" in said("import", str(file))[1]
    assert json.loads(said("list", "--json")[0])["runs"] == listed
    said("delete", "all")
    assert b"Nothing is kept" in said("list")[1]
    file.write_bytes(b"no such thing")
    assert b"no file of Lexiscope's history" in said("import", str(file), status=2)[1]
