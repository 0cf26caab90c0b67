"""The projections of maps, each one frozen value; everything else iterates over them.

A new one is a file beside these with its value, and its name in the tuple below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

from engine.maps.projections.concepts import AXES
from engine.maps.projections.layer import LAYER
from engine.maps.projections.projection import Fitting, Layout, Projection, Settings
from engine.maps.projections.selection import SELECTION
from engine.maps.projections.shared import SHARED
from engine.maps.projections.umap import UMAP

PROJECTIONS: Final[Mapping[str, Projection]] = {
    one.name: one for one in (SHARED, SELECTION, LAYER, UMAP, AXES)
}
"""By name, in the order in which they are offered; the first is the one of a map that names none.
"""

if TYPE_CHECKING:
    ProjectionName = str
else:
    ProjectionName = Literal[tuple(PROJECTIONS)]
    """For models of questions: the names, and no other."""

__all__ = ["PROJECTIONS", "SHARED", "Fitting", "Layout", "Projection", "ProjectionName", "Settings"]
