"""Fixed bases as centroids, and how far calibrated states are from their own.

For a calibrated state λ with label y, centroids b_i and temperature T (paper §3.3 and Table 6):

========  ===========================================================================
loss      formula, mean over the states
========  ===========================================================================
sm        −log softmax(cos(λ, b_i)/T)_y
mm        −log softmax(λ·x_i/(κT))_y
sm-gt     1 − cos(λ, b_y): the own basis only
sm-exp    the cross-entropy of p instead of the logits: −log softmax(p)_y with
          p = softmax(cos(λ, b_i)/T), "exponentiate then normalise"
mm-exp    the same with p = softmax(λ·x_i/(κT))
========  ===========================================================================

i runs over the label tokens (scope ``labels``) or the whole vocabulary (``vocabulary``). For mm,
x_i are the rows of the head with its bias, scale and soft cap, that is the model's own logits,
where the frame is ``output`` or ``head``; for ``input``, ``tight`` and ``random`` the frame's own
vectors, so that a control stays one.

The paper gives no temperature. T is a setting here, in units of a cosine; its default is measured
(docs/decisions/0009), and 1 is the paper's own for cosines. κ is the size that a matrix product has
where a calibrated state, of length about √d after its layer norm, points along its label's row:
√d·mean‖x_y‖, with the model's scale and soft cap. It makes one T serve both kinds; the paper's own
product is T = 1/κ. The two ±exp variants follow Table 6's one-line description: p lies in [0, 1],
so the loss is at least log(1 + (C − 1)/e) and its slope vanishes where p is near 0 or 1. At
T = 1/κ, whose logits are large, that is so from the start, which may be why the paper's mm-exp
stays at chance.

Knows nothing about how λ comes about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from engine.calibration.labelled.words import LabelToken
from engine.errors import OptionError
from engine.frames.frame import Frame
from engine.reading.similarity import scores as frame_scores
from engine.space import LatentSpace

LossName = Literal["sm", "mm", "sm-gt", "sm-exp", "mm-exp"]
LOSSES: Final[tuple[LossName, ...]] = ("sm", "mm", "sm-gt", "sm-exp", "mm-exp")
LOSS_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sm": "own basis against the others",
        "mm": "own basis against the others, by matrix product",
        "sm-gt": "own basis only",
        "sm-exp": "own basis against the others, exponential",
        "mm-exp": "own basis against the others, by matrix product, exponential",
    }
)
"""The losses in words."""
Similarity = Literal["sm", "mm"]
SIMILARITIES: Final[tuple[Similarity, ...]] = ("sm", "mm")
Scope = Literal["labels", "vocabulary"]
SCOPES: Final[tuple[Scope, ...]] = ("labels", "vocabulary")

_WHOLE_BYTES: Final = 256 * 2**20
"""Up to this size the vectors of the whole vocabulary are written out; beyond, in chunks."""


@dataclass(frozen=True, eq=False)
class Centroids:
    """Where states of each label shall go. Fixed; float32 on the model's device."""

    frame: str
    scope: Scope
    ids: tuple[int, ...]
    """Token of each label."""
    labels: Tensor
    """b_y of each label: C × d. Of several tokens, the mean of their unit vectors."""
    rows: Tensor
    """x_y for the matrix product: C × d."""
    bias: Tensor | None
    """Added to that product (C)."""
    shift: Tensor | None
    """Added to each state before a cosine is taken: the origin of a head with bias (d)."""
    product_shift: Tensor | None = None
    """The same before a matrix product, where that is with the frame's own vectors."""
    kappa: float = 1.0
    """κ: the size of a matrix product where a state points along its label's row."""
    logit_scale: float = 1.0
    softcap: float | None = None
    whole: Frame | None = None
    """The frame, for cosines over the vocabulary."""
    whole_rows: Frame | None = None
    """The frame whose matrix product ``mm`` takes over the vocabulary."""
    _written: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def classes(self) -> int:
        """C."""
        return len(self.labels)

    def scores(self, states: Tensor, kind: Similarity, over: Scope = "labels") -> Tensor:
        """Similarity of calibrated states to the centroids, differentiable.

        Args:
            states: λ, n × d.
            kind: ``sm`` cosine or ``mm`` matrix product.
            over: ``labels`` (n × C) or ``vocabulary`` (n × v).
        """
        if over == "vocabulary":
            return self._over_vocabulary(states, kind)
        if kind == "sm":
            placed = states if self.shift is None else states + self.shift
            return functional.normalize(placed, dim=1) @ functional.normalize(self.labels, dim=1).T
        product = self._placed(states) @ self.rows.T
        return self._finish(product if self.bias is None else product + self.bias)

    def _over_vocabulary(self, states: Tensor, kind: Similarity) -> Tensor:
        frame = self.whole if kind == "sm" else self.whole_rows
        if frame is None:
            raise OptionError(
                "these centroids are of the label words only; make them with the scope vocabulary."
            )
        if kind not in self._written and 4 * frame.size * frame.width > _WHOLE_BYTES:
            return frame_scores(frame, states, "cosine" if kind == "sm" else "matmul")
        if kind == "sm":
            placed = states if self.shift is None else states + self.shift
            return functional.normalize(placed, dim=1) @ self._vectors("sm", frame).T
        product = self._placed(states) @ self._vectors("mm", frame).T
        if frame.bias is not None:
            product = product + frame.bias.detach().float()
        return self._finish(product)

    def _placed(self, states: Tensor) -> Tensor:
        return states if self.product_shift is None else states + self.product_shift

    def _vectors(self, kind: str, frame: Frame) -> Tensor:
        """All vectors of a frame written out, v × d float32; unit ones for cosines."""
        if kind not in self._written:
            vectors = frame.vectors(torch.arange(frame.size))
            if kind == "sm":
                vectors = functional.normalize(vectors, dim=1)
            self._written[kind] = vectors.float().to(frame.device)
        return self._written[kind]

    def _finish(self, product: Tensor) -> Tensor:
        out = product if self.logit_scale == 1.0 else product * self.logit_scale
        return out if self.softcap is None else self.softcap * torch.tanh(out / self.softcap)

    def with_rows(self, labels: Tensor, rows: Tensor) -> Centroids:
        """The same with other vectors over the labels only: a head's own trained rows."""
        return replace(
            self, labels=labels, rows=rows, scope="labels", whole=None, whole_rows=None, _written={}
        )

    def with_matrix(self, bases: Tensor, rows: Tensor) -> Centroids:
        """The same with other vectors for the whole vocabulary (v × d each): a trained head."""
        index = torch.tensor(self.ids, device=bases.device)
        unit = functional.normalize(bases, dim=1)
        return replace(
            self, labels=bases[index], rows=rows[index], _written={"sm": unit, "mm": rows}
        )

    def detached(self) -> Centroids:
        """The same, holding no graph of gradients."""
        return replace(
            self,
            labels=self.labels.detach().clone(),
            rows=self.rows.detach().clone(),
            _written={name: t.detach().clone() for name, t in self._written.items()},
        )

    def tensors(self) -> dict[str, Tensor]:
        """What a file must hold for the same scores over the labels, bit by bit."""
        named = {
            "labels": self.labels,
            "rows": self.rows,
            "bias": self.bias,
            "shift": self.shift,
            "product_shift": self.product_shift,
        }
        return {name: t.detach().cpu().contiguous() for name, t in named.items() if t is not None}


