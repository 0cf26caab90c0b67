"""The command line: ``lexiscope serve | trace | cell | curves | agreement | bases | check | map |
verify``.

The same numbers as the pages: both call the engine, and `app.web.export` writes them. A user's
mistake is one sentence on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from app.cli import calibrate as cli_calibrate
from app.cli import map as cli_map
from app.main import create_app
from app.model.catalogue import absent
from app.model.explorer import load_space, token_reference
from app.model.open_model import facts_of
from app.settings import K_CEILING, Settings
from app.storage.store import open_store
from app.web import export, logs
from app.web.problems import StorageBusy
from app.web.serving import serve
from engine import FRAMES, GEOMETRIES, STATES, LatentSpace, TraceOptions
from engine.errors import LexiscopeError


class Mistake(Exception):
    """What the user has to change, in one sentence."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> Any:
        raise Mistake(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        given = _parser().parse_args(arguments)
        run: Callable[[argparse.Namespace], int] = given.run
        return run(given)
    except (Mistake, LexiscopeError) as error:
        print(f"lexiscope: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has enough; Python must not complain about it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lexiscope", description="Look into a language model's latent space.")
    names = "serve|trace|cell|curves|agreement|bases|check|map|verify|calibrate|evaluate"
    commands = parser.add_subparsers(required=True, metavar=names)

    shared = _Parser(add_help=False)
    shared.add_argument("--model", help="a Hugging Face id or a folder")
    shared.add_argument("--revision", help="the model's commit, tag or branch on the hub")
    shared.add_argument("--device", help="auto, cpu, cuda or mps")
    shared.add_argument("--dtype", help="auto, float32, bfloat16 or float16")
    shared.add_argument("--threads", help="CPU threads of the computation")
    shared.add_argument(
        "--trust-remote-code", action="store_true", default=None,
        help="let the model run its author's Python code, with your rights",
    )  # fmt: skip
    shared.add_argument(
        "--offline", action="store_true", default=None, help="only what is on this machine"
    )

    serve = commands.add_parser("serve", parents=[shared], help="open the pages in a browser")
    serve.add_argument("--host", help="the address to listen on")
    serve.add_argument("--port", help="the port; 0 takes any free one")
    serve.add_argument(
        "--models", metavar="NAME=FOLDER,…",
        help="further models to choose from: NAME=FOLDER or NAME=HUB_ID@COMMIT, with commas",
    )  # fmt: skip
    serve.add_argument(
        "--one-model-at-a-time", action="store_true", default=None,
        help="let go of the open model before another one is loaded",
    )  # fmt: skip
    serve.add_argument(
        "--no-auth", action="store_true", default=None,
        help="serve other machines without asking for a token",
    )  # fmt: skip
    serve.set_defaults(run=_serve)

    reading = _Parser(add_help=False)
    trace = reading
    trace.add_argument("prompt", help="any text")
    trace.add_argument("--geometry", choices=GEOMETRIES, default="cosine")
    trace.add_argument("--frame", choices=FRAMES, default="output")
    trace.add_argument("--state", choices=STATES, default="normed")
    trace.add_argument("--centred", action="store_true", help="take the mean off states and bases")
    trace.add_argument("--layers", help="0:6, 0:12:2 or 3; all without it")
    trace.add_argument("--positions", help="written like the layers; all without it")
    trace.add_argument("--k", type=_k, default=10, help="nearest tokens per cell")
    trace.add_argument("--temperature", type=_number, help="of the probabilities")
    trace.add_argument("--bos", choices=("auto", "yes", "no"), default="auto")
    trace.add_argument("--chat", action="store_true", help="use the model's chat template")
    trace.add_argument("--words-only", action="store_true", help="list words and word pieces only")

    trace = commands.add_parser(
        "trace", parents=[shared, reading], help="a prompt through the layers"
    )
    form = trace.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the JSON of /api/v1/trace")
    form.add_argument("--csv", action="store_true", help="one row per layer, position and rank")
    trace.set_defaults(run=_trace)

    as_json = _Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="as it is printed anyway")

    cell = commands.add_parser(
        "cell", parents=[shared, reading, as_json], help="one hidden state in full, as JSON"
    )
    cell.add_argument("--layer", type=_place, default=-1, help="from 0; -1 is the last")
    cell.add_argument("--position", type=_place, default=-1, help="from 0; -1 is the last")
    cell.set_defaults(run=_cell)

    curves = commands.add_parser(
        "curves", parents=[shared, reading, as_json], help="tokens over the layers, as JSON"
    )
    curves.add_argument("--ids", type=_ids, help="token ids, such as 12,262; else the default pins")
    curves.add_argument("--position", type=_place, default=-1, help="from 0; -1 is the last")
    curves.set_defaults(run=_curves)

    agreement = commands.add_parser(
        "agreement",
        parents=[shared, reading, as_json],
        help="every geometry and frame against the model's own answers, as JSON",
    )
    agreement.set_defaults(run=_agreement)

    bases = commands.add_parser(
        "bases", parents=[shared], help="a token's nearest tokens, or a frame's figures"
    )
    bases.add_argument("--token", help="its text, or #262 for an id; without it the frame's report")
    bases.add_argument("--frame", choices=FRAMES, default="output")
    bases.add_argument("--geometry", choices=GEOMETRIES, default="cosine")
    bases.add_argument("--k", type=_k, default=10, help="how many neighbours")
    bases.add_argument("--json", action="store_true", help="the JSON of /api/v1/bases or /frames")
    bases.set_defaults(run=_bases)

    check = commands.add_parser("check", parents=[shared], help="whether the readings can be right")
    check.add_argument("--json", action="store_true", help="the JSON of /api/v1/check")
    check.set_defaults(run=_check)
    cli_map.register(commands, shared, _space)
    cli_calibrate.register(commands, shared, _space, _settings)
    return parser


