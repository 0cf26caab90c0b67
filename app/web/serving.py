"""How the app is served: one process, one event loop, and someone who watches both.

`serve` runs uvicorn with `app.web.connections`' protocol until a signal ends it. A watchdog thread
ends the process with `HANGING` when the computing thread or the event loop gives no sign of life,
so that what supervises the process starts it anew; and it ends a process that was told to stop and
does not come to an end. Whatever is saved is whole at any moment, so ending abruptly loses no more
than a kill does.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Protocol

import uvicorn
from fastapi import FastAPI

from app.settings import Settings
from app.web.connections import MARGIN, Connections
from app.web.metrics import Metrics

HANGING = 70
"""The exit status of a process that was ended because something in it hung (EX_SOFTWARE)."""
INTERRUPTED = 130
"""The exit status after Ctrl+C, as shells know it."""
LAST_S = 9.0
"""Seconds after a signal in which the server comes to its end, whatever hangs."""
GRACE_S = 2
"""Of these, seconds in which the requests under way are still answered."""
# A prompt of 32,000 characters of four bytes each, percent-encoded, and room for the rest.
_LONGEST_ADDRESS = 512 * 1024
_OTHER_FILES = 256
_LOOKS = 3
_AT_ONCE = b"The server was told twice to end and ends at once; jobs are listed as interrupted.\n"
log = logging.getLogger("lexiscope")


class Pulse(Protocol):
    """What the watchdog asks of the computing thread."""

    @property
    def alive(self) -> bool:
        """Whether it runs."""

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since its last sign of life; 0 while it has nothing to do."""


class Server(uvicorn.Server):
    """uvicorn's server, which also looks after its connections.

    Leans on uvicorn calling ``on_tick`` ten times a second while it serves.
    """

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self.turned = time.monotonic()
        """When the event loop last came round."""
        self._book = connections
        deadlines = (connections.head_deadline_s, connections.send_deadline_s)
        self._every = max(1, min(10, int(min(deadlines) * 10 / 4)))

    async def on_tick(self, counter: int) -> bool:
        """Sweep the connections; whether to end is uvicorn's business."""
        self.turned = time.monotonic()
        if counter % self._every == 0:
            self._book.sweep(self.server_state.connections)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in good order at the first signal, and at once at a second Ctrl+C."""
        if sig == signal.SIGINT and self.should_exit:
            end_now()
        super().handle_exit(sig, frame)


class Watchdog:
    """Ends the process when it hangs, or does not come to its end."""

    def __init__(
        self,
        device: Pulse,
        server: Server,
        limit_s: float,
        *,
        end: Callable[[int], object] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make it without starting it.

        Args:
            device: the computing thread.
            server: the event loop's side.
            limit_s: seconds without a sign of life; 0: never end because of one.
            end: ends the process with a status, at once.
            clock: monotonic seconds.
        """
        self._device = device
        self._server = server
        self._limit_s = limit_s
        self._end = end
        self._clock = clock
        self.every_s = min(1.0, limit_s / 4 or 1.0)
        self._strikes = 0
        self._looked = clock()
        self._thawed = -math.inf
        self._told: float | None = None
        self._done = threading.Event()

    def start(self) -> None:
        """Watch, in a thread of its own."""
        threading.Thread(target=self._loop, name="lexiscope-watchdog", daemon=True).start()

    def close(self) -> None:
        """Watch no more."""
        self._done.set()

    def look(self) -> None:
        """Look once, and end the process if it is time."""
        now = self._clock()
        gap, self._looked = now - self._looked, now
        if self._server.should_exit:
            self._told = now if self._told is None else self._told
            if now - self._told > LAST_S:
                self._leave(0, f"the server did not come to its end within {LAST_S:g} seconds")
            return
        reason = self._hangs()
        # A process that was stopped or frozen itself gets its whole time again to show that it
        # lives: the work that was under way knows nothing of the pause.
        if gap > self.every_s + max(2.0, self._limit_s / 4):
            self._thawed = now
        spared = now - self._thawed <= self._limit_s
        self._strikes = self._strikes + 1 if reason and not spared else 0
        if reason and self._strikes >= _LOOKS:
            self._leave(HANGING, reason)

    def _hangs(self) -> str | None:
        if not self._server.started or not self._limit_s:
            return None
        if self._clock() - self._server.turned > self._limit_s:
            return f"the event loop gave no sign of life for {self._limit_s:g} seconds"
        if not self._device.alive:
            return "the computing thread has ended"
        if self._device.heartbeat_age_s > self._limit_s:
            return f"the computing thread gave no sign of life for {self._limit_s:g} seconds"
        return None

    def _leave(self, status: int, reason: str) -> None:
        log.critical("the process ends with status %d: %s", status, reason)
        if status:
            with contextlib.suppress(Exception):  # where it hangs, for whoever reads the log
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
        for handler in logging.getLogger().handlers:
            with contextlib.suppress(Exception):
                handler.flush()
        self._end(status)

    def _loop(self) -> None:
        while not self._done.wait(self.every_s):
            self.look()


