"""The command line: readable, honest about mistakes, and a server that starts and stops."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from asgi import HOSTILE, PROMPT
from waiting import PATIENCE, until

from app.cli import main as cli
from app.model.explorer import load_space
from app.web.export import APOSTROPHE_NOTE


@pytest.fixture
def where(model_folder: Path) -> list[str]:
    return ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]


def test_a_trace_is_a_table_of_layers_and_tokens(
    where: list[str], capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert cli.main(["trace", PROMPT, *where]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("model ")
    assert "geometry cosine" in lines[0]
    assert [line.split()[0] for line in lines if re.match(r" +\d+ ", line)][:4] == list("0123")
    assert any(line.startswith("model   ") for line in lines[1:])
    assert re.fullmatch(r"took \S+ s and \S+ MiB, foretold \S+ s and \S+ MiB", lines[-1])
    assert all(len(line) <= 100 for line in lines)


@pytest.mark.slow
def test_hostile_tokens_do_not_act_on_a_terminal(where: list[str], capfd: Any) -> None:
    for text in HOSTILE:
        assert cli.main(["trace", text, *where]) == 0
        assert cli.main(["bases", "--token", text, *where]) == 0
        out = capfd.readouterr().out
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", out)


def test_bases_without_a_token_is_the_frames_report(where: list[str], capfd: Any) -> None:
    assert cli.main(["bases", *where]) == 0
    out = capfd.readouterr().out
    for name in ("rank", "condition number", "residual", "round trip rate"):
        assert re.search(rf"^{name} +\S", out, re.MULTILINE), name


def test_a_token_has_its_neighbours(where: list[str], capfd: Any) -> None:
    assert cli.main(["bases", "--token", "cat", "--k", "3", *where]) == 0
    out = capfd.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[3:]] == ["1", "2", "3"]


def test_check_is_0_when_green_and_1_when_not(
    where: list[str], capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["check", *where]) == 0
    assert "checks passed" in capfd.readouterr().out
    load = load_space

    def red(settings: Any) -> Any:
        space = load(settings)
        space.self_check = replace(space.self_check, ok=False)
        return space

    monkeypatch.setattr("app.cli.options.load_space", red)
    assert cli.main(["check", *where]) == 1
    assert cli.main(["check", *where, "--json"]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["trace"],
        ["trace", "a", "--geometry", "nearest"],
        ["trace", "a", "--frame", "picture"],
        ["trace", "a", "--k", "0"],
        ["trace", "a", "--k", "51"],
        ["trace", "a", "--k", "x" * 500],
        ["trace", "a", "--k", "9" * 5000],
        ["trace", "a", "--temperature", "nan"],
        ["trace", "a", "--temperature", "-1"],
        ["trace", "a", "--temperature", "hot"],
        ["trace", "a", "--layers", "99"],
        ["trace", "a", "--layers", "abc"],
        ["trace", "a", "--positions", "99"],
        ["trace", ""],
        ["trace", "a\udcffb"],
        ["trace", "x" * 32_001],
        ["trace", "x y " * 500],
        ["trace", "a", "--json", "--csv"],
        ["trace", "a", "--unknown"],
        ["bases", "--token", ""],
        ["bases", "--token", "notatokenofthismodel"],
        ["bases", "--token", "#999999999"],
        ["bases", "--token", "#" + "9" * 5000],
        ["bases", "--k", "0"],
        ["check", "--device", "tpu"],
        ["check", "--dtype", "int3"],
        ["check", "--threads", "none"],
        ["serve", "--port", "99999"],
        ["serve", "--host", "0.0.0.0"],
        ["serve", "--host", "no such host"],
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    where: list[str], capfd: Any, arguments: list[str]
) -> None:
    given = arguments if not arguments or arguments == ["unknown"] else [*arguments]
    if given and given[0] in ("trace", "bases", "check") and len(given) > 1:
        given = [given[0], *where, *given[1:]]
    assert cli.main(given) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("lexiscope: ")
    assert err.count("\n") == 1
    assert err.rstrip().endswith((".", "--help."))
    assert "Traceback" not in err
    assert len(err) < 700


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("MAX_TOKENS", "-5", "LEXISCOPE_MAX_TOKENS: it must be greater than or equal to 1."),
        ("QUEUE_PLACES", "many", "LEXISCOPE_QUEUE_PLACES: it must be a valid integer."),
        (
            "DEVICE",
            "gpu",
            "--device (LEXISCOPE_DEVICE): it must be 'auto', 'cpu', 'cuda' or 'mps'.",
        ),
    ],
)
def test_a_wrong_setting_is_named_as_it_can_be_set(
    monkeypatch: pytest.MonkeyPatch, capfd: Any, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(f"LEXISCOPE_{name}", value)
    assert cli.main(["serve"]) == 2
    assert capfd.readouterr().err == f"lexiscope: {sentence}\n"


@pytest.mark.parametrize("model", ["no/such/folder/at/all", "/dev/null", "../../etc"])
def test_a_model_that_is_not_there_is_a_sentence(capfd: Any, model: str) -> None:
    assert cli.main(["check", "--model", model, "--offline"]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("lexiscope: ")


def test_the_csv_says_what_its_apostrophes_mean(where: list[str], capfd: Any) -> None:
    assert cli.main(["trace", PROMPT, *where, "--csv"]) == 0
    assert APOSTROPHE_NOTE in capfd.readouterr().out.splitlines()[0]


def test_a_taken_port_is_a_sentence(capfd: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--port", str(port)]) == 2
    err = capfd.readouterr().err
    assert f"Port {port}" in err
    assert "--port" in err


@pytest.mark.slow
def test_the_server_says_its_address_answers_and_stops_on_a_signal(
    where: list[str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LEXISCOPE_")}
    environment["LEXISCOPE_DATA_DIR"] = str(tmp_path / "data")
    environment["LEXISCOPE_FIT_LENS"] = environment["LEXISCOPE_MAKE_ATLAS"] = "false"
    with log.open("wb") as errors:
        server = subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", "serve", "--port", "0", *where],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            cwd=Path(cli.__file__).parents[2],
            text=True,
        )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert address, log.read_text()
        with httpx2.Client(base_url=address[0], timeout=PATIENCE) as client:

            def ready() -> bool:
                answer = client.get("readyz")
                assert answer.status_code in (200, 503), answer.text
                assert answer.headers["content-security-policy"]
                return answer.status_code == 200

            until(ready, log.read_text)
            answer = client.get("api/v1/trace?prompt=plantedwords")
            assert answer.status_code == 200
            assert "server" not in answer.headers
        # The longest prompt, percent-encoded, is refused by us and not by the HTTP parser.
        planted = "%F0%9F%98%80" * 31_999
        host, _, port = address[0].removeprefix("http://").rstrip("/").partition(":")
        with closing(http.client.HTTPConnection(host, int(port), timeout=PATIENCE)) as raw:
            raw.request("GET", f"/api/v1/trace?prompt=a{planted}")
            refusal = raw.getresponse()
            assert refusal.status == 422
            assert b"tokens" in refusal.read()
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) in (0, -signal.SIGTERM)
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()
    told = log.read_text()
    assert "Traceback" not in told
    assert "planted" not in told
    assert '"route":"/api/v1/trace"' in told
