"""A real server that the system gives no more memory: a sentence for who asked too much."""

from __future__ import annotations

import http.client
import json
import os
import resource
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import torch
import transformers
from processes import ServerProcess, serve, server_process
from tiny_models import byte_tokenizer
from waiting import PATIENCE

TOKENS, INNER = 900, 60_000
ROOM = 128 * 2**20
"""Bytes that the server may take beyond what it has: many times what a small trace needs, and less
than one layer of the large one."""


@pytest.fixture(scope="module")
def wide_inside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow model with a wide inside: a long prompt takes 240 MB in a layer."""
    folder = tmp_path_factory.mktemp("wide-inside")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, n_positions=2048, n_inner=INNER,
        vocab_size=300, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def trace(server: ServerProcess, prompt: str, path: str = "/api/v1/trace") -> tuple[int, Any, str]:
    query = urlencode({"prompt": prompt, "k": 1})
    with closing(http.client.HTTPConnection(*server.address(), timeout=PATIENCE)) as raw:
        raw.request("GET", f"{path}?{query}")
        answer = raw.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux's")
@pytest.mark.slow
def test_a_trace_that_the_system_has_no_memory_for_is_503_and_the_next_is_answered(
    tmp_path: Path, wide_inside: Path
) -> None:
    settings = {
        "max_tokens": 2048,
        "memory_budget_mib": 65536,
        "cache_dir": tmp_path / "cache",
        "deadline_s": PATIENCE,
    }
    long = "\x01" * TOKENS  # each is a token of its own
    with server_process(tmp_path, serve(wide_inside), settings) as server:
        server.ready()
        status, _, before = trace(server, "The king")
        assert status == 200, before
        pid = server.process.pid
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + ROOM
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        for path in ("/api/v1/trace", "/"):
            status, headers, body = trace(server, long, path)
            assert status == 503, (status, body[:400], server.log)
            assert int(headers["retry-after"]) > 0
            assert "not enough memory" in body
            assert "Traceback" not in body
            status, _, after = trace(server, "The king")
            assert status == 200, (after, server.log)
            assert json.loads(after) == json.loads(before)
        resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        status, _, body = trace(server, long)
        assert status == 200, body[:400]  # it was the memory, and nothing broke
        assert server.process.poll() is None
