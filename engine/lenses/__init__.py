"""Lenses: how a middle layer's state is brought to where the head reads, one value each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from engine.errors import OptionError
from engine.lenses.kind import LensKind
from engine.lenses.linear import LINEAR
from engine.lenses.none import NONE

LENSES: Final[Mapping[str, LensKind]] = MappingProxyType({one.name: one for one in (NONE, LINEAR)})
"""By name."""

if TYPE_CHECKING:
    LensName = str
else:
    LensName = Literal[tuple(LENSES)]
    """For models of questions: the names, and no other."""


def lens_of(name: str) -> LensKind:
    """The lens of that name.

    Raises:
        OptionError: there is none.
    """
    if name not in LENSES:
        raise OptionError(f"lens must be one of {', '.join(LENSES)}; got {name[:40]!r}.")
    return LENSES[name]
