"""Does what we show about this model hold? Checked on every model that is loaded.

Each item compares two routes to the same number, or a claim of the model's files with what was
found in its weights. An item that fails makes the badge red, with its reason; a note is something
that a reader should know and that is handled.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from engine.errors import shorten
from engine.frames.decomposition import HeadDecomposition
from engine.frames.frame import Frame
from engine.model.language_model import LanguageModel
from engine.reading.similarity import resolve, scores

TOLERANCE: Final = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest difference of logits, relative to the largest logit, by the precision of the head."""
PROBE: Final = 12
"""Tokens of the probe, spread over the vocabulary."""


@dataclass(frozen=True)
class CheckItem:
    """One thing that was checked."""

    name: str
    ok: bool
    value: str
    """What was found."""
    reason: str
    """What it means, in a sentence."""
    level: str
    """``ok``, ``note`` or ``fail``."""


@dataclass(frozen=True)
class SelfCheck:
    """All that was checked on one model."""

    ok: bool
    summary: str
    """One sentence for the badge."""
    items: tuple[CheckItem, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def _item(name: str, value: str, reason: str, *, ok: bool = True, note: bool = False) -> CheckItem:
    return CheckItem(name, ok, value, reason, "fail" if not ok else "note" if note else "ok")


def self_check(
    model: LanguageModel,
    decomposition: HeadDecomposition,
    head: Frame,
    output: Frame,
    tight: Frame,
) -> SelfCheck:
    """Check a model's readings against the model itself.

    Runs two short forward passes. Raises nothing: what cannot be computed is a failed item.
    """
    items: list[CheckItem] = []
    v = min(model.vocabulary, model.vocabulary_texts.tokenizer_size)
    ids = [(i * v) // PROBE + v // (2 * PROBE) for i in range(PROBE)]
    own = model.logits(ids)
    states = model.states(ids)
    last = model.read_out(states.raw[-1])
    never = torch.isneginf(own).all(0)
    never &= ~never.all()  # a model that says nothing at all is broken, not masked
    finite = bool(torch.isfinite(states.raw).all() and torch.isfinite(own[:, ~never]).all())
    items.append(_finite(model, states.raw, finite))
    if bool(never.any()):
        items.append(
            _item(
                "masked tokens",
                f"{int(never.sum()):,} of {len(never):,}",
                "The logits of these tokens are minus infinity for every prompt: the model never"
                " says them.",
                note=True,
            )
        )
    items += _parity(model, head, own, last, said=~never)
    items.append(_norm(model, last, states.raw[-1]))
    items.append(_softcap(model, own))
    items.append(_sizes(model))
    items += _left_over(model)
    items.append(_ties(model))
    items.append(_rank(model, decomposition))
    if finite:
        items.append(_resolution(decomposition, output, head, tight, last))
    failed = [item for item in items if not item.ok]
    if failed:
        summary = f"{len(failed)} of {len(items)} checks failed: {failed[0].reason}"
    else:
        notes = sum(item.level == "note" for item in items)
        more = f", {notes} with a note" if notes else ""
        summary = f"All {len(items)} checks passed{more}: what is shown equals what the model does."
    return SelfCheck(not failed, summary, tuple(items))


def _finite(model: LanguageModel, raw: torch.Tensor, finite: bool) -> CheckItem:
    """Whether all numbers of the probe are finite, or from which layer on they are not."""
    if finite:
        reason = "Every hidden state and logit of a short probe is a number."
        return _item("finite states", "all finite", reason)
    read = torch.isfinite(model.read_out(raw)).all(-1) & torch.isfinite(raw).all(-1)
    bad = (~read.all(1)).nonzero().flatten().tolist()
    if not bad:
        return _item(
            "finite states",
            "NaN or infinity in the logits",
            "The states of every layer are finite and the model's own logits are not, so its"
            " answers cannot be trusted.",
            ok=False,
        )
    sound = f"layers 0 to {bad[0] - 1} are finite" if bad[0] else "no layer is finite"
    return _item(
        "finite states",
        f"NaN or infinity from layer {bad[0]} on",
        f"The model's own numbers are not finite from layer {bad[0]} on ({sound}); what is not"
        " finite is shown without a ranking.",
        ok=False,
    )


def _parity(
    model: LanguageModel, head: Frame, own: torch.Tensor, last: torch.Tensor, *, said: torch.Tensor
) -> list[CheckItem]:
    ours = scores(head, last, "matmul")
    scale = float(own[:, said].abs().max().clamp_min(1e-6))
    error = float((ours - own)[:, said].abs().max()) / max(scale, 1.0)
    limit = TOLERANCE.get(model.dtype, 5e-2)
    ok = error <= limit
    first = float((ours.argmax(1) == own.argmax(1)).float().mean())
    return [
        _item(
            "last-layer reading",
            f"largest difference {error:.1e} (limit {limit:g})"
            if error
            else f"no difference (limit {limit:g})",
            "The last layer read by our way gives the model's own logits."
            if ok
            else "The last layer read by our way does not give the model's logits: a part between"
            " the last block and the logits is not what it was when the model was opened.",
            ok=ok,
        ),
        _item(
            "first token",
            f"{first:.0%} of the probe's positions",
            "Our last layer names the same first token as the model."
            if first == 1.0 or model.dtype != "float32"
            else "Our last layer names another first token than the model somewhere.",
            ok=first == 1.0 or model.dtype != "float32",
        ),
    ]


def _norm(model: LanguageModel, last: torch.Tensor, raw: torch.Tensor) -> CheckItem:
    anatomy = model.anatomy
    if not anatomy.readout:
        return _item(
            "final norm",
            "none",
            "This architecture has no final norm: its head reads the last block as it is.",
            note=True,
        )
    names = ", ".join(anatomy.readout_paths)
    if raw.shape[-1] != last.shape[-1]:
        return _item("final norm", names, "Applied once, together with the projection to the head.")
    twice = model.read_out(last)
    moved = float((twice - last).abs().max() / last.abs().max().clamp_min(1e-30))
    return _item(
        "final norm",
        names,
        f"Applied once to every layer; a second time would change the last layer by {moved:.0%}.",
    )


def _softcap(model: LanguageModel, own: torch.Tensor) -> CheckItem:
    cap = model.anatomy.softcap
    if cap is None:
        scale = model.anatomy.logit_scale
        value = "none" if scale == 1.0 else f"none; logits × {scale:g}"
        return _item("soft cap", value, "Logits are the head's product, times the factor if any.")
    ok = bool((own[torch.isfinite(own)].abs() <= cap * (1 + 1e-3)).all())
    return _item(
        "soft cap",
        f"{cap:g}",
        "Logits are capped smoothly, and so are ours."
        if ok
        else "The model says that its logits are capped, but they are larger than the cap.",
        ok=ok,
    )


def _sizes(model: LanguageModel) -> CheckItem:
    texts = model.vocabulary_texts
    rows, tokens = model.vocabulary, texts.named + len(texts.homeless)
    value = f"{rows:,} rows, {tokens:,} tokens"
    if texts.homeless:
        return _item(
            "head and tokenizer",
            value,
            "The tokenizer has tokens that the head has no row for; they cannot be read.",
            ok=False,
        )
    if rows > tokens:
        return _item(
            "head and tokenizer",
            value,
            f"{rows - tokens:,} rows of the head belong to no token (padding, or gaps between the"
            " ids); they are shown as <row …>.",
            note=True,
        )
    return _item("head and tokenizer", value, "One row per token.")


def _left_over(model: LanguageModel) -> list[CheckItem]:
    """Tensors of the file that are no part of what is read; nothing where there are none."""
    left = model.left_over
    if not left:
        return []
    reason = (
        f"The file also holds parts that are not read here, such as {shorten(left[0], 60)!r}: they"
        " stand beside the language model, and no logit depends on them."
    )
    return [_item("beside the model", f"{len(left):,} tensors", reason, note=True)]


def _ties(model: LanguageModel) -> CheckItem:
    config = model.module.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    claimed = bool(getattr(text, "tie_word_embeddings", False))
    found = model.tied
    value = "tied" if found else "untied"
    if claimed and not found:
        return _item(
            "ties",
            value,
            "The configuration says that head and embedding are one matrix, the weights say two;"
            " the frames show the weights.",
            note=True,
        )
    return _item(
        "ties",
        value,
        "Head and embedding are one matrix: the input and output frames differ exactly by G⁻¹."
        if found
        else "Head and embedding are two matrices: the input and output frames are independent.",
    )


def _rank(model: LanguageModel, decomposition: HeadDecomposition) -> CheckItem:
    rank, full = decomposition.rank, min(model.width, model.vocabulary)
    value = f"{rank} of {model.width}, condition number {decomposition.condition_number:.3g}"
    if rank == model.width:
        return _item("rank of the head", value, "The head spans the whole latent space.")
    why = (
        "there are fewer tokens than dimensions"
        if full < model.width
        else "some directions are in no row of the head"
    )
    return _item(
        "rank of the head",
        value,
        f"The head spans {rank} of {model.width} dimensions ({why}); bases are the true"
        " pseudo-inverse on those, and what a state holds beside them no token can tell.",
        note=True,
    )


def _resolution(
    decomposition: HeadDecomposition, output: Frame, head: Frame, tight: Frame, last: torch.Tensor
) -> CheckItem:
    found = resolve(output, head, tight, last[0])
    # Where the head spans the whole space nothing may be missing. Where it does not, what is
    # missing is ‖r − P r‖, and the shares must sum to the rest, 1 − error².
    spans = decomposition.rank == output.width
    inside = 0.0 if spans else found.error**2
    off = max(
        abs(float(found.signed.double().sum()) - 1.0 + inside),
        abs(float(found.parseval.double().sum()) - 1.0 + inside),
    )
    ok = off <= 1e-4 and (not spans or found.error <= 1e-4)
    return _item(
        "exact resolution",
        f"error {found.error:.1e}, shares sum to 1 within {off:.1e}",
        "A state is the sum of its logits times the semantic bases."
        if ok and spans
        else "A part of the state lies outside what the head spans; shares sum to the rest."
        if ok
        else "A state is not the sum of its logits times the semantic bases: the head is not the"
        " one that the bases were taken from.",
        ok=ok,
        note=not spans,
    )
