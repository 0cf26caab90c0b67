"""An app behind a real socket, in a thread of the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from waiting import PATIENCE, until


@contextmanager
def live(app: FastAPI) -> Iterator[str]:
    """The app's address while it is served; its lifespan begins and ends with the block."""
    config = uvicorn.Config(
        app,
        port=0,
        log_level="error",
        access_log=False,
        http="h11",
        ws="none",
        h11_max_incomplete_event_size=512 * 1024,  # the longest address that the product takes
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="live", daemon=True)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        assert server.started, "the server ended before it began"
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
