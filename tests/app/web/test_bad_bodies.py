"""Bad requests about maps, label sets, calibrations, jobs: a sentence each, and nothing kept."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from asgi import BASE, PROMPT, load_tiny, settings_with
from bad_bodies import BODIES, sentence_of
from bad_corpus import (
    BAD_MAPS,
    BAD_METHODS,
    BAD_OUTLINES,
    BAD_PARTS,
    BAD_POLYGONS,
    BAD_REPORTS,
    BAD_STARTS,
    BAD_TASKS,
    MAP_ADDRESSES,
    MARK,
    NOBODY,
    NOT_LOOKED_AT,
    PAGES,
)
from bad_files import BAD_FILES, BAD_FORMS, CROSSED, FORM, WITH_IDS, multipart
from starlette.testclient import TestClient

from app.jobs.lanes import Jobs
from app.main import create_app

pytestmark = pytest.mark.slow  # two thousand requests together
JSON = {"Content-Type": "application/json"}
TAKES_JSON = (
    "/api/v1/map/select", "/api/v1/calibrations", "/api/v1/calibrations/task",
    f"/api/v1/calibrations/{NOBODY}/competitors", f"/api/v1/calibrations/{NOBODY}/ablation",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(model_folder: Path, cache: Path) -> Iterator[TestClient]:
    """One server for this file; what its tests leave in its data folder is what they look for."""
    app = create_app(settings_with(), load_tiny(model_folder, cache))
    with TestClient(app, base_url=BASE, follow_redirects=False) as client:
        yield client


def files_of(client: TestClient) -> set[str]:
    """Every file and folder of the data folder but the database's own."""
    app: Any = client.app
    folder: Path = app.state.settings.data_folder
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.name.startswith("lexiscope.sqlite")
    } - {"incoming", "states"}


@pytest.fixture(autouse=True)
def nothing_is_kept(server: TestClient) -> Iterator[None]:
    """No refused request leaves a file, a set, a calibration or a job."""
    jobs: Jobs = server.app.state.jobs  # type: ignore[attr-defined]
    before = files_of(server), jobs.list()
    yield
    assert (files_of(server), jobs.list()) == before


def with_query(address: str, query: str) -> str:
    return f"{address}{'&' if '?' in address else '?'}{query}"


QUESTIONS = [
    pytest.param(address, query, id=f"{address.rpartition('/')[2]}: {what}")
    for address in MAP_ADDRESSES
    for what, query in BAD_MAPS
    if not query.startswith(NOT_LOOKED_AT.get(address, ("-",)))
]


@pytest.mark.parametrize(("address", "query"), QUESTIONS)
def test_a_bad_question_about_a_map(server: TestClient, address: str, query: str) -> None:
    sentence_of(server.get(with_query(address, query)), True)


@pytest.mark.parametrize("query", [q for _, q in BAD_MAPS], ids=[w for w, _ in BAD_MAPS])
def test_a_bad_map_with_an_outline_or_as_a_job(server: TestClient, query: str) -> None:
    outline = {"polygon": [[0, 0], [1, 0], [0, 1]]}
    sentence_of(server.post(f"/api/v1/map/select?{query}", json=outline), True)
    sentence_of(server.post(f"/api/v1/map/umap?{query}"), True)
    form = {"polygon": "0,0 1,0 0,1"}
    for place in ("/map/selected", "/map/selected.csv"):
        sentence_of(server.post(f"{place}?{query}", data=form, headers=HTMX), False)
    if "projection" not in query:
        query += "&projection=umap"
    sentence_of(server.post(f"/api/v1/map/umap?{query}"), True)
    sentence_of(server.post(f"/map/umap?{query}", headers=HTMX), False)


HTMX = {"HX-Request": "true"}


@pytest.mark.parametrize("url", [u for _, u in BAD_PARTS], ids=[w for w, _ in BAD_PARTS])
def test_a_bad_question_beside_the_map(server: TestClient, url: str) -> None:
    sentence_of(server.get(url), True)


@pytest.mark.parametrize("url", [u for _, u in PAGES], ids=[w for w, _ in PAGES])
@pytest.mark.parametrize("fragment", [False, True], ids=["page", "fragment"])
def test_a_bad_question_to_a_new_page(server: TestClient, url: str, fragment: bool) -> None:
    answer = server.get(url, headers=HTMX if fragment else {})
    # A form that is still being filled in, and a part that says what is wrong in its own place,
    # are no errors.
    half = fragment and url.startswith("/calibrate?")
    part = url.startswith(("/map/quality", "/map?point=", "/map?find=", "/map?panel=", "/?prompt"))
    allowed = (200, 422) if part or half else (404, 422) if url.startswith("/") else ()
    assert answer.status_code in (*allowed, 400), answer.text[:2000]
    assert answer.headers["content-type"].startswith("text/html")
    assert "Traceback" not in answer.text
    if answer.status_code != 200 or half:
        assert answer.text.count('id="problem"') == 1
    if fragment and not half and not part:
        assert len(answer.content) <= 100_000


