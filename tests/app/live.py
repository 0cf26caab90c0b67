"""An app behind a real socket, in a thread of the test's own process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from asgi import PATIENCE
from fastapi import FastAPI


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
        until = time.monotonic() + PATIENCE
        while not server.started:
            assert thread.is_alive(), "the server ended before it began"
            assert time.monotonic() < until, "the server did not begin"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
