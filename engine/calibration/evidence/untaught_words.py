"""Words that no training saw, one or several for each label: proposed, or given and looked at.

Proposals come from the nearest semantic bases of the label words in the model that is open. A word
whose basis is all but a label word's own (cosine of :data:`SAME` or more) would be the taught word
over again: it is never used, and how many those were is said. A proposal leaves out inflections of
the label words, too. Ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.calibration.labelled.spec import template_ending
from engine.calibration.labelled.tasks import Task
from engine.calibration.labelled.words import LabelToken, label_tokens, word_ids
from engine.calibration.training.losses import centroids
from engine.calibration.training.options import CalibrationOptions
from engine.errors import OptionError, shorten
from engine.progress import Check, no_check
from engine.reading.read import read
from engine.space import LatentSpace

SETS: Final = 8
"""Words for each label at most."""
SAME: Final = 0.5
"""Cosine of two semantic bases from which a word is all but the other."""
LOOKED: Final = 300
"""Nearest tokens of each label word among which words are looked for."""
_STEM: Final = 5
"""Letters that two words begin with alike where one is an inflection of the other."""
_MARGIN: Final = 0.03
"""By which a proposed word's cosine to its own label word exceeds that to any other."""

Words = Mapping[str, Sequence[str]]
"""Label → words for it."""