@torch.no_grad()
def centroids(
    space: LatentSpace,
    labels: Sequence[LabelToken],
    *,
    frame: str = "output",
    scope: Scope = "labels",
    whole: bool = False,
) -> Centroids:
    """The centroids of a task's labels.

    Args:
        space: whose bases.
        labels: the task's label tokens.
        frame: ``output`` (the paper's), ``input``, ``head``, ``tight`` or ``random``.
        scope: which centroids compete in the loss: those of the labels, or all of the vocabulary.
        whole: whether scores over the vocabulary are asked for although the scope is the labels.

    Raises:
        OptionError: an unknown frame or scope; the scope vocabulary with labels that are means of
            several tokens, which are no single column of it.
    """
    if scope not in SCOPES:
        raise OptionError(f"the scope must be one of {', '.join(SCOPES)}; got {scope!r}.")
    whole = whole or scope == "vocabulary"
    if whole and any(token.mean for token in labels):
        raise OptionError(
            "over the whole vocabulary each label must be one token; use the rule first for label"
            " words, or the scope labels."
        )
    bases = space.frame(frame)
    product = space.frame("head") if frame in ("output", "head") else bases
    anatomy = space.model.anatomy
    own = product.name == "head"
    device = anatomy.weight.device
    bias = product.bias
    made = Centroids(
        frame=frame,
        scope=scope,
        ids=tuple(token.id_used for token in labels),
        labels=_label_vectors(bases, labels, unit=True).to(device),
        rows=_label_vectors(product, labels, unit=False).to(device),
        bias=None if bias is None else _label_bias(bias, labels).to(device),
        shift=None if bases.shift is None else bases.shift.float().to(device),
        product_shift=None if product.shift is None else product.shift.float().to(device),
        logit_scale=anatomy.logit_scale if own else 1.0,
        softcap=anatomy.softcap if own else None,
        whole=bases if whole else None,
        whole_rows=product if whole else None,
    )
    size = space.model.width**0.5 * made.rows.norm(dim=1).mean()
    return replace(made, kappa=float(made._finish(size)))


