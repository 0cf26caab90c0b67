"""A fixed corpus of bad requests over every address: always 4xx, one sentence, nothing repeated."""

from __future__ import annotations

import json

import pytest
from asgi import PROMPT
from bad_bodies import BODIES, MARK, sentence_of
from starlette.testclient import TestClient

READINGS = ("/api/v1/trace", "/api/v1/trace.csv", "/api/v1/agreement", "/api/v1/curves",
    "/api/v1/cost")  # fmt: skip

# (what, query) for every address that reads a prompt; the query replaces `prompt=…`.
BAD_READINGS: list[tuple[str, str]] = [
    ("no prompt", ""),
    ("empty prompt", "prompt="),
    ("NUL in the prompt", "prompt=a%00b"),
    ("bytes that are no UTF-8", "prompt=%ff%fe"),
    ("a lone surrogate in UTF-8's clothes", "prompt=%ed%a0%80"),
    ("too many characters", "prompt=" + MARK + "x" * 32_000),
    ("too many tokens", "prompt=" + "x%20y%20" * 400),
    ("unknown geometry", f"prompt=a&geometry={MARK}"),
    ("empty geometry", "prompt=a&geometry="),
    ("unknown frame", f"prompt=a&frame={MARK}"),
    ("unknown state", f"prompt=a&state={MARK}"),
    ("k is 0", "prompt=a&k=0"),
    ("k is negative", "prompt=a&k=-5"),
    ("k too large", "prompt=a&k=51"),
    ("k is no number", f"prompt=a&k={MARK}"),
    ("k is a fraction", "prompt=a&k=1.5"),
    ("k is NaN", "prompt=a&k=nan"),
    ("k has 4000 digits", "prompt=a&k=" + "9" * 4000),
    ("k has 5000 digits", "prompt=a&k=" + "9" * 5000),
    ("temperature is NaN", "prompt=a&temperature=nan"),
    ("temperature is infinite", "prompt=a&temperature=inf"),
    ("temperature is 1e999", "prompt=a&temperature=1e999"),
    ("temperature is 0", "prompt=a&temperature=0"),
    ("temperature is negative", "prompt=a&temperature=-1"),
    ("temperature is text", f"prompt=a&temperature={MARK}"),
    ("unknown layer", "prompt=a&layers=99"),
    ("layers that are no range", f"prompt=a&layers={MARK}"),
    ("layers with a step of 0", "prompt=a&layers=0:3:0"),
    ("no layers left", "prompt=a&layers=3:1"),
    ("layers with 4000 digits", "prompt=a&layers=" + "9" * 4000),
    ("a layer of 38 digits", "prompt=a&layers=" + "9" * 38),
    ("unknown position", "prompt=a&positions=99"),
    ("positions that are no range", "prompt=a&positions=1:2:3:4"),
    ("layers with NUL", "prompt=a&layers=%00"),
    ("layers in letters of another script", "prompt=a&layers=%d7%90"),
    ("bos is neither", f"prompt=a&bos={MARK}"),
    ("chat is no truth", f"prompt=a&chat={MARK}"),
    ("words_only is no truth", "prompt=a&words_only=2"),
    ("centred is no truth", "prompt=a&centred="),
    ("an unknown field", f"prompt=a&{MARK}={MARK}"),
    ("a field named like a method", "prompt=a&__class__=x"),
]
OTHERS: list[tuple[str, str]] = [
    ("cell without layer", "/api/v1/cell?prompt=a&position=0"),
    ("cell with unknown layer", "/api/v1/cell?prompt=a&layer=99&position=0"),
    ("cell with layer below -1", "/api/v1/cell?prompt=a&layer=-2&position=0"),
    ("cell with unknown position", "/api/v1/cell?prompt=a&layer=0&position=99"),
    ("cell with a huge layer", "/api/v1/cell?prompt=a&layer=" + "9" * 4000),
    ("cell with text for a layer", f"/api/v1/cell?prompt=a&layer={MARK}"),
    ("cell without prompt", "/api/v1/cell?layer=0"),
    ("curves of no numbers", f"/api/v1/curves?prompt=a&ids={MARK}"),
    ("curves of an unknown id", "/api/v1/curves?prompt=a&ids=999999999"),
    ("curves of too many", "/api/v1/curves?prompt=a&ids=" + ",".join("1" * 40)),
    ("curves of nothing", "/api/v1/curves?prompt=a&ids="),
    ("bases without token", "/api/v1/bases"),
    ("bases of an empty token", "/api/v1/bases?token="),
    ("bases of an unknown token", f"/api/v1/bases?token={MARK}"),
    ("bases of an unknown id", "/api/v1/bases?token=%23999999999"),
    ("bases of an id of 300 digits", "/api/v1/bases?token=%23" + "9" * 300),
    ("bases of an id of 5000 digits", "/api/v1/bases?token=%23" + "9" * 5000),
    ("bases of NUL", "/api/v1/bases?token=%00"),
    ("bases in an unknown frame", f"/api/v1/bases?token=a&frame={MARK}"),
    ("bases with too large k", "/api/v1/bases.csv?token=a&k=51"),
    ("bases.csv of an unknown token", f"/api/v1/bases.csv?token={MARK}"),
    ("bases with an unknown field", f"/api/v1/bases?token=a&{MARK}=1"),
    ("an unknown frame", f"/api/v1/frames/{MARK}"),
    ("a frame that is a path", "/api/v1/frames/..%2f..%2fetc%2fpasswd"),
    ("a frame with NUL", "/api/v1/frames/%00"),
    ("tokens without search", "/api/v1/tokens"),
    ("tokens with a huge limit", "/api/v1/tokens?search=a&limit=100000"),
    ("tokens with a long search", "/api/v1/tokens?search=" + "x" * 5000),
    ("tokens with NUL", "/api/v1/tokens?search=%00"),
    ("an unknown route of the API", f"/api/v1/{MARK}"),
    ("an unknown page", f"/{MARK}"),
    ("a name of 5000 characters", "/" + "x" * 5000),
    ("source: a module that is not ours", "/method/source/os"),
    ("source: a path", "/method/source/..%2f..%2fapp%2fcli"),
    ("source: a dotted name", "/method/source/frames.__builtins__"),
    ("source: 5000 characters", "/method/source/" + "x" * 5000),
    ("static files: out of the folder", "/static/../app/main.py"),
    ("static files: out of the folder, encoded", "/static/%2e%2e/app/main.py"),
    ("static files: out of the folder, twice encoded", "/static/%252e%252e/app/main.py"),
    ("static files: an absolute path", "/static//etc/passwd"),
    ("static files: NUL", "/static/%00"),
    ("static files: a folder", "/static/css"),
    ("static files: nothing", "/static/"),
    ("static files: 5000 characters", "/static/" + "x" * 5000),
    ("static files: backslashes", "/static/..\\..\\app\\main.py"),
    ("static files: a surrogate", "/static/%ed%a0%80"),
]
PAGES: list[tuple[str, str]] = [
    *((f"the trace page: {what}", f"/?{query}") for what, query in BAD_READINGS
      if what not in ("no prompt", "empty geometry", "centred is no truth")
    ),
    ("the bases page: an unknown token", f"/bases?token={MARK}"),
    ("the bases page: an unknown id", "/bases?token=%23999999999"),
    ("the bases page: NUL", "/bases?token=%00"),
    ("the bases page: no UTF-8", "/bases?token=%ff"),
    ("the bases page: unknown frame", f"/bases?token=a&frame={MARK}"),
    ("the bases page: k of 4000 digits", "/bases?token=a&k=" + "9" * 4000),
]  # fmt: skip