@dataclass(frozen=True)
class TaskLabels:
    """The labels of a task, without its texts."""

    tokens: tuple[LabelToken, ...]
    ending: str
    """Of the prompts: what a word follows."""
    rule: str
    """Which token stands for a word of several."""

    @classmethod
    def of(cls, task: Task) -> TaskLabels:
        """Those of a task."""
        return cls(task.label_tokens, template_ending(task.spec.template), task.spec.word_rule)

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> TaskLabels:
        """From what :meth:`Task.to_dict` wrote down."""
        tokens = tuple(LabelToken.from_dict(one) for one in info["labels"])
        spec = info["spec"]
        return cls(tokens, template_ending(str(spec["template"])), str(spec["word_rule"]))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the labels."""
        return tuple(token.label for token in self.tokens)

    def tokens_of(self, space: LatentSpace, words: Sequence[str]) -> tuple[LabelToken, ...]:
        """One word for each of some labels as tokens."""
        names = self.names if len(words) == len(self.names) else words
        return label_tokens(space.model, names, words, ending=self.ending, rule=self.rule)


@dataclass(frozen=True)
class UntaughtWords:
    """k sets of words, one word for each of C labels in each."""

    sets: tuple[tuple[LabelToken, ...], ...]
    """k × C."""
    cosines: tuple[tuple[float, ...], ...]
    """Of each word's semantic basis to its label word's (k × C)."""
    looked: int
    """Words that were looked at."""
    same: int
    """Of them, those left out because they are all but a label word."""

    @property
    def note(self) -> str:
        """How many were left out, in a sentence."""
        return (
            f"Of {self.looked} words that were looked at, {self.same} were left out: the"
            f" cosine of their basis to a label word's is {SAME:g} or more, or they are inflections"
            " of it."
        )


def propose_words(
    space: LatentSpace, labels: TaskLabels, *, count: int = SETS, check: Check = no_check
) -> UntaughtWords | None:
    """Words from the nearest semantic bases of the label words; None where a label has none.

    A candidate is one token, a whole word in small letters as it continues the prompt, nearer to
    its own label word than to any other, the nearest first.

    Args:
        space: whose vocabulary.
        labels: whose words.
        count: sets at most.
        check: raises to stop.
    """
    frame, own = space.frame("output"), centroids(space, labels.tokens).labels
    found = read(frame, own, geometries=("cosine",), k=LOOKED, vectors=True, check=check)["cosine"]
    texts = space.model.vocabulary_texts
    stems = {t.word.casefold()[:_STEM] for t in labels.tokens}
    taken: set[int] = {i for t in labels.tokens for i in t.ids}
    looked = same = 0
    chosen: list[list[str]] = []
    for place, ids in enumerate(found.ids.tolist()):
        mine: list[str] = []
        for id_ in ids:
            word = texts.token(id_).text.strip()
            if len(mine) == count:
                break
            if id_ in taken or len(word) < 3 or not (word.isalpha() and word.islower()):
                continue
            check()
            if word_ids(space.model, word, labels.ending) != (id_,):
                continue
            near = _cosines(frame.vectors([id_]), own)[0]
            looked += 1
            if near.max() >= SAME or word.casefold()[:_STEM] in stems:
                same += 1
            elif near[place] - np.delete(near, place).max() >= _MARGIN:
                mine.append(word)
                taken.add(id_)
        chosen.append(mine)
    sets = list(zip(*chosen, strict=False))
    if not sets:
        return None
    return _made(space, labels, sets, looked, same)


def words_given(space: LatentSpace, labels: TaskLabels, words: Words) -> UntaughtWords:
    """Words that somebody gives: as many sets as the label with the fewest has words.

    Raises:
        OptionError: a label that there is not or that was given none, too many words, a word that
            two labels share, or only words that are all but label words.
    """
    unknown = sorted(set(words) - set(labels.names))
    missing = [name for name in labels.names if not words.get(name)]
    if unknown or missing:
        said = (
            f"words were given for {shorten(unknown[0])!r}, which is no label"
            if unknown
            else f"the label {shorten(missing[0])!r} has no untaught word"
        )
        raise OptionError(f"{said}; give words for each of {', '.join(labels.names)[:120]}.")
    own = centroids(space, labels.tokens).labels
    looked = same = 0
    chosen = []
    for name in labels.names:
        mine = []
        for word in list(words[name])[: 4 * SETS]:
            near = _cosines(centroids(space, labels.tokens_of(space, [word])).labels, own)[0]
            looked += 1
            if near.max() >= SAME:
                same += 1
            else:
                mine.append(word)
        if not mine:
            raise OptionError(
                f"every word for {shorten(name)!r} is all but a label word (cosine of {SAME:g} or"
                " more between the bases); give others."
            )
        chosen.append(mine)
    return _made(space, labels, list(zip(*chosen, strict=False)), looked, same)


def _made(
    space: LatentSpace, labels: TaskLabels, sets: Sequence[Sequence[str]], looked: int, same: int
) -> UntaughtWords:
    own = centroids(space, labels.tokens).labels
    made = tuple(labels.tokens_of(space, one) for one in sets)
    cosines = tuple(
        tuple(np.diagonal(_cosines(centroids(space, one).labels, own)).tolist()) for one in made
    )
    return UntaughtWords(made, cosines, looked, same)


def _cosines(some: Tensor, others: Tensor) -> NDArray[np.float64]:
    """Of each row of one with each of the other."""
    units = [torch.nn.functional.normalize(t.cpu().double(), dim=1) for t in (some, others)]
    out: NDArray[np.float64] = (units[0] @ units[1].T).numpy()
    return out


def words_for(
    space: LatentSpace, labels: TaskLabels, given: Words | None, *, check: Check = no_check
) -> UntaughtWords | None:
    """Those that were given, else proposed ones; None where no proposal can be made.

    Raises:
        OptionError: given words that cannot be used.
    """
    if given:
        return words_given(space, labels, given)
    return propose_words(space, labels, check=check)


@torch.no_grad()
def read_by(
    space: LatentSpace, options: CalibrationOptions, words: UntaughtWords, states: Tensor
) -> NDArray[np.int64]:
    """The label that each set of words gives each state: k × n.

    Args:
        space: whose vectors of the words.
        options: frame and similarity.
        words: k sets.
        states: n × d, calibrated.
    """
    out = []
    for tokens in words.sets:
        centres = centroids(space, tokens, frame=options.frame)
        scores = centres.scores(states.to(centres.labels.device), options.inference)
        out.append(scores.argmax(1).cpu().numpy())
    return np.stack(out)
