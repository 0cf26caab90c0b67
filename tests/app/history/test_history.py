"""What pages showed is kept, shown again without the model, bounded, and a stranger's file is read
with care."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgi import BASE, PROMPT, TWIN, settings_with, share
from parsed import Parsed
from safetensors import numpy as safetensors
from starlette.testclient import TestClient
from waiting import until

from app.history.kinds import KINDS
from app.main import create_app
from app.model.recording import run_of
from app.settings import Settings
from app.storage import store as store_module
from app.storage.codec import freeze
from app.storage.run import KeptStates, pack
from engine import LatentSpace

pytestmark = pytest.mark.slow
KEPT = {"history_mib": 4}
PATHS = {
    "trace": f"/?prompt={PROMPT}&layers=1:4",
    "generate": f"/generate?prompt={PROMPT}&tokens=3",
    "act": f"/act?prompt={PROMPT}&do=zero&layers=2&twin={TWIN}",
    "compare": f"/compare?prompt={PROMPT}&other={TWIN}",
}


class Mute(LatentSpace):
    """The real space until it is told to answer nothing any more; closing it may look at it."""

    def __init__(self, space: LatentSpace) -> None:
        share(self, space)
        self.mute = False

    def __getattribute__(self, name: str) -> Any:
        if name != "mute" and object.__getattribute__(self, "__dict__").get("mute"):
            raise AssertionError(f"the model was asked: {name}")
        return object.__getattribute__(self, name)


@contextmanager
def serving(
    settings: Settings, space: LatentSpace | None, address: str = "127.0.0.1"
) -> Iterator[TestClient]:
    with TestClient(
        create_app(settings, space), base_url=BASE, client=(address, 5000)
    ) as client:  # fmt: skip
        yield client


def listed(client: TestClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/api/v1/history").json()["runs"]
    return found


def main_of(text: str) -> str:
    """The page's own part: what stands around it names the open model."""
    return text[text.index('<main id="main"') : text.index("</main>")]


