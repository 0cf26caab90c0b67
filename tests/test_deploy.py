"""The container files say what the code does: settings, port, user, volumes, exit status."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from waiting import PATIENCE

from app.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "0123456789012345678901234567"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as pairs of an instruction and its argument, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        (name.upper(), rest.strip())
        for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    start = max(n for n, (name, _) in enumerate(found) if name == "FROM")
    return found[start:]


def given(name: str) -> list[str]:
    return [rest for key, rest in last_stage() if key == name]


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in given("ENV") for pair in shlex.split(rest))


def service() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    (one,) = document["services"].values()
    assert isinstance(one, dict)
    return one


def settings_from(pairs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for key, value in pairs.items():
        monkeypatch.setenv(key, value)
    return Settings()


# ---- Dockerfile ----------------------------------------------------------------------------------


def test_every_path_that_is_copied_exists_and_is_sent_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert "*" in ignored
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, f"{source} is not sent to the builder"


def test_the_builder_gets_nothing_else() -> None:
    named = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert named == copied


def test_the_image_runs_the_command_line_with_settings_that_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from app.cli.main import parser

    (command,) = given("CMD")
    program, *arguments = json.loads(command)
    assert program == "lexiscope"
    parsed = vars(parser().parse_args(arguments))
    (port,) = given("EXPOSE")
    assert str(parsed["port"]) == port
    ours = {k: v for k, v in environment().items() if k.startswith("LEXISCOPE_")}
    assert {k.removeprefix("LEXISCOPE_").lower() for k in ours} <= set(Settings.model_fields)
    monkeypatch.setenv("LEXISCOPE_HOST", parsed["host"])
    with pytest.raises(ValidationError, match="LEXISCOPE_TOKEN"):  # no token, no server
        settings_from(ours, monkeypatch)
    made = settings_from(ours | {"LEXISCOPE_TOKEN": TOKEN}, monkeypatch)
    assert made.data_folder == Path("/data")


def test_everything_that_is_written_lies_in_a_volume() -> None:
    (declared,) = given("VOLUME")
    volumes = json.loads(declared)
    assert volumes == ["/data", "/cache"]
    written = {
        k: v for k, v in environment().items() if v.startswith("/") and k != "PATH"
    }  # every path of the environment but the programs
    assert {"LEXISCOPE_DATA_DIR", "LEXISCOPE_CACHE_DIR", "HF_HOME"} <= written.keys()
    for key, path in written.items():
        assert any(path == one or path.startswith(f"{one}/") for one in volumes), key
    made = " ".join(given("RUN"))
    assert re.search(r"install -d -m 0700 -o lexiscope -g lexiscope /data /cache", made)


def test_the_image_runs_as_nobody_special_and_ends_at_sigterm() -> None:
    (user,) = given("USER")
    number = user.split(":")[0]
    assert number.isdigit()
    assert int(number) >= 1000
    assert f"--uid {number}" in " ".join(given("RUN"))
    assert given("STOPSIGNAL") == ["SIGTERM"]


def test_the_health_check_asks_a_health_address_at_the_exposed_port() -> None:
    from app.web.security import HEALTH

    (check,) = given("HEALTHCHECK")
    found = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", check)
    assert found is not None
    assert found[1] == given("EXPOSE")[0]
    assert found[2] in HEALTH
    # It is a program that runs: against a port where nobody listens it fails.
    program = json.loads(check[check.index("[") :])
    dead = [part.replace(f":{found[1]}/", ":9/") for part in program]
    dead[0] = sys.executable
    assert subprocess.run(dead, capture_output=True, timeout=PATIENCE).returncode != 0


def test_the_versions_are_the_tested_ones_and_nothing_comes_from_a_private_place() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "-c constraints.txt" in text
    hosts = set(re.findall(r"https?://([\w.-]+)", text)) - {"127.0.0.1"}
    assert hosts == {"download.pytorch.org"}
    bases = {rest.split()[0] for name, rest in instructions() if name == "FROM"}
    assert bases == {"python:3.11-slim-bookworm"}


def test_hadolint_finds_nothing() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which(
        "hadolint"
    )
    if linter is None:
        pytest.skip("hadolint is not installed (pip install -e '.[soak]')")
    done = subprocess.run(
        [linter, str(ROOT / "Dockerfile")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


# ---- compose.yaml --------------------------------------------------------------------------------


def test_compose_sets_settings_that_exist_and_asks_for_a_token() -> None:
    for key, value in service()["environment"].items():
        if key.startswith("LEXISCOPE_"):
            assert key.removeprefix("LEXISCOPE_").lower() in Settings.model_fields, key
            assert str(value).startswith(f"${{{key}:"), f"{key} is the operator's to set"
    assert service()["environment"]["LEXISCOPE_TOKEN"].startswith("${LEXISCOPE_TOKEN:?")


def test_compose_mounts_the_volumes_of_the_image() -> None:
    document = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    mounts = dict(reversed(one.split(":")) for one in service()["volumes"])
    (declared,) = given("VOLUME")
    assert sorted(mounts) == sorted(json.loads(declared))
    assert set(mounts.values()) == set(document["volumes"])


def test_compose_publishes_to_this_machine_only() -> None:
    (port,) = service()["ports"]
    address, rest = port.split(":", 1)
    assert address == "127.0.0.1"
    assert rest.endswith(f":{given('EXPOSE')[0]}")


def test_compose_starts_a_server_anew_that_ended_itself() -> None:
    """Status 70 after a hang is no reason to stay down; SIGTERM has time for a checkpoint."""
    assert service()["restart"] == "unless-stopped"
    assert service()["init"] is True
    assert int(service()["stop_grace_period"].removesuffix("s")) >= 30


def test_compose_takes_every_right_that_is_not_needed() -> None:
    one = service()
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert any(mount.startswith("/tmp:") for mount in one["tmpfs"])
    assert "mem_limit" in one
    assert "privileged" not in one


def test_compose_believes_its_own_gateway_only() -> None:
    document = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    (network,) = document["networks"]["default"]["ipam"]["config"]
    believed = service()["environment"]["LEXISCOPE_PROXIES"]
    assert believed == f"${{LEXISCOPE_PROXIES:-{network['gateway']}}}"


# ---- docs/deploy.md ------------------------------------------------------------------------------


def block(language: str) -> str:
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    assert found is not None, language
    return found[1]


def test_the_unit_of_systemd_fits_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command is understood, its folders are the service's own, a hang starts it anew."""
    from app.cli.main import parser
    from app.web.serving import HANGING, LAST_S

    lines = [line.split("=", 1) for line in block("ini").splitlines() if "=" in line]
    unit = dict(lines)
    program, *arguments = shlex.split(unit["ExecStart"])
    assert program.endswith("/lexiscope")
    assert callable(parser().parse_args(arguments).run)
    pairs = dict(p.split("=", 1) for key, v in lines if key == "Environment" for p in v.split())
    made = settings_from({k: v for k, v in pairs.items() if "LEXI" in k}, monkeypatch)
    assert made.data_folder == Path("/var/lib") / unit["StateDirectory"]
    assert made.cache_dir == Path("/var/cache") / unit["CacheDirectory"]
    assert HANGING != 0
    assert unit["Restart"] == "on-failure"
    assert int(unit["TimeoutStopSec"]) > LAST_S
    assert str(HANGING) in (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_the_models_of_the_example_are_a_list_that_is_taken(tmp_path: Path) -> None:
    from app.model.catalogue import catalogue_of

    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    found = re.search(r"LEXISCOPE_MODELS=(\S+)", text)
    assert found is not None
    here = found[1].replace("/srv/models/mine", str(tmp_path))
    taken = catalogue_of(Settings(model="gpt2", models=here))  # type: ignore[arg-type]
    assert sorted(taken.entries) == ["gpt2", "mine"]
    assert taken.start.name == "gpt2"


def test_the_proxies_of_the_examples_pass_on_what_the_app_asks_for() -> None:
    nginx = block("nginx")
    size = re.search(r"client_max_body_size (\d+)m;", nginx)
    assert size is not None
    assert int(size[1]) * 1_000_000 >= Settings.model_fields["upload_limit"].default
    wait = re.search(r"proxy_read_timeout (\d+)s;", nginx)
    assert wait is not None
    assert int(wait[1]) > Settings.model_fields["deadline_s"].default
    for header in ("Host $http_host", "X-Forwarded-For $remote_addr", "X-Forwarded-Proto $scheme"):
        assert f"proxy_set_header {header};" in nginx
    room = re.search(r"large_client_header_buffers \d+ (\d+)k;", nginx)
    assert room is not None
    from app.web.serving import _LONGEST_ADDRESS

    assert int(room[1]) * 1024 >= _LONGEST_ADDRESS
