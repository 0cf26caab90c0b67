"""Tiny models that can be told apart by their answers, and an app that may open each of them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from asgi import Call, settings_with
from fastapi import FastAPI
from safetensors.torch import load_file, save_file
from waiting import PATIENCE

from app.main import create_app

TRACE = "/api/v1/trace"


def folders_of(model_folder: Path, room: Path, names: str) -> dict[str, Path]:
    """Copies of a model under these names, each with weights of its own."""
    made = {}
    for seed, name in enumerate(names):
        folder = room / f"folder-{name}"
        shutil.copytree(model_folder, folder)
        weights = load_file(folder / "model.safetensors")
        noise = torch.Generator().manual_seed(seed)
        for key in sorted(weights):
            weights[key] = weights[key] + 0.3 * torch.randn(weights[key].shape, generator=noise)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        made[name] = folder
    return made


def app_of(folders: Mapping[str, Path], cache: Path, start: str = "a", **settings: Any) -> FastAPI:
    """An app that starts with one of the folders and may open all of them."""
    listed = ",".join(f"{name}={folder}" for name, folder in folders.items())
    given = {"model": start, "models": listed, "cache_dir": cache, "threads": 1, "offline": True}
    return create_app(settings_with(**(given | {"device": "cpu"} | settings)))


async def switched(app: FastAPI, name: str) -> None:
    """Open a model and wait until that has ended, well or not."""
    models = app.state.explorer.models
    await models.switch_to(name)
    async with asyncio.timeout(PATIENCE):
        await models.settled()


async def traced(app: FastAPI, prompt: str, **headers: str) -> Call:
    """A trace by the JSON API."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await Call(app, TRACE, {"prompt": prompt, "k": 5}, headers=sent).answer()
