"""Work in several parts as one whole: how much of it is done, and how long the rest will take.

Each part is foretold a cost, in any unit, and belongs to a kind; parts of one kind go at one pace.
The pace of a kind is measured on its parts that have ended, and on the one under way; of a kind
that has not begun, the mean pace of the others is taken. (An estimate of our own.)

A training may stop early, at some share of what it might have done: its end is foretold by those of
its kind that have ended, and before one has by none. A part whose work may lie on the disk says so
at its first report, and what is done by then counts for nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from engine.progress import Progress, Steps, relabelled

T = TypeVar("T")
UNSEEN: Final = 1 / 8
"""Share of the seconds left that may be of kinds whose pace was never measured; beyond it no time
is told."""
_BEGUN: Final = 0.05
"""Share of a part from which its own pace counts."""
_FADES: Final = 0.7
"""What a part counts beside the next one of its kind: other work may have come or gone since."""
_NEARLY: Final = 0.95
"""Share that is told of a training that goes on longer than those before it."""


@dataclass(frozen=True)
class Part:
    """A part of a larger work."""

    name: str
    """Of its own; what its reports carry."""
    kind: str
    """Parts of one kind take as long for each unit of their cost."""
    cost: float
    """What it takes, in a unit that is the same for all parts."""
    stops_early: bool = False
    """Whether it may end at any share of itself, so that its own pace does not tell its end."""
    may_be_kept: bool = False
    """Whether what its first report says to be done was done before, and took no time."""


class Schedule:
    """The parts of one work, and where it is in them."""

    def __init__(self, parts: Iterable[Part], clock: Callable[[], float] = time.monotonic) -> None:
        """Begin the first part.

        Args:
            parts: in the order in which they will be done; some may turn out to be done already.
            clock: seconds.
        """
        self._parts = tuple(parts)
        self._place = {part.name: i for i, part in enumerate(self._parts)}
        self._clock = clock
        self._begin = self._since = self._last = clock()
        self._costs = [part.cost for part in self._parts]
        self._at, self._share, self._short = 0, 0.0, 0.0
        self._before: float | None = None
        self._seen: dict[str, _Seen] = defaultdict(_Seen)
        self._whole = 0.0

    def follow(self, steps: Steps[T]) -> Steps[T]:
        """The same work, each report with the share of the whole and the seconds left."""
        return relabelled(steps, self.tell)

    def tell(self, step: Progress) -> Progress:
        """One report, placed in the whole; one without a part's name is of the part under way."""
        here, now = self._place.get(step.part, self._at), self._clock()
        if here > self._at:  # what is passed over was done before, and took no time
            part = self._parts[self._at]
            if self._last > self._since:
                self._seen[part.kind].ended(
                    self._costs[self._at], self._last - self._since, self._short
                )
            self._costs[self._at + 1 : here] = [0.0] * (here - self._at - 1)
            self._at, self._since, self._share, self._short = here, self._last, 0.0, 0.0
            self._before = None
        self._last = now  # what passes until the next report is of the part that it is of
        if step.share is not None:
            if self._before is None:
                self._before = step.share if self._parts[self._at].may_be_kept else 0.0
                self._costs[self._at] *= 1 - self._before
            own = (step.share - self._before) / (1 - self._before) if self._before < 1 else 1.0
            self._share = max(self._share, own)  # a part may have stages of its own
            self._short = self._share if self._share < 1 else self._short
        left, unseen = self._left(now)
        share = self._foretold if left is None else self._by_time(now - self._begin, left)
        self._whole = max(self._whole, min(1.0, share))
        known = left is not None and unseen <= UNSEEN * left
        return replace(step, whole=self._whole, left=left if known else None)

    @property
    def _foretold(self) -> float:
        done = sum(self._costs[: self._at]) + self._costs[self._at] * self._share
        return done / (sum(self._costs) or 1.0)

    @staticmethod
    def _by_time(taken: float, left: float) -> float:
        return taken / (taken + left) if taken + left > 0 else 1.0

    def _left(self, now: float) -> tuple[float | None, float]:
        """Seconds that are left, and those of them that are of kinds not seen so far."""
        part, share = self._parts[self._at], self._share
        seen = dict(self._seen)
        if part.stops_early and part.kind in seen:
            share = 1.0 if share == 1 else min(share / seen[part.kind].end, _NEARLY)
        elif part.kind not in seen and not part.stops_early and share >= _BEGUN:
            seen[part.kind] = _Seen()
            seen[part.kind].ended(self._costs[self._at] * share, now - self._since, 1.0)
        seen = {kind: one for kind, one in seen.items() if one.cost > 0}
        cost = sum(one.cost for one in seen.values())
        if not cost:
            return None, 0.0
        mean = sum(one.seconds for one in seen.values()) / cost
        left = unseen = 0.0
        for i, one in enumerate(self._parts[self._at :]):
            pace = seen[one.kind].seconds / seen[one.kind].cost if one.kind in seen else mean
            seconds = self._costs[self._at + i] * pace * (1 - share if i == 0 else 1)
            left += seconds
            unseen += 0.0 if one.kind in seen else seconds
        return left, unseen


@dataclass
class _Seen:
    """What was measured of a kind."""

    cost: float = 0.0
    seconds: float = 0.0
    shares: float = 0.0
    parts: float = 0.0

    @property
    def end(self) -> float:
        """The share at which its parts ended on the average."""
        return max(self.shares / self.parts, _BEGUN)

    def ended(self, cost: float, seconds: float, share: float) -> None:
        """Take in a part; one that reported no share counts as whole."""
        self.cost, self.seconds = _FADES * self.cost + cost, _FADES * self.seconds + seconds
        self.shares, self.parts = _FADES * self.shares + (share or 1.0), _FADES * self.parts + 1
