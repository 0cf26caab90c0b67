"""Settings: read once from the environment, frozen, each described, never open by mistake."""

from __future__ import annotations

from typing import Any

import pytest
from asgi import settings_with
from pydantic import ValidationError

from app.cli.serve import _ignored
from app.settings import Settings

TOKEN = "a-token-of-more-than-22-characters"


def test_the_environment_sets_and_an_option_comes_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEXISCOPE_PORT", "9001")
    monkeypatch.setenv("LEXISCOPE_ALLOWED_HOSTS", "Here.example, there.example ,")
    monkeypatch.setenv("LEXISCOPE_MODEL", "")
    assert settings_with().port == 9001
    assert settings_with(port=9002).port == 9002
    assert settings_with().allowed_hosts == ("here.example", "there.example")
    assert settings_with().model is None


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        settings_with().port = 1


def test_every_setting_is_described_in_a_sentence() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.5.5.5"])
def test_this_machine_alone_needs_no_token(host: str) -> None:
    assert settings_with(host=host).is_local
    assert settings_with(host=host).notice is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.5", "example.org", "10.0.0.1"])
def test_other_machines_need_a_token_or_a_written_consent(host: str) -> None:
    with pytest.raises(ValidationError, match="LEXISCOPE_TOKEN"):
        settings_with(host=host)
    assert settings_with(host=host, token=TOKEN).notice is None
    open_to_all = settings_with(host=host, no_auth=True)
    assert open_to_all.notice is not None


def test_a_wildcard_address_is_no_name_of_the_server() -> None:
    hosts = settings_with(host="0.0.0.0", token=TOKEN).hosts
    assert hosts == {"localhost", "127.0.0.1", "[::1]"}
    assert "[::]" not in settings_with(host="::", token=TOKEN).hosts
    assert "192.168.0.5" in settings_with(host="192.168.0.5", token=TOKEN).hosts
    assert "[2001:db8::1]" in settings_with(host="2001:db8::1", token=TOKEN).hosts


@pytest.mark.parametrize(
    "values",
    [
        {"port": 70_000},
        {"port": "http"},
        {"device": "tpu"},
        {"dtype": "int8"},
        {"threads": 0},
        {"token": "short"},
        {"allowed_hosts": "*"},
        {"allowed_hosts": "http://example.org"},
        {"root_path": "lexiscope"},
        {"max_characters": 32_001},
        {"max_k": 0},
        {"deadline_s": float("nan")},
        {"deadline_s": float("inf")},
        {"queue_places": 0},
        {"unknown": 1},
    ],
)
def test_a_value_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refusal:
        settings_with(**values)
    assert "short" not in str(refusal.value)


def test_the_token_is_not_shown() -> None:
    settings = settings_with(token=TOKEN)
    assert TOKEN not in repr(settings)
    assert TOKEN not in str(settings)


def test_a_variable_that_is_no_setting_is_named_with_the_one_that_may_be_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEXISCOPE_ALLOWED_HOST", "a.example")
    monkeypatch.setenv("LEXISCOPE_PORT", "9000")
    monkeypatch.setenv("LEXISCOPE_TEST_KILLS", "1")
    assert "LEXISCOPE_ALLOWED_HOST" in Settings.unknown()
    assert not {"LEXISCOPE_PORT", "LEXISCOPE_TEST_KILLS"} & set(Settings.unknown())
    told = [one for one in _ignored() if one.startswith("LEXISCOPE_ALLOWED_HOST ")]
    assert told == [
        "LEXISCOPE_ALLOWED_HOST is no setting and is ignored; is LEXISCOPE_ALLOWED_HOSTS meant?"
    ]
