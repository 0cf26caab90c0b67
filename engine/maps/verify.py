"""Recompute a saved map and say how far it is from what was saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from engine.errors import ArtifactError, LexiscopeError
from engine.maps.axes import rms_radius
from engine.maps.maker import MapMaker
from engine.maps.options import MapOptions, versions
from engine.maps.projections import PROJECTIONS
from engine.maps.reduction import UmapCache, reduce
from engine.progress import Check, drain, no_check

TOLERANCE: Final = 1e-4
"""Largest difference, in RMS radii of the map, up to which two runs count as the same picture."""


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What a recomputation found; a map that cannot be compared point by point has the defaults."""

    largest_difference: float = float("nan")
    """Largest absolute difference of a coordinate, in the map's own units."""
    relative_difference: float = float("nan")
    """The same in RMS radii of the map."""
    n: int
    same_model: bool = True
    same_versions: bool = False
    same_points: bool = False
    ok: bool = False
    """Same model, same points, and no coordinate differs by more than 10⁻⁴ radii."""
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return asdict(self)


def verify(
    maker: MapMaker, document: Mapping[str, Any], *, check: Check = no_check
) -> VerifyReport:
    """Draw a saved map again, without any cache of layouts, and compare.

    Args:
        maker: of the space that the map is said to show.
        document: what :meth:`Map.to_dict` gave; or the arrays of an NPZ file: ``coordinates``,
            ``kind`` and ``row``, and in ``meta`` the JSON text of :meth:`Map.header`.

    Raises:
        ArtifactError: the document is no map, or a damaged one.
    """
    header = dict(document)
    try:
        if "meta" in document:
            header = json.loads(str(np.asarray(document["meta"])[()]))
        saved = np.asarray(document["coordinates"], dtype=np.float64)
        kind = np.asarray(document["kind"], dtype=np.int64)
        row = np.asarray(document["row"], dtype=np.int64)
        if header["format"] != "lexiscope-map" or saved.ndim != 2:
            raise ValueError("not a map")
        fingerprint = str(header["model"]["fingerprint"])
        name = str(header["model"]["name"])
        given = dict(header["options"])
        then = dict(header["versions"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"this file is no map that was saved here, or it is damaged ({type(error).__name__});"
            " give a JSON or NPZ file that the map's export wrote."
        ) from None
    try:
        options = MapOptions.from_dict(given)
    except LexiscopeError as error:
        raise ArtifactError(f"the options of this map cannot be read: {error}") from None
    n = len(saved)
    model = maker.space.model
    if model.fingerprint != fingerprint:
        words = f"The map was made of another model ({name}); open that model to verify it."
        return VerifyReport(n=n, sentence=words, same_model=False)
    named = options.calibration
    if named is not None and not maker.knows(named.fingerprint):
        return VerifyReport(
            n=n,
            sentence=f"The map was drawn with the calibration “{named.label}” (fingerprint"
            f" {named.fingerprint[:12]}), which is not open, so it cannot be computed again; give"
            " that calibration as well.",
        )
    same_versions = versions(options) == then
    if PROJECTIONS[options.projection].is_job:
        # What is kept might be the very numbers that are to be checked.
        problem = maker.umap_problem(options, check=check)
        fresh = drain(reduce(problem, UmapCache(None), maker.umap_process, floor=False))
        found, points = fresh.coordinates.astype(np.float64), maker.points(options, check=check)
    else:
        drawn = maker.draw(options, check=check)
        found, points = drawn.coordinates.astype(np.float64), drawn.points
    same = (
        found.shape == saved.shape
        and np.array_equal(kind, points.kind)
        and np.array_equal(row, points.row)
    )
    if not same:
        words = f"The map has other points than were saved: {len(found):,} now, {n:,} then."
        return VerifyReport(n=n, sentence=words, same_versions=same_versions)
    missing = ~np.isfinite(found).all(axis=1)  # states that are not finite, then as now
    gone = ~np.isfinite(saved).all(axis=1)
    largest = float(np.max(np.abs(found - saved)[~missing & ~gone], initial=0.0))
    largest = largest if np.array_equal(missing, gone) else float("inf")
    radius = rms_radius(found[~missing])
    relative = largest / radius if radius > 0 else largest
    ok = relative <= TOLERANCE
    words = "the same picture" if ok else "NOT the same picture"
    sentence = (
        f"Recomputed {len(found):,} points: {words}; the largest difference of a coordinate is"
        f" {largest:.2g} ({relative:.1g} map radii)."
    )
    if not same_versions:
        sentence += " It was saved under other versions of the software."
    return VerifyReport(
        largest_difference=largest,
        relative_difference=relative,
        n=len(found),
        same_versions=same_versions,
        same_points=True,
        ok=ok,
        sentence=sentence,
    )
