"""The app behind a real socket, for the browser."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from driving import Faults, Site

from app.main import create_app
from app.settings import Settings


def serve(settings: Settings, data: Path) -> Iterator[Site]:
    settings = settings.model_copy(update={"data_dir": data})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    app = create_app(settings)
    faults = Faults(app)
    server = uvicorn.Server(
        uvicorn.Config(faults, host="127.0.0.1", port=port, log_level="warning", access_log=False)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    explorer = app.state.explorer
    deadline = time.monotonic() + 120
    while not (server.started and explorer.state == "ready"):
        assert thread.is_alive(), "the server stopped"
        assert explorer.state != "failed", explorer.failure
        assert time.monotonic() < deadline, "the model was not ready in time"
        time.sleep(0.05)
    yield Site(f"http://127.0.0.1:{port}", app, server, faults)
    server.should_exit = True
    thread.join(20)
