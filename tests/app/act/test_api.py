"""Actions, causal maps and nudges over the web and on the command line: the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from asgi import PROMPT, TWIN
from same_numbers import assert_same_text
from starlette.testclient import TestClient
from waiting import until

from app.cli import main as cli
from engine import LatentSpace
from engine.interventions.action import Action
from engine.interventions.effect import effect

ACTS: list[tuple[dict[str, Any], list[str]]] = [
    (
        {"steer": "#70", "from": "#75", "layers": "1:3", "dose": 0.5, "frame": "head"},
        ["--steer", "#70", "--from", "#75", "--layers", "1:3", "--dose", "0.5", "--frame", "head"],
    ),
    ({"swap": ["#70", "#75"], "layers": "0"}, ["--swap", "#70", "#75", "--layers", "0"]),
    (
        {"ablate": "#70", "positions": ":", "target": "#71"},
        ["--ablate", "#70", "--positions", ":", "--target", "#71"],
    ),
    ({"zero": "attention", "layers": "2"}, ["--zero", "attention", "--layers", "2"]),
    ({"scale": "mlp", "factor": 2}, ["--scale", "mlp", "--factor", "2"]),
    ({"patch_from": TWIN}, ["--patch-from", TWIN]),
    ({"texts": ["cat", "mat"], "texts_from": ["on"], "absolute": "true", "dose": 2},
     ["--steer-texts", "cat", "mat", "--from-texts", "on", "--absolute", "--dose", "2"]),
    ({"random": 3}, ["--random", "3"]),
]  # fmt: skip


def where(model_folder: Path) -> list[str]:
    return ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]


@pytest.mark.parametrize(("query", "options"), ACTS, ids=[next(iter(q)) for q, _ in ACTS])
def test_an_action_is_the_same_bytes_on_the_command_line(
    shared_client: TestClient,
    model_folder: Path,
    capfdbinary: Any,
    query: dict[str, Any],
    options: list[str],
) -> None:
    answer = shared_client.get("/api/v1/act", params={"prompt": PROMPT, **query})
    assert answer.status_code == 200, answer.text
    status = cli.main(["act", PROMPT, *where(model_folder), *options, "--json"])
    assert status == 0
    assert_same_text(capfdbinary.readouterr().out, answer.content)
    as_json = {k: v == "true" if k == "absolute" else v for k, v in query.items()}
    posted = shared_client.post("/api/v1/act", json={"prompt": PROMPT, **as_json})
    assert posted.content == answer.content


def test_the_contract_of_an_action(shared_client: TestClient, reference: LatentSpace) -> None:
    asked = {"prompt": PROMPT, "steer": "#70", "from": "#75", "layers": "2", "dose": 1}
    found = shared_client.get("/api/v1/act", params=asked).json()
    own = effect(reference, PROMPT, Action(kind="steer", token=70, foil=75, layers="2", dose=1.0))
    for side, answer in (("before", own.before), ("after", own.after)):
        assert found[side]["answer"]["id"] == answer.id
        assert found[side]["answer"]["text"] == answer.text
        assert found[side]["answer"]["probability"] == pytest.approx(answer.probability, rel=1e-5)
    assert found["target"]["id"] == 70
    assert found["target"]["rank_after"] == own.target.rank_after
    assert found["kl"] == pytest.approx(own.kl, rel=1e-4)
    assert [one["kind"] for one in found["controls"]] == ["random"] * 5 + ["opposite", "layer"]
    assert isinstance(found["beyond_controls"], bool)
    assert len(found["moved"]) == reference.model.blocks + 1


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({}, "ame one action"),
        ({"steer": "cat", "zero": "mlp"}, "steer, zero"),
        ({"swap": ["cat"]}, "name both"),
        ({"steer": "cat on the"}, "tokens for this model"),
        ({"steer": "cat", "layers": "7"}, "[0, 3]"),
        ({"steer": "cat", "dose": "1e29"}, "layer 2"),
        ({"steer": "cat", "frame": "head", "alpha": "0.5"}, "lpha belongs"),
        ({"zero": "head"}, "attention"),
    ],
)
def test_a_mistake_is_one_sentence(
    shared_client: TestClient, query: dict[str, Any], words: str
) -> None:
    answer = shared_client.get("/api/v1/act", params={"prompt": PROMPT, **query})
    assert answer.status_code == 422
    sentence = answer.json()["error"]["sentence"]
    assert words in sentence
    assert "\n" not in sentence


@pytest.mark.slow
def test_a_causal_map_is_the_same_bytes_and_a_job_keeps_it(
    client: TestClient, model_folder: Path, capfdbinary: Any
) -> None:
    asked = {"prompt": PROMPT, "twin": TWIN}
    started = client.post("/api/v1/causal", json=asked)
    assert started.status_code == 202, started.text
    job = started.headers["location"]
    until(lambda: client.get(job).json()["finished"], lambda: client.get(job).json())
    assert client.get(job).json()["state"] == "done"
    answer = client.get("/api/v1/causal", params=asked)
    found = answer.json()
    assert set(found["answers"]) == {"prompt", "twin"}
    assert len(found["recovered"]) == len(found["layers"]) == 4
    assert len(found["recovered"][0]) == len(found["positions"])
    assert cli.main(["causal", PROMPT, TWIN, *where(model_folder), "--json"]) == 0
    assert_same_text(capfdbinary.readouterr().out, answer.content)
    refused = client.post("/api/v1/causal", json={"prompt": PROMPT, "twin": f"{PROMPT} and"})
    assert refused.status_code == 422
    assert "as many tokens" in refused.text


@pytest.mark.slow
def test_the_commands_write_for_a_terminal(model_folder: Path, capfd: Any) -> None:
    place = where(model_folder)
    assert cli.main(["act", PROMPT, *place, "--steer", "#70", "--layers", "2"]) == 0
    shown = capfd.readouterr().out
    assert "Steering towards" in shown
    assert shown.count("random direction") == 5
    assert cli.main(["causal", PROMPT, TWIN, *place]) == 0
    assert "recovered: 0 as in" in capfd.readouterr().out
    assert cli.main(["nudge", PROMPT, "#70", *place]) == 0
    assert "of its length along semantic bases" in capfd.readouterr().out
    assert cli.main(["act", PROMPT, *place, "--steer", "cat on"]) == 2
    assert "tokens for this model" in capfd.readouterr().err
