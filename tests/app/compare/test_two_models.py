"""A second model beside the open one: opened, compared, let go; by page, API and command line."""

from __future__ import annotations

import asyncio
import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgi import PROMPT, Call, running
from fastapi import FastAPI
from switch_models import app_of, folders_of, switched, traced
from waiting import PATIENCE

import app.cli.compare_models as command
import engine
from app.cli import main as cli
from app.figures import two_models as figures
from engine.compare import ModelComparison, compare_models
from engine.compare.frames import compare_frames
from engine.errors import ModelTooLarge

API, BESIDE = "/api/v1/compare/models", "/api/v1/compare/beside"
PAGE, SECOND = "/compare/models", "/compare/models/second"


@pytest.fixture(scope="module")
def folders(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return folders_of(model_folder, tmp_path_factory.mktemp("beside"), "ab")


@pytest.fixture(scope="module")
def wanted(folders: dict[str, Path], cache: Path) -> tuple[ModelComparison, Any]:
    """What the engine says of the two."""
    spaces = [
        engine.load(folders[name], device="cpu", offline=True, cache_dir=cache) for name in "ab"
    ]
    return compare_models(*spaces, PROMPT), compare_frames(*spaces)


async def opened_beside(app: FastAPI, name: str) -> Call:
    call = await Call(app, BESIDE, method="POST", json={"name": name}).answer()
    async with asyncio.timeout(PATIENCE):
        await app.state.explorer.models.settled()
    return call


def asked(**more: str) -> dict[str, str]:
    return {"prompt": PROMPT, "beside": "b"} | more


async def test_a_second_model_is_opened_compared_and_let_go(
    folders: dict[str, Path], cache: Path, wanted: tuple[ModelComparison, Any]
) -> None:
    app = app_of(folders, cache)
    async with running(app):
        await app.state.explorer.loaded()
        closed = await Call(app, API, asked()).answer()
        assert closed.status == 409
        assert "The model b is not open beside a" in closed.body.decode()
        assert (await opened_beside(app, "b")).status == 202
        told = (await Call(app, BESIDE).answer()).json
        assert (told["beside"], told["opening"]) == ("b", None)
        found = (await Call(app, API, asked()).answer()).json
        engine_says = wanted[0].to_dict()
        for name in ("kl", "js", "overlap", "cosine", "cka", "js_by_chance"):
            assert np.array(found[name], float) == pytest.approx(
                np.array(engine_says[name], float), rel=1e-4, abs=1e-6
            )
        assert found["ranks"] == engine_says["ranks"]
        assert [side["model"]["name"] for side in found["sides"]] == ["a", "b"]
        frames = (await Call(app, "/api/v1/compare/frames", {"beside": "b"}).answer()).json
        assert frames["distance"] == pytest.approx(wanted[1].distance, rel=1e-6)
        # Whatever else is asked is answered by the first.
        assert (await traced(app, PROMPT)).json["model"] == "a"
        gone = await Call(app, BESIDE, method="DELETE").answer()
        assert gone.json["beside"] is None
        assert (await Call(app, API, asked()).answer()).status == 409
        own = (await Call(app, API, asked(beside="a")).answer()).json
        assert not np.array(own["kl"]).any(), "the open one stands beside itself"


async def test_the_page_leads_from_nothing_to_a_comparison(
    folders: dict[str, Path], cache: Path
) -> None:
    app = app_of(folders, cache)
    async with running(app):
        await app.state.explorer.loaded()
        empty = await Call(app, PAGE).answer()
        assert "Open a second model above" in empty.body.decode()
        order = await Call(
            app, SECOND, method="POST", form={"name": "b", "prompt": PROMPT}
        ).answer()
        assert order.status == 303
        async with asyncio.timeout(PATIENCE):
            await app.state.explorer.models.settled()
        panel = await Call(app, SECOND).answer()
        assert panel.status == 200, panel.body
        assert panel.headers["hx-refresh"] == "true"
        shown = await Call(app, PAGE, asked()).answer()
        assert shown.status == 200
        sentence = (await Call(app, API, asked()).answer()).json["sentence"]
        assert sentence.split(" After")[0] in html.unescape(shown.body.decode())
        assert shown.body.decode().count("data-plot=") == 5
        assert shown.body.decode().count("<table>") == 3
        for colour in figures.MEASURES:
            assert (await Call(app, PAGE, asked(colour=colour)).answer()).status == 200
        laid = await Call(app, f"{PAGE}/frames", {"beside": "b"}).answer()
        assert "Turned onto each other" in laid.body.decode()
        assert "Interface drift" in laid.body.decode()
        drawn = await Call(app, f"{PAGE}/map", asked()).answer()
        placed = (await Call(app, "/api/v1/compare/map", asked()).answer()).json
        assert placed["sentence"] in html.unescape(drawn.body.decode())
        assert len(placed["paths"][1]) == 4
        closed = await Call(app, f"{PAGE}/close", method="POST").answer()
        assert closed.status == 303
        assert app.state.explorer.models.second.opened is None


async def test_opening_another_model_lets_the_second_go(
    folders: dict[str, Path], cache: Path
) -> None:
    app = app_of(folders, cache)
    async with running(app):
        await app.state.explorer.loaded()
        await opened_beside(app, "b")
        held = app.state.explorer.models.second.opened
        await switched(app, "b")
        assert app.state.explorer.models.second.opened is None
        assert (await Call(app, API, asked(beside="a")).answer()).status == 409
        assert held is not None
        await opened_beside(app, "a")
        back = (await Call(app, API, asked(beside="a")).answer()).json
        assert [side["model"]["name"] for side in back["sides"]] == ["b", "a"]


async def test_what_cannot_stand_beside_is_a_sentence(
    folders: dict[str, Path], cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    app = app_of({**folders, "empty": tmp_path / "nothing"}, cache)
    async with running(app):
        await app.state.explorer.loaded()
        assert (await opened_beside(app, "nobody")).status == 404
        assert (await Call(app, API, asked(beside="nobody")).answer()).status == 404
        await opened_beside(app, "empty")
        assert "empty could not be opened" in (await Call(app, PAGE).answer()).body.decode()
        assert (await traced(app, PROMPT)).status == 200, "the first goes on"
    app = app_of(folders, cache, one_model_at_a_time=True)
    async with running(app):
        await app.state.explorer.loaded()
        refused = await opened_beside(app, "b")
        assert refused.status == 409
        assert "--one-at-a-time" in refused.body.decode()


def test_the_command_line_says_the_same_also_one_after_the_other(
    folders: dict[str, Path],
    wanted: tuple[ModelComparison, Any],
    capfd: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def run(*more: str) -> dict[str, Any]:
        line = ["compare", str(folders["a"]), str(folders["b"]), "--device", "cpu", *more]
        assert cli.main(line) == 0
        found: dict[str, Any] = json.loads(capfd.readouterr().out)
        return found

    both = run("--prompt", PROMPT)
    kl = wanted[0].to_dict()["kl"]
    assert np.array(both["kl"]) == pytest.approx(np.array(kl), rel=1e-4, abs=1e-6)
    real, opened = command._open, []

    def no_room_for_two(given: Any, model: str) -> Any:
        opened.append(model)
        if len(opened) == 2:
            raise ModelTooLarge("b needs about 9 GiB.")
        return real(given, model)

    monkeypatch.setattr(command, "_open", no_room_for_two)
    alone = run("--prompt", PROMPT)
    assert len(opened) == 3
    assert {k: v for k, v in alone.items() if k != "movers"} == {
        k: v for k, v in both.items() if k != "movers"
    }
    monkeypatch.setattr(command, "_open", real)
    assert run("--frames")["distance"] == pytest.approx(wanted[1].distance, rel=1e-6)
    placed = run("--map")
    assert 100 < placed["landmarks"] <= len(placed["words"]) < 160
    texts = tmp_path / "texts.csv"
    texts.write_text("text,label\nthe cat,a\nthe dog sat,b\na hat,a\n")
    assert run("--texts", str(texts))["texts"] == 3


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), "give one of --prompt"),
        (("--prompt", "a", "--frames"), "give one of --prompt"),
        (("--frames", "--model", "x"), "--model is not asked here"),
    ],
)
def test_a_mistake_on_the_command_line(more: tuple[str, ...], told: str, capfd: Any) -> None:
    assert cli.main(["compare", "x", "y", *more]) == 2
    assert told in capfd.readouterr().err


def test_figures_show_the_values(wanted: tuple[ModelComparison, Any]) -> None:
    found = wanted[0]
    for dark in (False, True):
        drawn = figures.difference(found, "js", dark=dark)
        assert drawn.data[0].z == pytest.approx(np.sqrt(found.js), rel=1e-5)
    assert figures.difference(found, "overlap").data[0].z == pytest.approx(1 - found.overlap)
    ranks = figures.race(found).data[0].y
    assert ranks == pytest.approx(found.ranks[0, 0, :, -1].astype(float))
    assert figures.alike(found).data[0].z == pytest.approx(found.cka, rel=1e-5)
