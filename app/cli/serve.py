"""The command ``lexiscope serve``: the pages, on an address of this machine."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from difflib import get_close_matches
from typing import Any

from app.cli.options import SERVING, Mistake, add, settings_of
from app.main import create_app
from app.model.catalogue import absent
from app.settings import Settings
from app.storage.opening import open_store
from app.web import logs
from app.web.problems import StorageBusy
from app.web.serving import serve


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the command into the command line, with the options about the model besides."""
    parser = commands.add_parser("serve", parents=[model], help="open the pages in a browser")
    add(parser, Settings, *SERVING)
    parser.set_defaults(run=_serve)


def _serve(given: argparse.Namespace) -> int:
    return serve_pages(settings_of(given))


def serve_pages(settings: Settings, first: str = "") -> int:
    """Serve until the end; says where, at the page that is to be opened first."""
    os.umask(0o077)  # what people upload, and what is made of it, is for this user's eyes
    listener = listen(settings)
    try:
        store, _ = open_store(settings)
    except StorageBusy as error:
        listener.close()
        raise Mistake(str(error)) from None
    host, port = listener.getsockname()[:2]
    settings = settings.model_copy(update={"port": port})
    shown = f"[{host}]" if ":" in host else host
    logs.begin(messages=settings.log_messages)
    app = create_app(settings, store=store)
    home = f"http://{shown}:{port}{settings.root_path}/"
    print(f"Lexiscope is on {home}{first}", flush=True)
    if settings.token is not None:
        print(f"Log in once at {home}login?token=TOKEN, with your token for TOKEN.", flush=True)
    for word in (*_ignored(), *absent(settings)):
        print(word, file=sys.stderr)
    if settings.notice:
        print(settings.notice, file=sys.stderr)
    return serve(app, settings, listener)


def _ignored() -> list[str]:
    """A sentence for each variable that is no setting, with the one that may be meant."""
    sentences = []
    known = list(Settings.model_fields)
    for name in Settings.unknown():
        near = get_close_matches(name.lower().removeprefix("lexiscope_"), known, 1, 0.7)
        meant = f"; is LEXISCOPE_{near[0].upper()} meant?" if near else "."
        sentences.append(f"{name[:80]} is no setting and is ignored{meant}")
    return sentences


def listen(settings: Settings) -> socket.socket:
    """The listening socket.

    Raises:
        Mistake: the address or the port cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host.strip("[]"), settings.port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Mistake(f"The address {settings.host} cannot be used: {error.strerror}.") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)  # who is quicker than the server waits instead of being refused
    except OSError as error:
        listener.close()
        raise Mistake(
            f"Port {settings.port} on {settings.host} cannot be used ({error.strerror}); "
            "stop what uses it or choose another with --port."
        ) from None
    return listener
