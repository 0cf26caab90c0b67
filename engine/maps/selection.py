"""Which tokens of the vocabulary stand on a map, and which points a search finds.

Regular expressions come from strangers, and some take for ever on a short text, or gigabytes. They
are read and run in a process of their own that is ended when its time or its memory is up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import OptionError, TokenError, shorten
from engine.maps.arrays import Doubles, Longs
from engine.maps.frames import first_bases
from engine.maps.options import MapOptions
from engine.maps.points import Space
from engine.model.vocabulary import Token
from engine.progress import Check, no_check

MAX_EXPRESSION: Final = 200
"""Characters of a regular expression."""
SEARCHED: Final = 400
"""Characters of a text that an expression looks at."""
SECONDS: Final = 3
"""Processor seconds that an expression may take over all texts, whole."""
_PATIENCE: Final = 10
"""On the clock it may take so many times that: other work may share the processor."""
MEMORY: Final = 256 * 2**20
"""Bytes of address space that an expression may take, besides eight for each of the texts'."""
_CHILD: Final = """
import json, re, sys
try:
    import resource
    for kind, most in zip((resource.RLIMIT_CPU, resource.RLIMIT_AS), map(int, sys.argv[1:])):
        resource.setrlimit(kind, (most, most))
except (ImportError, OSError, ValueError):
    pass
given = json.loads(sys.stdin.buffer.read())
try:
    search = re.compile(given["expression"]).search
    told = {"found": [i for i, text in enumerate(given["texts"]) if search(text)]}
except MemoryError:
    told = {"large": True}
except (re.error, OverflowError, RecursionError) as error:
    told = {"wrong": str(error)[:200]}
json.dump(told, sys.stdout)
"""


def find_text(texts: Sequence[str], wanted: str) -> Longs:
    """Indices of the texts that hold a piece of text; case does not matter.

    Raises:
        OptionError: nothing to look for, or too long a text.
    """
    if not wanted or len(wanted) > MAX_EXPRESSION:
        raise OptionError(f"search for 1 to {MAX_EXPRESSION} characters; got {len(wanted):,}.")
    folded = wanted.casefold()
    return np.array([i for i, t in enumerate(texts) if folded in t.casefold()], dtype=np.int64)


def find_expression(
    texts: Sequence[str],
    expression: str,
    *,
    seconds: int = SECONDS,
    check: Check = no_check,
) -> Longs:
    """Indices of the texts in which a regular expression (Python's) is found.

    Args:
        texts: looked at up to :data:`SEARCHED` characters each.
        expression: at most :data:`MAX_EXPRESSION` characters.
        seconds: of the processor, for all texts together; ten times that on the clock.

    Raises:
        OptionError: too long, no regular expression, or not done in time or in little memory.
    """
    if not expression or len(expression) > MAX_EXPRESSION:
        raise OptionError(
            f"a regular expression may have 1 to {MAX_EXPRESSION} characters; got"
            f" {len(expression):,}."
        )
    late = OptionError(
        f"the regular expression {shorten(expression)!r} was not done after {seconds} s and was"
        " stopped; write it without nested repetition."
    )
    end = time.monotonic() + _PATIENCE * seconds
    # Files, not pipes: a pipe that is full on one side would wait for the other.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as answer:
        texts = [t[:SEARCHED] for t in texts]
        size = given.write(json.dumps({"expression": expression, "texts": texts}).encode("ascii"))
        given.seek(0)
        child = subprocess.Popen(  # nosec B603  # our own lines, a list, no shell
            [sys.executable, "-I", "-S", "-c", _CHILD, str(seconds), str(MEMORY + 8 * size)],
            stdin=given,
            stdout=answer,
            stderr=subprocess.DEVNULL,
        )
        try:
            while True:
                check()
                try:
                    child.wait(timeout=0.02)
                    break
                except subprocess.TimeoutExpired:
                    if time.monotonic() > end:
                        raise late from None
        finally:
            child.kill()
            child.wait()
        if child.returncode < 0:  # the system ended it: its processor time was up
            raise late
        if child.returncode == 0:
            answer.seek(0)
            told = json.loads(answer.read())
    if child.returncode != 0 or "large" in told:
        raise OptionError(
            f"the regular expression {shorten(expression)!r} took more than {MEMORY // 2**20} MiB"
            " and was stopped; write it without nested repetition."
        )
    if "wrong" in told:
        wrong = shorten(str(told["wrong"]), 80)
        raise OptionError(f"{_quoted(shorten(expression))} is no regular expression ({wrong}).")
    return np.array(told["found"], dtype=np.int64)


def _quoted(text: str) -> str:
    """In backquotes, which no expression needs escaped, as quotes and backslashes would be."""
    return f"`{text}`" if text.isprintable() else repr(text)


