"""A server in a process of its own, as an operator starts it, and what is seen from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import httpx2
import psutil

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "small"
PATIENCE_S = 300.0
_ADDRESS = re.compile(rb"http://\S+")
_LAST_WORDS = 4_000


@dataclass(frozen=True)
class Body:
    """What the process holds at one moment."""

    resident: int
    """Bytes of memory in use."""
    descriptors: int
    threads: int


class Server:
    """``lexiscope serve`` on a free port; ends with the block it is opened in.

    Args:
        settings: further settings by name, as ``queue_places=4``.
        cache: the folder of kept bases, so that one server can begin where another was; None: one
            of its own.
    """

    def __init__(self, cache: Path | None = None, **settings: object) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lexiscope-soak-")
        folder = Path(self._folder.name)
        self._log_path = folder / "log"
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.upper().startswith("LEXISCOPE_")},
            "HF_HUB_OFFLINE": "1",
            "LEXISCOPE_FIT_LENS": "false",  # what is measured is what is asked
            "LEXISCOPE_DATA_DIR": str(folder / "data"),
            "LEXISCOPE_CACHE_DIR": str(cache or folder / "cache"),
            **{f"LEXISCOPE_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.address = ""
        self.listening_s = 0.0
        """From the start of the process to the first answer of /livez."""
        self.ready_s = 0.0
        """From the start of the process to /readyz saying yes."""

    def __enter__(self) -> Server:
        started = time.perf_counter()
        command = [sys.executable, "-m", "app", "serve", "--model", str(MODEL), "--port", "0"]
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdout=log, stderr=log
            )
        self._until("its address", self._find_address)
        self._until("/livez", lambda: self._says_yes("/livez"))
        self.listening_s = time.perf_counter() - started
        self._until("/readyz", lambda: self._says_yes("/readyz"))
        self.ready_s = time.perf_counter() - started
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if kind is not None:
            print(f"the server's log:\n{self.log()[-_LAST_WORDS:]}", file=sys.stderr)
        self._folder.cleanup()

    def stop(self) -> int:
        """End it as a supervisor does; its exit status."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait(60)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def body(self) -> Body:
        """What its process holds now."""
        seen = psutil.Process(self._process.pid)
        with seen.oneshot():
            return Body(seen.memory_info().rss, seen.num_fds(), seen.num_threads())

    def log(self) -> str:
        """What it has written."""
        return self._log_path.read_text(errors="replace")

    def _until(self, what: str, condition: object) -> None:
        assert callable(condition)
        until = time.monotonic() + PATIENCE_S
        while not condition():
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended before {what}: {self.log()[-_LAST_WORDS:]}")
            if time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"the server never came to {what}: {self.log()[-_LAST_WORDS:]}")
            time.sleep(0.02)

    def _find_address(self) -> bool:
        found = _ADDRESS.search(self._log_path.read_bytes())
        self.address = found[0].decode().rstrip("/") if found else ""
        return found is not None

    def _says_yes(self, path: str) -> bool:
        try:
            return httpx2.get(f"{self.address}{path}", timeout=30).status_code == 200
        except httpx2.HTTPError:
            return False
