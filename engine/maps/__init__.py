"""Maps of a latent space: its semantic bases and hidden states in two or three dimensions.

A map is a picture of many dimensions in few, so it is wrong in ways that do not show. Every map
here says how it was made, what share of the variance it shows, what it cannot show, and how many of
a point's true neighbours are its neighbours on the picture; the evidence of the model's own space
is one call away::

    maps = space.maps
    drawn = maps.map(MapOptions(prompt="The old king and the", layer=4))
    print(drawn.title, maps.quality(drawn.options).sentence)

Knows nothing about figures or pages.
"""

from engine.maps.calibrated import Calibrator
from engine.maps.changes import Changes
from engine.maps.colours import COLOURS, Colour
from engine.maps.maker import MapMaker
from engine.maps.neighbours import Cka, Near, Neighbours
from engine.maps.options import CalibrationName, MapNotReady, MapOptions, TextSet
from engine.maps.points import KINDS, MapPoints, Point
from engine.maps.projections import PROJECTIONS, Projection
from engine.maps.quality import Quality
from engine.maps.reduction import UmapResult, reduce
from engine.maps.result import Map
from engine.maps.umap_process import UmapProblem, UmapProcess
from engine.maps.verify import verify

__all__ = [
    "COLOURS",
    "KINDS",
    "PROJECTIONS",
    "CalibrationName",
    "Calibrator",
    "Changes",
    "Cka",
    "Colour",
    "Map",
    "MapMaker",
    "MapNotReady",
    "MapOptions",
    "MapPoints",
    "Near",
    "Neighbours",
    "Point",
    "Projection",
    "Quality",
    "TextSet",
    "UmapProblem",
    "UmapProcess",
    "UmapResult",
    "reduce",
    "verify",
]
