"""What is known of a job: its row, what it has reported, and the view that pages and JSON show."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from app.web.words import iso
from engine.checkpoints import NOTHING, Checkpoints
from engine.progress import Progress, Steps

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
LaneName = Literal["device", "process"]
LANES: tuple[LaneName, ...] = ("device", "process")
POINTS = 1000
"""Of the curve that a job keeps; a longer one is thinned evenly."""


@dataclass(frozen=True)
class JobView:
    """A job as it stands at one moment."""

    id: str
    kind: str
    title: str
    lane: str
    state: State
    stopping: bool
    """Whether it was asked to stop and has not stopped yet."""
    note: str
    """What it is doing, for people."""
    done: int
    total: int
    share: float | None
    """The part that is done, in [0, 1], of all of the job where its parts are foretold, else of
    what the note names; None where it is not known."""
    values: Mapping[str, float]
    """The latest figures."""
    history: tuple[Mapping[str, float], ...]
    """Every report that had figures, with ``done``; thinned evenly to `POINTS`."""
    seconds_left: float | None
    """Of the same, at the pace so far; None where that cannot be said."""
    seconds_run: float | None
    """That it worked; of an interrupted one what was written down, at most a few seconds less."""
    ahead: int | None
    """Jobs that come before it, the running one included; None once it runs."""
    problem: str | None
    """One sentence: why it failed or was interrupted."""
    result: str | None
    """The id of what it saved."""
    result_href: str | None
    """The path of its result, without the root path."""
    restartable: bool
    """Whether it ended without a result and can be started again as it was."""
    created: str
    started: str | None
    ended: str | None
    foretold: bool = False
    """Whether `share` and `seconds_left` are of all of the job, and not of what the note names."""
    resumes: str | None = None
    """Where it goes on, or would go on once it is started again, such as ``step 120 of 600 of the
    training``; None: at the beginning."""

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state not in ("queued", "running")

    def to_dict(self, *, curve: bool = True) -> dict[str, object]:
        """As it stands in the JSON; in lists without the curve."""
        plain: dict[str, object] = {f.name: getattr(self, f.name) for f in fields(self)}
        if not curve:
            del plain["history"]
        return {**plain, "finished": self.finished}


@dataclass(frozen=True)
class JobsMark:
    """What stands of the jobs in the head of every page."""

    text: str
    """``1 running``."""
    level: Literal["wait", "note"]


_ASKED = ("id", "kind", "title", "lane", "created", "href", "spec", "state")
"""Of a job, what its row holds from the beginning."""
_SHOWN = ("id", "kind", "title", "lane", "state", "problem", "result", "resumes")
"""Of a job, what its view shows as it is."""


@dataclass
class Job:
    """A job as its lane changes it; read and written under the jobs' lock."""

    id: str
    kind: str
    title: str
    lane: str
    created: float
    href: str = ""
    key: str = ""
    client: str = ""
    spec: Mapping[str, Any] | None = None
    make_steps: Callable[[], Steps[Any]] | None = None
    save: Callable[[Any], str | None] | None = None
    kept: Checkpoints = NOTHING
    """What it keeps of itself while it runs."""
    folder: str = ""
    """The name of the folder of these, in the store's scratch; empty: it keeps nothing."""
    resumes: str | None = None
    accepted: bool = True
    """Whether its row is written, so that it may run."""
    unwanted: bool = False
    """Whether a person cancelled it, so that nothing of it is to be kept."""
    state: State = "queued"
    progress: Progress = field(default_factory=lambda: Progress(0, 0))
    history: list[dict[str, float]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    reports: int = 0
    every: int = 1
    phase: tuple[float, int] = (0.0, 0)
    """When what is under way began, on the monotonic clock, and at which step."""
    told: float = 0.0
    """When it last reported, on the same clock."""
    started: float | None = None
    ended: float | None = None
    ran_s: float | None = None
    """Seconds that it has run, as far as that was written down; None: it runs, or never did."""
    problem: str | None = None
    result: str | None = None

    @property
    def run_s(self) -> float | None:
        """Seconds that it has run so far: never those in which no server was there to run it."""
        if self.state == "running" and self.started is not None:
            return time.time() - self.started
        return self.ran_s

    def row(self) -> dict[str, Any]:
        """What the store keeps."""
        return {
            **{name: getattr(self, name) for name in _ASKED},
            "done": self.progress.done,
            "total": self.progress.total,
            "note": self.progress.note,
            "values": {name: float(x) for name, x in self.progress.values.items()},
            "history": list(self.history),
            "started": self.started,
            "ended": self.ended,
            "ran_s": self.run_s,
            "problem": self.problem,
            "result": self.result,
            "folder": self.folder,
            "resumes": self.resumes,
        }

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Job:
        """From what the store kept."""
        job = cls(**{name: row[name] for name in _ASKED})
        job.progress = Progress(row["done"], row["total"], row["note"], row["values"])
        job.history = [dict(one) for one in row["history"]]
        for name in ("started", "ended", "problem", "result"):
            setattr(job, name, row[name])
        job.folder, job.resumes = row.get("folder", ""), row.get("resumes")
        job.ran_s = row.get("ran_s")
        whole = job.state in ("done", "failed", "cancelled")
        if "ran_s" not in row and whole and job.started is not None and job.ended is not None:
            job.ran_s = job.ended - job.started  # an older version wrote down no more
        return job

    @property
    def may_go_on(self) -> bool:
        """Whether it is under way, or may be started again from its checkpoints."""
        ended = self.spec is None or self.state in ("done", "cancelled")
        return self.state in ("queued", "running") or not ended

    def report(self, step: Progress) -> None:
        """Take in what the work says of itself."""
        self.told = time.monotonic()
        if step.total != self.progress.total or step.done < self.progress.done:
            self.phase = (self.told, step.done)
        self.progress = step
        if not step.values:
            return
        if self.reports % self.every == 0:
            self.history.append(
                {"done": step.done, **{name: float(x) for name, x in step.values.items()}}
            )
            if len(self.history) > POINTS:
                self.history = self.history[::2]
                self.every *= 2
        self.reports += 1

    def view(self, ahead: int | None) -> JobView:
        """As it stands now; `ahead`: jobs that come before it."""
        step, state = self.progress, self.state
        left = None
        since, first = self.phase
        if state == "running" and step.left is not None:
            left = max(0.0, step.left - (time.monotonic() - self.told))
        elif state == "running" and step.whole is None and step.total > 0 and step.done > first:
            pace = (time.monotonic() - since) / (step.done - first)
            left = pace * max(0, step.total - step.done)
        href = None
        if state == "done" and self.href:
            href = self.href.replace("{result}", self.result or "")
        ended_without = state in ("failed", "cancelled", "interrupted")
        return JobView(
            **{name: getattr(self, name) for name in _SHOWN},
            stopping=state == "running" and self.stop.is_set(),
            note=step.note,
            done=step.done,
            total=step.total,
            share=1.0 if state == "done" else step.share if step.whole is None else step.whole,
            values=dict(step.values),
            history=tuple(self.history),
            seconds_left=left,
            seconds_run=self.run_s,
            ahead=ahead,
            result_href=href,
            restartable=ended_without and self.spec is not None,
            foretold=step.whole is not None,
            created=iso(self.created),
            started=None if self.started is None else iso(self.started),
            ended=None if self.ended is None else iso(self.ended),
        )


def interrupted(what: str, job: Job) -> str:
    """One sentence on a job that was under way when the server ended, as `what` says."""
    step = job.progress
    note = f" ({step.note})" if step.note else ""
    place = f" at {step.done} of {step.total}{note}" if step.total else note
    if job.resumes is not None:  # it may be known from where it goes on, and not where it was
        place = f",{place}" if place else ""
        return f"{what} while this ran{place}; resumed, it goes on from {job.resumes}."
    place = place or " at its beginning"
    return f"{what} while this ran,{place}; nothing of it was saved, so start it again."
