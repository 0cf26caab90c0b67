"""The panels of a cell that are fetched by themselves: in a few words, and nearest contexts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import Request

from app.trace.panels import Panel, with_pin
from app.trace.question import TraceQuery, link_to
from app.web.rendering import link as address
from app.web.words import Choice, number, seconds, size
from engine.frames.kinds import kind_of
from engine.model.vocabulary import Token, visible
from engine.trace.contexts import Context, Contexts, Plan
from engine.trace.words import InWords, Sum


def in_words(
    found: InWords, query: TraceQuery, link: Callable[..., str], leading: Sequence[int]
) -> Panel:
    """A state as a sum of a few words, step by step beside what chance explains.

    Args:
        found: the sum.
        query: the state of the page.
        link: makes a link of the page that keeps its state but for the keywords.
        leading: the tokens of the race that stay when a word is pinned before any other.
    """

    def share(one: Sum, step: int) -> str:
        return _percent(one.shares[step]) if step < len(one.shares) else "–"

    return {
        "sentence": found.sentence,
        # (word, the link that pins it); the longest part first
        "rows": [
            (word, link(pin=with_pin(query, word.token.id, leading)))
            for one in found.sums[:1]
            for word in sorted(one.words, key=lambda word: -word.weight)
        ],
        "pinned": query.pin,
        "frames": [kind_of(one.frame).title for one in found.sums],
        # (how many words, by frame, by chance)
        "steps": [
            (
                step + 1,
                [share(one, step) for one in found.sums],
                f"{_percent(chance.mean)} ({100 * chance.low:.0f}–{100 * chance.high:.0f})",
            )
            for step, chance in enumerate(found.random)
        ],
        "draws": found.draws,
        "named": found.beyond_chance,
    }


def contexts(
    request: Request,
    found: Contexts | Plan,
    query: TraceQuery,
    banks: Sequence[tuple[str, str]],
) -> Panel:
    """The nearest contexts with links to their traces; or what the bank would take, and a form."""
    panel: Panel = {
        "bank": query.bank,
        "banks": [
            Choice(name, label, name == query.bank,
                   href=link_to(request, query, bank=name, panel="contexts") + "#contexts")
            for name, label in banks
        ],
        "action": address(request, "/trace/contexts/build"),
        "plan": None,
        "rows": [],
    }  # fmt: skip
    if isinstance(found, Plan):
        left = f" {found.left_out:,} more do not fit its memory." if found.left_out else ""
        return panel | {
            "plan": f"It takes {found.texts:,} texts with {number(found.positions)} tokens, read as"
            f" they are and shuffled: about {seconds(found.predicted_seconds)} in the background"
            f" and {size(found.bytes)} of the cache, once per model.{left}"
        }

    def href(one: Context) -> str:
        changes = {"prompt": one.text, "cell": f"{one.layer},{one.position}"}
        return link_to(request, query, **changes, pin=(), start=None, positions=None, chat=False)

    return panel | {
        "sentence": found.sentence,
        "rows": [(one, href(one), _around(one)) for one in found.near],
    }


def _around(found: Context) -> tuple[str, str, str]:
    """The words before, the one that is meant, and those after it, nothing in them hidden."""

    def shown(part: Sequence[Token]) -> str:
        text = "".join(token.text for token in part)
        edges = " " if text[:1].isspace() else "", " " if text[-1:].isspace() else ""
        return f"{edges[0]}{visible(text.strip())}{edges[1]}" if text.strip() else " " * bool(text)

    tokens, lit = found.tokens, found.lit
    return shown(tokens[:lit]), shown(tokens[lit : lit + 1]), shown(tokens[lit + 1 :])


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"
