"""What a geometry is: a way to measure how near a state stands to a token's vector.

A geometry is one frozen :class:`Geometry`; readings, borders, pages, API and command line iterate
over them and know none by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from engine.explanation import Explanation


@dataclass(frozen=True)
class Rows:
    """What the scores of a set of states need besides the product: one number per row."""

    queries: Tensor
    """M·r (n × d), float32."""
    norm: Tensor
    """‖r‖ (n × 1)."""
    square: Tensor
    """‖r‖² (n × 1)."""
    offset: Tensor | None
    """r·b̄ (n × 1), where the frame is centred."""


@dataclass(frozen=True)
class Columns:
    """What the scores of a set of tokens need besides the product: one number per column."""

    norms: Tensor
    """‖b_i‖ (c)."""
    inverse: Tensor
    """1/‖b_i‖, 0 where the vector is zero: such a token is similar to nothing (c)."""
    bias: Tensor | None
    """The head's, for the frame `head` (c)."""
    finish: Callable[[Tensor], Tensor] | None
    """The head's scale and soft cap, for the frame `head`."""

    def at(self, which: slice | Tensor) -> Columns:
        """Those of some tokens."""
        bias = None if self.bias is None else self.bias[which]
        return replace(self, norms=self.norms[which], inverse=self.inverse[which], bias=bias)


def no_lift(squares: Tensor, bias: Tensor | None) -> Tensor | None:
    """Of linear functions that are 0 at the origin."""
    return None


@dataclass(frozen=True)
class Borders:
    """The half-spaces that bound a token's region (:mod:`engine.reading.regions`).

    Scores are ordered as the linear functions f_i(r) = r·p_i + a_i are, so the border between the
    regions of i and j is a wall at the distance (f_i − f_j)/‖p_i − p_j‖.
    """

    unit: str
    """Of the distance."""
    sign: str = ""
    """The unit as it stands behind a number."""
    directions: bool = False
    """p_i is b_i/‖b_i‖, r is taken at length 1 and the distance is an angle, the arcsine of that
    to the wall; else p_i is b_i."""
    lift: Callable[[Tensor, Tensor | None], Tensor | None] = no_lift
    """a_i from ‖b_i‖² and the head's bias; None is 0."""
    slope: float = 1.0
    """A difference of scores in units of f."""

    def points(self, vectors: Tensor) -> Tensor:
        """p_i of vectors (… × d)."""
        if not self.directions:
            return vectors
        unit: Tensor = vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-300)
        return unit

    def measure(self, wall: Tensor) -> Tensor:
        """The distance to the border from that to the wall."""
        return wall.clamp(max=1).asin() if self.directions else wall


def whole_as_it_is(rows: Rows) -> tuple[Tensor | None, Tensor | None]:
    """The row part of a geometry whose bare score is the score."""
    return None, None


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """One way to measure nearness. A larger score is nearer."""

    name: str
    """In addresses, files and options."""
    title: str
    """On the pages."""
    what: str
    """What is measured, in a sentence."""
    score: str
    """What a score is called, with its range or unit."""
    temperature: float
    """T of softmax(score / T) where nobody says otherwise, in units of the score."""
    formula: str
    """The score of token i for the state r."""
    bare: Callable[[Tensor, Columns, Tensor | None], Tensor]
    """Scores but for what is the same for a whole row, which decides neither order nor softmax:
    large blocks are spared those passes. From the products r·b_i (n × c), what the tokens bring,
    and room for the result or None."""
    row_part: Callable[[Rows], tuple[Tensor | None, Tensor | None]] = whole_as_it_is
    """What makes a bare score whole: a factor or a summand per row (n × 1)."""
    borders: Borders | None = None
    """None where nobody has worked out how far the border of a region is."""
    explanation: Explanation
    """For the Method page."""

    @property
    def no_border(self) -> str:
        """What stands where the distance to a border would, if there is none."""
        return f"By {self.title} there is no formula for the distance to the border of a region."

    def scores(self, dots: Tensor, rows: Rows, columns: Columns) -> Tensor:
        """Whole scores from products r·b_i (n × c), centred already where that was asked."""
        bare = self.bare(dots, columns, None)
        gain, lift = self.row_part(rows)
        if gain is not None:
            return bare * gain
        return bare if lift is None else bare + lift
