"""The addresses of the engine's source: today's, short ones, and those of before."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from app.method.page import module_of, modules

KEPT = """
agreement anatomy calibration.ablation calibration.artifact calibration.calibrated
calibration.comparison calibration.comparison_result calibration.evaluation
calibration.evaluation_result calibration.features calibration.findings calibration.known
calibration.losses calibration.methods calibration.metrics calibration.module
calibration.options calibration.peft_tuning calibration.plane calibration.probes
calibration.prompting calibration.protocol calibration.readings calibration.resampling
calibration.resuming calibration.retrieval calibration.separated calibration.shared_prefix
calibration.spec calibration.splits calibration.tables calibration.tasks calibration.training
calibration.tuning calibration.words cell checkpoints cost curves decomposition
decomposition_cache divergence errors frame_report frames isotropy loading lookup maps.border
maps.calibrated maps.changes maps.colours maps.compute maps.drawing maps.frames maps.neighbours
maps.options maps.points maps.preprocessing maps.projection maps.quality maps.reduction
maps.scenes maps.selection maps.studio maps.umap_child maps.umap_process maps.verify
model_folder models opening placement plain progress prompts ranges reading regions resolution
running selfcheck similarity space state_cache texts token_basis trace trace_options
trace_result trace_states vocabulary
"""
"""Modules as they were named before the engine had rooms; `worker` left it for the app."""


@pytest.mark.parametrize("name", KEPT.split())
def test_an_address_of_before_leads_to_the_module(shared_client: TestClient, name: str) -> None:
    answer = shared_client.get(f"/method/source/{name}", follow_redirects=False)
    if name in modules():
        assert answer.status_code == 200
        return
    assert answer.status_code == 308
    place = answer.headers["location"]
    assert place == f"/method/source/{module_of(name)}"
    shown = shared_client.get(place, follow_redirects=False)
    assert shown.status_code == 200
    assert name.split(".")[0] not in ("calibration", "maps") or name.split(".")[0] in place


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("losses", "calibration.training.losses"),
        ("calibration.losses", "calibration.training.losses"),
        ("similarity", "reading.similarity"),
        ("trace_options", "trace.options"),
        ("model_folder", "model.folder"),
        ("l2", "reading.geometries.l2"),
    ],
)
def test_a_short_name_is_the_only_module_it_can_be(name: str, place: str) -> None:
    assert module_of(name) == place


@pytest.mark.parametrize("name", ["options", "os", "worker", "nothing", "_", "frames.__builtins__"])
def test_a_name_of_none_or_several_is_not_there(shared_client: TestClient, name: str) -> None:
    assert name not in modules()
    answer = shared_client.get(f"/method/source/{name}", follow_redirects=False)
    assert answer.status_code == 404


@pytest.mark.parametrize("name", ["frames", "reading", "reading.geometries", "trace", "maps"])
def test_a_package_shows_what_it_says_of_itself(shared_client: TestClient, name: str) -> None:
    answer = shared_client.get(f"/method/source/{name}", follow_redirects=False)
    assert answer.status_code == 200
    assert f"engine/{name.replace('.', '/')}/__init__.py" in answer.text
