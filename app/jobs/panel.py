"""A job as people see it: what it is doing, how far it is, how long it will take, its curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from app.figures.calibrate import Chart, Series, chart
from app.jobs.job import JobView
from app.web.words import sentence

_SAID = {
    "queued": "Waiting",
    "running": "Running",
    "done": "Done",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "interrupted": "Interrupted",
}
_LEVELS: dict[str, Literal["ok", "note", "wait", "fail"]] = {
    "queued": "wait",
    "running": "wait",
    "done": "ok",
    "failed": "fail",
    "cancelled": "note",
    "interrupted": "note",
}


@dataclass(frozen=True)
class JobPanel:
    """A job, ready to be shown."""

    title: str
    state: str
    """As a word."""
    level: Literal["ok", "note", "wait", "fail"]
    note: str
    """One line: what it is doing, or why it ended."""
    percent: str | None
    """Of all of it where its parts are foretold, else of what the note names; None: not known."""
    steps: str
    left: str
    run: str
    resumes: str
    """Where it goes on or would go on, as a sentence; empty: it begins at its beginning."""
    active: bool
    """Whether something will still happen to it."""
    loss: Chart | None
    accuracy: Chart | None
    latest: str
    """The latest figures in words."""


def job_panel(job: JobView) -> JobPanel:
    """A job as it stands at this moment."""
    epochs = [one for one in job.history if "epoch" in one and "train_loss" in one]
    loss, accuracy = curves(epochs) if len(epochs) > 1 else (None, None)
    percent = None
    if job.state == "done":
        percent = "100"
    elif job.share is not None and job.state != "queued":
        percent = f"{100 * job.share:.1f}"
    return JobPanel(
        title=job.title,
        state=_SAID.get(job.state, job.state),
        level=_LEVELS.get(job.state, "note"),
        note=_note(job),
        percent=percent,
        steps=f"{job.done} of {job.total}" if job.total and job.state == "running" else "",
        left=_left(job),
        run=_run(job),
        resumes=_resumes(job),
        active=not job.finished,
        loss=loss,
        accuracy=accuracy,
        latest=_latest(epochs[-1]) if epochs else "",
    )


def curves(epochs: Sequence[Mapping[str, float]], best: int | None = None) -> tuple[Chart, Chart]:
    """Loss and validation accuracy by epoch; also for a job under way."""
    xs = [float(entry["epoch"]) for entry in epochs]
    mark = None if best is None else (float(best), "kept")
    loss = chart(
        [
            Series("training", xs, [entry.get("train_loss") for entry in epochs], colour=0),
            Series(
                "validation", xs, [entry.get("valid_loss") for entry in epochs], colour=1,
                dash="6 4",
            ),
        ],
        label="The loss of training and validation, epoch by epoch",
        x_title="epoch",
        y_title="loss",
        mark=mark,
    )  # fmt: skip
    accuracy = chart(
        [Series("validation", xs, [entry.get("valid_accuracy") for entry in epochs], colour=1)],
        label="The accuracy on the validation texts, epoch by epoch",
        x_title="epoch",
        y_title="accuracy",
        y_range=(0.0, 1.0),
        mark=mark,
        shares=True,
    )
    return loss, accuracy


def _left(job: JobView) -> str:
    if job.state != "running" or job.seconds_left is None:
        return ""
    part = "" if job.foretold else " for this part"
    return f"about {duration(job.seconds_left)} left{part}"


def _run(job: JobView) -> str:
    if job.seconds_run is None:
        return ""
    spent = duration(job.seconds_run)
    return f"{spent} so far" if job.state == "running" else f"took {spent}"


def _note(job: JobView) -> str:
    if job.stopping and not job.finished:
        return "Being stopped; the step under way is the last."
    match job.state:
        case "queued":
            ahead = job.ahead or 0
            if ahead == 0:
                return "It begins in a moment."
            return f"{ahead} job{'s' if ahead != 1 else ''} before it."
        case "running":
            return sentence(job.note or "under way")
        case "done":
            return "It is saved."
        case "cancelled":
            return "It was cancelled and has left nothing behind."
    return sentence(job.problem or "It ended before it was done.")


def _resumes(job: JobView) -> str:
    if job.resumes is None or job.state in ("done", "cancelled"):
        return ""
    if job.finished and job.resumes in (job.problem or ""):  # the note has just said from where
        return "It ends with the same numbers as if it had not been interrupted."
    if job.finished:
        return f"Resumed, it goes on from {job.resumes} and ends with the same numbers."
    return f"An interrupted job is gone on with here, from {job.resumes}."


def _latest(epoch: Mapping[str, float]) -> str:
    parts = [f"epoch {epoch['epoch']:g}", f"training loss {epoch['train_loss']:.3f}"]
    if epoch.get("valid_loss") is not None:
        parts.append(f"validation loss {epoch['valid_loss']:.3f}")
    if epoch.get("valid_accuracy") is not None:
        parts.append(f"validation accuracy {100 * epoch['valid_accuracy']:.0f}\u202f%")
    return ", ".join(parts)


def duration(value: float) -> str:
    """A time span as people say it; never more exact than it can be."""
    if value < 1.5:
        return "a second"
    if value < 90:
        return f"{value:.0f} seconds"
    if value < 5400:
        return f"{value / 60:.0f} minutes"
    return f"{value / 3600:.1f} hours"
