"""The app put together: settings in, an ASGI application out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from anyio import to_thread
from fastapi import FastAPI
from starlette.types import ASGIApp

from app import health, version
from app.act import api as act_api
from app.act import many
from app.act import page as act
from app.bases import api as bases_api
from app.bases import page as bases
from app.calibrate import api as calibration_api
from app.calibrate import page as calibrate
from app.calibrate import saved
from app.calibrate.calibrations import Calibrations
from app.calibrate.sets import Sets
from app.compare import api as compare_api
from app.compare import models_api, models_page
from app.compare import page as compare
from app.generate import api as generate_api
from app.generate import page as generate
from app.history import api as history_api
from app.history import page as history
from app.history.kinds import KINDS
from app.jobs import api as job_api
from app.jobs import page as jobs_page
from app.jobs.lanes import Jobs
from app.maps import api as map_api
from app.maps import page as maps
from app.maps.background import BackgroundAtlas
from app.method import page as method
from app.model import api as model_api
from app.model import choice
from app.model import cost as cost_api
from app.model import page as model
from app.model.explorer import Explorer
from app.model.open_model import OneModel
from app.present import page as present
from app.present.stories import read_story, stories
from app.readings import api as readings_api
from app.readings import page as readings
from app.readings.background import BackgroundLens
from app.settings import Settings
from app.storage.disk import FreeDisk
from app.storage.opening import open_store, writable_store
from app.storage.runs import Runs
from app.storage.store import Store
from app.trace import api as trace_api
from app.trace import over_sets
from app.trace import page as trace
from app.uses import api as uses_api
from app.uses import page as uses
from app.web import assets, errors
from app.web.head import places_of
from app.web.problems import StorageError
from app.web.security import SecureApp
from engine import LatentSpace

PAGES = (
    trace.PAGE,
    generate.PAGE,
    act.PAGE,
    compare.PAGE,
    maps.PAGE,
    calibrate.PAGE,
    bases.PAGE,
    readings.PAGE,
    uses.PAGE,
    model.PAGE,
    history.PAGE,
    method.PAGE,
)
"""The pages, in the order of the navigation."""
FURTHER = (
    *(saved, choice, models_page, present, jobs_page, assets, health),  # HTML and files
    over_sets,
    *(
        trace_api,
        compare_api,
        models_api,
        generate_api,
        bases_api,
        model_api,
        cost_api,
        job_api,
        calibration_api,
        map_api,
        readings_api,
        uses_api,
        act_api,
        many,
        history_api,
    ),
)
"""What answers beside them."""


class Site(FastAPI):
    """FastAPI with our wrapper around everything it builds, its own error page included."""

    def build_middleware_stack(self) -> ASGIApp:
        """FastAPI's stack inside `SecureApp`."""
        inner = super().build_middleware_stack()
        one = OneModel(inner, self.state.explorer.models, errors.refuse)
        return SecureApp(one, self.state.settings, errors.refuse, self.state.metrics)


def create_app(
    settings: Settings | None = None,
    space: LatentSpace | None = None,
    store: Store | None = None,
) -> FastAPI:
    """Make the app.

    Args:
        settings: every knob; None: read from the environment.
        space: a loaded model (tests, notebooks); None: the app loads the settings' model on its
            device thread after it has started to listen.
        store: the data folder, opened; None: the settings' folder is opened when the app starts.

    Returns:
        The application; nothing runs until its lifespan begins.
    """
    settings = settings or Settings()  # type: ignore[call-arg]  # pydantic fills the defaults
    explorer = Explorer(settings, space)
    jobs = Jobs(
        explorer.device,
        places=settings.job_places,
        per_client=partial(places_of, settings),
        step_s=settings.step_patience_s,
    )
    jobs.admit, explorer.models.jobs_idle = explorer.models.admit, jobs.when_idle
    sets = Sets(settings)
    runs = Runs(settings, KINDS)
    disk = FreeDisk(settings.data_folder, settings.disk_reserve_mib * 2**20)

    def again() -> None:
        """Open the data folder as soon as it can be used, where it could not at the start."""
        if disk.unusable:
            with suppress(StorageError):
                jobs.adopt(opened := writable_store(settings))
                sets.store, sets.unavailable, disk.unusable = opened, "", ""
                runs.store, runs.unavailable = opened, ""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        held, why = (store, store.problem) if store is not None else open_store(settings)
        sets.store, sets.unavailable, disk.unusable = held, why, why
        runs.store, runs.unavailable = held, why
        jobs.begin(None if why else held)
        disk.after = again
        disk.start()
        try:
            await explorer.start()
            if settings.fit_lens:
                loop = asyncio.get_running_loop()
                forget = partial(loop.call_soon_threadsafe, explorer.forget)
                app.state.lens = BackgroundLens(explorer, jobs, settings.step_patience_s, forget)
                app.state.lens.start()
            if settings.make_atlas:
                app.state.atlas = BackgroundAtlas(explorer, jobs, settings.step_patience_s)
                app.state.atlas.start()
            yield
        finally:
            disk.close()
            for one in (app.state.lens, app.state.atlas):
                if one is not None:
                    await to_thread.run_sync(one.close)
            # The jobs first: their last step needs the device thread.
            await to_thread.run_sync(jobs.close)
            explorer.close()
            if sets.store is not None:
                sets.store.close()

    app = Site(
        title="Lexiscope",
        summary="A language model's latent space, by vocabulary-defined semantics.",
        version=version(),
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # these pages would load scripts from another host
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.pages = PAGES
    app.state.present = present.bar
    own = () if settings.story is None else (read_story(settings.story),)
    app.state.stories = stories() | {one.name: one for one in own}
    app.state.settings = settings
    app.state.explorer = explorer
    app.state.jobs = jobs
    app.state.sets = sets
    app.state.runs = runs
    app.state.disk = disk
    app.state.lens = app.state.atlas = None
    app.state.calibrations = Calibrations(explorer, jobs, sets)
    app.state.metrics = explorer.metrics()
    app.state.metrics.watch(
        "lexiscope_jobs",
        "Jobs that are remembered, by their state.",
        lambda: {state: float(n) for state, n in jobs.counts.items()},
        label="state",
    )
    app.state.metrics.watch(
        "lexiscope_disk_bytes",
        "The data folder's disk: what is free, and what is to stay free.",
        lambda: disk.figures,
        label="what",
    )
    app.add_middleware(errors.ErrorBoundary)
    errors.install(app)
    for router in (*(page.router for page in PAGES), *(room.router for room in FURTHER)):
        app.include_router(router)

    return app