QUESTIONS = [
    pytest.param(path, query, id=f"{path.rpartition('/')[2]}: {what}")
    for path in READINGS
    for what, query in BAD_READINGS
    # A forecast is for all positions; which of them are read is not looked at.
    if not (path == "/api/v1/cost" and "positions" in query)
]


@pytest.mark.parametrize(("path", "query"), QUESTIONS)
def test_a_bad_question_about_a_prompt(shared_client: TestClient, path: str, query: str) -> None:
    sentence_of(shared_client.get(f"{path}?{query}"), True)


@pytest.mark.parametrize("url", [u for _, u in OTHERS], ids=[w for w, _ in OTHERS])
def test_a_bad_address_or_question(shared_client: TestClient, url: str) -> None:
    sentence_of(shared_client.get(url), url.startswith("/api/"))


@pytest.mark.parametrize("url", [u for _, u in PAGES], ids=[w for w, _ in PAGES])
@pytest.mark.parametrize("fragment", [False, True], ids=["page", "fragment"])
def test_a_bad_question_to_a_page(shared_client: TestClient, url: str, fragment: bool) -> None:
    answer = shared_client.get(url, headers={"HX-Request": "true"} if fragment else {})
    assert 400 <= answer.status_code < 500, answer.text[:500]
    assert answer.headers["content-type"].startswith("text/html")
    assert "Traceback" not in answer.text
    # htmx takes what is under this name, out of a fragment or out of a page.
    assert answer.text.count('id="problem"') == 1
    if not fragment:
        assert "<html" in answer.text


