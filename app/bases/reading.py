"""All that the Bases page shows, read in one turn of the device thread."""

from __future__ import annotations

from dataclasses import dataclass

from app.model.explorer import token_reference
from engine import LatentSpace
from engine.bases.lookup import TokenHit
from engine.bases.token_basis import TokenBasis
from engine.errors import InputError, OptionError
from engine.model.vocabulary import Token
from engine.progress import Check

HITS = 60
"""Tokens that a search lists at most."""
FIRST = (" time", " day", " the", "the")
"""Tokens to begin with: the first that the vocabulary has as one token."""


@dataclass(frozen=True)
class Reading:
    """What a search found, and one token in every frame."""

    hits: tuple[TokenHit, ...] = ()
    bases: tuple[tuple[str, TokenBasis | str], ...] = ()
    """(frame, the token's basis), or why the model has no such frame; none where the token is
    none."""
    problem: str | None = None
    """Why there is no token, or nothing was searched for, in one sentence."""

    @property
    def found(self) -> tuple[TokenBasis, ...]:
        """The bases of the frames that the model has."""
        return tuple([basis for _, basis in self.bases if isinstance(basis, TokenBasis)])

    @property
    def token(self) -> Token | None:
        """The one that was looked up."""
        return self.found[0].token if self.found else None

    @property
    def more(self) -> bool:
        """Whether as many tokens were found as are listed at most."""
        return len(self.hits) == HITS


def read(
    space: LatentSpace,
    token: str | None,
    search: str | None,
    *,
    anew: bool,
    frames: tuple[str, ...],
    geometry: str,
    k: int,
    check: Check,
) -> Reading:
    """Search for tokens, and look one of them up in every frame.

    Args:
        space: the model; called on its thread.
        token: as a person names it; None: the first that was found, else one to begin with.
        search: what is searched for; None: nothing.
        anew: whether the first that was found comes before the token.
        frames: by their keys (:func:`engine.frames.kinds.key_of`).
        geometry: how nearness is measured.
        k: nearest tokens per frame.
        check: raises to stop.
    """
    hits: tuple[TokenHit, ...] = ()
    try:
        if search is not None:
            hits = space.search(search, limit=HITS, check=check)
        if hits and (anew or token is None):
            wanted: int | str = hits[0].token.id
        else:
            wanted = _first(space) if token is None else token_reference(token)
        bases = tuple((frame, _basis(space, wanted, frame, geometry, k, check)) for frame in frames)
    except InputError as error:
        return Reading(hits, problem=str(error))
    return Reading(hits, bases)


def _first(space: LatentSpace) -> int:
    for text in FIRST:
        hits = space.search(text, limit=1)
        if hits and hits[0].token.text == text:
            return hits[0].token.id
    return space.model.vocabulary // 2


def _basis(
    space: LatentSpace, token: int | str, frame: str, geometry: str, k: int, check: Check
) -> TokenBasis | str:
    try:
        return space.bases(token, frame=frame, geometry=geometry, k=k, check=check)
    except OptionError as error:
        return str(error)
