"""One model is open at a time, and no answer is of two."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import re
import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest
from asgi import PROMPT, Call, load_tiny, routes_of, running, settings_with, until
from fastapi import FastAPI
from same_numbers import assert_same_text, same_text
from switch_models import TRACE, app_of, folders_of, switched, traced
from waiting import PATIENCE

import app.model.explorer
from app.main import create_app
from app.model.open_model import OF_NO_MODEL, pinned
from app.web.problems import ModelChanged, NotReady
from engine import LatentSpace
from engine.errors import UnsupportedModel
from engine.progress import Progress, Steps

pytestmark = pytest.mark.slow

SWITCHES = int(os.environ.get("LEXISCOPE_TEST_SWITCHES", "8"))
CLIENTS = 16
NAMES = [
    *("", " ", ".", "..", "../a", "..%2fa", "/etc/passwd", "/", "~", "~root", "./a", "a/", "a/b"),
    *("A", "a ", " a", "a\n", "a\0", "a\\b", "\\\\host\\share", "file:///etc/passwd", "http://x/a"),
    *("https://huggingface.co/gpt2", "gpt2", "gpt2@main", "openai-community/gpt2", "a@" + "0" * 40),
    *("\u0430", "a\u200b", "\u202ea", "a=b", "a,b", "${HOME}", "%s", "{0}", "a;rm -rf /", "CON"),
    *("a" * 65, "x" * 400, "__class__", "None"),
]


@pytest.fixture(scope="module")
def folders(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return folders_of(model_folder, tmp_path_factory.mktemp("choice"), "abc")


@pytest.fixture
def choice(folders: dict[str, Path], cache: Path) -> FastAPI:
    return app_of(folders, cache)


class Gate:
    """A loading that stops at the gate until it is let through, or fails there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = threading.Event()
        self.go = threading.Event()
        self.error: Exception | None = None
        self.loads: list[str] = []
        real = app.model.explorer.load_space

        def load(settings: Any, check: Any, tell: Any, *rest: Any) -> LatentSpace:
            self.loads.append(Path(settings.model).name)
            tell("standing at the gate")
            self.at.set()
            while not self.go.wait(0.005):
                check()
            if self.error is not None:
                error, self.error = self.error, None
                raise error
            return real(settings, check, tell, *rest)

        monkeypatch.setattr("app.model.explorer.load_space", load)

    def close(self) -> None:
        self.at.clear()
        self.go.clear()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    gate.go.set()
    yield gate
    gate.go.set()


class Nobody:
    """A request outside of any, whose client stays."""

    client = None
    scope: ClassVar[dict[str, Any]] = {}

    async def receive(self) -> dict[str, str]:
        await asyncio.Event().wait()
        return {}


