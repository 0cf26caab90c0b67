"""The command ``lexiscope present``: stories for a stage, listed, and every claim recomputed."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from app.cli.options import settings_of
from app.main import create_app
from app.present.stories import check_story, stories
from engine.errors import OptionError

_WAIT_S = 600


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the command into the command line, with the options about the model besides."""
    parser = commands.add_parser(
        "present", parents=[model], help="list the stories for a stage, or check one"
    )
    parser.add_argument("what", nargs="?", choices=["list", "check"], default="list",
                        help="'list', or 'check': recompute every claim of a story.")  # fmt: skip
    parser.add_argument("story", nargs="?", help="Which, for 'check'.")
    parser.set_defaults(run=_present)


def _present(given: argparse.Namespace) -> int:
    if given.what == "list":
        for story in stories().values():
            print(f"{story.name}: {story.title} ({len(story.steps)} steps, of {story.model})")
        print("'lexiscope serve' shows a story under /present/NAME.")
        return 0
    if given.story not in stories():
        raise OptionError(
            f"there is no story {given.story!r}; name one of {', '.join(stories())}."
            if given.story
            else f"name the story to check: {', '.join(stories())}."
        )
    story = stories()[given.story]
    settings = settings_of(given)
    if settings.model is None:
        settings = settings.model_copy(update={"model": story.model})
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
        for outcome in check_story(story, get):
            wrong += not outcome.holds
            print(f"{'✓' if outcome.holds else '✗'} step {outcome.step}: {outcome.said}")
    print("Every claim holds." if not wrong else f"{wrong} of them do not hold.")
    return 1 if wrong else 0


def _wait(client: TestClient) -> None:
    """Until the model is open, or cannot be."""
    end = time.monotonic() + _WAIT_S
    while (state := client.get("/readyz").json())["state"] == "loading":
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    if not state["ready"]:
        raise OptionError(f"the model could not be opened: {state['reason']}")
