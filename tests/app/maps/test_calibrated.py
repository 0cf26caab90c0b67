"""A saved calibration on the map: over HTTP, on the page and on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from asgi import BASE, PROMPT, load_tiny, settings_with
from calibration_calls import follow, question, sentences, upload
from map_sources import source, turns
from parsed import Parsed, page
from starlette.testclient import TestClient

from app.calibrate.text_sets import example_text_set
from app.cli import main as cli
from app.main import create_app
from app.maps.calibrated import fingerprint_of
from app.maps.question import MapQuery
from engine import LatentSpace
from engine.calibration.labelled.known import example_sets
from engine.calibration.training.artifact import load_calibration, read_info
from engine.maps import CalibrationName, MapOptions

MAP = "/api/v1/map"
HERE = {"prompt": PROMPT, "preprocessing": "raw"}


@pytest.fixture(scope="module")
def site(model_folder: Path, cache: Path) -> Iterator[TestClient]:
    """An app with a calibration of λ that was trained through it."""
    app = create_app(settings_with(), load_tiny(model_folder, cache))
    with TestClient(app, base_url=BASE) as client:
        yield client


@pytest.fixture(scope="module")
def rows(site: TestClient) -> str:
    return str(upload(site, sentences()).json()["id"])


def trained(site: TestClient, rows: str, **more: Any) -> str:
    job = site.post("/api/v1/calibrations", json=question(rows, **more)).json()["id"]
    view = follow(site, job)
    assert view["state"] == "done", view["problem"]
    return str(view["result"])


@pytest.fixture(scope="module")
def saved(site: TestClient, rows: str) -> str:
    return trained(site, rows, name="First")


def folder(site: TestClient, id_: str) -> Path:
    data: Path = site.app.state.settings.data_dir  # type: ignore[attr-defined]
    return data / "calibrations" / id_ / "calibration"


def get(site: TestClient, **fields: Any) -> Any:
    answer = site.get(MAP, params={**HERE, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def states(found: Any) -> np.ndarray:
    """The places of the prompt's tokens."""
    kinds = np.array(found["kind"])
    places: np.ndarray = np.array(found["coordinates"])[kinds == 2]
    return places


def test_the_states_on_the_map_are_what_the_calibration_makes_of_them(
    site: TestClient, saved: str, reference: LatentSpace
) -> None:
    """By another road: λ loaded from the disk, the axes taken from a map that knows no λ."""
    own = load_calibration(folder(site, saved), reference)
    ids = reference.tokenize(PROMPT).ids
    states_ = reference.model.read_out(reference.model.states(ids).raw[-1])
    plain = reference.maps.map(MapOptions(prompt=PROMPT, preprocessing="raw"))
    assert plain.axes is not None
    after = get(site, calibration=saved)
    before = get(site, calibration=saved, side="before")
    wanted = plain.axes.place(own.apply(states_).numpy())
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(states(after), wanted, atol=1e-4 * scale)
    np.testing.assert_allclose(states(before), plain.coordinates[-len(ids) :], atol=1e-4 * scale)
    assert np.abs(states(after) - states(before)).max() > 0.01 * scale
    assert after["range"] == before["range"]
    assert "after the calibration “First”" in after["title"]
    told = after["options"]["calibration"]
    assert told == {
        "fingerprint": fingerprint_of(read_info(folder(site, saved))),
        "name": "First",
        "id": saved,
    }
    assert len({after["fingerprint"], before["fingerprint"], get(site)["fingerprint"]}) == 3
    line = site.get(MAP, params={**HERE, "calibration": saved, "format": "csv"}).text.split("\n")[0]
    assert f"after calibration First ({told['fingerprint']})" in line


@pytest.mark.slow
def test_every_address_of_a_map_takes_a_calibration(site: TestClient, saved: str) -> None:
    fields = {**HERE, "calibration": saved}
    last = get(site, calibration=saved)["n"] - 1
    for path, more in (
        ("/points", {}),
        ("/meta", {}),
        ("/quality", {}),
        ("/colour", {"by": "prediction"}),
        ("/neighbours", {"index": last}),
        ("/cka", {}),
        ("/search", {"text": "cat"}),
        ("/changes", {"to": 0}),
    ):
        answer = site.get(MAP + path, params={**fields, **more})
        assert answer.status_code == 200, (path, answer.text)
    triangle = {"polygon": [[-9e5, -9e5], [9e5, -9e5], [0, 9e5]]}
    assert site.post(f"{MAP}/select", params=fields, json=triangle).status_code == 200
    for format in ("npz", "html", "svg", "png"):
        answer = site.get(MAP, params={**fields, "format": format})
        assert answer.status_code == 200, (format, answer.text)


