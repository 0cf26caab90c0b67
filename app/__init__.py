"""The web app: shows what the engine computes and computes no number itself."""

from __future__ import annotations

import functools
import importlib.metadata


@functools.cache
def version() -> str:
    """The version of Lexiscope that is installed."""
    try:
        return importlib.metadata.version("lexiscope")
    except importlib.metadata.PackageNotFoundError:  # run from a folder, not installed
        return "unknown"