def choice_of(page: Call) -> str:
    """The list of models in a page."""
    found = re.findall(r'<section id="models".*?</section>', page.body.decode(), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


async def models_of(app: FastAPI) -> Any:
    return (await Call(app, "/api/v1/models").answer()).json


async def test_a_model_of_the_list_is_opened_by_its_name_and_the_first_one_again(
    choice: FastAPI, folders: dict[str, Path]
) -> None:
    async with running(choice):
        await choice.state.explorer.loaded()
        first = await traced(choice, PROMPT)
        assert (await models_of(choice))["open"] == "a"
        await switched(choice, "b")
        other = await traced(choice, PROMPT)
        listed = await models_of(choice)
        await switched(choice, "a")
        again = await traced(choice, PROMPT)
    assert [first.status, other.status, again.status] == [200, 200, 200]
    assert_same_text(again.body, first.body)
    assert first.json["cells"] != other.json["cells"]
    assert [one.headers["x-lexiscope-model"].split()[0] for one in (first, other)] == ["a", "b"]
    assert [(m["name"], m["state"]) for m in listed["models"]] == [
        *(("a", "listed"), ("b", "open"), ("c", "listed"))
    ]
    text = str(listed)
    assert not any(str(folder) in text for folder in folders.values())  # where they lie


async def test_the_open_model_answers_while_another_one_is_loaded(
    choice: FastAPI, gate: Gate
) -> None:
    async with running(choice):
        await choice.state.explorer.loaded()
        before = await traced(choice, PROMPT)
        gate.close()
        order = Call(choice, "/model/open", method="POST", form={"name": "b"})
        answer = await order.answer()
        await until(gate.at.is_set)
        assert (answer.status, answer.headers["location"]) == (303, "/model#models")
        during = await traced(choice, "another prompt")
        page = await Call(choice, "/model").answer()
        ready = await Call(choice, "/readyz").answer()
        panel = await Call(choice, "/model/opening").answer()
        listed = await models_of(choice)
        gate.go.set()
        await choice.state.explorer.models.settled()
        after = await traced(choice, PROMPT)
        done = await Call(choice, "/model/opening").answer()
    assert (before.status, during.status, ready.status) == (200, 200, 200)
    assert during.headers["x-lexiscope-model"] == before.headers["x-lexiscope-model"]
    assert after.headers["x-lexiscope-model"] != before.headers["x-lexiscope-model"]
    section = choice_of(page)
    assert 'hx-get="/model/opening"' in section
    assert "Loading b: standing at the gate." in section
    assert "<form" not in section  # one at a time
    assert (listed["opening"], listed["open"]) == ("b", "a")
    assert "hx-refresh" not in panel.headers
    assert done.headers["hx-refresh"] == "true"


async def test_a_model_that_cannot_be_loaded_leaves_the_open_one_open(
    choice: FastAPI, gate: Gate
) -> None:
    async with running(choice):
        await choice.state.explorer.loaded()
        before = await traced(choice, PROMPT)
        gate.error = UnsupportedModel("its head was not found.")
        await switched(choice, "b")
        after = await traced(choice, PROMPT)
        listed = await models_of(choice)
        page = await Call(choice, "/model").answer()
        ready = await Call(choice, "/readyz").answer()
        await switched(choice, "b")  # and the way stays open
        assert (await models_of(choice))["open"] == "b"
    assert after.body == before.body
    assert (after.status, ready.status) == (200, 200)
    assert listed["models"][1]["problem"] == "its head was not found."
    assert "b could not be opened: its head was not found." in page.body.decode()


async def test_where_a_folder_lies_is_not_told(folders: dict[str, Path], cache: Path) -> None:
    missing = {**folders, "b": folders["b"].with_name("not there")}
    choice = app_of(missing, cache)
    async with running(choice):
        await choice.state.explorer.loaded()
        await switched(choice, "b")
        listed = await Call(choice, "/api/v1/models").answer()
    problem = listed.json["models"][1]["problem"]
    assert problem.startswith("there is no folder 'b';")
    assert str(missing["b"].parent) not in listed.body.decode()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("planted secret")])