def test_what_moved_between_before_and_after(site: TestClient, saved: str) -> None:
    answer = site.get(f"{MAP}/changes", params={**HERE, "calibration": saved})
    assert answer.status_code == 200
    found = answer.json()
    a, b = get(site, calibration=saved, side="before"), get(site, calibration=saved)
    first, second = (np.array(one["coordinates"]) for one in (a, b))
    radius = np.sqrt(((first - first.mean(0)) ** 2).sum(1).mean())
    by_hand = np.linalg.norm(second - first, axis=1) / radius
    moved = by_hand[np.array(a["kind"]) == 2]
    assert found["median"] == pytest.approx(float(np.median(moved)), rel=1e-3)
    assert found["movers"][0]["displacement"] == pytest.approx(moved.max(), rel=1e-3)
    assert found["sentence"].startswith("From before to after the calibration “First”")
    answer = site.get(f"{MAP}/changes", params=HERE)
    assert answer.status_code == 422
    assert "name a calibration" in answer.json()["error"]["sentence"]


@pytest.mark.parametrize("target", ["head", "layers:1"])
def test_whatever_was_trained_can_be_drawn(
    site: TestClient, rows: str, target: str, reference: LatentSpace
) -> None:
    """The rows alone: the same picture twice, and that is said. Layers: the tuned model's."""
    id_ = trained(site, rows, target=target, epochs=2, learning_rate=0.01)
    a, b = get(site, calibration=id_, side="before"), get(site, calibration=id_)
    if target == "head":
        assert a["coordinates"] == b["coordinates"]
        assert any("no state" in note for note in b["warnings"])
        return
    from engine.calibration.training.tuning import tuned_model

    own = load_calibration(folder(site, id_), reference)
    twin = tuned_model(own, reference.model)
    raw = twin.states(reference.tokenize(PROMPT).ids).raw[-1]
    plain = reference.maps.map(MapOptions(prompt=PROMPT, preprocessing="raw"))
    assert plain.axes is not None
    wanted = plain.axes.place(twin.read_out(raw).detach().numpy())
    np.testing.assert_allclose(states(b), wanted, atol=1e-3 * np.abs(wanted).max())
    assert np.abs(states(b) - states(a)).max() > 0


def test_another_models_or_a_missing_calibration_is_a_sentence(
    site: TestClient, saved: str
) -> None:
    store = site.app.state.sets.store  # type: ignore[attr-defined]
    record = store.record("calibrations", saved)
    foreign = {**record.summary, "model_fingerprint": "0" * 32, "model_name": "another"}

    def write(place: Path) -> Any:
        (place / "run.json").write_text("{}")
        return foreign

    other = store.publish("calibrations", write).id
    answer = site.get(MAP, params={**HERE, "calibration": other})
    assert answer.status_code == 409
    assert "belongs to another" in answer.json()["error"]["sentence"]
    refused = site.get(f"/map?calibration={other}")
    assert refused.status_code == 422
    assert "belongs to another" in Parsed(refused.text).elements[0].text
    # It is not offered either.
    plain = page(site, "/map")
    assert f"calibration:{other}" not in {e.attrs.get("value") for e in plain.all("option")}
    store.delete("calibrations", other)
    for id_ in (other, "f" * 24):
        answer = site.get(MAP, params={**HERE, "calibration": id_})
        assert answer.status_code == 422
        assert "no saved calibration" in answer.json()["error"]["sentence"]
    for bad in ("../x", "x" * 24, "f" * 60):
        assert site.get(MAP, params={**HERE, "calibration": bad}).status_code == 422
    answer = site.get(MAP, params={**HERE, "calibration": saved, "state": "raw"})
    assert "final norm" in answer.json()["error"]["sentence"]


