"""The app behind a real socket, for the browser."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from driving import Faults, Site
from waiting import PATIENCE, until

from app.main import create_app
from app.settings import Settings


def serve(settings: Settings, data: Path) -> Iterator[Site]:
    # Nothing is fitted beside a test: which reading is the best known would change under it.
    settings = settings.model_copy(
        update={"data_dir": data, "fit_lens": False, "make_atlas": False}
    )
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
    until(lambda: explorer.state == "failed" or (server.started and explorer.state == "ready"))
    assert explorer.state == "ready", explorer.failure
    yield Site(f"http://127.0.0.1:{port}", app, server, faults)
    server.should_exit = True
    thread.join(PATIENCE)
