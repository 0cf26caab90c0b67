"""A measurement of uses, checked by measuring a part of it again.

Measured again are the neighbours of all places of the dial, the agreement of head rows, semantic
bases and random vectors, and the pushes of all facts at the layer and dose that the sentences speak
of. The small calibration is not trained again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from engine.differences import Differences, differences
from engine.errors import ArtifactError
from engine.interventions.doses import Doses, measure_doses
from engine.interventions.many import facts
from engine.json_number import plain
from engine.progress import Steps
from engine.space import LatentSpace
from engine.trace.dial import DialCurve, measure_dial

ALPHAS: Final = (0.0, 1.0)
_MISTAKES: Final = (LookupError, TypeError, ValueError, AttributeError)


def measured_again(space: LatentSpace, document: Mapping[str, Any]) -> Steps[Differences | None]:
    """How far a part of a measurement is from the same measured now; None where it is of another
    model.

    Args:
        space: of the model that it is said to be of; called on its thread.
        document: as `Uses.to_dict` gives it.

    Raises:
        ArtifactError: it is no such measurement, or nothing in it is measured again.
    """
    try:
        curve, doses = document["dial"], document["doses"]
        held = None if curve is None else DialCurve.from_dict(curve)
        pushed = None if doses is None else Doses.from_dict(doses)
    except _MISTAKES as error:
        raise ArtifactError(
            f"this file is no measurement of uses, or it is damaged ({type(error).__name__});"
            " write it again by 'lexiscope uses --json'."
        ) from None
    if held is None and pushed is None:
        raise ArtifactError("this file has neither next words nor pushes to be measured again.")
    found = Differences()
    if held is not None:
        if held.model != space.model.fingerprint:
            return None
        anew = yield from measure_dial(space.model, space.frame, alphas=ALPHAS)
        here = {} if anew is None else {(r.alpha, r.ridge): r for r in anew.rows}
        rows = [row for row in held.rows if (row.alpha, row.ridge) in here]
        again = [here[row.alpha, row.ridge] for row in rows]
        found = found.and_(differences(plain(rows), plain(again), path="dial"))
        if anew is not None:
            head = replace(held, rows=()), replace(anew, rows=())
            found = found.and_(differences(*map(plain, head), path="dial"))
    if pushed is not None:
        done = yield from measure_doses(space, facts(), only=True)
        at = replace(pushed, layers=(pushed.layer,), swaps=(), pushes=tuple(
            one for one in pushed.pushes if (one.layer, one.dose) == (pushed.layer, pushed.dose)
        ))  # fmt: skip
        found = found.and_(differences(plain(at), plain(done), path="doses"))
    return found
