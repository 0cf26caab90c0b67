"""The web app: shows what the engine computes and computes no number itself."""

from __future__ import annotations

import functools
import importlib.metadata
import os

# Before torch is imported: threads that wait must sleep, not spin. The server shares its cores with
# a browser, and a spinning thread keeps the core that its neighbour needs. Set by hand, it stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@functools.cache
def version() -> str:
    """The version of Lexiscope that is installed."""
    try:
        return importlib.metadata.version("lexiscope")
    except importlib.metadata.PackageNotFoundError:  # run from a folder, not installed
        return "unknown"