def _serve(given: argparse.Namespace) -> int:
    settings = _settings(given, "host", "port", "no_auth", "models", "one_model_at_a_time")
    listener = _listen(settings)
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
    print(f"Lexiscope is on {home}", flush=True)
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


def _listen(settings: Settings) -> socket.socket:
    """The listening socket, or a sentence."""
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


def _options(given: argparse.Namespace) -> TraceOptions:
    return TraceOptions(
        geometry=given.geometry,
        frame=given.frame,
        state=given.state,
        centred=given.centred,
        temperature=given.temperature,
        k=given.k,
        layers=given.layers,
        positions=given.positions,
        bos=given.bos,
        chat=given.chat,
        words_only=given.words_only,
    )


def _trace(given: argparse.Namespace) -> int:
    options = _options(given)
    space = _space(given)
    trace = space.trace(given.prompt, options)
    source = export.Source.of(facts_of(space), given.prompt)
    if given.json:
        return _write(export.Document(source)(trace))
    if given.csv:
        return _write(export.TraceTable(source)(trace))
    width = shutil.get_terminal_size((100, 24)).columns
    return _write(export.trace_text(trace, width).encode())


def _cell(given: argparse.Namespace) -> int:
    options = _options(given)
    space = _space(given)
    found = space.cell(given.prompt, given.layer, given.position, options)
    return _write(_written(space, found, given.prompt))


def _curves(given: argparse.Namespace) -> int:
    options = _options(given)
    space = _space(given)
    found = space.curves(given.prompt, given.ids, options, position=given.position)
    return _write(_written(space, found, given.prompt))


def _agreement(given: argparse.Namespace) -> int:
    options = _options(given)
    space = _space(given)
    return _write(_written(space, space.agreement(given.prompt, options), given.prompt))


def _bases(given: argparse.Namespace) -> int:
    space = _space(given)
    if given.token is None:
        report = space.frame_report(given.frame)
        text = export.report_text(report).encode()
        return _write(_written(space, report) if given.json else text)
    token = token_reference(given.token)
    basis = space.bases(token, frame=given.frame, geometry=given.geometry, k=given.k)
    return _write(_written(space, basis) if given.json else export.basis_text(basis).encode())


def _written(space: LatentSpace, found: Any, prompt: str | None = None) -> bytes:
    """The JSON of the web API."""
    return export.Document(export.Source.of(facts_of(space), prompt))(found)


def _check(given: argparse.Namespace) -> int:
    found = _space(given).self_check
    if given.json:
        _write(export.document(found))
    else:
        lines = [
            f"{item.level:<5} {item.name}: {item.value}" + (f" ({item.reason})" * bool(item.reason))
            for item in found.items
        ]
        _write("\n".join([*lines, "", found.summary, ""]).encode())
    return 0 if found.ok else 1


def _space(given: argparse.Namespace) -> LatentSpace:
    return load_space(_settings(given))


def _settings(given: argparse.Namespace, *further: str) -> Settings:
    """The environment's settings with the options before them."""
    names = ("model", "revision", "device", "dtype", "threads", "trust_remote_code", "offline")
    options = {name: getattr(given, name) for name in (*names, *further)}
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "_".join(str(part) for part in first["loc"])
        reason = str(first["msg"]).removeprefix("Value error, ")
        reason = reason.replace("Input should be", "it must be").partition(", unable to")[0]
        place = f"LEXISCOPE_{name.upper()}: " if name else ""
        if hasattr(given, name):  # not every setting is an option, too
            place = f"--{name.replace('_', '-')} (LEXISCOPE_{name.upper()}): "
        raise Mistake(f"{place}{reason}.") from None


def _write(body: bytes) -> int:
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()
    return 0


def _k(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= K_CEILING:
        raise argparse.ArgumentTypeError(f"k must be a whole number from 1 to {K_CEILING}")
    return int(text)


def _place(text: str) -> int:
    if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 6:
        raise argparse.ArgumentTypeError("it must be a whole number, -1 for the last")
    return int(text)


def _ids(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if len(words) > 32 or not all(w.isascii() and w.isdigit() and len(w) < 10 for w in words):
        raise argparse.ArgumentTypeError("they must be at most 32 token ids such as 12,262")
    return tuple(dict.fromkeys(int(word) for word in words))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError("it must be a number") from None


if __name__ == "__main__":
    sys.exit(main())