@pytest.mark.parametrize("body", [b for _, b in BODIES], ids=[w for w, _ in BODIES])
@pytest.mark.parametrize("address", TAKES_JSON)
def test_a_body_that_is_bad_everywhere(server: TestClient, address: str, body: bytes) -> None:
    sentence_of(server.post(address, content=body, headers=JSON), True)


@pytest.mark.parametrize("body", [b for _, b in BAD_TASKS], ids=[w for w, _ in BAD_TASKS])
@pytest.mark.parametrize("address", ["/api/v1/calibrations", "/api/v1/calibrations/task"])
def test_a_bad_calibration(server: TestClient, address: str, body: bytes) -> None:
    sentence_of(server.post(address, content=body, headers=JSON), True)


@pytest.mark.parametrize("body", [b for _, b in BAD_STARTS], ids=[w for w, _ in BAD_STARTS])
def test_a_bad_start_of_a_calibration(server: TestClient, body: bytes) -> None:
    sentence_of(server.post("/api/v1/calibrations", content=body, headers=JSON), True)


@pytest.mark.parametrize("body", [b for _, b in BAD_REPORTS], ids=[w for w, _ in BAD_REPORTS])
@pytest.mark.parametrize("what", ["competitors", "ablation"])
def test_a_bad_report(server: TestClient, what: str, body: bytes) -> None:
    url = f"/api/v1/calibrations/{NOBODY}/{what}"
    sentence_of(server.post(url, content=body, headers=JSON), True)


@pytest.mark.parametrize("body", [b for _, b in BAD_METHODS], ids=[w for w, _ in BAD_METHODS])
def test_bad_methods(server: TestClient, body: bytes) -> None:
    url = f"/api/v1/calibrations/{NOBODY}/competitors"
    sentence_of(server.post(url, content=body, headers=JSON), True)


@pytest.mark.parametrize("body", [b for _, b in BAD_POLYGONS], ids=[w for w, _ in BAD_POLYGONS])
@pytest.mark.parametrize("query", ["", "?format=csv"])
def test_a_bad_polygon(server: TestClient, body: bytes, query: str) -> None:
    sentence_of(server.post(f"/api/v1/map/select{query}", content=body, headers=JSON), True)


@pytest.mark.parametrize("body", [b for _, b in BAD_OUTLINES], ids=[w for w, _ in BAD_OUTLINES])
@pytest.mark.parametrize("address", ["/map/selected", "/map/selected.csv"])
def test_a_bad_outline_of_a_form(server: TestClient, address: str, body: str) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    sentence_of(server.post(address, content=body.encode(), headers=kind | HTMX), False)


@pytest.mark.parametrize(
    "query",
    [u.partition("?")[2] for _, u in PAGES if u.startswith("/calibrate?")],
    ids=[w for w, u in PAGES if u.startswith("/calibrate?")],
)
def test_a_bad_form_does_not_start_a_calibration(server: TestClient, query: str) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = server.post("/calibrate/run", content=query.encode(), headers=kind)
    assert answer.status_code in (404, 422), answer.text[:1000]
    assert answer.text.count('id="problem"') == 1
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "body",
    [b"layer=-2&\xff\xfe\x00", b"layer=-2&" + b"a=1&" * 50_000, b"=" * 100_000, b"layer=\x00",
     b"set=%ed%a0%80", b"{}=1", multipart(b"text,label\na,b\n") + b"&layer=-2"],
    ids=["no UTF-8", "50,000 fields", "equals signs", "NUL", "a surrogate", "JSON", "a file"],
)  # fmt: skip
def test_a_body_of_rubbish_does_not_start_a_calibration(server: TestClient, body: bytes) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    for address in ("/calibrate/run", f"/calibrate/{NOBODY}/competitors"):
        answer = server.post(address, content=body, headers=kind)
        assert answer.status_code in (404, 422), answer.text[:1000]
        assert answer.text.count('id="problem"') == 1


