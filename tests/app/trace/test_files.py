"""Traces as files: what each holds, that a page stands alone, and that each verifies."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from asgi import HOSTILE, PROMPT
from parsed import Parsed
from starlette.testclient import TestClient

from app.cli import main as cli
from app.trace.files import FORMATS, format_of, is_trace, verify
from app.web import export
from engine import LatentSpace
from engine.errors import ArtifactError, OptionError

QUERY = {"prompt": PROMPT, "k": 3, "frame": "dial", "ridge": 0.1}


@pytest.fixture(scope="module")
def files(shared_client: TestClient) -> dict[str, bytes]:
    """The same trace in every format."""
    found = {"json": shared_client.get("/api/v1/trace", params=QUERY).content}
    for one in ("csv", "npz", "html"):
        answer = shared_client.get(f"/api/v1/trace.{one}", params=QUERY)
        assert answer.status_code == 200
        assert f'.{one}"' in answer.headers["content-disposition"]
        found[one] = answer.content
    return found


def test_the_arrays_are_those_of_the_trace(files: dict[str, bytes], reference: LatentSpace) -> None:
    trace = reference.trace(PROMPT, k=3, frame="dial", ridge=0.1)
    with np.load(io.BytesIO(files["npz"]), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["top_id"], trace.top_ids)
        np.testing.assert_array_equal(arrays["top_score"], trace.top_scores)
        np.testing.assert_array_equal(arrays["top_probability"], trace.top_probabilities)
        np.testing.assert_array_equal(arrays["entropy"], trace.entropy)
        np.testing.assert_array_equal(arrays["divergence"], trace.divergence)
        np.testing.assert_array_equal(arrays["gain"], trace.gain)  # NaN at layer 0
        assert np.array_equal(arrays["layers"], trace.layers)
        assert [str(one) for one in arrays["token_text"]] == [one.text for one in trace.tokens]
        assert json.loads(str(arrays["meta"])) == json.loads(files["json"])


def test_the_page_stands_alone(files: dict[str, bytes], reference: LatentSpace) -> None:
    """Nothing is fetched and no script runs; the table holds the token of every cell."""
    text = files["html"].decode()
    page = Parsed(text)
    assert [one.attrs.get("type") for one in page.all("script")] == ["application/json"]
    assert "script-src" not in text
    assert "default-src 'none'" in text
    for element in page.elements:
        assert not {"src", "href", "onclick", "srcset"} & set(element.attrs)
    assert "url(" not in text
    trace = reference.trace(PROMPT, k=3, frame="dial", ridge=0.1)
    rows = page.all("tr")[2:]
    assert len(rows) == len(trace.layers)
    tops = [trace.token_info[int(i)].label for i in trace.top_ids[-1, :, 0]]
    assert all(top in rows[0].text for top in tops)
    assert rows[0].text.startswith(str(trace.layers[-1]))
    marked = [one for one in page.all("td") if "said" in one.attrs.get("class", "")]
    assert len(marked) == int(trace.agrees.sum())


@pytest.mark.parametrize("hostile", HOSTILE[:6])
def test_nothing_in_a_text_leaves_its_place(shared_client: TestClient, hostile: str) -> None:
    page = Parsed(shared_client.get("/api/v1/trace.html", params={"prompt": hostile}).text)
    assert len(page.all("script")) == 1
    assert not page.all("img")


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_verifies_and_a_changed_one_does_not(
    files: dict[str, bytes], reference: LatentSpace, format: str
) -> None:
    body = files[format]
    assert is_trace(body)
    report = verify(reference, body)
    assert report.ok, report.sentence
    assert report.largest_difference < 1e-4
    assert report.compared > 50
    if format == "npz":
        with np.load(io.BytesIO(body)) as arrays:
            held = dict(arrays)
        held["top_score"] = held["top_score"] + 1
        changed = export.archive(held)
    elif format == "html":
        changed = body.replace(b"</td></tr>", b" </td></tr>", 1)
    elif format == "csv":
        line = body.splitlines(keepends=True)[5]
        changed = body.replace(line, line.replace(b"0.", b"1.", 1), 1)
    else:
        changed = body.replace(b'"entropy":', b'"entropy":1', 1)
    assert changed != body
    assert not verify(reference, changed).ok


def test_what_is_no_trace_is_one_sentence(files: dict[str, bytes], reference: LatentSpace) -> None:
    for body in (b"", b"{}", b'{"cells": 3}', b"PK\x03\x04top_id.npy", files["npz"][:-200],
                 files["html"][:5000], b'"# Lexiscope 1, trace, model "\r\n"a"'):  # fmt: skip
        with pytest.raises(ArtifactError, match=r"no trace|damaged"):
            verify(reference, body)
    with pytest.raises(OptionError, match=r"must end in \.json, \.csv, \.npz, \.html"):
        format_of("trace.png")
    assert not is_trace(b'{"format": "lexiscope-map"}')


@pytest.mark.slow
def test_the_command_writes_them_and_verifies_them(
    files: dict[str, bytes],
    model_folder: Path,
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    where = ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]
    asked = ["--k", "3", "--frame", "dial", "--ridge", "0.1", *where]
    out = tmp_path / "trace.npz"
    assert cli.main(["trace", PROMPT, "--out", str(out), *asked]) == 0
    assert out.read_bytes() == files["npz"]
    assert cli.main(["verify", str(out), *where]) == 0
    assert b"the same trace" in capfdbinary.readouterr().out
    assert cli.main(["trace", PROMPT, "--out", "trace.png", *asked]) == 2
