"""The clustering module λ(r) = LN(MLP(r ⊙ CA(r))) with CA(r) = Bn(avg r) + Bn(max r).

Paper, Eq. 1 and 2 and App. A.2. MLP is d → 2d → d and Bn, shared by both pools, d → d/16 → d: with
4d² + d²/8 = 33/8·d² weights besides biases and the norm's gain and bias.

What the paper leaves open, and what stands here (figures in docs/decisions/0009):

- *What avg and max pool over.* Channel attention (Woo et al. 2018) pools each channel over the
  positions of a map. Here r is one vector, a map with one position, over which average and maximum
  are r itself: ``position``, so CA(r) = 2·Bn(r). ``groups`` pools over the d/16 groups of
  neighbouring channels, each channel getting its group's average and maximum; ``channels`` over
  all channels, each getting the same two numbers. The weights are the same in all three.
- *No sigmoid.* Eq. 2 has none, so there is none.
- *Where it starts.* ``identity``: CA is 1 everywhere and the MLP, with W₁ = (I; −I) and
  W₂ = (I, −I), gives back what it is given, as max(x, 0) − max(−x, 0) = x. So λ starts as
  LN(r), close to what the model says untrained, and training moves it from there. ``random`` is
  PyTorch's own start.
- *Activation.* ReLU, as in the authors' early code.
- *Scale of the input.* With `centre` and `spread` r is standardised by channel first, with the
  mean and standard deviation of the training states: constants, not trained.

Knows nothing about bases or labels.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor, nn

from engine.errors import OptionError

REDUCTION: Final = 16
POOLINGS: Final = ("position", "groups", "channels")
STARTS: Final = ("identity", "random")

Pooling = Literal["position", "groups", "channels"]
Start = Literal["identity", "random"]


def bottleneck_width(d: int) -> int:
    """d/16, rounded to the nearest whole number where 16 does not divide d; at least 1."""
    return max(1, round(d / REDUCTION))


def weight_count(d: int) -> int:
    """Weights besides biases and the norm: 4d² + 2·d·round(d/16); 33/8·d² where 16 divides d."""
    return 4 * d * d + 2 * d * bottleneck_width(d)


class CalibrationModule(nn.Module):
    """λ: n × d → n × d.

    Args:
        width: d.
        pooling: what avg and max pool over.
        start: ``identity`` or ``random``.
        dropout: share of the MLP's hidden units that training leaves out.
        centre: of the training states (d), with `spread`.
        spread: their standard deviation by channel (d).
        seed: of the start and of dropout.

    Raises:
        OptionError: an unknown pooling or start.
    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        width: int,
        *,
        pooling: Pooling = "position",
        start: Start = "identity",
        dropout: float = 0.0,
        centre: Tensor | None = None,
        spread: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise OptionError(f"pooling must be one of {', '.join(POOLINGS)}; got {pooling!r}.")
        if start not in STARTS:
            raise OptionError(f"start must be one of {', '.join(STARTS)}; got {start!r}.")
        self.width, self.pooling, self.dropout = width, pooling, dropout
        self.draws = torch.Generator().manual_seed(seed)
        """For the start and for dropout."""
        narrow = bottleneck_width(width)
        self.squeeze = nn.Linear(width, narrow)
        self.excite = nn.Linear(narrow, width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("centre", torch.zeros(width) if centre is None else centre.clone())
        self.register_buffer("spread", torch.ones(width) if spread is None else spread.clone())
        self._start(start)

    @property
    def matrices(self) -> tuple[Tensor, ...]:
        """The weights that 33/8·d² counts."""
        layers = (self.squeeze, self.excite, self.expand, self.contract)
        return tuple(layer.weight for layer in layers)

    @torch.no_grad()
    def _start(self, start: str) -> None:
        for layer in (self.squeeze, self.excite, self.expand, self.contract):
            bound = layer.in_features**-0.5  # PyTorch's own, from a generator of our own
            for tensor in (layer.weight, layer.bias):
                tensor.copy_((2 * torch.rand(tensor.shape, generator=self.draws) - 1) * bound)
        if start == "identity":
            eye = torch.eye(self.width)
            self.excite.weight.zero_()
            self.excite.bias.fill_(0.5)  # twice, for both pools
            self.expand.weight.copy_(torch.cat([eye, -eye]))
            self.expand.bias.zero_()
            self.contract.weight.copy_(torch.cat([eye, -eye], dim=1))
            self.contract.bias.zero_()

    def attention(self, states: Tensor) -> Tensor:
        """CA(r) = Bn(avg r) + Bn(max r): n × d → n × d."""
        average, maximum = self._pools(states)
        if average is maximum:
            return 2 * self._bottleneck(average)
        return self._bottleneck(average) + self._bottleneck(maximum)

    def forward(self, states: Tensor) -> Tensor:
        """λ(r): n × d → n × d."""
        x = (states - self.centre) / self.spread
        x = x * self.attention(x)
        hidden = torch.relu(self.expand(x))
        if self.training and self.dropout > 0:
            kept = torch.rand(hidden.shape, generator=self.draws) >= self.dropout
            hidden = hidden * kept.to(hidden.device) / (1 - self.dropout)
        out: Tensor = self.norm(self.contract(hidden))
        return out

    def _bottleneck(self, pooled: Tensor) -> Tensor:
        out: Tensor = self.excite(torch.relu(self.squeeze(pooled)))
        return out

    def _pools(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.pooling == "position":
            return x, x
        if self.pooling == "channels":
            return (x.mean(1, keepdim=True).expand_as(x), x.amax(1, keepdim=True).expand_as(x))
        parts = torch.split(x, REDUCTION, dim=1)
        average = torch.cat([p.mean(1, keepdim=True).expand_as(p) for p in parts], dim=1)
        maximum = torch.cat([p.amax(1, keepdim=True).expand_as(p) for p in parts], dim=1)
        return average, maximum
