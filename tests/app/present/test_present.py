"""Stories: read, shown step by step, and every claim of those that ship recomputed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from asgi import settings_with
from parsed import page
from starlette.testclient import TestClient
from waiting import until

import engine
from app.cli.present import make as make_calibration
from app.main import create_app
from app.present.stories import COMPARISONS, Claim, Step, Story, check_story, read_story, stories
from engine.errors import OptionError


def story(*claims: Claim) -> Story:
    return Story(
        "tale", "A tale", "none", "0" * 32, (Step("One", "/page?b=c", "note", claims=claims),)
    )


def outcomes(holds: list[tuple[str, str, object]], answer: object, status: int = 200) -> list[bool]:
    def get(address: str) -> tuple[int, object]:
        return (200, None) if address.startswith("/page") else (status, answer)

    told = story(Claim("/api/v1/x", tuple(holds)))
    return [one.holds for one in check_story(told, get, lambda _: "")]


ANSWER = {"a": {"b": " Paris"}, "list": [{"p": 0.1}, {"p": 0.4}], "none": None}


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        (("a.b", "is", " Paris"), True),
        (("a.b", "is", " Rome"), False),
        (("a.b", "is not", " Rome"), True),
        (("list.*.p", "at most", 0.4), True),
        (("list.*.p", "at most", 0.3), False),
        (("list.*.p", "at least", 0.1), True),
        (("list.-1.p", "is", 0.4), True),
        (("list.7.p", "is", 0.4), False),
        (("none", "is missing", True), True),
        (("none", "at least", 1), False),
        (("a", "is missing", True), False),
        (("not.there", "is missing", True), False),
    ],
)
def test_a_claim_is_compared_with_the_answer(claim: tuple[str, str, object], holds: bool) -> None:
    assert outcomes([claim], ANSWER) == [True, holds]


def test_an_answer_that_is_refused_holds_nothing() -> None:
    assert outcomes([("a.b", "is", " Paris")], ANSWER, status=503) == [True, False]


def test_a_page_that_is_not_there_is_said() -> None:
    (one,) = check_story(story(), lambda _: (404, None), lambda _: "")
    assert not one.holds
    assert "status 404" in one.said


def test_the_stories_that_ship_are_sound() -> None:
    assert stories()
    for name, told in stories().items():
        assert told.name == name
        assert len(told.steps) >= 3
        for step in told.steps:
            assert step.note
            for claim in step.claims:
                assert claim.ask.startswith("/api/v1/")
                assert claim.holds
                assert all(how in COMPARISONS for _, how, _ in claim.holds)
    assert sum(len(step.claims) for step in stories()["paris"].steps) >= 5


def test_a_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "tale.toml"
    path.write_text(
        'title = "T"\nmodel = "m"\nfingerprint = "f"\n[[steps]]\ntitle = "S"\naddress = "/"\n'
        'note = "n"\nclaims = [{ ask = "/api/v1/x", holds = [["a.0", "at most", 2]] }]\n'
    )
    told = read_story(path)
    assert told.steps[0].claims == (Claim("/api/v1/x", (("a.0", "at most", 2),)),)
    assert told.href(1) == "/?present=tale:1"


STEP = {"title": "S", "address": "/", "note": "n"}
FILE = {"title": "T", "model": "m", "fingerprint": "f", "steps": [STEP]}


def test_a_recorded_file_is_the_same_as_json(tmp_path: Path) -> None:
    path = tmp_path / "My Tale.json"
    path.write_text(json.dumps(FILE))
    told = read_story(path)
    assert (told.name, told.steps[0].title, told.href(1)) == ("my-tale", "S", "/?present=my-tale:1")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"steps": []}, "it has 0 steps"),
        ({"steps": [STEP | {"address": "//elsewhere.test/"}]}, "begins with /"),
        ({"steps": [STEP | {"address": "javascript:alert(1)"}]}, "begins with /"),
        ({"steps": [STEP | {"show": "everything"}]}, "a step shows all, prompt, reveal"),
        ({"steps": [STEP | {"ready": ["/jobs"]}]}, "/api/v1/"),
        ({"steps": [STEP | {"claims": [{"ask": "/api/v1/x", "holds": [["a", "about", 1]]}]}]},
         "a claim says is, is not"),
        ({"steps": [STEP | {"tune": "la"}]}, "tune"),
        ({"title": 3}, "title, model and fingerprint are texts"),
        ({"more": 1}, "more"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_story_is_refused_in_a_sentence(
    tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    path = tmp_path / "tale.json"
    path.write_text(json.dumps(FILE | changed))
    with pytest.raises(OptionError, match=re.escape(words)) as told:
        read_story(path)
    assert "tale.json is no story" in str(told.value)
    path.write_text("{")
    with pytest.raises(OptionError, match="is no story"):
        read_story(path)
    with pytest.raises(OptionError, match="cannot be read"):
        read_story(tmp_path / "gone.toml")


def test_a_step_may_need_something_first_and_something_made() -> None:
    """What is ready first is asked before the page; a claim knows what was made."""
    asked: list[str] = []

    def get(address: str) -> tuple[int, object]:
        asked.append(address)
        return 200, {"gain": 0.3}

    claim = Claim("/api/v1/calibrations/{made}", (("gain", "at least", 0.2),))
    steps = (
        Step("One", "/act?a=b", ready=("/api/v1/causal?x",)),
        Step("Two", make={"set": "topics", "name": "N"}, claims=(claim,)),
    )
    told = Story("tale", "T", "m", "f", steps)
    made: list[object] = []

    def make(what: Mapping[str, object]) -> str:
        made.append(what)
        return "0123456789ab"

    assert all(one.holds for one in check_story(told, get, make))
    assert asked == ["/api/v1/causal?x", "/act?a=b&present=tale:1", "/present/tale/2",
                     "/api/v1/calibrations/0123456789ab"]  # fmt: skip
    assert made == [{"set": "topics", "name": "N"}]


@pytest.mark.slow
def test_a_story_of_a_file_is_told_beside_those_that_ship(
    space: engine.LatentSpace, tmp_path: Path
) -> None:
    """Its steps have the bar; what it makes is begun from behind the stage, and found by name."""
    path = tmp_path / "tale.json"
    make = {"set": "topics", "name": "Taught", "max_rows": 40, "epochs": 1, "compare": False}
    path.write_text(json.dumps(FILE | {"steps": [STEP, {"title": "Taught", "make": make}]}))
    settings = settings_with(story=path, data_dir=tmp_path / "data")
    with TestClient(create_app(settings, space), base_url="http://127.0.0.1") as client:
        assert "/present/tale" in client.get("/present").text
        assert "/present/paris" in client.get("/present").text
        got = page(client, "/?prompt=the+cat&present=tale:1")
        (on,) = [one.attrs["href"] for one in got.all("a") if "data-on" in one.attrs]
        assert on == "/present/tale/2"
        missing = client.get(on)
        assert missing.status_code == 404
        assert "was not made on this server yet" in missing.text
        stage = page(client, "/present/tale")
        (form,) = [one for one in stage.all("form") if one.attrs["action"].endswith("/2/make")]
        begun = client.post(form.attrs["action"], follow_redirects=False)
        assert begun.status_code == 303
        job = begun.headers["location"].rsplit("/", 1)[1]
        until(lambda: client.get(f"/api/v1/jobs/{job}").json()["finished"])
        shown = client.get(on)
        assert shown.status_code == 200
        assert shown.url.path.startswith("/calibrate/")
        assert 'data-step="2"' in shown.text
        after = page(client, "/present/tale")
        assert not [one for one in after.all("form") if one.attrs["action"].endswith("/make")]
        assert client.get("/present/tale/1").status_code == 404, "a page of its own makes nothing"


def test_a_browsers_own_story_has_a_bar_to_fill_in(shared_client: TestClient) -> None:
    got = page(shared_client, "/?prompt=the+cat&present=own:3")
    (bar,) = [one for one in got.all("aside") if "data-present" in one.attrs]
    assert (bar.attrs["data-story"], bar.attrs["data-step"]) == ("own", "3")
    assert page(shared_client, "/present/own").one("input", id="story-title")


def test_steps_are_pages_with_a_bar_that_goes_on(shared_client: TestClient) -> None:
    told = stories()["paris"]
    last = len(told.steps)
    got = page(shared_client, "/?prompt=the+cat&present=paris:1")
    assert got.one("p", class_="stage-prompt").text.startswith("the cat")
    on = [one.attrs["href"] for one in got.all("a") if "data-on" in one.attrs]
    leave = [one.attrs["href"] for one in got.all("a") if "data-leave" in one.attrs]
    assert [href.endswith("present=paris:2") for href in on] == [True]
    assert leave == ["/present/paris"]
    dots = [one for one in got.all("a") if one.attrs.get("aria-label", "").startswith("Step ")]
    assert len(dots) == last
    end = page(shared_client, f"/?prompt=the+cat&present=paris:{last}")
    ending = [one for one in end.all("a") if "data-on" in one.attrs]
    assert not ending, "nothing comes after the last step"


@pytest.mark.parametrize("mark", ["paris:0", "paris:99", "nobody:1"])
def test_a_step_that_is_not_there_is_an_ordinary_page(shared_client: TestClient, mark: str) -> None:
    assert "stage-bar" not in shared_client.get(f"/?prompt=the+cat&present={mark}").text


def test_the_list_and_the_stage(shared_client: TestClient) -> None:
    assert "/present/paris" in shared_client.get("/present").text
    stage = shared_client.get("/present/paris")
    assert stage.status_code == 200
    assert "another model is open" in stage.text
    missing = shared_client.get("/present/nobody")
    assert missing.status_code == 404
    assert "there are: paris" in missing.text


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", stories())
def test_every_claim_holds_on_the_model_it_is_told_of(
    smollm2_copy: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "gguf").symlink_to(smollm2_copy.parent)
    space = engine.load("smollm2", device="cpu", cache_dir=tmp_path, threads=1)  # the app's own
    assert stories()[name].fingerprint == space.model.fingerprint
    with TestClient(create_app(settings_with(), space), base_url="http://127.0.0.1") as client:

        def get(address: str) -> tuple[int, object]:
            answer = client.get(address)
            is_json = answer.headers.get("content-type", "").startswith("application/json")
            return answer.status_code, answer.json() if is_json else None

        found = list(
            check_story(stories()[name], get, lambda asked: make_calibration(client, asked))
        )
    assert len(found) > len(stories()[name].steps)
    assert [one.said for one in found if not one.holds] == []
