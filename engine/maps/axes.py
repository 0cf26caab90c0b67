"""From d dimensions to two or three: principal axes, orthogonal Procrustes, concept axes.

Principal axes are exact: eigenvectors of the d × d covariance in float64, as scikit-learn's
``PCA(svd_solver="covariance_eigh")``, each turned so that its largest loading is positive. Two
frames are made of them:

* **A, shared**: axes of the bases, fitted once and used for every layer, prompt and text. Motion on
  the map is motion in the model along those axes. Blind to every other direction; a change of basis
  of the whole space reads as motion.
* **B, layer**: axes of this layer's own points, then turned (rotation or reflection, no scaling) so
  that landmarks come as near as they can to where they lie in a reference picture: the R with
  RᵀR = I that minimises ‖(X − x̄)·R − (Y − ȳ)‖ is U·Vᵀ from the singular value decomposition
  (X − x̄)ᵀ(Y − ȳ) = U·S·Vᵀ (Schönemann 1966). Blind to motion of the whole, by construction.

Knows nothing about models or tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.errors import NonFiniteError, OptionError
from engine.maps.arrays import Doubles, Floats
from engine.maps.preprocessing import Moments, moments_of

_NEAR_TIE = 0.02
"""Relative gap of eigenvalues below which two axes are not to be told apart."""
_FEW = 8
"""Points are few where there are so many times more dimensions."""


@dataclass(frozen=True)
class Axes:
    """An affine map y = (x − centre)·directions + offset."""

    centre: Doubles
    """d."""
    directions: Doubles
    """d × dims; orthonormal columns but for concept axes."""
    offset: Doubles
    """dims."""
    shares: tuple[float, ...] = ()
    """Of the variance that the axes were fitted on, per axis, in [0, 1]; largest first."""
    tied: bool = False
    """Whether the last axis shown and the first left out hold nearly the same variance, so that
    another draw of the points could have given other axes."""

    @property
    def dims(self) -> int:
        """2 or 3."""
        return int(self.directions.shape[1])

    def place(self, vectors: Floats | Doubles) -> Doubles:
        """Coordinates of vectors: n × d → n × dims."""
        out: Doubles = (vectors.astype(np.float64) - self.centre) @ self.directions + self.offset
        return out

    def turned(self, rotation: Doubles, offset: Doubles) -> Axes:
        """First this map, then y·rotation + offset."""
        moved = self.offset @ rotation + offset
        return replace(self, directions=self.directions @ rotation, offset=moved)


def principal_axes(moments: Moments, dims: int) -> Axes:
    """The `dims` directions of largest variance, signs fixed, centred on the mean.

    Raises:
        OptionError: fewer than two points, or all of them equal.
        NonFiniteError: NaN or infinity in the moments.
    """
    from scipy.linalg import eigh

    d = len(moments.mean)
    total = float(np.trace(moments.covariance))
    _check_spread(moments.n, moments.mean, total)
    kept = min(dims + 1, d)
    values, vectors = eigh(moments.covariance, subset_by_index=[d - kept, d - 1])
    return _chosen(moments.mean, values[::-1], vectors[:, ::-1], total, dims)


def principal_axes_of(vectors: Floats | Doubles, dims: int) -> Axes:
    """:func:`principal_axes` of points at hand (n × d): of few from their singular vectors, which
    needs no d × d matrix.

    Raises:
        OptionError, NonFiniteError: as there.
    """
    n, d = vectors.shape
    if not dims < n <= d // _FEW:
        return principal_axes(moments_of(vectors), dims)
    mean: Doubles = vectors.mean(axis=0, dtype=np.float64)
    _check_spread(n, mean, 1.0)
    x = vectors.astype(np.float64) - mean
    total = float(np.sum(x**2)) / (n - 1)
    _check_spread(n, mean, total)
    _, lengths, directions = np.linalg.svd(x, full_matrices=False)
    kept = slice(dims + 1)
    return _chosen(mean, lengths[kept] ** 2 / (n - 1), directions[kept].T, total, dims)


def _check_spread(n: int, mean: Doubles, total: float) -> None:
    """Refuse points that are not finite, or lie in one place.

    Args:
        total: their variance.
    """
    if not (np.isfinite(total) and np.isfinite(mean).all()):
        raise NonFiniteError(
            "the points hold NaN or infinity, so they have no principal axes; choose another layer"
            " or preprocessing."
        )
    floor = 1e-24 * max(float(mean @ mean), 1e-300)
    if n < 2 or total <= floor:
        what = "there is only one point" if n < 2 else "all points are equal"
        raise OptionError(
            f"{what} to fit the picture on, so it has no axes; choose more tokens or text, or"
            " another preprocessing."
        )


def _chosen(mean: Doubles, values: Doubles, vectors: Doubles, total: float, dims: int) -> Axes:
    """Axes of the largest eigenvalues and one more, which says whether the last are tied."""
    values = np.clip(values, 0, None)
    kept = len(values)
    shown = vectors[:, :dims]
    if shown.shape[1] < dims:
        shown = np.pad(shown, ((0, 0), (0, dims - shown.shape[1])))
    largest = np.abs(shown).argmax(axis=0)
    signs = np.sign(shown[largest, np.arange(dims)])
    shown = shown * np.where(signs == 0, 1.0, signs)
    gaps = values[: kept - 1] - values[1:kept]
    tied = bool((gaps <= _NEAR_TIE * values[: kept - 1]).any() and values[-1] > 1e-12 * total)
    return Axes(
        centre=mean,
        directions=np.ascontiguousarray(shown),
        offset=np.zeros(dims),
        shares=tuple(float(x / total) for x in values[:dims]),
        tied=tied,
    )


@dataclass(frozen=True)
class Fit:
    """An orthogonal map that lays one cloud on another: y·rotation + offset."""

    rotation: Doubles
    """dims × dims, orthogonal; a reflection where its determinant is −1."""
    offset: Doubles
    """dims."""
    residual: float
    """RMS distance left between the landmarks, in RMS radii of the target; 0 is a perfect fit."""


def procrustes(source: Doubles, target: Doubles) -> Fit:
    """The orthogonal Procrustes fit of landmarks, centred, without scaling.

    Args:
        source: landmarks as they lie (n × dims).
        target: the same landmarks in the reference picture (n × dims).
    """
    source = source.astype(np.float64)
    target = target.astype(np.float64)
    a, b = source.mean(axis=0), target.mean(axis=0)
    u, _, vt = np.linalg.svd((source - a).T @ (target - b))
    rotation = u @ vt
    offset = b - a @ rotation
    left = source @ rotation + offset - target
    radius = rms_radius(target)
    residual = float(np.sqrt(np.mean(np.sum(left**2, axis=1)))) / radius if radius > 0 else 0.0
    return Fit(rotation, offset, residual)


def procrustes_of_moments(moments: Moments, source: Axes, target: Axes) -> Fit:
    """:func:`procrustes` of all points behind some moments, without the points.

    (X − x̄)ᵀ(Y − ȳ) = n·Aᵀ·C·B where X lies on the axes A, Y on B and C is the covariance.
    """
    c = moments.covariance
    mean = moments.mean[None]
    a, b = source.place(mean)[0], target.place(mean)[0]
    u, _, vt = np.linalg.svd(source.directions.T @ c @ target.directions)
    rotation: Doubles = u @ vt
    gap = source.directions @ rotation - target.directions
    left = float(np.trace(gap.T @ c @ gap))
    total = float(np.trace(target.directions.T @ c @ target.directions))
    residual = float(np.sqrt(max(left, 0.0) / total)) if total > 0 else 0.0
    return Fit(rotation, b - a @ rotation, residual)


def rms_radius(points: Doubles | Floats) -> float:
    """Root mean square distance of points from their mean: the radius of a picture."""
    x = points.astype(np.float64)
    return float(np.sqrt(np.mean(np.sum((x - x.mean(axis=0)) ** 2, axis=1)))) if len(x) else 0.0


def concept_axes(plus: Doubles, minus: Doubles, centre: Doubles) -> Axes:
    """Axes through pairs of tokens: coordinate j is (x − centre)·a_j with a_j ∝ plus_j − minus_j.

    Args:
        plus: a vector per dimension (dims × d), preprocessed as the points are.
        minus: the same.
        centre: what lies at the origin (d).

    Raises:
        OptionError: the two tokens of a pair have the same vector.
    """
    difference = plus - minus
    lengths = np.linalg.norm(difference, axis=1, keepdims=True)
    scale = np.linalg.norm(plus, axis=1, keepdims=True)
    if bool((lengths <= 1e-9 * np.maximum(scale, 1e-300)).any()):
        raise OptionError(
            "the two tokens of a concept axis have the same vector, so there is no direction from"
            " one to the other; choose different tokens."
        )
    return Axes(centre, np.ascontiguousarray((difference / lengths).T), np.zeros(len(plus)))


def variance_shown(vectors: Floats | Doubles, axes: Axes) -> float | None:
    """Share of the variance of these points that lies along the axes, in [0, 1].

    Σ‖Qᵀ(x − x̄)‖² / Σ‖x − x̄‖² with Q an orthonormal basis of what the axes span. None where the
    points do not vary.
    """
    if len(vectors) < 2:
        return None
    x = vectors.astype(np.float64)
    x = x - x.mean(axis=0)
    total = float(np.sum(x**2))
    if total <= 0:
        return None
    return min(1.0, float(np.sum((x @ _span(axes.directions)) ** 2)) / total)


def variance_of_moments(moments: Moments, axes: Axes) -> float | None:
    """The same from a covariance: tr(Qᵀ·C·Q) / tr(C)."""
    total = float(np.trace(moments.covariance))
    if total <= 0:
        return None
    q = _span(axes.directions)
    return min(1.0, float(np.sum((q.T @ moments.covariance) * q.T)) / total)


def _span(directions: Doubles) -> Doubles:
    u, s, _ = np.linalg.svd(directions, full_matrices=False)
    out: Doubles = u[:, s > 1e-12 * s[0]]
    return out
