"""Bodies that no handler may take, and what an answer to them must be."""

from __future__ import annotations

import json
from typing import Any

LARGEST_ANSWER = 8192


MARK = "plantedmark" + "z" * 60
"""Stands in many bad values; an answer may show its beginning, but never all of it."""


BODIES: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("no JSON", b"{"),
    ("a list", b"[]"),
    ("a number", b"1"),
    ("null", b"null"),
    ("a string", b'"prompt"'),
    ("bytes that are no text", b"\xff\xfe\x00"),
    ("UTF-16 that breaks off", '{"prompt": "a"}'.encode("utf-16")[:-1]),
    ("no prompt", b"{}"),
    ("a prompt that is null", b'{"prompt": null}'),
    ("a prompt that is a number", b'{"prompt": 5}'),
    ("a prompt that is a list", b'{"prompt": ["a"]}'),
    ("a prompt that is an object", b'{"prompt": {"a": 1}}'),
    ("an empty prompt", b'{"prompt": ""}'),
    ("a lone surrogate", b'{"prompt": "\\ud800"}'),
    ("a lone surrogate in another field", b'{"prompt": "a", "layers": "\\udfff"}'),
    ("a lone surrogate as a key", b'{"prompt": "a", "\\ud800": 1}'),
    ("NUL in the prompt", b'{"prompt": "a\\u0000b"}'),
    ("NaN", b'{"prompt": "a", "temperature": NaN}'),
    ("Infinity", b'{"prompt": "a", "temperature": Infinity}'),
    ("-Infinity", b'{"prompt": "a", "temperature": -Infinity}'),
    ("1e999", b'{"prompt": "a", "temperature": 1e999}'),
    ("NaN for a whole number", b'{"prompt": "a", "k": NaN}'),
    ("NaN for the prompt", b'{"prompt": NaN}'),
    ("NaN in an unknown field", b'{"prompt": "a", "other": NaN}'),
    ("k is true", b'{"prompt": "a", "k": "yes"}'),
    ("k of 4000 digits", b'{"prompt": "a", "k": ' + b"9" * 4000 + b"}"),
    ("k of 5000 digits", b'{"prompt": "a", "k": ' + b"9" * 5000 + b"}"),
    ("deep lists", b"[" * 50_000 + b"]" * 50_000),
    ("deep objects", b'{"prompt":' * 20_000 + b"1" + b"}" * 20_000),
    ("deep in the prompt", b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    ("too many characters", json.dumps({"prompt": MARK + "x" * 32_000}).encode()),
    ("half a megabyte", json.dumps({"prompt": MARK * 50_000}).encode()),
    ("an unknown field", json.dumps({"prompt": "a", MARK: MARK}).encode()),
    ("a thousand unknown fields",
     json.dumps({"prompt": "a", **{f"{MARK}{n}": n for n in range(1000)}}).encode()),
    ("unknown geometry", json.dumps({"prompt": "a", "geometry": MARK}).encode()),
    ("geometry is an object", b'{"prompt": "a", "geometry": {"$ne": 1}}'),
    ("too large", b'{"prompt": "' + b"x" * 1_100_000 + b'"}'),
]  # fmt: skip


def sentence_of(answer: Any, json_expected: bool) -> None:
    assert 400 <= answer.status_code < 500, answer.text[:500]
    assert len(answer.content) <= LARGEST_ANSWER, len(answer.content)
    if json_expected:
        assert MARK not in answer.text
        assert set(answer.json()) == {"error"}
        error = answer.json()["error"]
        assert set(error) == {"sentence", "status", "id"}
        assert error["status"] == answer.status_code
        assert error["sentence"].endswith(".")
        assert len(error["sentence"]) <= 600
        assert "\n" not in error["sentence"]
