"""One lane of jobs: which of those that wait is the next."""

from __future__ import annotations

import threading
from collections import Counter, deque

from cachetools import LRUCache

from app.jobs.job import Job, LaneName

_REMEMBERED = 1024
"""Clients whose last turn is known; one that was forgotten counts as new, which is no harm."""


class Lane:
    """One job that runs, and those that wait; read and changed under the jobs' lock."""

    def __init__(self, name: LaneName) -> None:
        self.name = name
        self.queue: deque[Job] = deque()
        self.running: Job | None = None
        self.thread: threading.Thread | None = None
        self._turns = 0
        self._served: LRUCache[str, int] = LRUCache(_REMEMBERED)

    @property
    def turns(self) -> list[Job]:
        """What waits, in the order in which it will run: one job of each client in a round, whoever
        was served longest ago first, and of one client first come, first served."""
        round_: Counter[str] = Counter()
        keys = []
        for place, job in enumerate(self.queue):
            keys.append((round_[job.client], self._served.get(job.client, 0), place))
            round_[job.client] += 1
        return [self.queue[place] for *_, place in sorted(keys)]

    def take(self) -> Job:
        """The job whose turn it is."""
        job = self.turns[0]
        self.queue.remove(job)
        self._turns += 1
        self._served[job.client] = self._turns
        return job