def test_the_page_lays_before_and_after_side_by_side(site: TestClient, saved: str) -> None:
    plain = page(site, "/map")
    offered = {e.attrs.get("value"): e.text for e in plain.all("option")}
    assert offered[f"calibration:{saved}"] == "before / after calibration: First"
    assert offered[saved] == "First"
    with turns(site) as seen:
        got = page(site, f"/map?compare=calibration%3A{saved}&panel=changes")
    assert len(seen) == 1
    left, right = source(got, "a"), source(got, "b")
    assert "side=before" in left["query"]
    assert f"calibration={saved}" in left["query"]
    assert "side" not in right["query"]
    assert f"calibration={saved}" in right["query"]
    assert left["scale"] == right["scale"]
    axes = [one["figure"]["layout"]["xaxis"]["range"] for one in (left, right)]
    assert axes[0] == axes[1]
    assert "before the calibration “First”" in got.elements[0].text
    assert "after the calibration “First”" in got.elements[0].text
    assert "What moved between before and after the calibration" in got.elements[0].text
    assert "From before to after the calibration “First”" in got.elements[0].text
    part = site.get("/map/changes", params={"compare": f"calibration:{saved}", "prompt": PROMPT})
    assert part.status_code == 200
    assert "From before to after" in part.text
    alone = page(site, f"/map?calibration={saved}")
    assert "after the calibration “First”" in alone.elements[0].text
    assert not [e for e in alone.all("section") if e.attrs.get("data-panel") == "b"]


@pytest.mark.parametrize("part", ["quality", "layers", "changes"])
def test_each_part_is_a_page_of_its_own_where_no_script_asks(site: TestClient, part: str) -> None:
    got = page(site, f"/map/{part}?prompt=The+cat&compare=layer%3A1")
    assert len(got.all("h1")) == 1


def test_the_question_of_the_two_pictures() -> None:
    query = MapQuery.model_validate({"compare": "calibration:" + "a" * 24, "layer": 2})
    left, right = query.question(), query.beside()
    assert right is not None
    assert (left.calibration, left.side) == ("a" * 24, "before")
    assert (right.calibration, right.side) == ("a" * 24, "after")
    assert left.model_copy(update={"side": "after"}) == right
    with pytest.raises(ValueError, match="compare"):
        MapQuery.model_validate({"compare": "calibration:../../etc"})


@pytest.mark.slow
def test_the_command_line_draws_and_verifies_with_a_folder(
    site: TestClient, saved: str, model_folder: Path, tmp_path: Path, capfdbinary: Any
) -> None:
    where = ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]
    given = ["--calibration", str(folder(site, saved))]
    out = tmp_path / "map.json"
    question_ = ["--prompt", PROMPT, "--preprocessing", "raw", "--out", str(out)]
    assert cli.main(["map", *question_, *given, *where]) == 0
    there = json.loads(out.read_bytes())
    here = get(site, calibration=saved)
    np.testing.assert_allclose(there["coordinates"], here["coordinates"], atol=1e-4)
    assert there["fingerprint"] == here["fingerprint"]  # whatever it is called
    capfdbinary.readouterr()
    assert cli.main(["verify", str(out), *given, *where]) == 0
    assert b"the same picture" in capfdbinary.readouterr().out
    assert cli.main(["verify", str(out), *where]) == 1
    assert b"cannot be computed again" in capfdbinary.readouterr().out
    assert cli.main(["map", "--calibration", str(tmp_path), *question_, *where]) == 2
    assert b"there is no calibration" in capfdbinary.readouterr().err


def test_an_example_set_is_read_through_its_template(site: TestClient) -> None:
    """As a calibration reads it; the point is called by its sentence."""
    example = example_sets()["topics"]
    found = example_text_set("topics")
    assert found.texts == example.texts
    assert found.prompts[5] == f"Text: {example.texts[5]}\nTopic:"
    assert found.read == found.prompts
    # This model reads 64 tokens: the sentence names the text that has more.
    answer = site.get(MAP, params={"vocabulary": "none", "texts": "topics"})
    assert answer.status_code == 422
    sentence = answer.json()["error"]["sentence"]
    assert re.match(r"text [\d,]+ of 436 in 'topics' \(“", sentence, re.IGNORECASE), sentence


