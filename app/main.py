"""The app put together: settings in, an ASGI application out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp

from app import errors, version
from app.routes import api, bases, health, method, model, static, trace
from app.security import SecureApp
from app.service import Explorer
from app.settings import Settings
from engine import LatentSpace


class Site(FastAPI):
    """FastAPI with our wrapper around everything it builds, its own error page included."""

    def build_middleware_stack(self) -> ASGIApp:
        """FastAPI's stack inside `SecureApp`."""
        inner = super().build_middleware_stack()
        return SecureApp(inner, self.state.settings, errors.refuse)


def create_app(settings: Settings | None = None, space: LatentSpace | None = None) -> FastAPI:
    """Make the app.

    Args:
        settings: every knob; None: read from the environment.
        space: a loaded model (tests, notebooks); None: the app loads the settings' model on its
            device thread after it has started to listen.

    Returns:
        The application; nothing runs until its lifespan begins.
    """
    settings = settings or Settings()  # type: ignore[call-arg]  # pydantic fills the defaults
    explorer = Explorer(settings, space)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await explorer.start()
        try:
            yield
        finally:
            explorer.close()

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
    app.state.settings = settings
    app.state.explorer = explorer
    app.add_middleware(errors.ErrorBoundary)
    errors.install(app)
    for page in (trace, bases, model, method, api, health, static):
        app.include_router(page.router)
    return app
