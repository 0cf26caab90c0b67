"""A kept run on either side of Compare: the model does not read it again, and the numbers are those
of two prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgi import BASE, PROMPT, TWIN, load_tiny, settings_with
from same_numbers import assert_same_text
from starlette.testclient import TestClient

from app.cli import main as cli
from app.main import create_app
from app.storage.run import Kept
from app.web.export import dumps
from engine import LatentSpace
from engine.compare import PromptComparison, compare_prompts


@pytest.mark.slow
def test_a_kept_run_stands_on_either_side_without_the_model(
    model_folder: Path,
    cache: Path,
    reference: LatentSpace,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: Any,
) -> None:
    settings = settings_with(history_mib=4)
    with TestClient(create_app(settings, load_tiny(model_folder, cache)), base_url=BASE) as client:
        for text in (PROMPT, TWIN):
            assert client.get("/", params={"prompt": text, "frame": "tight"}).status_code == 200
        runs: Any = client.app.state.runs  # type: ignore[attr-defined]
        ids = {one.prompt: one.id for one in runs.all()}
        kept = runs.open(ids[PROMPT])

    space = load_tiny(model_folder, cache)
    seen: list[PromptComparison] = []

    def watched(*given: Any, **more: Any) -> PromptComparison:
        seen.append(compare_prompts(*given, **more))
        return seen[-1]

    monkeypatch.setattr("app.compare.reading.compare_prompts", watched)
    with TestClient(create_app(settings, space), base_url=BASE) as client:
        before = space.forward_passes
        both = {"run": ids[PROMPT], "other_run": ids[TWIN]}
        for asked, passes in ((both, 0), ({"run": ids[PROMPT], "other": TWIN}, 1)):
            for by in ("tokens", "characters"):
                answer = client.get("/compare", params={**asked, "align": by})
                assert answer.status_code == 200, answer.text
                assert space.forward_passes - before == passes
                own = compare_prompts(reference, PROMPT, TWIN, by=by, frame="tight")
                found = seen[-1]
                assert found.first.options.frame == "tight"  # as the run was read
                assert found.pairs == own.pairs
                np.testing.assert_allclose(found.divergence, own.divergence, rtol=1e-3, atol=1e-4)
                np.testing.assert_array_equal(found.rank_in_other, own.rank_in_other)
                for a, b in zip(found.race, own.race, strict=True):
                    np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-4)
        # Another reading of the same states: the model is not needed for it either.
        assert client.get("/compare", params={**both, "frame": "head"}).status_code == 200
        assert seen[-1].first.options.frame == "head"
        assert space.forward_passes - before == 1

        # Programs compare kept runs as the page does, and the model does not run for them.
        asked = {"run": ids[PROMPT], "other_run": ids[TWIN]}
        answer = client.get("/api/v1/compare", params=asked)
        assert answer.status_code == 200, answer.text
        assert space.forward_passes == before + 1
        plain = {"prompt": PROMPT, "other": TWIN, "frame": "tight"}
        same = client.get("/api/v1/compare", params=plain).json()
        assert_same_text(answer.content, dumps(same))
        assert client.get("/api/v1/compare", params=asked | {"run": "0" * 24}).status_code == 404

        # Asked in another way, or of another model: one sentence.
        wrong = client.get("/compare", params={**both, "bos": "yes"})
        assert wrong.status_code == 422
        assert "begin in different ways" in wrong.text
        gone = client.get("/compare", params={"run": "0" * 24, "other": TWIN})
        assert gone.status_code == 422
        assert "no run under this id" in gone.text
        other = replace(kept.run.model, name="another", fingerprint="f" * 32)
        strange = Kept(replace(kept.run, model=other), kept.value, kept.states)
        client.app.state.runs.keep(strange.run, strange.value, strange.states)  # type: ignore[attr-defined]
        told = client.get("/compare", params={"run": strange.run.id, "other": TWIN})
        assert told.status_code == 422
        assert "open that model to compare with it" in told.text

    where = ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]
    monkeypatch.setenv("LEXISCOPE_DATA_DIR", str(settings.data_folder))
    assert cli.main(["compare-prompts", "--run", ids[PROMPT][:10], TWIN, *where]) == 0
    assert_same_text(capfdbinary.readouterr().out, dumps(same))


@pytest.mark.slow
def test_a_text_that_went_on_and_an_action_stand_on_a_side(
    model_folder: Path, cache: Path, reference: LatentSpace
) -> None:
    """The whole text that was written; and the prompt read under the action, also beside itself."""
    settings = settings_with(history_mib=4)
    space = load_tiny(model_folder, cache)
    seed, text = _read_as_written(reference)
    with TestClient(create_app(settings, space), base_url=BASE) as client:
        written = {"prompt": PROMPT, "tokens": "3", "whole": "true", "frame": "tight",
                   "temperature": "1", "seed": str(seed)}  # fmt: skip
        action = {"prompt": PROMPT, "do": "steer", "random": "3", "dose": "2", "layers": "1"}
        for path, asked in (("/generate", written), ("/act", action)):
            assert client.get(path, params=asked).status_code == 200
        runs: Any = client.app.state.runs  # type: ignore[attr-defined]
        by_kind = {one.kind: one for one in runs.all()}
        offered = client.get("/compare").text
        assert all(one.id in offered for one in by_kind.values())

        assert runs.open(by_kind["generate"].id).value.text == text
        asked = {"prompt": PROMPT, "other_run": by_kind["generate"].id}
        answer = client.get("/api/v1/compare", params=asked)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        own = compare_prompts(reference, PROMPT, text, geometry="matmul", frame="tight")
        assert found["options"]["frame"] == "tight"  # as it was read when it was written
        assert found["sentence"] == own.sentence

        asked = {"prompt": PROMPT, "other_run": by_kind["act"].id}
        found = client.get("/api/v1/compare", params=asked).json()
        assert found["sentence"] != compare_prompts(reference, PROMPT, PROMPT).sentence
        with reference.act("steer", random=3, dose=2.0, layers="1"):
            after = reference.trace(PROMPT)
        last = found["cells"][-1]
        assert last["positions"] == [len(after.tokens) - 1] * 2
        assert last["top"][1]["id"] == after.top_ids[-1, -1, 0]
        before = [one for one in found["cells"] if one["layer"] == 0]
        assert all(one["divergence"] == pytest.approx(0, abs=1e-6) for one in before)
        assert last["divergence"] > 0.01


def _read_as_written(space: LatentSpace) -> tuple[int, str]:
    """A seed whose text is cut into the tokens that were drawn, and that text."""
    for seed in range(50):
        found = space.generation(PROMPT, tokens=3, temperature=1.0, seed=seed)
        if space.tokenize(found.text).ids == found.ids:
            return seed, found.text
    raise AssertionError("no text of fifty is read as it was written")