@pytest.fixture(scope="module")
def kept(space: LatentSpace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A data folder with a run of each kind, and how each page looked while its model was open."""
    settings = settings_with(data_dir=tmp_path_factory.mktemp("kept"), **KEPT)
    with serving(settings, space) as client:
        for path in PATHS.values():
            assert client.get(path).status_code == 200
        asked = {"prompt": PROMPT, "twin": TWIN}
        job = client.post("/api/v1/causal", json=asked).headers["location"]
        until(lambda: client.get(job).json()["finished"], lambda: client.get(job).json())
        cases = {"do": "zero", "layers": "2", "cases": f"{PROMPT} | #70\n"}
        job = client.post("/api/v1/many", json=cases).headers["location"]
        until(lambda: client.get(job).json()["finished"], lambda: client.get(job).json())
        runs = {one["kind"]: one for one in listed(client)}
        pages = {kind: client.get(f"/history/{one['id']}").text for kind, one in runs.items()}
        arrays = {one["id"]: freeze(client.app.state.runs.open(one["id"])) for one in runs.values()}
        bodies = {
            kind: client.get(f"/api/v1/history/{one['id']}").content for kind, one in runs.items()
        }
    return settings, runs, pages, arrays, bodies


@pytest.mark.parametrize("model", ["mute", "none"])
def test_every_kind_is_shown_again_without_the_model(
    kept: Any, space: LatentSpace, model: str, tmp_path: Path
) -> None:
    """With a space that raises on whatever is asked of it, and with no model at all."""
    settings, runs, pages, arrays, bodies = kept
    mute = Mute(space) if model == "mute" else None
    if mute is None:
        settings = settings.model_copy(update={"model": str(tmp_path), "offline": True})
    with serving(settings, mute) as client:
        if mute is None:
            until(lambda: client.app.state.explorer.state == "failed", lambda: None)
        else:
            mute.mute = True
        try:
            assert set(runs) == {one["kind"] for one in listed(client)} == set(KINDS)
            assert client.get("/history").status_code == 200
            for kind, one in runs.items():
                answer = client.get(f"/history/{one['id']}")
                assert answer.status_code == 200, (kind, answer.text)
                if mute is not None:
                    assert main_of(answer.text) == main_of(pages[kind])
                else:
                    assert "No model is open" in answer.text
                assert client.get(f"/api/v1/history/{one['id']}").content == bodies[kind]
                tree, found = freeze(client.app.state.runs.open(one["id"]))
                assert tree == arrays[one["id"]][0]
                for name, array in arrays[one["id"]][1].items():
                    assert found[name].dtype == array.dtype
                    assert found[name].tobytes() == array.tobytes(), (kind, name)
        finally:
            if mute is not None:
                mute.mute = False


def test_what_is_restored_is_what_was_computed(
    kept: Any, space: LatentSpace, reference: LatentSpace
) -> None:
    """The numbers are those of the engine by itself, array by array."""
    settings, runs, _, _, _ = kept
    with serving(settings, space) as client:
        found = client.app.state.runs.open(runs["trace"]["id"])
    own = reference.trace(PROMPT, layers="1:4")
    for name in ("regions", "border", "divergence", "state_norm", "final_ids"):
        np.testing.assert_allclose(
            getattr(found.value.trace, name), getattr(own, name), rtol=1e-4, atol=1e-5
        )
    assert found.states.ids == reference.tokenize(PROMPT).ids
    np.testing.assert_allclose(
        found.states.raw, reference.states(PROMPT).raw.numpy(), rtol=1e-4, atol=1e-5
    )
    last = own.token_info[int(own.top_ids[-1, -1, 0])]
    assert runs["trace"]["strip"][-1]["label"] == last.label
    assert len(runs["trace"]["strip"]) == 3


def test_one_question_is_one_run_and_the_newest_stands_first(space: LatentSpace) -> None:
    """A cell, a colour and a pin only change the view; what the API is asked makes no run."""
    settings = settings_with(**KEPT)
    with serving(settings, space) as client:
        client.get("/")  # nothing was asked yet
        client.get(f"/api/v1/trace?prompt={PROMPT}")
        client.get(f"/api/v1/generate?prompt={PROMPT}&tokens=2")
        fetched = {"sec-fetch-site": "same-origin", "sec-fetch-dest": "empty"}
        client.get(f"/?prompt={PROMPT}&layers=2", headers=fetched)  # ahead, as a stage does
        assert listed(client) == []
        for query in ("", "&cell=1,2", "&colour=entropy", "&pin=5&curve=score"):
            client.get(f"/?prompt={PROMPT}{query}")
        client.get(f"/?prompt={TWIN}")
        client.get(f"/?prompt={PROMPT}&geometry=l2")
        assert [one["prompt"] for one in listed(client)] == [PROMPT, TWIN, PROMPT]
        client.get(f"/?prompt={TWIN}&cell=0,0")
        assert [one["prompt"] for one in listed(client)] == [TWIN, PROMPT, PROMPT]
        before = listed(client)
    with serving(settings, space) as client:
        assert listed(client) == before
        client.get(f"/?prompt={TWIN}")
        assert listed(client) == before


def test_the_bound_in_bytes_holds_and_the_oldest_go_first(space: LatentSpace) -> None:
    settings = settings_with(history_mib=1)
    with serving(settings, space) as client:
        runs = client.app.state.runs
        runs.limit = 200_000
        words = [f"{'cat ' * n}sat" for n in range(1, 13)]
        for text in words:
            assert client.get("/", params={"prompt": text}).status_code == 200
            assert runs.size <= runs.limit
        found = [one["prompt"] for one in listed(client)]
        assert found == words[::-1][: len(found)]
        assert 1 < len(found) < len(words)
        folder = settings.data_folder / "runs"
        assert sum(p.stat().st_size for p in folder.glob("*/run.safetensors")) == runs.size
        assert folder.stat().st_mode & 0o077 == 0


def test_one_address_takes_no_more_than_its_share(space: LatentSpace) -> None:
    """Beyond this machine a quarter of all: nobody's runs are driven out by somebody else's."""
    settings = settings_with(**KEPT, allowed_hosts=("testserver",))
    with serving(settings, space) as client:
        client.get(f"/?prompt={PROMPT}")
        runs = client.app.state.runs
        runs.limit = 8 * listed(client)[0]["bytes"]
        run = client.app.state.runs.open(listed(client)[0]["id"])
        for n in range(12):
            own = run_of(
                client.app.state.explorer.info, "trace", {"prompt": (f"greedy {n}",)},
                prompt=f"greedy {n}", reading="",
            )  # fmt: skip
            runs.keep(own, run.value, run.states, client="203.0.113.9")
        found = [one["prompt"] for one in listed(client)]
        assert PROMPT in found
        assert found[:-1] == ["greedy 11", "greedy 10"][: len(found) - 1]
        assert runs.size <= runs.limit


def test_a_full_disk_is_a_sentence_and_loses_nothing(
    space: LatentSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(settings_with(**KEPT), space) as client:
        client.get(f"/?prompt={PROMPT}")
        before = listed(client)
        body = client.get(f"/api/v1/history/{before[0]['id']}/file").content

        class Full:
            free = 0

        monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: Full)
        assert client.get(f"/?prompt={TWIN}").status_code == 200
        assert listed(client) == before
        told = client.get("/history").text
        assert "was not kept" in told
        assert "MiB free" in told
        client.app.state.runs.clear()
        assert send(client, body).status_code == 507
        monkeypatch.undo()
        client.get(f"/?prompt={TWIN}&geometry=l2")
        assert "was not kept" not in client.get("/history").text


def test_a_damaged_file_is_listed_as_such(space: LatentSpace) -> None:
    settings = settings_with(**KEPT)
    with serving(settings, space) as client:
        client.get(f"/?prompt={PROMPT}")
        client.get(f"/?prompt={TWIN}")
        (whole, hurt) = listed(client)
        path = settings.data_folder / "runs" / hurt["id"] / "run.safetensors"
        body = bytearray(path.read_bytes())
        body[-3] ^= 1
        path.write_bytes(body)
        found = {one["id"]: one["problem"] for one in listed(client)}
        assert "damaged" in found[hurt["id"]]
        assert found[whole["id"]] == ""
        assert "damaged" in client.get("/history").text
        for path_ in (f"/history/{hurt['id']}", f"/api/v1/history/{hurt['id']}"):
            answer = client.get(path_)
            assert answer.status_code == 409
            assert "Traceback" not in answer.text
        assert client.post(f"/history/{hurt['id']}/delete").status_code == 200
        assert [one["id"] for one in listed(client)] == [whole["id"]]


def send(client: TestClient, body: bytes, **headers: str) -> Any:
    file = {"file": ("runs.safetensors", body)}
    return client.post("/api/v1/history", files=file, headers=headers)


def test_an_export_is_imported_as_the_same_runs(kept: Any, space: LatentSpace) -> None:
    settings, runs, pages, arrays, _ = kept
    with serving(settings, space) as client:
        whole = client.get("/api/v1/history/file").content
        one = client.get(f"/api/v1/history/{runs['act']['id']}/file").content
        before = listed(client)
    with serving(settings_with(**KEPT), space) as client:
        assert [r["id"] for r in send(client, one).json()["runs"]] == [runs["act"]["id"]]
        assert send(client, whole).status_code == 201
        same = ("id", "kind", "prompt", "created", "strip", "model", "has_states", "reading")
        found = {one["id"]: one for one in listed(client)}
        assert {(i, *map(str, map(r.get, same))) for i, r in found.items()} == {
            (r["id"], *map(str, map(r.get, same))) for r in before
        }
        for kind, run in runs.items():
            tree, got = freeze(client.app.state.runs.open(run["id"]))
            assert tree == arrays[run["id"]][0]
            assert all(got[n].tobytes() == a.tobytes() for n, a in arrays[run["id"]][1].items())
            page = client.get(f"/history/{run['id']}")
            assert Parsed(page.text).one("h1").text == Parsed(pages[kind]).one("h1").text


def hostile(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Files that were changed by somebody who knows the format."""
    arrays = safetensors.load(body)
    length = int.from_bytes(body[:8], "little")
    text = json.loads(body[8 : 8 + length])["__metadata__"]["lexiscope"]

    def made(change: Any, **own: Any) -> bytes:
        document = json.loads(text)
        change(document["runs"][0])
        return safetensors.save({**arrays, **own}, {"lexiscope": json.dumps(document)})

    def where(names: str, value: Any) -> Any:
        def change(run: Any) -> None:
            *path, last = names.split(".")
            for name in path:
                run = run[name]
            run[last] = value

        return change

    yield "nothing", b""
    yield "no header", b"\xff" * 64
    yield "cut", body[:-9]
    yield "a promise of much", (2**62).to_bytes(8, "little") + body[8:]
    yield "a name that leaves the folder", made(where("run.kind", "../../trace"))
    yield "another kind", made(where("run.kind", "compare"))
    yield "a layer too many", made(where("value.trace.layers", [0, 1, 2, 3, 4, 5]))
    yield "words for numbers", made(where("value.trace.layers", ["a"]))
    yield "a class of its own", made(where("value.trace", {"os.system": "true"}))
    yield "another array", made(where("value.trace.border", {"array": "../0"}))
    yield "nested", made(where("value.trace.warnings", [[[[]]]]))
    for name in sorted(arrays):
        small = {name: np.zeros((1,) * arrays[name].ndim, arrays[name].dtype)}
        yield f"{name} is too small", made(lambda run: None, **small)
        other = {name: arrays[name].astype(np.float64)}
        yield f"{name} holds other numbers", made(lambda run: None, **other)
    yield "pickle", b"\x80\x04\x95" + body


def test_a_hostile_file_is_a_sentence(kept: Any, space: LatentSpace) -> None:
    """Sizes, names and numbers that are not what they say they are: of every array there is."""
    settings, runs, _, _, _ = kept
    with serving(settings, space) as client:
        body = client.get(f"/api/v1/history/{runs['trace']['id']}/file").content
    settings = settings_with(**KEPT, upload_limit=2_000_000)
    with serving(settings, space) as client:
        for what, changed in hostile(body):
            answer = send(client, changed)
            assert answer.status_code == 422, (what, answer.text)
            told = answer.json()["error"]["sentence"]
            assert "no file of Lexiscope's history" in told or "Choose a file" in told, what
        assert send(client, body + b"\0" * 2_000_000).status_code == 413
        assert send(client, body, origin="https://elsewhere.test").status_code == 403
        assert client.delete(
            "/api/v1/history", headers={"sec-fetch-site": "cross-site"}
        ).status_code == 403  # fmt: skip
        assert listed(client) == []
        assert {p.name for p in settings.data_folder.glob("*")} >= {"runs"}
        assert list((settings.data_folder / "runs").iterdir()) == []


def test_maps_and_many_prompts_are_known_after_a_restart(
    kept: Any, model_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is computed again: what computes them raises."""
    from asgi import load_tiny

    settings, runs, _, _, bodies = kept

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it is computed again")

    for name in ("causal_map", "many"):
        monkeypatch.setattr(f"engine.space.acting.{name}", never)
    with serving(settings, load_tiny(model_folder, cache)) as client:
        page = client.get(f"/act?prompt={PROMPT}&do=zero&layers=2&twin={TWIN}")
        assert page.status_code == 200
        assert "causal-map-data" in page.text
        api = client.get("/api/v1/causal", params={"prompt": PROMPT, "twin": TWIN}).json()
        kept_map = json.loads(bodies["causal"])["result"]
        assert api["recovered"] == kept_map["recovered"]
        name = json.loads(bodies["many"])["run"]["question"]["id"][0]
        assert client.get(f"/act/many/{name}").status_code == 200
        found = client.get(f"/api/v1/many/{name}").json()
        assert found["rows"] == json.loads(bodies["many"])["result"]["rows"]
        client.delete(f"/api/v1/history/{runs['many']['id']}")
    with serving(settings, load_tiny(model_folder, cache)) as client:
        assert client.get(f"/act/many/{name}").status_code == 404


def test_states_of_many_tokens_are_left_out(space: LatentSpace) -> None:
    with serving(settings_with(**KEPT), space) as client:
        client.get(f"/?prompt={PROMPT}")
        (first,) = listed(client)
        held = client.app.state.runs.open(first["id"])
        assert isinstance(held.states, KeptStates)
        client.app.state.runs.limit = 15 * held.states.raw.nbytes
        assert len(pack([held])) < client.app.state.runs.limit
        client.app.state.runs.clear()
        client.get(f"/?prompt={PROMPT}&k=3")
        (first,) = listed(client)
        assert not first["has_states"]
        answer = client.get(f"/compare?run={first['id']}&other={TWIN}")
        assert answer.status_code == 422
        assert "without its states" in answer.text
