"""The command ``lexiscope present``: stories for a stage, listed, told, and recomputed."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from app.cli.options import SERVING, add, settings_of
from app.cli.serve import serve_pages
from app.main import create_app
from app.present.stories import Story, check_story, read_story, stories
from app.settings import Settings
from engine.errors import OptionError

_WAIT_S = 600
"""Until a model is open, and between two signs of life of a job."""


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the command into the command line, with the options about the model besides."""
    parser = commands.add_parser(
        "present", parents=[model], help="list the stories for a stage, tell one, or check one"
    )
    parser.add_argument("what", nargs="?", default="list", help="'list'; a story's name or its "
        "file, to tell it; or 'check', to recompute every claim of one.")  # fmt: skip
    parser.add_argument("which", nargs="?", metavar="story", help="Which, for 'check': a name or "
        "a file.")  # fmt: skip
    add(parser, Settings, *SERVING)
    parser.set_defaults(run=_present)


def _present(given: argparse.Namespace) -> int:
    if given.what == "list":
        for story in stories().values():
            print(f"{story.name}: {story.title} ({len(story.steps)} steps, of {story.model})")
        print("'lexiscope present NAME' opens one, 'lexiscope present check NAME' recomputes it.")
        return 0
    check = given.what == "check"
    named = given.which if check else given.what
    if named is None:
        raise OptionError(f"name the story to check, or its file: {', '.join(stories())}.")
    story = stories().get(named) or _from_file(named)
    settings = settings_of(given)
    if settings.model is None and named in stories():  # a recorded one says a name for people
        settings = settings.model_copy(update={"model": story.model})
    if not check:
        own = {"story": Path(named)} if named not in stories() else {}
        return serve_pages(settings.model_copy(update=own), f"present/{story.name}")
    return _check(story, settings)


def _from_file(named: str) -> Story:
    if not Path(named).is_file():
        raise OptionError(
            f"there is no story and no file {named[:80]!r}; the stories are {', '.join(stories())}."
        )
    return read_story(Path(named))


def _check(story: Story, settings: Settings) -> int:
    wrong = 0
    with (
        # Nothing that is saved plays a part in it, and a server may be using that.
        tempfile.TemporaryDirectory(prefix="lexiscope-present-") as folder,
        TestClient(
            create_app(settings.model_copy(update={"data_dir": Path(folder)})),
            base_url="http://127.0.0.1",
        ) as client,
    ):
        _wait(client)

        def get(address: str) -> tuple[int, Any]:
            answer = client.get(address)
            is_json = answer.headers.get("content-type", "").startswith("application/json")
            return answer.status_code, answer.json() if is_json else None

        own = get("/api/v1/model")[1]
        if own["fingerprint"] != story.fingerprint:
            raise OptionError(
                f"the story {story.name!r} is told of {story.model}, and {own['name']} is open;"
                f" leave --model out, or name {story.model}."
            )
        for outcome in check_story(story, get, lambda asked: make(client, asked)):
            wrong += not outcome.holds
            print(
                f"{'✓' if outcome.holds else '✗'} step {outcome.step}: {outcome.said}", flush=True
            )
    print("Every claim holds." if not wrong else f"{wrong} of them do not hold.")
    return 1 if wrong else 0


def make(client: TestClient, asked: Mapping[str, Any]) -> str:
    """Run a calibration to its end and give its id; empty where it did not come to one."""
    job = client.post("/api/v1/calibrations", json=dict(asked)).json()
    done, end = -1, time.monotonic() + _WAIT_S
    while "id" in job and not job["finished"] and time.monotonic() < end:
        if job["done"] != done:
            done, end = job["done"], time.monotonic() + _WAIT_S
        time.sleep(0.2)
        job = client.get(f"/api/v1/jobs/{job['id']}").json()
    return str(job.get("result") or "")


def _wait(client: TestClient) -> None:
    """Until the model is open, or cannot be."""
    end = time.monotonic() + _WAIT_S
    while (state := client.get("/readyz").json())["state"] == "loading":
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    if not state["ready"]:
        raise OptionError(f"the model could not be opened: {state['reason']}")