@pytest.mark.parametrize("body", [b for _, b in BODIES], ids=[w for w, _ in BODIES])
def test_a_bad_body(shared_client: TestClient, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    sentence_of(shared_client.post("/api/v1/trace", content=body, headers=headers), True)


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
     "multipart/form-data; boundary=x", "application/xml", "application/json5x", "nonsense"],
)  # fmt: skip
def test_a_body_of_another_type(shared_client: TestClient, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    body = json.dumps({"prompt": PROMPT}).encode()
    sentence_of(shared_client.post("/api/v1/trace", content=body, headers=headers), True)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "BREW"])
@pytest.mark.parametrize("path", ["/", "/bases", "/api/v1/trace", "/api/v1/model", "/livez"])
def test_another_method(shared_client: TestClient, method: str, path: str) -> None:
    answer = shared_client.request(method, path)
    assert answer.status_code == 405
    sentence_of(answer, path.startswith("/api/"))


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/", {"GET", "HEAD"}), ("/api/v1/calibrations", {"GET", "HEAD", "POST"}),
     ("/api/v1/jobs/x", {"GET", "HEAD", "DELETE"}), ("/api/v1/map/select", {"POST"}),
     ("/api/v1/calibrations/task", {"POST"}), ("/static/a", {"GET", "HEAD"})],
)  # fmt: skip
def test_what_an_address_takes_is_said_in_full(
    shared_client: TestClient, path: str, methods: set[str]
) -> None:
    answer = shared_client.request("PUT", path)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == methods


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", "9" * 30, "0x10", "5, 5"])
def test_a_content_length_that_is_no_number(shared_client: TestClient, length: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": length}
    answer = shared_client.post("/api/v1/trace", content=b"{}", headers=headers)
    sentence_of(answer, True)


def test_the_corpus_is_not_smaller_than_promised() -> None:
    assert len(BAD_READINGS) + len(OTHERS) + len(BODIES) >= 100


def test_a_sentence_names_both_numbers(shared_client: TestClient) -> None:
    answer = shared_client.get("/api/v1/trace", params={"prompt": "x" * 32_001})
    assert "32000" in answer.json()["error"]["sentence"]
    assert "32001" in answer.json()["error"]["sentence"]


def test_the_name_of_an_unknown_field_is_not_repeated(shared_client: TestClient) -> None:
    asked = shared_client.get("/api/v1/trace", params={"prompt": "a", "plantedname": "plantedtoo"})
    posted = shared_client.post("/api/v1/trace", json={"prompt": "a", "plantedname": "plantedtoo"})
    for answer in (asked, posted):
        assert answer.status_code == 422
        assert "planted" not in answer.text
        assert "does not know" in answer.json()["error"]["sentence"]


def test_after_all_that_a_good_question_is_answered(shared_client: TestClient) -> None:
    answer = shared_client.get("/api/v1/trace", params={"prompt": PROMPT})
    assert answer.status_code == 200
