"""Where an answer comes from: a twin's states put into a prompt, one layer and position at a time.

For a prompt and its counterfactual twin (France / Italy) the state of every layer × position is
replaced by the twin's, alone. How far the answer turns is the contrast recovered,

    (c − c_prompt) / (c_twin − c_prompt),  c = z_b − z_a,

with a the prompt's own answer and b the twin's (where both are answered alike: the token j
with the largest p_j·(log p_j/p′_j − log p_a/p′_a), what the twin raises most): 0 as if nothing was
done, 1 as if the twin had been read. States of an unrelated text, put in at the same places, are
the control.

Blocks below the layer that is patched are not run again, positions where both prompts still are the
same are left out (nothing differs there), and what is left of a layer goes through the blocks above
it side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import OptionError, PromptError
from engine.interventions.above import Above
from engine.interventions.effect import Answer, answers
from engine.interventions.plan import unrelated
from engine.interventions.space import Space
from engine.json_number import plain
from engine.model.vocabulary import Token
from engine.progress import Progress, Steps

Floats = NDArray[np.float32]
_TOKENS_AT_ONCE = 1024
LONGEST = 64
"""Tokens of a prompt at most: the work grows with their square."""
HALF = 0.5
"""Contrast recovered from which on the answer is said to hang on a place."""


@dataclass(frozen=True)
class CausalMap:
    """How far each state of a twin turns a prompt's answer into the twin's."""

    prompt: str
    twin: str
    tokens: tuple[Token, ...]
    twin_tokens: tuple[Token, ...]
    layers: tuple[int, ...]
    """0 to L."""
    positions: tuple[int, ...]
    answers: tuple[Answer, Answer]
    """Of the prompt and of its twin."""
    followed: Answer
    """b, the token whose chances are followed, after the twin: its answer, where it has another."""
    recovered: Floats
    """layer × position: contrast recovered, 0 to 1 where all goes well."""
    probability: Floats
    """layer × position: of the followed token."""
    control: Floats
    """layer × position: contrast recovered by states of an unrelated text; NaN where both prompts
    still are the same, and nothing can be recovered."""

    @property
    def carriers(self) -> tuple[tuple[int, int, int], ...]:
        """(position, first layer, last layer) of the places that the answer hangs on, upwards.

        A place carries the answer at a layer where its state alone recovers the most of the
        contrast, at least half of it, and more than an unrelated state does there.
        """
        out: list[tuple[int, int, int]] = []
        for layer in self.layers:
            row = self.recovered[layer]
            place = int(np.nanargmax(np.nan_to_num(row, nan=-1.0)))
            if row[place] < HALF or row[place] <= self.control[layer, place]:
                continue
            if out and out[-1][0] == place and out[-1][2] == layer - 1:
                out[-1] = (place, out[-1][1], layer)
            else:
                out.append((place, layer, layer))
        return tuple(out)

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {
            "prompt": self.prompt,
            "twin": self.twin,
            "tokens": [token.to_dict() for token in self.tokens],
            "layers": list(self.layers),
            "positions": list(self.positions),
            "recovered": plain(self.recovered),
            "probability": plain(self.probability),
            "control": plain(self.control),
            "followed": plain(self.followed),
            "answers": {"prompt": plain(self.answers[0]), "twin": plain(self.answers[1])},
        }


def causal_map(space: Space, prompt: str, twin: str) -> Steps[CausalMap]:
    """Patch every layer × position of a prompt alone; one step is one layer.

    Args:
        space: called on its thread.
        prompt: any text of at most :data:`LONGEST` tokens.
        twin: another one with as many tokens, and another answer.

    Raises:
        PromptError: prompts of different lengths, or too long ones.
        OptionError: both are answered alike, or nothing differs.
    """
    model = space.model
    own, other = space.tokenize(prompt), space.tokenize(twin)
    count = len(own.ids)
    check_twins(own.ids, other.ids)
    yield Progress(0, model.blocks + 1, "reading both prompts")
    base, source = model.states(own.ids).raw, model.states(other.ids).raw
    control = model.states(unrelated(space, own.ids, 1)[0]).raw
    ends = answers(space, torch.stack([base[-1, -1], source[-1, -1]])).double()
    a, b = _contrast(ends)
    start, goal = (float(row[b] - row[a]) for row in ends)
    # Where both prompts still are the same, their states are, and a patch does nothing.
    differ = [p for p in range(count) if not torch.equal(base[:, p], source[:, p])]
    grids = np.zeros((3, model.blocks + 1, count), np.float32)
    grids[2] = np.nan
    at_once = _at_once(count)
    done, total = 0, len(differ) * (model.blocks + 1)
    for first in range(0, len(differ), at_once):
        places = differ[first : first + at_once]
        above = Above(space, own.ids, 2 * len(places))
        for layer in range(model.blocks + 1):
            last = _patched(above, base, (source, control), layer, places)
            shares = torch.log_softmax(answers(space, last).double(), 1)
            turned = ((shares[:, b] - shares[:, a] - start) / (goal - start)).float().numpy()
            grids[0, layer, places], grids[2, layer, places] = np.split(turned, 2)
            grids[1, layer, places] = shares[: len(places), b].exp().float().numpy()
            done += len(places)
            yield Progress(done, total, "patching layer by layer")
    same = [p for p in range(count) if p not in differ]
    grids[1][:, same] = float(torch.softmax(ends[0], 0)[b])
    texts = space.vocabulary.texts
    shares = torch.softmax(ends, 1)
    said = int(shares[1].argmax())
    return CausalMap(
        prompt=prompt,
        twin=twin,
        tokens=own.items,
        twin_tokens=other.items,
        layers=tuple(range(model.blocks + 1)),
        positions=tuple(range(count)),
        answers=(
            Answer(a, texts[a], float(shares[0, a])),
            Answer(said, texts[said], float(shares[1, said])),
        ),
        followed=Answer(b, texts[b], float(shares[1, b])),
        recovered=grids[0],
        probability=grids[1],
        control=grids[2],
    )


def _at_once(tokens: int) -> int:
    """Positions that are patched side by side, each by the twin and by its control."""
    return max(1, _TOKENS_AT_ONCE // (2 * tokens))


@dataclass(frozen=True)
class Counted:
    """What a causal map runs."""

    block_tokens: int
    """Tokens through a block, summed over the blocks."""
    block_runs: int
    """Runs of a block."""
    rows: int
    """States that the head reads."""


def counted(ids: Sequence[int], twin: Sequence[int], blocks: int) -> Counted:
    """The work of a causal map of two prompts, from their tokens alone.

    Both prompts and the control are read once. From the first token that differs on, each position
    is patched twice: at layer l through the L − l blocks above, beside one pass of all for each
    batch.
    """
    count = len(ids)
    places = count - next(n for n in range(count) if ids[n] != twin[n])
    batches = -(-places // _at_once(count))
    above = blocks + blocks * (blocks + 1) // 2
    return Counted(
        count * (3 * blocks + 2 * places * above),
        3 * blocks + batches * above,
        2 + 2 * places * (blocks + 1),
    )


def _contrast(ends: Tensor) -> tuple[int, int]:
    """The prompt's answer, and the token that is followed; raises OptionError."""
    own, other = torch.log_softmax(ends, 1)
    a, b = int(own.argmax()), int(other.argmax())
    if a == b:
        rise = other - own
        gain = torch.nan_to_num(other.exp() * (rise - rise[a]), nan=0.0)
        b = int(gain.argmax())
        if not float(gain[b]) > 0:
            raise OptionError(
                "the prompt and its twin are answered alike to the last digit, so nothing can turn;"
                " choose another twin."
            )
    return a, b


def check_twins(prompt: Sequence[int], twin: Sequence[int]) -> None:
    """Refuse twins that cannot be compared place by place; raises PromptError."""
    if len(prompt) != len(twin):
        raise PromptError(
            f"the prompt has {len(prompt)} tokens and its twin {len(twin)}, so their places cannot"
            " be compared; exchange words of as many tokens."
        )
    if len(prompt) > LONGEST:
        raise PromptError(
            f"a causal map takes prompts of at most {LONGEST} tokens; this one has {len(prompt)}."
        )
    if tuple(prompt) == tuple(twin):
        raise PromptError("the twin is the prompt itself; exchange a word of it.")


def _patched(
    above: Above, base: Tensor, others: Sequence[Tensor], layer: int, positions: list[int]
) -> Tensor:
    """The last layer's state at the last position, with each position patched alone by each of
    some other prompts' states: (prompt and position) × d."""
    state = base[layer].repeat(len(others) * len(positions), 1, 1)
    places = positions * len(others)
    state[torch.arange(len(places)), places] = torch.cat([one[layer, positions] for one in others])
    return above.last(layer, state)
