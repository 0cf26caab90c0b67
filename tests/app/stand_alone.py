"""Templates of files that stand alone: downloads with a policy of their own, never pages."""

from __future__ import annotations

from app.web import assets

STAND_ALONE = [
    assets.templates_folder() / name
    for name in ("maps/file.html", "report/page.html", "trace/file.html")
]
