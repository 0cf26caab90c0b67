"""Calibrations as jobs: a label set and settings in, a saved calibration with its comparison out.

What a saved folder holds is written by `app.calibrate.work`. Competitors and ablations of a saved
calibration are reports of their own. The pages and the JSON API use the same methods.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import orjson
from cachetools import LRUCache
from fastapi import Depends
from starlette.requests import Request

from app.calibrate.asking import MOVED, ask, load_moved, load_states
from app.calibrate.sets import Sets, text_of
from app.calibrate.views import Saved, SavedView
from app.calibrate.work import (
    FOLDER,
    Made,
    Order,
    ablation_steps,
    calibration_steps,
    competitor_steps,
    write_calibration,
)
from app.jobs.job import JobView
from app.jobs.lanes import CHECKPOINTS, Jobs
from app.model.explorer import Explorer
from app.storage.store import Record, aside
from app.web import export
from app.web.head import client_of
from app.web.words import iso
from engine import LatentSpace
from engine.calibration.evidence.methods import methods_named
from engine.calibration.evidence.own_text import OwnText, place_text, plane_of
from engine.calibration.evidence.untaught import Asked, Untaught
from engine.calibration.evidence.untaught_words import TaskLabels, words_given
from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.tasks import Task, make_task
from engine.calibration.training.artifact import load_calibration
from engine.calibration.training.calibrated import Calibration
from engine.calibration.training.readings import Readings, calibrated_readings
from engine.checkpoints import Checkpoints
from engine.errors import ArtifactError, LayerError, OptionError, shorten
from engine.model.ranges import parse_range
from engine.progress import Check, Steps

LAYERS_AT_MOST = 6
"""Further layers of an ablation."""
KINDS = ("calibration", "competitors", "ablation")
"""The kinds of jobs that are about calibrations."""
_HELD = 4
_WRITTEN = (
    *("name", "set_id", "set_name", "model_name", "model_fingerprint", "method", "sentence"),
)
"""Of a saved calibration, the texts that its summary holds as a list shows them."""
ABLATION_SEEDS = 3
SEEDS_AT_MOST = 10


class Calibrations:
    """Label sets in, saved calibrations out. The async methods answer requests."""

    def __init__(self, explorer: Explorer, jobs: Jobs, sets: Sets) -> None:
        """Know the model, the jobs and the sets; nothing is read yet."""
        self.explorer = explorer
        self.jobs = jobs
        self.sets = sets
        # On the device thread only: the artifacts that are switched on, as tensors.
        self._loaded: LRUCache[str, Calibration] = LRUCache(_HELD)
        for kind in KINDS:
            jobs.kinds[kind] = partial(self._again, kind)
        explorer.models.on_letting_go.append(self._loaded.clear)

    # Before anything runs

    async def task(self, request: Request, set_id: str, spec: TaskSpec) -> Task:
        """The prompts, splits, label tokens and checks of a set; the model does not run.

        Raises:
            InputError: a column, template or word that cannot be used.
            NotFound: no such set.
        """
        await aside(partial(self.sets.table, set_id))  # so that the device need not read it
        spec = replace(spec, name=(await aside(partial(self.sets.get, set_id))).name)
        return await self.explorer.ask(request, self._task, set_id, orjson.dumps(spec.to_dict()))

    def _task(self, space: LatentSpace, set_id: str, spec: bytes, *, check: Check) -> Task:
        """The same on the device thread; the settings as JSON, since they name the result."""
        made = TaskSpec.from_dict(orjson.loads(spec))
        return make_task(made, self.sets.table(set_id), space.model, check=check)

    def _check_untaught(self, space: LatentSpace, plain: bytes, *, check: Check) -> None:
        """Refuse words that are not taught and cannot be used, on the device thread."""
        info, words = orjson.loads(plain)
        check()
        words_given(space, TaskLabels.from_info(info), words)

    # Jobs

    async def start(
        self, request: Request, order: Order, words: Mapping[str, str] | None = None
    ) -> JobView:
        """Queue a calibration; its result is a saved calibration.

        Args:
            request: who asks.
            order: what is to be calibrated; without a name it is called as its set is.
            words: the label words that were asked for; each must be of a label that there is.

        Raises:
            InputError, NotFound: it cannot be run, found out before it is queued.
            QueueFull, StorageError: it cannot be taken.
        """
        store, options = self.sets.kept(), order.options
        options.validate()
        blocks = self.explorer.facts().blocks
        if options.layer > blocks:
            raise LayerError(f"The layer must be from 0 to {blocks}, or -1; got {options.layer}.")
        most = options.target.removeprefix("layers:")
        if most.isdecimal() and int(most) > blocks:
            raise OptionError(
                f"This model has {blocks} blocks, so at most layers:{blocks} can be trained; got "
                f"{options.target}."
            )
        task = await self.task(request, order.set, order.spec)
        strange = sorted(set(words or {}) - set(task.label_names))
        if strange:
            raise OptionError(
                f"a word was given for the label {shorten(strange[0])!r}, and the column"
                f" {shorten(order.spec.label_column)!r} holds"
                f" {shorten(', '.join(task.label_names), 80)}; leave it out or correct it."
            )
        if order.untaught:  # found out before it is queued
            plain = orjson.dumps([task.to_dict(), order.untaught])
            await self.explorer.ask(request, self._check_untaught, plain)
        shown = await aside(partial(self.sets.get, order.set))
        order = replace(order, name=text_of(order.name) or shown.name)
        states = await aside(partial(store.scratch, "states"))
        asked = self._of_this_model(order.to_dict())
        kept = await aside(partial(self._checkpoints, "calibration", asked))

        def steps() -> Steps[Made]:
            space, first = self.explorer.owned(), order.spec.seed

            def draw(seed: int) -> Task:
                spec = replace(task.spec, seed=seed)
                return make_task(spec, self.sets.table(order.set), space.model)

            seeds = range(first, first + order.splits) if order.splits > 1 else ()
            return calibration_steps(
                space, task, options, states, order.compare, kept, order.untaught, draw, seeds
            )

        def save(made: Made) -> str:
            write = partial(write_calibration, made, order, shown.name)
            return store.publish("calibrations", write).id

        return await self.jobs.start(
            "calibration",
            f"Calibration: {order.name}",
            steps,
            save,
            client=client_of(request),
            href="/calibrate/{result}",
            spec=asked,
            kept=kept,
        )

    async def start_comparison(
        self, request: Request, id_: str, methods: str = "fast", seeds: int = 1
    ) -> JobView:
        """Queue the table of competitors on the rows of a saved calibration.

        Args:
            request: who asks.
            id_: the calibration.
            methods: ``fast``, ``all`` or names with commas.
            seeds: how many, from 1 to `SEEDS_AT_MOST`.
        """
        numbers = _seeds(seeds)
        chosen = tuple(method.name for method in methods_named(methods))
        make = partial(competitor_steps, methods=chosen, seeds=numbers)
        spec = {"of": id_, "methods": methods, "seeds": seeds}
        return await self._report(request, id_, "competitors", "Competitors of", make, spec)

    async def start_ablation(
        self, request: Request, id_: str, seeds: int = ABLATION_SEEDS, layers: str = ""
    ) -> JobView:
        """Queue the ablation (basis × similarity × loss × inference) of a saved calibration.

        Args:
            request: who asks.
            id_: the calibration.
            seeds: how many, from 1 to `SEEDS_AT_MOST`.
            layers: further ones as first:end:step, each with everything; empty: none.

        Raises:
            LayerError: a layer that this model does not have, or too many.
        """
        blocks = self.explorer.facts().blocks
        chosen = () if not layers.strip() else parse_range(
            layers, blocks + 1, "layer", f"this {blocks}-layer model"
        )  # fmt: skip
        if len(chosen) > LAYERS_AT_MOST:
            raise LayerError(
                f"an ablation takes at most {LAYERS_AT_MOST} further layers, each with every"
                f" combination; got {len(chosen)}: write a step, such as 0:{blocks + 1}:8."
            )
        make = partial(ablation_steps, seeds=_seeds(seeds), layers=chosen)
        spec = {"of": id_, "seeds": seeds} | ({"layers": layers} if chosen else {})
        return await self._report(request, id_, "ablation", "Ablation of", make, spec)

    async def _report(
        self,
        request: Request,
        id_: str,
        what: str,
        title: str,
        make: Callable[..., Steps[Any]],
        spec: Mapping[str, Any],
    ) -> JobView:
        saved = await self.get(id_)
        self.check_model(saved.view)
        order = saved.order
        task = await self.task(request, order.set, order.spec)
        store = self.sets.kept()
        states = await aside(partial(store.scratch, "states"))
        asked = self._of_this_model(spec)
        kept = await aside(partial(self._checkpoints, what, asked))

        def save(document: Mapping[str, Any]) -> str:
            def write(folder: Path) -> Mapping[str, Any]:
                (folder / f"{what}.json").write_bytes(export.dumps(document))
                return {"of": id_, "what": what}

            store.record("calibrations", id_)  # deleted meanwhile: its report has no place
            made = store.publish("reports", write).id
            for report in self._reports_of(id_):  # the newest of a kind is shown
                if report.id != made and report.summary.get("what") == what:
                    store.delete("reports", report.id)
            return made

        return await self.jobs.start(
            what,
            f"{title} {saved.view.name}",
            lambda: make(self.explorer.owned(), task, order.options, states, kept=kept),
            save,
            client=client_of(request),
            href=f"/calibrate/{id_}#{what}",
            spec=asked,
            key=f"{what} {sorted(asked.items())}",
            kept=kept,
        )

    def _of_this_model(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked, with the model that it is asked of: under another it is other work."""
        return {**spec, "model": self.explorer.facts().fingerprint}

    def _checkpoints(self, kind: str, asked: Mapping[str, Any]) -> Checkpoints:
        """Where a job keeps how far it is: the same place for the same question. On any thread."""
        store, settings = self.sets.kept(), self.explorer.settings
        plain = orjson.dumps([kind, asked], option=orjson.OPT_SORT_KEYS)
        name = hashlib.blake2b(plain, digest_size=12).hexdigest()
        return Checkpoints(
            store.scratch(CHECKPOINTS) / name, every_s=settings.checkpoint_s, reserve=store.reserve
        )

    async def _again(self, kind: str, request: Request, spec: Mapping[str, Any]) -> JobView:
        """Start a job of this kind as it was asked for.

        Raises:
            ArtifactError: it was asked of another model than the one that is open.
        """
        facts = self.explorer.facts()
        if spec.get("model", facts.fingerprint) != facts.fingerprint:
            raise ArtifactError(
                f"This job was asked of another model (fingerprint {str(spec['model'])[:12]}) and"
                f" {facts.name} ({facts.fingerprint[:12]}) is open; open that model to resume it."
            )
        if kind == "calibration":
            return await self.start(request, Order.from_dict(spec))
        if kind == "competitors":
            return await self.start_comparison(request, spec["of"], spec["methods"], spec["seeds"])
        return await self.start_ablation(request, spec["of"], spec["seeds"], spec.get("layers", ""))

    # What is saved

    async def list(self) -> tuple[SavedView, ...]:
        """All saved calibrations, the newest first."""
        if self.sets.store is None:
            return ()
        records = await aside(partial(self.sets.store.records, "calibrations"))
        return tuple(map(self._view_or_damaged, records))

    async def get(self, id_: str) -> Saved:
        """One of them with everything; `NotFound`, or `ArtifactError` where it is damaged."""
        return await aside(partial(self._get, id_))

    def _get(self, id_: str) -> Saved:
        store = self.sets.kept()
        record = store.record("calibrations", id_)
        view = self._view(record)
        folder = store.folder_of("calibrations", id_)
        run = _json(folder / "run.json")
        compared = folder / "comparison.json"
        reports: dict[str, Mapping[str, Any]] = {}
        for report in self._reports_of(id_):
            what = str(report.summary.get("what"))
            if what not in reports:
                reports[what] = _json(store.folder_of("reports", report.id) / f"{what}.json")
        return Saved(
            view=view,
            order=Order.from_dict(run["order"]),
            settings=run["settings"],
            task=run["task"],
            history=tuple(run["history"]),
            facts=run["facts"],
            comparison=_json(compared) if compared.is_file() else None,
            competitors=reports.get("competitors"),
            ablation=reports.get("ablation"),
        )

    def _reports_of(self, id_: str) -> tuple[Record, ...]:
        """The newest first."""
        reports = self.sets.kept().records("reports")
        return tuple(report for report in reports if report.summary.get("of") == id_)

    async def delete(self, id_: str) -> None:
        """Delete it with its reports; `NotFound`."""

        def work() -> None:
            store = self.sets.kept()
            store.delete("calibrations", id_)
            for report in self._reports_of(id_):
                store.delete("reports", report.id)

        await aside(work)

    async def archive(self, id_: str) -> Path:
        """All its files in a ZIP, in a temporary file that the caller deletes."""
        return await aside(partial(self._archive, id_))

    def _archive(self, id_: str) -> Path:
        store = self.sets.kept()
        folders = {"": store.folder_of("calibrations", id_)}
        for report in self._reports_of(id_):
            name = f"{report.summary['what']}-{report.id[:8]}/"
            folders[name] = store.folder_of("reports", report.id)
        with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as out:
            try:
                with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
                    for prefix, folder in folders.items():
                        for path in sorted(folder.rglob("*")):
                            if path.is_file():
                                archive.write(path, prefix + path.relative_to(folder).as_posix())
            except BaseException:
                Path(out.name).unlink(missing_ok=True)
                raise
        return Path(out.name)

    async def readings(
        self,
        request: Request,
        id_: str,
        prompt: str,
        *,
        k: int = 5,
        bos: str = "auto",
        chat: bool = False,
    ) -> Readings:
        """A prompt with a saved calibration switched on: every position before and after.

        Raises:
            NotFound: no such calibration.
            ArtifactError: it belongs to another model, or its files are damaged.
        """
        record = await aside(partial(self.sets.kept().record, "calibrations", id_))
        self.check_model(self._view(record))
        return await self.explorer.ask(request, self.read, id_, prompt, k=k, bos=bos, chat=chat)

    def read(
        self,
        space: LatentSpace,
        id_: str,
        prompt: str,
        *,
        k: int,
        bos: str,
        chat: bool,
        check: Check,
    ) -> Readings:
        """The same on the device thread, for a calibration of the open model."""
        calibration = self._opened(space, id_)
        return calibrated_readings(space, calibration, prompt, k=k, bos=bos, chat=chat, check=check)

    def _opened(self, space: LatentSpace, id_: str) -> Calibration:
        """Of the open model, on the device thread."""
        calibration = self._loaded.get(id_)
        if calibration is None:
            folder = self.sets.kept().folder_of("calibrations", id_) / FOLDER
            calibration = self._loaded[id_] = load_calibration(folder, space)
        return calibration

    async def words(self, request: Request, id_: str, text: str) -> Untaught | Asked:
        """Any words asked of a saved calibration's test texts.

        Args:
            request: who asks.
            id_: the calibration.
            text: ``label = word, word`` for each label, or words with commas.

        Raises:
            NotFound, ArtifactError: no such calibration, another model's, or no states were kept.
            OptionError: words that cannot be used.
        """
        record = await aside(partial(self.sets.kept().record, "calibrations", id_))
        self.check_model(self._view(record))
        return await self.explorer.ask(request, self._words, id_, text)

    def _words(self, space: LatentSpace, id_: str, text: str, *, check: Check) -> Untaught | Asked:
        held = load_moved(self.sets.kept().folder_of("calibrations", id_) / MOVED)
        check()
        return ask(space, self._opened(space, id_), held, text)

    async def own_text(self, request: Request, id_: str, text: str) -> OwnText:
        """A text of one's own before and after a saved calibration, on its map.

        Raises:
            NotFound, ArtifactError: no such calibration, another model's, or nothing was kept.
            InputError: a text that cannot be read.
        """
        record = await aside(partial(self.sets.kept().record, "calibrations", id_))
        self.check_model(self._view(record))
        return await self.explorer.ask(request, self._own_text, id_, text)

    def _own_text(self, space: LatentSpace, id_: str, text: str, *, check: Check) -> OwnText:
        held = load_states(self.sets.kept().folder_of("calibrations", id_) / MOVED)
        calibration = self._opened(space, id_)
        return place_text(space, calibration, plane_of(space, calibration, held), text, check=check)

    def check_model(self, view: SavedView) -> None:
        """Raise `ArtifactError` where it belongs to another model than the open one."""
        facts = self.explorer.facts()
        if view.model_fingerprint != facts.fingerprint:
            raise ArtifactError(
                f"This calibration belongs to {view.model_name} (fingerprint "
                f"{view.model_fingerprint[:12]}) and the server runs {facts.name} "
                f"({facts.fingerprint[:12]}); serve that model, or calibrate this one."
            )

    def _view_or_damaged(self, record: Record) -> SavedView:
        """As it stands in a list; what cannot be read is listed all the same, so that it can go."""
        try:
            return self._view(record)
        except ArtifactError as error:
            made = iso(record.created)
            return SavedView(record.id, "(damaged)", made, sentence=str(error), damaged=True)

    def _view(self, record: Record) -> SavedView:
        summary, info = record.summary, self.explorer.info
        try:
            accuracies: dict[str, Any] = {
                name: None if summary.get(name) is None else float(summary[name])
                for name in ("accuracy_before", "accuracy_after", "accuracy_baseline")
            }
            changed = summary.get("changed")
            texts: dict[str, Any] = {name: str(summary[name]) for name in _WRITTEN}
            return SavedView(
                id=record.id,
                created=iso(record.created),
                usable=info is not None and info.fingerprint == summary["model_fingerprint"],
                changed=None if changed is None else dict(changed),
                baseline=str(summary.get("baseline", "")),
                kept_its_start=bool(summary.get("kept_its_start")),
                bytes=int(summary["bytes"]),
                **accuracies,
                **texts,
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ArtifactError(
                "What was written down about this calibration is damaged; delete it and run it"
                " again."
            ) from None


async def _calibrations(request: Request) -> Calibrations:
    calibrations: Calibrations = request.app.state.calibrations
    return calibrations


CalibrationsDep = Annotated[Calibrations, Depends(_calibrations)]
"""The saved calibrations of this server."""


def _seeds(count: int) -> tuple[int, ...]:
    if not 1 <= count <= SEEDS_AT_MOST:
        raise OptionError(f"seeds must be from 1 to {SEEDS_AT_MOST}; got {count}.")
    return tuple(range(count))


def _json(path: Path) -> Any:
    return orjson.loads(path.read_bytes())
