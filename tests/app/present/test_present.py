"""Stories: read, shown step by step, and every claim of those that ship recomputed."""

from __future__ import annotations

from pathlib import Path

import pytest
from asgi import settings_with
from parsed import page
from starlette.testclient import TestClient

import engine
from app.main import create_app
from app.present.stories import COMPARISONS, Claim, Step, Story, check_story, read_story, stories


def story(*claims: Claim) -> Story:
    return Story(
        "tale", "A tale", "none", "0" * 32, (Step("One", "/page?b=c", "note", claims=claims),)
    )


def outcomes(holds: list[tuple[str, str, object]], answer: object, status: int = 200) -> list[bool]:
    def get(address: str) -> tuple[int, object]:
        return (200, None) if address.startswith("/page") else (status, answer)

    told = story(Claim("/api/v1/x", tuple(holds)))
    return [one.holds for one in check_story(told, get)]


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
    (one,) = check_story(story(), lambda _: (404, None))
    assert not one.holds
    assert "status 404" in one.said


def test_the_stories_that_ship_are_sound() -> None:
    assert stories()
    for name, told in stories().items():
        assert told.name == name
        assert len(told.steps) >= 3
        for step in told.steps:
            assert step.show in ("all", "prompt", "reveal")
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


def test_steps_are_pages_with_a_bar_that_goes_on(shared_client: TestClient) -> None:
    told = stories()["paris"]
    last = len(told.steps)
    got = page(shared_client, "/?prompt=the+cat&present=paris:1")
    assert got.one("p", class_="stage-prompt").text.startswith("the cat")
    on = [one.attrs["href"] for one in got.all("a") if "data-on" in one.attrs]
    leave = [one.attrs["href"] for one in got.all("a") if "data-leave" in one.attrs]
    assert [href.endswith("present=paris:2") for href in on] == [True]
    assert leave == ["/present/paris"]
    assert len([one for one in got.all("a") if "present=paris:" in one.attrs["href"]]) >= last
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

        found = list(check_story(stories()[name], get))
    assert len(found) > len(stories()[name].steps)
    assert [one.said for one in found if not one.holds] == []
