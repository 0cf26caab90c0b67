"""What a model's readings are measured and fitted by: temperatures, the dial, lenses."""

from __future__ import annotations

import contextlib
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError

from engine.errors import ArtifactError, LensMissing, OptionError, shorten
from engine.lenses import files as lens_files
from engine.lenses import lens_of
from engine.lenses.kind import Lens
from engine.progress import Check, Steps, no_check
from engine.reading.temperature import Temperature
from engine.space.core import Core
from engine.trace.dial import DialCurve, keep_curve, load_curve, measure_dial
from engine.trace.options import TraceOptions
from engine.trace.temperatures import Temperatures


class Fitted(Core):
    """Temperatures, the dial and lenses: measured once per model, and kept."""

    _dial: DialCurve | None = None

    @cached_property
    def _lenses(self) -> dict[str, Lens]:
        return {}

    @cached_property
    def _temperatures(self) -> Temperatures:
        return Temperatures(self.model, self.frame, self._cache_dir)

    def temperatures(self, frame: str, *, check: Check = no_check) -> dict[str, Temperature]:
        """By geometry: where its probabilities on a frame come nearest to the model's own.

        Measured once per model and frame (:mod:`engine.reading.temperature`).

        Args:
            frame: its name, or with its dial as ``dial:0.25``.
            check: raises to stop.

        Raises:
            OptionError: an unknown name, or a frame that this model does not have.
        """
        # What a reading is measured by belongs to the model as it is.
        with contextlib.nullcontext() if self._switch is None else self._switch.off():
            return self._temperatures.of(frame, check=check)

    def measure_temperatures(self, frame: str) -> Steps[dict[str, Temperature]]:
        """The same in small steps."""
        return self._temperatures.measuring(frame)

    def known_temperatures(self) -> dict[str, dict[str, Temperature]]:
        """Those that were measured, by frame and geometry."""
        return self._temperatures.known()

    def _temperatures_for(self, options: TraceOptions, check: Check) -> dict[str, Temperature]:
        """By geometry, with the one that was asked for in its place."""
        found = self.temperatures(options.frame_key, check=check)
        if options.temperature is None:
            return found
        return found | {options.geometry: Temperature(options.temperature, fitted=False)}

    def lens(self, name: str) -> Lens | None:
        """A fitted lens of this model; None is no lens.

        Raises:
            OptionError: an unknown name, or one that was not fitted to this model yet.
        """
        if lens_of(name).fit is None:
            return None
        if name not in self._lenses and self._cache_dir is not None:
            model = self.model
            path = lens_files.path_of(self._cache_dir, name, model.fingerprint)
            found = lens_files.load(
                path, model=model.fingerprint, blocks=model.blocks, width=model.width
            )
            if found is not None:
                self._lenses[name] = found
        if name not in self._lenses:
            raise LensMissing(
                f"the lens {name!r} is not fitted to this model yet; fit it on the page Readings"
                f" or with 'lexiscope lens fit {name}', or read with lens none."
            )
        return self._lenses[name]

    def known_lens(self, name: str) -> Lens | None:
        """A lens that was fitted to this model; None where none was, or none need be."""
        try:
            return self.lens(name)
        except LensMissing:
            return None

    def fit_lens(
        self, name: str, *, text: str | None = None, folder: Path | None = None
    ) -> Steps[Lens]:
        """Fit a lens to this model and keep it; see :mod:`engine.lenses.linear`.

        Args:
            name: which.
            text: to fit it on; None is text that the model writes itself.
            folder: where it is kept; None is the cache, where it is found again by its name.

        Raises:
            OptionError: an unknown name, one that is not fitted, a model that has none, or a text
                that is too short.
            ArtifactError: it cannot be written into the folder.
        """
        kind = lens_of(name)
        if kind.fit is None:
            raise OptionError(f"the lens {name!r} needs no fitting; it is ready.")
        found = yield from kind.fit(self.model, text=text)
        self.use_lens(found)
        if folder is not None:
            try:
                lens_files.save(found, lens_files.path_of(folder, name, self.model.fingerprint))
            except (OSError, SafetensorError) as error:
                raise ArtifactError(
                    f"the lens cannot be written to {shorten(folder.name)} ({error}); choose"
                    " another folder."
                ) from None
        elif self._cache_dir is not None:
            path = lens_files.path_of(self._cache_dir, name, self.model.fingerprint)
            with contextlib.suppress(OSError, SafetensorError):
                lens_files.save(found, path)
        return found

    def use_lens(self, lens: Lens) -> None:
        """Read by this lens whenever its name is asked for.

        Raises:
            ArtifactError: it belongs to another model.
        """
        if lens.model != self.model.fingerprint:
            raise ArtifactError(
                f"this lens belongs to another model ({lens.model[:12]} there,"
                f" {self.model.fingerprint[:12]} here); fit one to this model."
            )
        self._lenses[lens.name] = lens
        self._forget()

    def _forget(self) -> None:
        """Drop what was read by another lens of the same name."""

    def open_lens(self, folder: Path) -> Lens:
        """Read by the lens that a folder holds for this model.

        Raises:
            ArtifactError: there is none, it is damaged, or it is another model's.
        """
        model = self.model
        lens = lens_files.open_folder(
            folder, model=model.fingerprint, blocks=model.blocks, width=model.width
        )
        self.use_lens(lens)
        return lens

    def dial(self) -> DialCurve | None:
        """How often each place of the dial names the model's own next token, layer by layer; None
        where that was not measured yet (:meth:`measure_dial`)."""
        if self._dial is None:
            self._dial = load_curve(self._cache_dir, self.model.fingerprint)
        return self._dial

    def measure_dial(self) -> Steps[DialCurve | None]:
        """Measure that, and keep it; see :mod:`engine.trace.dial`."""
        found = yield from measure_dial(self.model, self.frame)
        self._dial = found
        if found is not None and self._cache_dir is not None:
            with contextlib.suppress(OSError):
                keep_curve(found, self._cache_dir)
        return found