async def test_what_nobody_foresaw_in_a_loading_is_a_sentence_without_secrets(
    choice: FastAPI, gate: Gate, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(choice):
        await choice.state.explorer.loaded()
        gate.error = error
        await switched(choice, "b")
        listed = await Call(choice, "/api/v1/models").answer()
        assert (await traced(choice, PROMPT)).status == 200
    problem = listed.json["models"][1]["problem"]
    assert ("not enough memory" in problem) == isinstance(error, MemoryError)
    assert b"planted" not in listed.body
    assert "Traceback" in caplog.text


async def test_with_room_for_one_model_the_old_one_goes_first(
    folders: dict[str, Path], cache: Path, gate: Gate
) -> None:
    choice = app_of(folders, cache, one_model_at_a_time=True)
    async with running(choice):
        explorer = choice.state.explorer
        await explorer.loaded()
        old = weakref.ref(explorer.models.space)
        gate.close()
        await explorer.models.switch_to("b")
        await until(gate.at.is_set)
        assert old() is None
        reading = await traced(choice, PROMPT)
        ready = await Call(choice, "/readyz").answer()
        alive = await Call(choice, "/livez").answer()
        page = await Call(choice, "/model").answer()
        gate.go.set()
        await explorer.models.settled()
        after = await traced(choice, PROMPT)
    assert [reading.status, ready.status, alive.status] == [503, 503, 200]
    assert int(reading.headers["retry-after"]) > 0
    assert "Loading b" in reading.json["error"]["sentence"]
    assert page.status == 200
    assert "Loading b" in page.body.decode()
    assert after.headers["x-lexiscope-model"].startswith("b ")


async def test_with_room_for_one_model_the_old_one_comes_back_where_the_new_one_fails(
    folders: dict[str, Path], cache: Path, gate: Gate
) -> None:
    choice = app_of(folders, cache, one_model_at_a_time=True)
    async with running(choice):
        await choice.state.explorer.loaded()
        before = await traced(choice, PROMPT)
        gate.error = UnsupportedModel("its head was not found.")
        await switched(choice, "b")
        after = await traced(choice, PROMPT)
        listed = await models_of(choice)
    assert gate.loads == ["folder-a", "folder-b", "folder-a"]
    assert_same_text(after.body, before.body)
    assert (listed["open"], listed["models"][1]["problem"]) == ("a", "its head was not found.")


async def test_after_a_start_that_failed_another_model_can_be_chosen(
    choice: FastAPI, gate: Gate
) -> None:
    gate.error = UnsupportedModel("its head was not found.")
    async with running(choice):
        await choice.state.explorer.loaded()
        reading = await traced(choice, PROMPT)
        page = await Call(choice, "/model").answer()
        await switched(choice, "c")
        after = await traced(choice, PROMPT)
    assert reading.status == 422
    assert "its head was not found." in page.body.decode()
    assert choice_of(page).count("<form") == 3
    assert after.status == 200


async def test_a_second_switch_is_refused_while_one_is_under_way(
    choice: FastAPI, gate: Gate
) -> None:
    async with running(choice):
        await choice.state.explorer.loaded()
        gate.close()
        both = [
            Call(choice, "/api/v1/models/open", method="POST", json={"name": name}) for name in "bc"
        ]
        answers = [await call.answer() for call in both]
        same = Call(choice, "/api/v1/models/open", method="POST", json={"name": "a"})
        answers.append(await same.answer())
        gate.go.set()
        await choice.state.explorer.models.settled()
        opened = (await models_of(choice))["open"]
        again = await Call(
            choice, "/api/v1/models/open", method="POST", json={"name": opened}
        ).answer()
    statuses = sorted(answer.status for answer in answers)
    assert statuses == [202, 409, 409]
    assert (
        "is being opened" in next(a for a in answers if a.status == 409).json["error"]["sentence"]
    )
    assert (again.status, again.json["opening"]) == (202, None)  # it is open: nothing to do


async def test_a_job_holds_its_model_and_a_switch_holds_the_jobs_off(
    choice: FastAPI, gate: Gate
) -> None:
    go = threading.Event()

    def steps() -> Steps[str]:
        while not go.is_set():
            yield Progress(0, 1)
        return "made"

    async with running(choice):
        await choice.state.explorer.loaded()
        jobs, old = choice.state.jobs, choice.state.explorer.models.current
        job = await jobs.start("calibration", "held", steps, lambda made: None)
        refused = await Call(choice, "/model/open", method="POST", form={"name": "b"}).answer()
        go.set()
        await until(lambda: jobs.get(job.id).finished)
        await until(lambda: not any(jobs.under_way.values()))
        gate.close()
        await choice.state.explorer.models.switch_to("b")
        await until(gate.at.is_set)
        with pytest.raises(NotReady, match="b is being opened"):
            await jobs.start("calibration", "too early", steps, lambda made: None)
        gate.go.set()
        await choice.state.explorer.models.settled()
        with pinned(choice.state.explorer.models, old), pytest.raises(ModelChanged):
            await jobs.start("calibration", "of the old model", steps, lambda made: None)
        later = await jobs.start("calibration", "later", steps, lambda made: None)
        await until(lambda: jobs.get(later.id).finished)
    assert refused.status == 409
    assert "Jobs are under way" in refused.body.decode()


@pytest.mark.parametrize("place", ["page", "api"])
async def test_only_names_of_the_list_are_known_and_no_other_is_ever_loaded(
    choice: FastAPI, gate: Gate, place: str
) -> None:
    assert len(set(NAMES)) >= 40
    async with running(choice):
        await choice.state.explorer.loaded()
        for name in NAMES:
            if place == "page":
                call = Call(choice, "/model/open", method="POST", form={"name": name})
            else:
                call = Call(choice, "/api/v1/models/open", method="POST", json={"name": name})
            answer = await call.answer()
            assert answer.status == 404 or (name == "" and answer.status in (404, 422)), repr(name)
            assert name.encode() not in answer.body or len(name) < 6
    assert gate.loads == ["folder-a"]


async def test_a_page_of_the_old_model_is_told_so_instead_of_mixing_numbers(
    choice: FastAPI,
) -> None:
    async with running(choice):
        await choice.state.explorer.loaded()
        page = (await Call(choice, "/model").answer()).body.decode()
        header = re.findall(r"<body [^>]*hx-headers='([^']*)'", page)
        mine = choice.state.explorer.info.fingerprint
        assert [json.loads(one) for one in header] == [{"X-Lexiscope-Expect": mine}]
        assert (await traced(choice, PROMPT, x_lexiscope_expect=mine)).status == 200
        await switched(choice, "b")
        old = await traced(choice, PROMPT, x_lexiscope_expect=mine)
        query = {"prompt": PROMPT}
        asked = {"x-lexiscope-expect": mine, "hx-request": "true"}
        fragment = await Call(choice, "/", query, headers=asked).answer()
        free = [
            (await Call(choice, path, headers=asked).answer()).status
            for path in ("/api/v1/models", "/jobs", "/model/opening")
        ]
        plain = await traced(choice, PROMPT)
    assert old.status == fragment.status == 409
    sentence = "The open model is now b; this was asked of a: load the page again."
    assert old.json["error"]["sentence"] == sentence
    assert sentence in fragment.body.decode()
    assert old.headers["x-lexiscope-model"].split()[0] == "b"
    assert free == [200, 200, 200]
    assert plain.status == 200


def test_what_may_be_asked_whatever_a_page_remembers_is_there(choice: FastAPI) -> None:
    paths = {path for _, path in routes_of(choice)}
    for one in OF_NO_MODEL:
        assert any(path == one or path.startswith(f"{one}/") for path in paths), one


async def test_every_answer_names_the_model_and_health_checks_do_not(choice: FastAPI) -> None:
    async with running(choice):
        await choice.state.explorer.loaded()
        fingerprint = choice.state.explorer.info.fingerprint
        for path in ("/", "/model", "/api/v1/check", "/api/v1/nothing", "/api/v1/trace"):
            named = (await Call(choice, path).answer()).headers["x-lexiscope-model"]
            assert named == f"a local {fingerprint}", path
        for path in ("/livez", "/readyz", "/static/js/theme.js"):
            assert "x-lexiscope-model" not in (await Call(choice, path).answer()).headers


async def test_a_request_that_waited_through_a_switch_is_refused_and_not_answered_by_another(
    choice: FastAPI,
) -> None:
    release, entered = threading.Event(), threading.Event()

    def hold(check: Any) -> None:
        entered.set()
        release.wait(PATIENCE)

    async with running(choice):
        explorer = choice.state.explorer
        await explorer.loaded()
        device = explorer.device
        device.submit(hold, deadline_s=None)
        await until(entered.is_set)
        waiting = Call(choice, TRACE, {"prompt": PROMPT})
        await until(lambda: device.waiting == 1)
        await explorer.models.switch_to("b")
        await until(lambda: device._first)  # the new model stands before the thread
        late = Call(choice, "/api/v1/bases", {"token": "#5"})
        here: Any = Nobody()
        opened = explorer.models.current
        unpinned = asyncio.ensure_future(explorer._compute(here, "key", "any", lambda check: 1))
        await until(lambda: device.waiting == 3)
        release.set()
        with pytest.raises(ModelChanged):
            await unpinned
        assert opened is not explorer.models.current
        answers = [await waiting.answer(), await late.answer()]
        await explorer.models.settled()
        assert (await traced(choice, PROMPT)).headers["x-lexiscope-model"].startswith("b ")
    for answer in answers:
        assert answer.status == 409
        assert "The open model is now b" in answer.json["error"]["sentence"]


async def test_the_old_model_s_memory_is_freed(choice: FastAPI) -> None:
    async with running(choice):
        explorer = choice.state.explorer
        await explorer.loaded()
        for path in ("/api/v1/trace", "/api/v1/cell", "/api/v1/agreement", "/api/v1/curves"):
            query = {"prompt": PROMPT, **({"layer": 1} if path.endswith("cell") else {})}
            assert (await Call(choice, path, query).answer()).status == 200
        # Maps keep states, vectors and drawings of their own.
        assert (await Call(choice, "/api/v1/map", {"prompt": PROMPT}).answer()).status == 200
        assert (await Call(choice, "/api/v1/trace", {"prompt": "x" * 5000}).answer()).status == 422
        old = [weakref.ref(thing) for thing in _parts(explorer.models.space)]
        await switched(choice, "b")
        gc.collect()
        assert [ref() for ref in old] == [None] * len(old)
        assert explorer._results.size == 0
        assert len(explorer._results) == 0


def _parts(space: LatentSpace) -> list[Any]:
    return [space, space.model, space.model.module, space.decomposition, space.maps]


async def test_no_thread_computes_while_the_process_wide_dtype_is_another(
    choice: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = app.model.explorer.load_space
    seen: list[str] = []
    loop = asyncio.get_running_loop()

    def load(settings: Any, check: Any, tell: Any, alone: Any) -> LatentSpace:
        with alone():
            reading = asyncio.run_coroutine_threadsafe(traced(choice, "meanwhile"), loop)
            seen.append(str(choice.state.explorer.device.running))
            while choice.state.explorer.models.current and not choice.state.explorer.device.waiting:
                check()
            seen.append(f"done {reading.done()}")
        seen.append(str(reading.result(PATIENCE).status))
        return real(settings, check, tell, nullcontext)

    async with running(choice):
        await choice.state.explorer.loaded()
        monkeypatch.setattr("app.model.explorer.load_space", load)
        await switched(choice, "b")
    assert seen == ["waiting for a model's weights", "done False", "200"]


@pytest.mark.parametrize(("dtype", "held"), [("float32", False), ("bfloat16", True)])
def test_half_precision_is_loaded_alone(
    folders: dict[str, Path], cache: Path, dtype: str, held: bool
) -> None:
    entered: list[bool] = []

    def alone() -> AbstractContextManager[None]:
        entered.append(True)
        return nullcontext()

    settings = settings_with(
        model=str(folders["a"]), dtype=dtype, device="cpu", cache_dir=cache, threads=1
    )
    app.model.explorer.load_space(settings, exclusive=alone)
    assert bool(entered) == held


async def test_a_ready_model_is_listed_and_cannot_be_loaded_again(
    folders: dict[str, Path], cache: Path, model_folder: Path
) -> None:
    space = load_tiny(model_folder, cache)
    app = create_app(settings_with(models=f"b={folders['b']}", cache_dir=cache, threads=1), space)
    async with running(app):
        before = await models_of(app)
        await switched(app, "b")
        back = await Call(
            app, "/api/v1/models/open", method="POST", json={"name": before["open"]}
        ).answer()
    assert len(before["models"]) == 2
    assert back.status == 409
    assert "restart the server" in back.json["error"]["sentence"]


async def test_the_server_ends_while_a_model_is_loaded(choice: FastAPI, gate: Gate) -> None:
    async with running(choice):
        await choice.state.explorer.loaded()
        gate.close()
        await choice.state.explorer.models.switch_to("b")
        await until(gate.at.is_set)
    assert not any(t.name == "lexiscope-loader" for t in threading.enumerate())


@pytest.mark.slow
async def test_switches_under_sixteen_clients_give_no_wrong_answer(
    choice: FastAPI,
) -> None:
    """Each answer is the one of the model that it names, or says why there is none.

    Some clients say which model they mean: they get that one's answer or 409.
    """
    prompts = [f"{PROMPT} {n}" for n in range(8)]
    right: dict[tuple[str, str], bytes] = {}
    fingerprints: dict[str, str] = {}
    counts: dict[int, int] = {}
    wrong: list[str] = []
    stop = False

    async def client(number: int) -> None:
        chance = random.Random(number)
        while not stop:
            prompt = chance.choice(prompts)
            meant = chance.choice(["", "", "a", "b", "c"])
            headers = {"x_lexiscope_expect": fingerprints[meant]} if meant else {}
            answer = await traced(choice, prompt, **headers)
            counts[answer.status] = counts.get(answer.status, 0) + 1
            name = answer.headers.get("x-lexiscope-model", "").split(" ")[0]
            if answer.status == 200 and not same_text(answer.body, right[name, prompt]):
                wrong.append(f"not {name}'s answer to {prompt}")
            if answer.status == 200 and meant and name != meant:
                wrong.append(f"asked {meant}, answered by {name}")
            await asyncio.sleep(chance.random() * 0.02)

    async with running(choice):
        explorer = choice.state.explorer
        await explorer.loaded()
        for name in "abc":
            await switched(choice, name)
            fingerprints[name] = explorer.info.fingerprint
            for prompt in prompts:
                right[name, prompt] = (await traced(choice, prompt)).body
        assert len(set(right.values())) == len(right)
        before = explorer.models.switches
        clients = [asyncio.ensure_future(client(number)) for number in range(CLIENTS)]
        for number in range(SWITCHES):
            await switched(choice, "abc"[number % 3])
            assert explorer.models.failed is None
        await until(lambda: counts.get(200, 0) > SWITCHES and counts.get(409))
        stop = True
        await asyncio.gather(*clients)
        assert explorer.models.switches - before == SWITCHES
    assert wrong == []
    assert set(counts) <= {200, 409, 503}


@pytest.mark.slow
async def test_the_same_question_has_the_same_bytes_under_load_and_numbers_after_switches(
    choice: FastAPI,
) -> None:
    """Fifty questions: alone, among sixty-four others, and when the model was opened anew."""
    options: list[tuple[str, dict[str, object]]] = []
    for n in range(10):
        prompt = " ".join([PROMPT, *["cat"] * n])
        options += [
            ("/api/v1/trace", {"prompt": prompt, "geometry": ("cosine", "l2", "matmul")[n % 3]}),
            ("/api/v1/cell", {"prompt": prompt, "layer": n % 4, "position": n % 3}),
            ("/api/v1/curves", {"prompt": prompt, "frame": ("output", "input")[n % 2]}),
            ("/api/v1/agreement", {"prompt": prompt}),
            ("/api/v1/bases", {"token": f"#{n + 40}"}),
        ]
    assert len(options) == 50

    async def ask(path: str, query: dict[str, object]) -> bytes:
        while True:
            answer = await Call(choice, path, query).answer()
            if answer.status != 503:
                assert answer.status == 200, answer.body
                return answer.body
            await asyncio.sleep(0.01)

    async with running(choice):
        explorer = choice.state.explorer
        await explorer.loaded()
        alone = [await ask(path, query) for path, query in options]
        explorer._results.clear()
        others = [ask(TRACE, {"prompt": f"{PROMPT} {n}"}) for n in range(14)]
        loaded = await asyncio.gather(*[ask(*one) for one in options], *others)
        await switched(choice, "b")
        elsewhere = [await ask(path, query) for path, query in options[:5]]
        await switched(choice, "a")
        again = [await ask(path, query) for path, query in reversed(options)][::-1]
    assert loaded[:50] == alone
    for one, other in zip(again, alone, strict=True):  # by weights that lie elsewhere
        assert_same_text(one, other)
    assert all(one != other for one, other in zip(alone[:5], elsewhere, strict=True))