def select_tokens(
    space: Space,
    options: MapOptions,
    tokens: Sequence[Token],
    last: torch.Tensor | None,
    check: Check,
) -> Longs:
    """Token ids on the map, sorted, each once.

    Args:
        options: `select` says which.
        tokens: of the prompt.
        last: the prompt's last state at the layer (d), for ``near:K``.

    Raises:
        OptionError, TokenError: one sentence each.
    """
    v = space.model.vocabulary
    if options.vocabulary == "none":
        return np.empty(0, dtype=np.int64)
    head, _, rest = options.select.partition(":")
    if head == "all":
        found = np.arange(v, dtype=np.int64)
    elif head == "ids":
        found = np.array([_id(word, v) for word in _words(rest)], dtype=np.int64)
    elif head == "words":
        found = np.array(list(word_groups(space, rest)), dtype=np.int64)
    elif head == "search":
        found = find_text(space.vocabulary.texts, rest)
    elif head == "regex":
        found = find_expression(space.vocabulary.texts, rest, check=check)
    elif head == "prompt":
        found = np.array([t.id for t in tokens], dtype=np.int64)
    else:
        found = _nearest(space, options, last, int(rest), check)
    return np.unique(found)


def word_groups(space: Space, text: str) -> dict[int, str]:
    """Token ids of ``cat,dog`` or ``animals=cat,dog;colours=red``, each with its group's name.

    A word is its token after a space where there is one: so it stands in running text. A word that
    is no single token is left out where others are not; :func:`split_words` lists those.

    Raises:
        TokenError: no word is a single token.
    """
    found, missing = _grouped(space, text)
    if missing and not found:
        raise next(iter(missing.values()))
    return found


def split_words(space: Space, text: str) -> list[str]:
    """Words of the same text that are no single token of this model."""
    return list(_grouped(space, text)[1])


def _grouped(space: Space, text: str) -> tuple[dict[int, str], dict[str, TokenError]]:
    out: dict[int, str] = {}
    missing: dict[str, TokenError] = {}
    for part in text.split(";"):
        name, equals, words = part.partition("=")
        if not (equals and name.strip() and words.strip()):
            name, words = "", part
        for word in _words(words):
            try:
                id = space.find_token(f" {word}")
            except TokenError:
                try:
                    id = space.find_token(word)
                except TokenError as error:
                    missing[word] = error
                    continue
            out.setdefault(id, name.strip())
    return out, missing


def _words(text: str) -> list[str]:
    words = [w.strip() for w in text.split(",")]
    return [w for w in words if w]


def _id(word: str, v: int) -> int:
    digits = word.removeprefix("#")
    if not (digits.isdecimal() and len(digits) < 12 and int(digits) < v):
        raise TokenError(f"token id must be in [0, {v - 1}]; got {shorten(word)!r}.")
    return int(digits)


def _nearest(
    space: Space, options: MapOptions, last: torch.Tensor | None, k: int, check: Check
) -> Longs:
    v = space.model.vocabulary
    if not 1 <= k <= v:
        raise OptionError(f"near:K takes 1 to {v:,} for this vocabulary; got {k:,}.")
    assert last is not None
    frame = space.frame(options.frame_key)
    found = first_bases(frame, last.reshape(1, -1), "cosine", k, check)
    ids: Longs = found.ids[0].cpu().numpy().astype(np.int64)
    return ids


def how_selected(space: Space, options: MapOptions, count: int) -> str:
    """In words: how many tokens of how many, and which; and which words are not among them."""
    v = space.model.vocabulary
    head, _, rest = options.select.partition(":")
    words = {
        "all": "all",
        "ids": "by id",
        "words": _which_words(rest),
        "search": f"those that hold {shorten(rest)!r}",
        "regex": f"those that match {shorten(rest)!r}",
        "prompt": "those of the prompt",
        "near": "those nearest by cosine to the prompt's last state at this layer",
    }[head]
    said = f"{count:,} of {v:,} tokens: {words}"
    left_out = split_words(space, rest) if head == "words" else []
    if left_out:
        said += f"; not drawn, no single token of this model: {shorten(', '.join(left_out), 120)}"
    return said


def _which_words(text: str) -> str:
    names = [
        name.strip() for name, equals, _ in (p.partition("=") for p in text.split(";")) if equals
    ]
    if not names:
        return f"the words {shorten(text)}"
    return f"the words that were named as {shorten(', '.join(names))}"


def inside_polygon(points: NDArray[np.floating], polygon: Sequence[Sequence[float]]) -> Longs:
    """Indices of the points inside a polygon, by the even-odd rule.

    A point is inside where a ray from it to the right crosses the outline an odd number of times.

    Args:
        points: n × 2.
        polygon: its corners, 3 to 500; the last is joined to the first.

    Raises:
        OptionError: too few or too many corners, or one that is no pair of numbers.
    """
    try:
        corners: Doubles = np.array([[float(x), float(y)] for x, y in polygon], dtype=np.float64)
    except (TypeError, ValueError):
        raise OptionError("a polygon is a list of [x, y] pairs of numbers.") from None
    if not 3 <= len(corners) <= 500:
        raise OptionError(f"a polygon may have 3 to 500 corners; got {len(corners):,}.")
    if not np.isfinite(corners).all():
        raise OptionError("a corner of the polygon is not a number; draw it again.")
    low, high = corners.min(0), corners.max(0)
    near = np.flatnonzero(((points >= low) & (points <= high)).all(1))
    x, y = points[near, 0].astype(np.float64), points[near, 1].astype(np.float64)
    odd = np.zeros(len(near), dtype=bool)
    for (xa, ya), (xb, yb) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if ya == yb:
            continue  # a level edge crosses no level ray
        crossed = (ya > y) != (yb > y)
        odd ^= crossed & (x < (xb - xa) * (y - ya) / (yb - ya) + xa)
    return near[odd].astype(np.int64)
