"""A kept run on either side of Compare: the model does not read it again, and the numbers are those
of two prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgi import BASE, PROMPT, TWIN, load_tiny, settings_with
from starlette.testclient import TestClient

from app.main import create_app
from app.storage.run import Kept
from engine import LatentSpace
from engine.compare import PromptComparison, compare_prompts


@pytest.mark.slow
def test_a_kept_run_stands_on_either_side_without_the_model(
    model_folder: Path, cache: Path, reference: LatentSpace, monkeypatch: pytest.MonkeyPatch
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
