"""The command ``lexiscope cost``: what a model of some size would need here, without having it."""

from __future__ import annotations

import argparse
from typing import Any

from app.cli.options import add
from app.cli.terminal import write
from app.model.cost import CostQuestion, cost_document, cost_text
from engine.bases.foretold import measure


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the command into the command line; it opens no model."""
    cost = commands.add_parser("cost", help="what a model of some size would need here")
    add(cost, CostQuestion, "width", "vocabulary", "layers", "tokens")
    cost.add_argument("--json", action="store_true", help="The JSON of /api/v1/models/cost.")
    cost.set_defaults(run=_cost)


def _cost(given: argparse.Namespace) -> int:
    asked = CostQuestion(**{name: getattr(given, name) for name in CostQuestion.model_fields})
    rates = measure()
    found = asked.needs(rates)
    return write(cost_document(found, rates) if given.json else cost_text(found, rates).encode())
