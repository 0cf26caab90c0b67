"""A page as the site knows it: its name in the navigation, its address, and who answers there."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter


@dataclass(frozen=True, eq=False)
class Page:
    """One page; `app.main.PAGES` lists them in the order of the navigation."""

    title: str
    path: str
    router: APIRouter

    def holds(self, path: str) -> bool:
        """Whether the page, or one under it, is what stands at this path."""
        return path == self.path or (self.path != "/" and path.startswith(f"{self.path}/"))