def _label_vectors(frame: Frame, labels: Sequence[LabelToken], *, unit: bool) -> Tensor:
    out = []
    for token in labels:
        vectors = frame.vectors(token.ids if token.mean else (token.id_used,))
        if unit and token.mean:
            vectors = functional.normalize(vectors, dim=1)
        out.append(vectors.mean(0))
    found = torch.stack(out).float()
    for token, vector in zip(labels, found, strict=True):
        if not bool(vector.norm() > 0):
            raise OptionError(
                f"the basis of label {token.label!r} in the frame {frame.name!r} is zero; choose"
                " another label word or frame."
            )
    return found


def _label_bias(bias: Tensor, labels: Sequence[LabelToken]) -> Tensor:
    wide = bias.detach().float().cpu()
    return torch.stack([wide[list(t.ids if t.mean else (t.id_used,))].mean() for t in labels])


def clustering_loss(
    kind: str, states: Tensor, labels: Tensor, centres: Centroids, temperature: float
) -> Tensor:
    """How far calibrated states are from their labels' centroids: the mean over the states.

    Args:
        kind: one of :data:`LOSSES`.
        states: λ, n × d.
        labels: index of each state's label (n).
        centres: the centroids; their scope says which compete.
        temperature: T in units of a cosine, above 0; ``sm-gt`` takes none.

    Raises:
        OptionError: an unknown loss.
    """
    if kind == "sm-gt":
        cosines = centres.scores(states, "sm")
        return 1 - cosines.gather(1, labels.unsqueeze(1)).mean()
    if kind not in LOSSES:
        raise OptionError(f"the loss must be one of {', '.join(LOSSES)}; got {str(kind)[:40]!r}.")
    similarity: Similarity = "sm" if kind.startswith("sm") else "mm"
    logits = centres.scores(states, similarity, centres.scope)
    logits = logits / (temperature if similarity == "sm" else centres.kappa * temperature)
    targets = labels
    if centres.scope == "vocabulary":
        targets = torch.tensor(centres.ids, device=labels.device)[labels]
    if kind.endswith("-exp"):
        logits = torch.softmax(logits, dim=1)
    return functional.cross_entropy(logits, targets)
