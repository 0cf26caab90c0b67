"""What a projection is: its names, its words and its functions, in one frozen value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.maps.arrays import Doubles, Floats
from engine.maps.axes import Axes
from engine.maps.preprocessing import Moments
from engine.maps.reduction import UmapResult
from engine.maps.umap_process import UmapProblem


class Ratio(Protocol):
    """What a projection reads of motion in noise floors (:class:`engine.maps.quality.Estimate`)."""

    @property
    def value(self) -> float: ...  # noqa: D102
    @property
    def low(self) -> float | None: ...  # noqa: D102
    @property
    def high(self) -> float | None: ...  # noqa: D102


class Settings(Protocol):
    """What a projection reads of a map's options (:class:`engine.maps.options.MapOptions`)."""

    @property
    def vocabulary(self) -> str: ...  # noqa: D102
    @property
    def frame_words(self) -> str: ...  # noqa: D102
    @property
    def layer(self) -> int: ...  # noqa: D102
    @property
    def dims(self) -> int: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def neighbours(self) -> int: ...  # noqa: D102
    @property
    def min_dist(self) -> float: ...  # noqa: D102
    @property
    def principal(self) -> int: ...  # noqa: D102
    @property
    def axes(self) -> tuple[tuple[str, str], ...]: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitting:
    """What a fit may ask for; everything is after preprocessing and computed when asked for."""

    options: Settings
    """Of the map."""
    shared: Callable[[], Axes]
    """Principal axes of all bases of the frame."""
    moments: Callable[[], Moments]
    """Of all bases of the frame."""
    selected: Callable[[], Floats]
    """The bases on the map (n × d)."""
    alone: Callable[[], tuple[Floats, Floats]]
    """The states of the tokens alone, here and at the last layer (n × d each): those that are
    finite at both; none where the vocabulary is another."""
    others: Callable[[], Floats]
    """The finite states of the map that are no tokens alone (n × d)."""
    tokens: Callable[[Sequence[str]], Doubles]
    """The bases of some tokens (n × d)."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Of a projection that takes long: places are found in a process of its own, not by axes.

    Two layouts have nothing in common but their neighbourhoods: a comparison turns one onto the
    other first, and every point may move.
    """

    problem: Callable[[Floats, Settings, str], UmapProblem]
    """What is to be laid out, of the points after preprocessing (n × d), the settings and the map's
    fingerprint; `OptionError` where there are too few."""
    title: Callable[[Settings, str], str]
    """Of its job; the second argument names the layer."""
    notes: Callable[[Settings, UmapResult, int], list[str]]
    """Warnings about a finished one; the last argument is the width of the model."""
    caution: str
    """A sentence that must be read before the picture."""


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A way from d dimensions to two or three."""

    name: str
    """In options, addresses and files."""
    title: str
    """On the switch of the page."""
    help: str
    """What it is, in a sentence for people who choose."""
    brief: str
    """Its phrase in the description of the API's option; empty where another's covers it."""
    formula: str
    """Of the coordinates."""
    fit: Callable[[Fitting], tuple[Axes, list[str]]] | None = None
    """The axes and warnings about them; None where `layout` stands. Raises `OptionError`: too few
    points, or all of them equal."""
    layout: Layout | None = None
    """Of a projection that is a job."""
    words: Callable[[Settings], str]
    """How the picture is made, for the map's title."""
    heading: Callable[[Settings], str]
    """The same in a few plain words."""
    provenance: Callable[[Settings], str]
    """The same for the line that stands in every file."""
    axis_names: Callable[[Settings, Axes | None], tuple[str, ...]]
    """What stands along each axis."""
    blind_to: Callable[[Settings, Axes | None], str]
    """What the picture cannot show, in a sentence or two."""
    motion: Callable[[Sequence[float], Ratio | None], str] = lambda floors, ratio: ""
    """What must be said of motion between two maps, of the noise floors in map radii and of the
    motion in them (None where they are not known); begins with a space, or is empty."""
    check: Callable[[Settings], None] = lambda options: None
    """Raises `OptionError` where the settings do not allow it."""
    beside: bool = True
    """Whether it can be drawn beside another with nothing more set."""
    bases_move: bool = False
    """Whether bases lie elsewhere at every layer."""
    packages: tuple[str, ...] = ()
    """Whose versions may move a coordinate, beside those that every map is made with."""

    @property
    def is_job(self) -> bool:
        """Whether it takes long, so that a map is drawn only once its layout is kept."""
        return self.layout is not None


def tie_note(axes: Axes) -> list[str]:
    """A warning where two principal axes are not to be told apart."""
    if not axes.tied:
        return []
    return [
        "Two neighbouring principal axes hold nearly the same variance: which of them comes first,"
        " and how they lie, is not to be relied on."
    ]


def principal_names(axes: Axes | None, of: str) -> tuple[str, ...]:
    """Names of principal axes with their share of the variance of what they were fitted on."""
    shares = axes.shares if axes is not None else ()
    return tuple(f"PC{i + 1} ({100 * s:.1f} % of the {of})" for i, s in enumerate(shares))