def end_now(*_: object) -> None:
    """End the process in one sentence: whoever presses Ctrl+C twice does not want to wait."""
    # Not through the logging: the signal may have come while it writes.
    with contextlib.suppress(OSError):
        os.write(2, _AT_ONCE)
    os._exit(INTERRUPTED)


def serve(app: FastAPI, settings: Settings, listener: socket.socket) -> int:
    """Serve the app until a signal comes.

    Args:
        app: as `app.main.create_app` makes it.
        settings: the settings that it was made with.
        listener: a bound and listening socket; closed at the end.

    Returns:
        The exit status.
    """
    connections = Connections.of(settings)
    connections.limit = min(connections.limit, _files_for(connections.limit))
    metrics: Metrics = app.state.metrics
    metrics.watch(
        "lexiscope_connections",
        "Connections that are open.",
        lambda: {"open": float(connections.open), "limit": float(connections.limit)},
        label="what",
    )
    metrics.watch(
        "lexiscope_connections_given_up",
        "Connections that the server closed, by why.",
        lambda: connections.figures,
        label="why",
        counter=True,
    )
    server = Server(
        uvicorn.Config(
            app,
            access_log=False,  # it would print prompts and tokens
            server_header=False,
            h11_max_incomplete_event_size=_LONGEST_ADDRESS,
            http=connections.protocol(),
            proxy_headers=bool(settings.proxies),
            forwarded_allow_ips=list(settings.proxies),
            ws="none",
            timeout_keep_alive=15,
            timeout_graceful_shutdown=GRACE_S,
            log_config=None,
            log_level="warning",
        ),
        connections,
    )
    watchdog = Watchdog(app.state.explorer.device, server, settings.hang_exit_s)
    watchdog.start()
    # uvicorn finishes what is under way and then hands the signal back: that is a good end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    status = 0
    try:
        server.run(sockets=[listener])
        status = 0 if server.started or server.should_exit else 1
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:  # Ctrl+C, handed back in the same way
        status = INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, end_now)
        watchdog.close()
    _leave_threads(status)
    return status


def _files_for(connections: int) -> int:
    """How many connections there can be, after asking for as many open files as they need."""
    try:
        import resource
    except ImportError:  # not on this system
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + MARGIN + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if soft < wanted:
            fewer = max(8, soft - MARGIN - _OTHER_FILES)
            log.warning(
                "this process may have %d open files: at most %d connections are taken", soft, fewer
            )
            return fewer
    return connections


def _leave_threads(status: int) -> None:
    """End at once where a thread of ours still computes: Python must not unload under its feet."""
    mine = (one for one in threading.enumerate() if one is not threading.main_thread())
    if any(one.name.startswith("lexiscope-") and one.is_alive() for one in mine):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status)
