"""The server as its users start it: a process of its own, on a port of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
from waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]


class ServerProcess:
    """A running ``lexiscope serve``, or a script that serves; its log is a file."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log_file = log
        self.port = 0
        self.told: list[str] = []

    @property
    def log(self) -> str:
        """What it has written to stderr so far."""
        return self.log_file.read_text(errors="replace")

    def address(self) -> tuple[str, int]:
        """Where it listens, as soon as it says so."""
        assert self.process.stdout is not None
        while not self.port:
            line = self.process.stdout.readline()
            assert line, self.log
            self.told.append(line)
            found = re.search(r"is on http://[^ ]*:(\d+)/", line)
            self.port = int(found[1]) if found else 0
        return "127.0.0.1", self.port

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Any:
        """One request on a connection of its own; status, headers in lower case, body."""
        with closing(http.client.HTTPConnection(*self.address(), timeout=PATIENCE)) as raw:
            raw.request("GET", path, headers=dict(headers or {}))
            answer = raw.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()

    def ready(self) -> None:
        """Wait until it answers questions."""
        until(self._is_ready, lambda: self.log)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            status, _, body = self.get("/readyz")
        except ConnectionRefusedError:
            return False
        assert not body or json.loads(body).get("state") != "failed", self.log
        return bool(status == 200)

    def client(self) -> httpx2.Client:
        """Somebody who asks it, and closes the connection."""
        host, port = self.address()
        return httpx2.Client(base_url=f"http://{host}:{port}", timeout=PATIENCE)

    def stop(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> int:
        """Wait for its end; the exit status."""
        return self.process.wait(PATIENCE)


@contextmanager
def server_process(
    folder: Path,
    command: list[str],
    environment: Mapping[str, object] | None = None,
) -> Iterator[ServerProcess]:
    """Start a Python process; it is killed when the block ends.

    Args:
        folder: for its data and its log.
        command: what follows ``python``.
        environment: settings by name, without ``LEXISCOPE_``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = {k: v for k, v in os.environ.items() if not k.startswith("LEXISCOPE_")}
    values |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    own = {"data_dir": folder / "data", "offline": "true", "fit_lens": "false"}
    own |= {"make_atlas": "false"}
    own |= environment or {}
    values |= {f"LEXISCOPE_{name.upper()}": str(value) for name, value in own.items()}
    log = folder / "log"
    # A shell starts what runs in the background with Ctrl+C ignored, and so would we pass it on.
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE, stderr=errors, env=values, cwd=ROOT, text=True,
        )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    try:
        yield ServerProcess(process, log)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def serve(model: Path) -> list[str]:
    """The command of a server of this model on any free port."""
    where = ["--port", "0", "--model", str(model), "--device", "cpu", "--threads", "1"]
    return ["-m", "app", "serve", *where]


def raw_connection(
    address: tuple[str, int], *, small: bool = False, source: str = ""
) -> socket.socket:
    """A socket to the server; small: the kernel holds little of an answer that nobody reads;
    source: the address that it comes from."""
    one = socket.socket()
    if source:
        one.bind((source, 0))
    if small:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(PATIENCE)
    one.connect(address)
    return one
