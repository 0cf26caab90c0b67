"""The page Readings, its job and its JSON: measured once, shown with controls, used by a trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from asgi import BASE, PROMPT, load_tiny, settings_with
from starlette.testclient import TestClient
from waiting import until

from app.main import create_app
from app.readings.page import dial_sentence, lens_sentence
from engine import LatentSpace
from engine.lenses.kind import Lens
from engine.trace.dial import DialCurve, DialRow

QUERY = {"prompt": PROMPT, "lens": "linear", "geometry": "matmul", "frame": "head"}


@pytest.mark.slow
def test_what_is_missing_is_measured_by_a_job_and_shown(model_folder: Path, tmp_path: Path) -> None:
    space = load_tiny(model_folder, tmp_path)  # of its own: others are tested as not measured
    with TestClient(create_app(settings_with(), space), base_url=BASE) as client:
        _measured_and_shown(client, space)


def _measured_and_shown(client: TestClient, space: LatentSpace) -> None:
    before = client.get("/readings")
    assert "Measure this model" in before.text
    assert client.get("/api/v1/readings").json()["lenses"] == {}
    refused = client.get("/api/v1/trace", params=QUERY)
    assert refused.status_code == 422
    assert "not fitted to this model yet" in refused.text
    shown = client.get("/", params=QUERY)
    assert shown.status_code == 422
    assert "on the page Readings" in shown.text

    started = client.post("/readings/measure", follow_redirects=False)
    assert started.status_code == 303
    job = "/api/v1" + started.headers["location"]
    until(lambda: client.get(job).json()["finished"], lambda: client.get(job).json())
    assert client.get(job).json()["state"] == "done"

    after = client.get("/readings").text
    assert "Measure this model" not in after
    for words in ("The linear lens", "from head rows to semantic bases", "random (control)"):
        assert words in after
    found = client.get("/api/v1/readings").json()
    assert set(found["temperatures"]) >= {"output", "dial", "random"}
    layers = space.model.blocks + 1
    assert len(found["lenses"]["linear"]["layers"]) == layers
    assert all(len(row["agreement"]) == layers for row in found["dial"]["rows"])
    trace = client.get("/api/v1/trace", params=QUERY).json()
    assert trace["options"]["lens"] == "linear"
    plain = client.get("/api/v1/trace", params=QUERY | {"lens": "none"}).json()
    tops, bare = ([cell["top"] for cell in one["cells"]] for one in (trace, plain))
    count = len(trace["tokens"])
    assert tops[-count:] == bare[-count:], "the last layer is the model's own"
    assert tops[0] != bare[0]


def test_a_dial_is_chosen_on_every_way_in(client: TestClient) -> None:
    asked = {"prompt": PROMPT, "frame": "dial", "alpha": 0.5}
    dial = client.get("/api/v1/trace", params=asked).json()
    tight = client.get("/api/v1/trace", params={"prompt": PROMPT, "frame": "tight"}).json()
    assert dial["options"]["alpha"] == 0.5
    assert [c["top"] for c in dial["cells"]] == [c["top"] for c in tight["cells"]]
    page = client.get("/", params=asked)
    assert page.status_code == 200
    assert "dial at α 0.5" in page.text
    # A dial that stands in the form while another frame is chosen is no mistake on the page ...
    assert client.get("/", params=asked | {"frame": "tight"}).status_code == 200
    # ... and one in the JSON.
    wrong = client.get("/api/v1/trace", params=asked | {"frame": "tight"})
    assert wrong.status_code == 422
    assert "lpha belongs to the frame dial" in wrong.text


def curve(best: float, bases: float, control: float, n: int = 200) -> DialCurve:
    def row(alpha: float | None, share: float) -> DialRow:
        return DialRow(alpha, (0.0, share), ((0.0, 0.1), (share - 0.05, share + 0.05)))

    return DialCurve("m", n, (row(0.0, 0.2), row(0.1, best), row(1.0, bases), row(None, control)))


def test_the_sentence_of_the_dial_is_withheld_where_chance_does_as_well() -> None:
    said = dial_sentence(curve(0.5, 0.1, 0.0))
    assert "α 0.1 names this model's own next token most often" in said
    assert "semantic bases" in said
    assert "semantic bases" not in dial_sentence(curve(0.5, 0.45, 0.0))
    assert "nothing is said" in dial_sentence(curve(0.22, 0.1, 0.2))


def test_the_sentence_of_a_lens_is_withheld_where_its_control_does_as_well() -> None:
    import torch

    from engine.lenses.kind import LensRow

    rows = tuple(LensRow(i, 9.0, 2.0, 4.0, 0.1, 0.5, 0.2) for i in range(4))
    found = Lens("linear", "m", torch.zeros(3, 2, 2), torch.zeros(3, 2), rows, 100, 50, "text", 1.0)
    assert "falls from 9.00 to 2.00 nats (another layer's map: 4.00)" in lens_sentence(found)
    worse = tuple(replace(row, kl_shuffled=1.5) for row in rows)
    assert "gains nothing over its controls" in lens_sentence(replace(found, rows=worse))
