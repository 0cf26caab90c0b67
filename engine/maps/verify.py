"""Recompute a saved map and say how far it is from what was saved, and what was compared.

A map of an atlas that ships is not laid out again, since UMAP on another machine draws another
picture: its places must be the atlas's, and what the atlas says of its truth is measured again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from engine.errors import ArtifactError, LexiscopeError
from engine.maps.arrays import Doubles
from engine.maps.atlas import Atlas, find_atlas
from engine.maps.axes import rms_radius
from engine.maps.maker import MapMaker
from engine.maps.options import MapOptions, versions
from engine.maps.projections import PROJECTIONS
from engine.maps.result import Map
from engine.progress import Check, drain, no_check

TOLERANCE: Final = 1e-4
"""Largest difference, in RMS radii of the map, up to which two runs count as the same picture."""
ATLAS_TOLERANCE: Final = 0.02
"""Up to which trustworthiness, and kept neighbours as a share of k, of an atlas measured again on
the same sample may differ: last digits turn a near tie here and there."""
Compare = Callable[[MapMaker, Map], str]
"""Takes a maker that keeps nothing old and the map as it would be drawn of the saved numbers; gives
in a few words what in the file differs from that, or nothing."""


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
    same_drawing: bool | None = None
    """Whether the rest of the file is what is drawn of these numbers; None: it was not compared."""
    differs: str = ""
    """What of that rest is not, in a few words."""
    ok: bool = False
    """Same model, same points, no coordinate differs by more than 10⁻⁴ radii, and nothing of the
    rest was found to differ."""
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return asdict(self)


def verify(
    maker: MapMaker,
    document: Mapping[str, Any],
    *,
    compare: Compare | None = None,
    check: Check = no_check,
) -> VerifyReport:
    """Compute a saved map again, whatever maps and layouts are kept, and compare.

    Args:
        maker: of the space that the map is said to show.
        document: what :meth:`Map.to_dict` gave; or the arrays of an NPZ file: ``coordinates``,
            ``kind`` and ``row``, and in ``meta`` the JSON text of :meth:`Map.header`.
        compare: looks at all that the file shows besides the numbers; None: the coordinates, kinds
            and rows of its points are all that is compared, and the sentence says so.

    Raises:
        ArtifactError: the document is no map, or a damaged one.
    """
    header, saved, kind, row = _parts(document)
    try:
        options = MapOptions.from_dict(dict(header["options"]))
    except LexiscopeError as error:
        raise ArtifactError(f"the options of this map cannot be read: {error}") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise _damaged(error) from None
    n = len(saved)
    model = maker.space.model
    if model.fingerprint != header["model"]["fingerprint"]:
        name = header["model"]["name"]
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
    same_versions = versions(options) == header["versions"]
    # What is kept might be the very numbers that are to be checked.
    atlas = find_atlas(model.fingerprint) if header.get("atlas") else None
    if header.get("atlas") and (atlas is None or atlas.result.atlas != header["atlas"]):
        words = "The map shows an atlas that does not ship with this version; draw it anew."
        return VerifyReport(n=n, sentence=words, same_versions=same_versions)
    maker = maker.anew(shipped=atlas is not None)
    if PROJECTIONS[options.projection].is_job and atlas is None:
        problem = maker.umap_problem(options, check=check)
        drain(maker.reduce(problem, floor=header.get("noise_floor") is not None))
    drawn = maker.map(options, check=check)
    found = drawn.coordinates.astype(np.float64)
    same = (
        found.shape == saved.shape
        and np.array_equal(kind, drawn.points.kind)
        and np.array_equal(row, drawn.points.row)
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
    differs = ""
    if ok and compare is not None:
        differs = compare(maker, _as_saved(drawn, saved, header))
    measured = ""
    if atlas is not None:
        true, measured = _measure_again(maker, options, atlas, check)
        ok = ok and true
    sentence = (
        f"Recomputed {len(found):,} points: {_verdict(ok, compare, differs)}; the largest"
        f" difference of a coordinate is {largest:.2g} ({relative:.1g} map radii)."
    )
    if ok and compare is None:
        sentence += " Coordinates, kinds and rows were compared, and nothing else."
    sentence += measured
    if not same_versions:
        sentence += " It was saved under other versions of the software."
    return VerifyReport(
        largest_difference=largest,
        relative_difference=relative,
        n=len(found),
        same_versions=same_versions,
        same_points=True,
        same_drawing=not differs if ok and compare is not None else None,
        differs=differs,
        ok=ok and not differs,
        sentence=sentence,
    )


def _measure_again(
    maker: MapMaker, options: MapOptions, atlas: Atlas, check: Check
) -> tuple[bool, str]:
    """Whether an atlas is as true to the open model as it says, and more than a random picture."""
    found, then = maker.quality(options, check=check), atlas.meta["quality"]
    trust, kept = found.trustworthiness.value, found.kept.value / found.k
    near = (
        abs(trust - then["trustworthiness"]["value"]) <= ATLAS_TOLERANCE
        and abs(kept - then["kept"]["value"] / then["k"]) <= ATLAS_TOLERANCE
    )
    control = found.random["trustworthiness"], found.random["kept"] / found.k
    beats = trust > control[0] and kept > control[1]
    return near and beats, (
        f" It is an atlas that ships, measured again on {found.queries:,} points:"
        f" {found.kept.value:.2f} of {found.k} neighbours kept (a random picture"
        f" {found.random['kept']:.2f}), trustworthiness {trust:.2f} ({control[0]:.2f}); it says"
        f" {then['kept']['value']:.2f} and {then['trustworthiness']['value']:.2f} of itself."
    )


def _verdict(ok: bool, compare: Compare | None, differs: str) -> str:
    if not ok:
        return "NOT the same picture"
    if differs:
        return f"the same numbers, but NOT the same picture: {differs}"
    return "the same numbers" if compare is None else "the same picture"


def _as_saved(drawn: Map, saved: Doubles, header: Mapping[str, Any]) -> Map:
    """The map as it is drawn of the saved numbers: those of another machine differ in last digits.
    Where and under which versions it was made is the file's own word."""
    at = saved.astype(np.float32)
    border = drawn.border
    if not np.array_equal(at, drawn.coordinates, equal_nan=True):
        # The outermost points make the window: by their last digits they would lie beyond it.
        clipped = np.where(border.clipped == drawn.coordinates, at, border.clipped)
        border = replace(border, clipped=clipped)
    then = {str(name): str(one) for name, one in header["versions"].items()}
    where = replace(drawn.model, device=str(header["model"].get("device")))
    # The fingerprint names the versions, too.
    name = drawn.fingerprint if then == drawn.versions else str(header.get("fingerprint"))
    return replace(
        drawn, coordinates=at, border=border, versions=then, model=where, fingerprint=name
    )


def _parts(document: Mapping[str, Any]) -> tuple[dict[str, Any], Doubles, Any, Any]:
    """Header, coordinates, kinds and rows of a saved map, each of the type that it should be."""
    try:
        header = dict(document)
        if "meta" in document:
            header = dict(json.loads(str(np.asarray(document["meta"])[()])))
        saved = np.asarray(document["coordinates"], dtype=np.float64)
        kind = np.asarray(document["kind"], dtype=np.int64)
        row = np.asarray(document["row"], dtype=np.int64)
        model = header["model"]
        sound = (
            header["format"] == "lexiscope-map"
            and saved.ndim == 2
            and isinstance(header["options"], dict)
            and isinstance(header["versions"], dict)
            and isinstance(model["fingerprint"], str)
            and isinstance(model["name"], str)
        )
    except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise _damaged(error) from None
    if not sound:
        raise _damaged(ValueError())
    return header, saved, kind, row


def _damaged(error: Exception) -> ArtifactError:
    return ArtifactError(
        f"this file is no map that was saved here, or it is damaged ({type(error).__name__});"
        " give a JSON or NPZ file that the map's export wrote."
    )
