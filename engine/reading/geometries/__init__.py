"""The geometries, in the order of every list: one value each, in a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from engine.errors import OptionError
from engine.reading.geometries.cosine import COSINE
from engine.reading.geometries.geometry import Geometry
from engine.reading.geometries.l2 import L2
from engine.reading.geometries.matmul import MATMUL

GEOMETRIES: Final[Mapping[str, Geometry]] = MappingProxyType(
    {one.name: one for one in (COSINE, L2, MATMUL)}
)
"""By name."""

if TYPE_CHECKING:
    GeometryName = str
else:
    GeometryName = Literal[tuple(GEOMETRIES)]
    """For models of questions: the names, and no other."""


def geometry_of(name: str) -> Geometry:
    """The geometry of that name.

    Raises:
        OptionError: there is none.
    """
    if name not in GEOMETRIES:
        raise OptionError(f"geometry must be one of {', '.join(GEOMETRIES)}; got {name[:40]!r}.")
    return GEOMETRIES[name]
