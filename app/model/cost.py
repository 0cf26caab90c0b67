"""What a model of some size would need on this machine: the question, API and table of the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from app.model.explorer import Explorer, ExplorerDep
from app.web import export
from app.web.answers import Document, described, json_answer
from app.web.questions import Question
from app.web.words import number, size
from engine import LatentSpace
from engine.bases.foretold import EXAMPLES, LARGEST, Law, Needs, Rates, measure, needs
from engine.progress import Check

router = APIRouter(prefix="/api/v1", tags=["api"])
_TOKENS = 21

Count = Annotated[int, Field(ge=1, le=LARGEST)]


class CostQuestion(Question):
    """A model's size, and a prompt's."""

    width: Count = Field(4096, description="d, what the head reads.")
    vocabulary: Count = Field(128_256, description="v, rows of the head.")
    layers: Count = Field(32, description="Blocks.")
    tokens: Count = Field(_TOKENS, description="Of the prompt.")

    def needs(self, rates: Rates) -> Needs:
        """What it would need where this was measured."""
        return needs(rates, **self.model_dump())


class SizeCostDocument(Document):
    """What a model of that size would need here."""

    width: int
    vocabulary: int
    layers: int
    tokens: int
    weights_bytes: int
    bases_seconds: float
    bases_bytes: int
    forward_seconds: float
    reading_seconds: float


def cost_document(found: Needs, rates: Rates) -> bytes:
    """The JSON of the API and the command line."""
    return export.dumps({**found.to_dict(), "measured": rates.to_dict()})


def _timed(space: LatentSpace, *, check: Check) -> tuple[Rates, float]:
    """What this machine takes, and what it took to take the open model's head apart."""
    return measure(check=check), space.decomposition.seconds


@router.get("/models/cost", responses=described(SizeCostDocument))
async def models_cost(
    request: Request, query: Annotated[CostQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """What the semantic bases and a trace of a model of some size would need on this machine.

    The machine is timed once while a model is open, for some two seconds.
    """
    rates, _ = await explorer.ask(request, _timed)
    return json_answer(cost_document(query.needs(rates), rates))


@dataclass(frozen=True)
class CostTable:
    """Rows of sizes: the open model, and larger ones."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    laws: str
    """How the parts grow, in a sentence."""
    took: str
    """What the open model's bases took, beside what was foretold."""


async def cost_table(request: Request, explorer: Explorer) -> CostTable:
    """What the page shows."""
    rates, seconds = await explorer.ask(request, _timed)
    facts = explorer.facts()
    own = CostQuestion(
        width=facts.width, vocabulary=facts.vocabulary, layers=facts.blocks, tokens=_TOKENS
    ).needs(rates)
    sizes = {
        name: needs(rates, width=d, vocabulary=v, layers=layers, tokens=_TOKENS)
        for name, (d, v, layers) in EXAMPLES.items()
    }
    return CostTable(
        HEADINGS,
        tuple(_row(name, one) for name, one in {"this model": own, **sizes}.items()),
        laws_text(rates),
        f"Taking this model's head apart took {number(seconds)} s;"
        f" {number(own.bases_seconds)} s are foretold by what this machine did just now.",
    )


HEADINGS = (
    "model", "width", "vocabulary", "layers", "weights, float32", "bases: seconds",
    "bases: memory at once", f"pass of {_TOKENS} tokens", "reading all of it", "states",
)  # fmt: skip


def _row(name: str, one: Needs) -> tuple[str, ...]:
    return (
        name,
        number(one.width),
        number(one.vocabulary),
        number(one.layers),
        size(one.weights_bytes),
        f"{number(one.bases_seconds)} s",
        size(one.bases_bytes),
        f"{number(one.forward_seconds)} s",
        f"{number(one.reading_seconds)} s",
        size(one.states_bytes),
    )


def cost_text(found: Needs, rates: Rates) -> str:
    """The same on the command line."""
    pairs = zip(HEADINGS[4:], _row("", found)[4:], strict=True)
    lines = [f"{name.replace(str(_TOKENS), str(found.tokens)):24} {value}" for name, value in pairs]
    return "\n".join([*lines, "", laws_text(rates)]) + "\n"


def laws_text(rates: Rates) -> str:
    """How the parts grow with the width, as counted and as measured."""
    named: dict[str, Any] = {
        "the Gram matrix": rates.gram,
        "the eigenvectors": rates.eigenvectors,
        "the rows' coordinates": rates.coordinates,
        "a product of states": rates.product,
    }
    return f"Measured here, seconds grow with the width to the power of {_laws(named)}."


def _laws(named: dict[str, Law]) -> str:
    return "; ".join(
        f"{one.exponent:.2f} for {name} (its operations: {one.counted:.0f};"
        f" {100 * one.r_squared:.1f} % of the variance explained)"
        for name, one in named.items()
    )