def test_principal_axes_can_be_asked_for(site: TestClient) -> None:
    answer = site.get(f"{MAP}/meta", params={"principal": 12, "projection": "shared"})
    assert answer.json()["options"]["principal"] == 12
    assert site.get(f"{MAP}/meta", params={"principal": 1}).status_code == 422
    got = page(site, "/map?principal=12")
    (field,) = [e for e in got.elements if e.attrs.get("id") == "principal"]
    assert field.attrs["value"] == "12"


def test_the_fingerprint_follows_weights_and_settings() -> None:
    info = {"weights_digest": "a", "options": {"k": 1}, "model": {"fingerprint": "m"}, "extra": 1}
    one = fingerprint_of(info)
    assert fingerprint_of({**info, "extra": 2}) == one
    assert fingerprint_of({**info, "weights_digest": "b"}) != one
    assert fingerprint_of({**info, "options": {"k": 2}}) != one
    assert CalibrationName(fingerprint=one).label == one[:12]


def test_the_best_view_of_a_calibration(site: TestClient, rows: str, saved: str) -> None:
    """Two labels span no plane of their own, so the shared frame is taken; the set is its own."""
    answer = site.get(f"/map/calibration/{saved}", follow_redirects=False)
    assert answer.status_code == 303
    fields = parse_qs(urlsplit(answer.headers["location"]).query, keep_blank_values=True)
    assert fields["compare"] == [f"calibration:{saved}"]
    assert fields["texts"] == [rows]
    assert fields["vocabulary"] == ["none"]
    got = page(site, f"/map/calibration/{saved}")
    assert len([e for e in got.all("section") if "data-map" in e.attrs]) == 2
    (chip,) = [e for e in got.all("a", class_="chip") if "aria-current" in e.attrs]
    assert chip.text == "Before and after calibration"
    missing = site.get(f"/map/calibration/{'f' * 24}")
    assert missing.status_code == 422
    assert "no saved calibration" in Parsed(missing.text).elements[0].text


def test_three_labels_span_the_plane_of_the_view(site: TestClient) -> None:
    """The words of the labels, where they are single tokens, else the ids that stand for them."""
    body = sentences() + "".join(f"The mat {i} is flat,mat\n" for i in range(30))
    rows = str(upload(site, body).json()["id"])
    id_ = trained(site, rows, epochs=1)
    answer = site.get(f"/map/calibration/{id_}", follow_redirects=False)
    fields = parse_qs(urlsplit(answer.headers["location"]).query, keep_blank_values=True)
    assert fields["projection"] == ["selection"]
    groups = dict(part.split("=") for part in fields["select"][0][len("words:") :].split(";"))
    assert set(groups) == {"cat", "dog", "mat"}
    info = read_info(folder(site, id_))
    meta = site.get(f"{MAP}/meta", params={"select": fields["select"][0]}).json()
    (run,) = meta["kinds"]
    assert sorted(run["rows"]) == sorted(one["id_used"] for one in info["task"]["labels"])


def test_texts_are_read_as_the_calibration_reads_them(
    site: TestClient, rows: str, saved: str, reference: LatentSpace
) -> None:
    """An uploaded set has no template of its own; under a calibration it has that one's."""
    fields = {"vocabulary": "none", "texts": rows, "preprocessing": "raw"}
    plain = site.get(MAP, params=fields).json()
    before = site.get(MAP, params={**fields, "calibration": saved, "side": "before"}).json()
    axes = reference.maps.map(MapOptions(preprocessing="raw")).axes
    assert axes is not None
    text = plain["options"]["texts"]["texts"][4]
    for found, prompt in ((plain, text), (before, f"{text} is a")):
        raw = reference.model.states(reference.tokenize(prompt).ids).raw[-1, -1:]
        wanted = axes.place(reference.model.read_out(raw).numpy())[0]
        np.testing.assert_allclose(
            found["coordinates"][4], wanted, atol=1e-3 * np.abs(wanted).max()
        )
    assert before["options"]["texts"]["template"] == "{text} is a"
    assert "“{text} is a”" in before["how_chosen"]
