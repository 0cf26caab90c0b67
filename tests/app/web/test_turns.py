"""A page asks the model once: whatever it shows, it takes one turn of the device thread."""

from __future__ import annotations

import pytest
from asgi import PROMPT, Call, running, settings_with

from app.main import create_app
from engine import LatentSpace


@pytest.mark.parametrize(
    ("path", "query", "turns"),
    [
        ("/", {"prompt": PROMPT}, 1),
        ("/", {"prompt": PROMPT, "panel": "agreement", "cell": "1,2", "pin": "5"}, 1),
        ("/", {"prompt": PROMPT, "panel": "words", "cell": "1,2"}, 1),
        ("/trace/agreement", {"prompt": PROMPT}, 1),
        ("/", {"prompt": PROMPT, "panel": "contexts", "cell": "1,2"}, 1),
        ("/trace/contexts", {"prompt": PROMPT, "cell": "1,2"}, 1),
        ("/trace/words", {"prompt": PROMPT, "cell": "1,2"}, 1),
        ("/compare", {"prompt": PROMPT, "other": "The dog sat on the mat"}, 1),
        ("/compare", {}, 1),
        ("/bases", {}, 1),
        ("/act", {"prompt": PROMPT, "twin": PROMPT}, 1),
        ("/bases", {"search": "cat"}, 1),
        ("/model", {}, 0),
        ("/method", {}, 0),
    ],
)
async def test_a_page_takes_one_turn(
    space: LatentSpace, path: str, query: dict[str, str], turns: int
) -> None:
    app = create_app(settings_with(), space)
    async with running(app):
        counters = app.state.explorer.device.counters
        for expected in (turns, 0):  # the second time the answer is kept
            before = counters["done"]
            assert (await Call(app, path, query).answer()).status == 200
            assert counters["done"] - before == expected


async def test_another_cell_reads_the_prompt_once(space: LatentSpace) -> None:
    app = create_app(settings_with(), space)
    async with running(app):
        texts = {"prompt": "words that nobody else reads"}
        before = space.forward_passes
        for cell in ("0,0", "1,1", "2,2"):
            answer = await Call(app, "/", {**texts, "cell": cell}).answer()
            assert answer.status == 200
        assert space.forward_passes == before + 1