@pytest.mark.parametrize(
    ("name", "content"), [(n, c) for _, n, c in BAD_FILES], ids=[w for w, _, _ in BAD_FILES]
)
@pytest.mark.parametrize("address", ["/api/v1/sets", "/calibrate/sets"])
def test_a_bad_file(server: TestClient, address: str, name: str, content: bytes) -> None:
    answer = server.post(
        address, content=multipart(content, name), headers={"Content-Type": FORM} | HTMX
    )
    assert 400 <= answer.status_code < 500, answer.text[:1000]
    assert "Traceback" not in answer.text
    if address.startswith("/api/"):
        sentence_of(answer, True)
    else:
        assert "<img src" not in answer.text


@pytest.mark.parametrize(
    ("kind", "body"), [(k, b) for _, k, b in BAD_FORMS], ids=[w for w, _, _ in BAD_FORMS]
)
# The form's parser leaves the file of a part that never ended to the garbage collector.
@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")
@pytest.mark.parametrize("address", ["/api/v1/sets", "/calibrate/sets"])
def test_a_bad_form(server: TestClient, address: str, kind: str, body: bytes) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = server.post(address, content=body, headers=headers)
    assert 400 <= answer.status_code < 500, answer.text[:1000]
    assert "Traceback" not in answer.text
    if address.startswith("/api/"):
        sentence_of(answer, True)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "OPTIONS", "BREW"])
@pytest.mark.parametrize(
    "path",
    ["/map", "/calibrate", "/jobs", "/api/v1/map", "/api/v1/map/select", "/api/v1/map/umap",
     "/api/v1/vocabulary", "/api/v1/sets", "/api/v1/calibrations", "/api/v1/jobs",
     f"/api/v1/jobs/{NOBODY}", f"/api/v1/sets/{NOBODY}", f"/api/v1/calibrations/{NOBODY}"],
)  # fmt: skip
def test_another_method_of_a_new_address(server: TestClient, method: str, path: str) -> None:
    answer = server.request(method, path)
    assert answer.status_code == 405
    sentence_of(answer, path.startswith("/api/"))


@pytest.mark.parametrize("path", ["/api/v1/map/umap", "/api/v1/map/select", "/api/v1/sets"])
@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
def test_a_write_from_another_site(server: TestClient, path: str, site: str) -> None:
    answer = server.post(path, headers={"Sec-Fetch-Site": site})
    assert answer.status_code == 403
    sentence_of(answer, True)


@pytest.mark.parametrize("spelling", CROSSED, ids=[repr(s)[:40] for s in CROSSED])
def test_an_id_that_is_a_path_finds_nothing(server: TestClient, spelling: str) -> None:
    app: Any = server.app
    folder: Path = app.state.settings.data_folder
    (folder.parent / "beside").mkdir(exist_ok=True)
    planted = folder.parent / "beside" / "manifest.json"
    planted.write_text("planted")
    once = quote(spelling, safe="").replace(".", "%2E")
    for encoded, (method, address) in itertools.product((once, quote(once)), WITH_IDS):
        url = address.format(encoded)
        body = {"json": {}} if method == "POST" and url.startswith("/api/") else {}
        answer = server.request(method, url, **body)  # type: ignore[arg-type]
        assert answer.status_code in (400, 404, 405, 422) or (
            "?prompt" in url and answer.status_code == 200
        ), (url, answer.status_code, answer.text[:500])
        assert "planted" not in answer.text
        if url.startswith("/api/"):
            sentence_of(answer, True)
    assert planted.read_text() == "planted"


def test_the_corpus_is_as_large_as_promised_for_each_part() -> None:
    assert len(BAD_MAPS) + len(BAD_PARTS) + len(BAD_POLYGONS) + len(BODIES) >= 100
    assert len(BAD_TASKS) + len(BODIES) >= 100
    assert len(BAD_FILES) + len(BAD_FORMS) + len(CROSSED) >= 100
    assert len(PAGES) >= 100
    assert len(set(CROSSED)) >= 60


def test_a_file_with_bad_rows_keeps_the_rest_and_names_the_lines(server: TestClient) -> None:
    rows = ["text,label", "fine,a", f"{MARK * 600},a", "one cell", '"two\nlines",b', "x,y,z"]
    answer = server.post(
        "/api/v1/sets", content=multipart("\n".join(rows).encode()), headers={"Content-Type": FORM}
    )
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert (found["rows"], found["problem_count"]) == (2, 3)
    assert [one["line"] for one in found["problems"]] == [3, 4, 7]
    assert len(answer.content) <= 8192
    assert MARK not in json.dumps(found["problems"])
    assert server.delete(f"/api/v1/sets/{found['id']}").status_code == 204


def test_after_all_that_good_questions_are_answered(server: TestClient) -> None:
    assert server.get("/map", params={"prompt": PROMPT}).status_code == 200
    assert server.get("/calibrate").status_code == 200
    assert server.get("/api/v1/map/points").status_code == 200
