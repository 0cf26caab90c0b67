"""What is said of an action, a causal map and a nudge: one sentence each, from their numbers."""

from __future__ import annotations

from collections.abc import Sequence

from engine.interventions.action import Action
from engine.interventions.causal import CausalMap
from engine.interventions.effect import Effect
from engine.interventions.many import Many
from engine.interventions.nudge import Nudge
from engine.model.vocabulary import Vocabulary, visible


def effect_sentence(found: Effect, texts: Vocabulary) -> str:
    """What an action does; where its controls do as much, that, and nothing else."""
    target, random = word(found.target.text), found.range
    p, q = share(found.target.probability_before), share(found.target.probability_after)
    what = f"{described(found, texts)} takes the probability of {target} from {p} to {q}"
    if random is None:
        return f"{what}; there is no other place to compare it with."
    name = _CONTROLS[found.action.kind]
    low, high = map(share, random)
    between = f"{low} to {high}" if low != high else low
    at = "" if between.startswith("below") else "at "
    if not found.beyond_controls:
        return f"{what}: not more than {name[0]} ({between})."
    turn = ""
    if found.turned:
        turn = f" and turns the answer from {word(found.before.text)} to {word(found.after.text)}"
    return f"{what}{turn}; {name[1]} leave it {at}{between}."


_CONTROLS = {
    "steer": ("a random push of this size", "five random pushes of this size"),
    "swap": ("a random mirror", "five random mirrors"),
    "ablate": ("a random direction taken out", "five random directions taken out"),
    "zero": ("other layers switched off", "the same parts of other layers"),
    "scale": ("other layers scaled alike", "the same parts of other layers"),
    "patch": ("states of unrelated texts", "states of five unrelated texts"),
}


def described(found: Effect, texts: Vocabulary) -> str:
    """An action in words, at the beginning of a sentence."""
    action = found.action
    where = f"at {_layers(found.layers)}, {_positions(found.positions)}"
    match action.kind:
        case "steer":
            return f"Steering {_along(action, texts)} by {_dose(action)} {where}"
        case "swap":
            pair = f"{_token(action.token, texts)} and {_token(action.foil, texts)}"
            return f"Swapping {pair} {where}"
        case "ablate":
            return f"Taking the direction of {_along(action, texts)} out {where}"
        case "zero":
            return f"Switching the {_part(action)} off {where}"
        case "scale":
            return f"Scaling the {_part(action)} by {action.factor:g} {where}"
    return f"Putting the other prompt's state in {where}"


def _along(action: Action, texts: Vocabulary) -> str:
    if action.random is not None:
        return f"random direction {action.random}"
    if action.texts:
        return "the mean of the texts" + (" less that of the others" if action.texts_from else "")
    away = "" if action.foil is None else f" and away from {_token(action.foil, texts)}"
    near = "towards " if action.kind == "steer" else ""
    return f"{near}{_token(action.token, texts)}{away}"


def _dose(action: Action) -> str:
    return f"{action.dose:g}" + ("" if action.absolute else " of the state's length")


def _part(action: Action) -> str:
    return {"mlp": "MLP"}.get(action.part, action.part)


def _token(token: int | str | None, texts: Vocabulary) -> str:
    return word(texts.texts[token] if isinstance(token, int) else str(token))


def _layers(layers: Sequence[int]) -> str:
    many = "layer" if len(layers) == 1 else "layers"
    return f"{many} {spans(layers)}"


def _positions(positions: Sequence[int]) -> str:
    many = "position" if len(positions) == 1 else "positions"
    return f"{many} {spans(positions)}"


def spans(numbers: Sequence[int]) -> str:
    """Numbers with runs drawn together: ``1 to 4, 7``."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and runs[-1][-1] == n - 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]} to {r[-1]}" for r in runs)


def word(text: str) -> str:
    """A token as a word in a sentence: quoted, without the blank before it, visible."""
    stripped = text.strip(" ")
    return f"“{visible(stripped if stripped else text)[:40]}”"


def share(p: float) -> str:
    """A probability with what can be told of it."""
    if p >= 0.01:
        return f"{p:.2f}"
    return f"{p:.4f}" if p >= 0.00005 else "below 0.0001"


def causal_sentence(found: CausalMap, names_from: int | None = None) -> str:
    """Where the answer hangs, layer by layer, and from where on a reading names it.

    Args:
        found: the map.
        names_from: the layer from which on a reading names the prompt's own answer; None: never,
            or not asked.
    """
    carriers = found.carriers
    if not carriers:
        return (
            "No single state of the twin turns the answer more than an unrelated state in its place"
            " does."
        )
    last = len(found.tokens) - 1

    def place(position: int) -> str:
        token = found.tokens[position]
        return "the last word" if position == last else word(token.text)

    first, *rest = carriers
    top = found.layers[-1]
    if not rest:
        whole = first[1] == 0 and first[2] == top
        layers = "at every layer" if whole else f"from layer {first[1]} to {first[2]}"
        said = f"The answer hangs on {place(first[0])} {layers}"
    else:
        said = f"Until layer {first[2]} the answer hangs on {place(first[0])}"
        for position, start, end in rest:
            on = f"from {start} on" if end == top else f"from {start} to {end}"
            said += f", {on} on {place(position)}"
    if found.followed.id != found.answers[1].id:
        said += f" (both are answered alike; {word(found.followed.text)} is followed)"
    if names_from is not None:
        said += f"; the reading names {word(found.answers[0].text)} from {names_from}"
    return f"{said}."


def nudge_sentence(found: Nudge) -> str:
    """What turning the answer costs, along semantic bases and along head rows."""
    ways = {way.frame: way for way in found.ways}
    bases, rows = ways["output"], ways["head"]
    target, answer = word(found.target_text), word(found.answer_text)
    if bases.delta is None or rows.delta is None:
        return f"Along one of the two no step of any size puts {target} in the place of {answer}."
    longer = bases.others_each and rows.others_each / bases.others_each
    return (
        f"To say {target} instead of {answer} the last state must move by {100 * bases.size:.0f} %"
        f" of its length along semantic bases, {100 * rows.size:.0f} % along head rows; for equal"
        f" contrast the head rows move all other logits {longer:.1f} times as much, in squared sum."
    )


def many_sentence(found: Many) -> str:
    """How often an action succeeds, beside chance; withheld where the intervals touch."""
    said = (
        f"At layer {spans(found.layers)} the answer becomes the target in"
        f" {_interval(found.share, found.interval)} of {found.used} prompts"
    )
    if found.control_interval is None or found.interval is None:
        return f"{said}; there is nothing to compare it with."
    chance = _interval(found.control_share, found.control_interval)
    beside = f"{found.controls} random runs of the same size"
    if found.interval[0] <= found.control_interval[1]:
        return f"{said}: not more than in {beside} ({chance})."
    return f"{said}, in {chance} of {beside}."


def _interval(value: float | None, bounds: tuple[float, float] | None) -> str:
    if value is None or bounds is None:
        return "no share"
    return f"{100 * value:.1f} % ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})"
