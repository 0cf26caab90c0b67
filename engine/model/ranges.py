"""Layers and positions as people write them: ``0:6``, ``0:12:2``, ``3``, ``-1``."""

from __future__ import annotations

from engine.errors import LayerError, shorten


def parse_range(text: str | None, size: int, what: str, whose: str) -> tuple[int, ...]:
    """Numbers from Python's slice notation: ``a:b``, ``a:b:step``, ``n``, or None for all.

    Raises:
        LayerError: not of that form, out of range, or empty.
    """
    if text is None or not text.strip():
        return tuple(range(size))
    words = text.strip().split(":")
    try:
        if len(words) > 3 or len(text) > 40:
            raise ValueError
        numbers = [int(w) if w.strip() else None for w in words]
    except ValueError:
        raise LayerError(
            f"{what} must be a number or a range such as 0:6 or 0:12:2; got {shorten(text)!r}."
        ) from None
    for n in numbers[:2]:
        top = size if len(words) > 1 else size - 1
        if n is not None and not -size <= n <= top:
            raise LayerError(f"{what} must be in [0, {size - 1}] for {whose}; got {n}.")
    if len(numbers) == 1:
        assert numbers[0] is not None
        return (numbers[0] % size,)
    if len(numbers) == 3 and numbers[2] is not None and numbers[2] < 1:
        raise LayerError(f"the step of a {what} range must be at least 1; got {numbers[2]}.")
    chosen = tuple(range(size))[slice(*numbers)]
    if not chosen:
        raise LayerError(
            f"the {what} range {shorten(text)!r} is empty; {whose} has 0 to {size - 1}."
        )
    return chosen
