"""From an action to what is done at each layer, and to the controls beside it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from torch import Tensor

from engine.errors import LayerError, OptionError, TokenError
from engine.interventions.action import Action, chosen_layers, default_layer
from engine.interventions.changes import Change, Push, Reflect, Remove, Replace, Scale
from engine.interventions.directions import directions, mirror, random_direction
from engine.interventions.hooks import Edit
from engine.interventions.parts import part_of
from engine.interventions.space import Space
from engine.model.ranges import parse_range
from engine.progress import Check, no_check
from engine.trace.reference import reference_tokens

Edits = tuple[Edit, ...]
CONTROLS: Final = 5
"""Random ones beside every action."""
_SEED: Final = 7


@dataclass(frozen=True)
class Planned:
    """A control, ready to be run."""

    kind: str
    """``random``, ``opposite`` or ``layer``."""
    what: str
    """In words."""
    edits: Edits


def layers_of(space: Space, action: Action) -> tuple[int, ...]:
    """The layers that an action acts on; raises LayerError, OptionError."""
    blocks = space.model.blocks
    text = str(default_layer(blocks)) if action.layers is None else action.layers
    return chosen_layers(action, space.model.layer_numbers(text), blocks)


def token_of(space: Space, token: int | str, prompt: Sequence[int] = ()) -> int:
    """A token as it is meant in running text: ``Rome`` is the word after a space, where that is
    a token; else the text as it stands. The form that the prompt holds comes first.

    Raises:
        TokenError: no such token, or several.
    """
    if isinstance(token, int) or token.startswith(("#", " ")):
        return space.find_token(token)
    found = []
    for text in (f" {token}", token):
        try:
            found.append(space.find_token(text))
        except TokenError:
            continue
    if not found:
        return space.find_token(token)
    return next((one for one in found if one in prompt), found[0])


def resolved(space: Space, action: Action, prompt: Sequence[int] = ()) -> Action:
    """The same action with its tokens as ids."""

    def id_of(token: int | str | None) -> int | None:
        return None if token is None else token_of(space, token, prompt)

    return replace(
        action, token=id_of(action.token), foil=id_of(action.foil), target=id_of(action.target)
    )


def edits_of(
    space: Space,
    action: Action,
    layers: Sequence[int],
    *,
    source: Tensor | None = None,
    check: Check = no_check,
) -> Edits:
    """What is done at each layer.

    Args:
        space: called on its thread.
        action: its tokens resolved or not.
        layers: where.
        source: states that a patch puts in (layer × position × residual width); None: those of the
            action's own prompt.
        check: raises to stop.
    """
    if action.kind == "steer" and action.dose == 0:
        return ()
    if action.kind in ("zero", "scale"):
        factor = 0.0 if action.kind == "zero" else action.factor
        whole = action.part == "block"
        return tuple(
            Edit(
                layer,
                Scale(factor, adds=whole),
                action.places,
                action.when,
                None if whole else part_of(space.model, layer, action.part),
            )
            for layer in layers
        )
    changes: Sequence[Change]
    if action.kind == "patch":
        changes = _patches(space, action, layers, source, check)
    elif action.kind == "swap":
        assert action.token is not None
        assert action.foil is not None
        token, foil = (token_of(space, one) for one in (action.token, action.foil))
        changes = [Reflect(mirror(space, action.frame_key, token, foil))] * len(layers)
    else:
        along = directions(space, resolved(space, action), layers, check=check)
        changes = [turned_along(action, one) for one in along]
    return placed(action, layers, changes)


def placed(action: Action, layers: Sequence[int], changes: Sequence[Change]) -> Edits:
    """One change a layer, at the action's positions."""
    pairs = zip(layers, changes, strict=True)
    return tuple(Edit(layer, change, action.places, action.when) for layer, change in pairs)


def turned_along(action: Action, direction: Tensor) -> Change:
    """The change of an action along a direction of length 1: a push, a mirror, or its removal."""
    if action.kind == "swap":
        return Reflect(direction)
    if action.kind == "ablate":
        return Remove(direction)
    return Push(direction, action.dose, action.absolute)


def _patches(
    space: Space, action: Action, layers: Sequence[int], source: Tensor | None, check: Check
) -> list[Change]:
    if source is None:
        assert action.source is not None
        source = space.states(action.source, **action.settings, check=check).raw
    count = source.shape[1]
    at = parse_range(action.places, count, "position", f"the other prompt of {count} tokens")
    return [Replace(source[layer, list(at)]) for layer in layers]


def check_patch(action: Action, tokens: int, source: int) -> None:
    """Whether positions of one prompt have their counterparts in the other; raises LayerError."""
    own = parse_range(action.places, tokens, "position", f"this prompt of {tokens} tokens")
    other = parse_range(action.places, source, "position", f"the other prompt of {source} tokens")
    if len(own) != len(other):
        raise LayerError(
            f"these positions are {len(own)} tokens of this prompt and {len(other)} of the other;"
            " choose positions that both have, such as -1."
        )


def controls(
    space: Space, action: Action, layers: Sequence[int], ids: Sequence[int], check: Check
) -> Iterator[Planned]:
    """What stands beside an action: five random ones of its size, its opposite, another layer.

    Of a swap the random ones are mirrors; of a patch, states of unrelated texts; of what is zeroed
    or scaled, the same part of other layers.

    Args:
        space: called on its thread.
        action: with its tokens resolved.
        layers: where it acts.
        ids: of the prompt.
        check: raises to stop.
    """
    others = _other_layers(space, action, layers)
    if action.kind in ("zero", "scale"):
        for other in others[:CONTROLS]:
            edits = edits_of(space, action, other, check=check)
            yield Planned("random", f"the {action.part} of layer {_words(other)}", edits)
        return
    if action.kind == "patch":
        for n, source in enumerate(unrelated(space, ids, CONTROLS), 1):
            raw = space.model.states(source, check=check).raw
            edits = placed(action, layers, [Replace(raw[layer, _own(action, ids)])
                                             for layer in layers])  # fmt: skip
            yield Planned("random", f"states of unrelated text {n}", edits)
    else:
        for seed in range(1, CONTROLS + 1):
            along = random_direction(space, seed + 1000 * (action.random or 0))
            edits = placed(action, layers, [turned_along(action, along)] * len(layers))
            yield Planned("random", f"random direction {seed}", edits)
    if action.kind == "steer":
        opposite = replace(action, dose=-action.dose)
        yield Planned("opposite", "the opposite sign",
                      edits_of(space, opposite, layers, check=check))  # fmt: skip
    if others:
        other = others[0]
        edits = edits_of(space, action, other, check=check)
        yield Planned("layer", f"the same at layer {_words(other)}", edits)


def _own(action: Action, ids: Sequence[int]) -> list[int]:
    return list(parse_range(action.places, len(ids), "position", f"{len(ids)} tokens"))


def _other_layers(space: Space, action: Action, layers: Sequence[int]) -> list[tuple[int, ...]]:
    """Other layers to do the same at, as many at a time, in a seeded order."""
    first = 1 if action.kind in ("zero", "scale") else 0
    free = [one for one in range(first, space.model.blocks + 1) if one not in layers]
    random.Random(f"{_SEED} {sorted(layers)}").shuffle(free)
    size = len(layers)
    return [tuple(sorted(free[n : n + size])) for n in range(0, len(free) - size + 1, size)]


def _words(layers: Sequence[int]) -> str:
    if len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers))


def unrelated(space: Space, ids: Sequence[int], count: int) -> list[list[int]]:
    """Texts of ours as long as a prompt, which begin as it does where that is its first token's
    doing: token ids.

    Raises:
        OptionError: this model reads no text of ours.
    """
    model = space.model
    special = space.vocabulary.is_special(ids[0])
    pool = [one for tokens in reference_tokens(model) for one in tokens.ids
            if not space.vocabulary.is_special(one)]  # fmt: skip
    if not pool:
        raise OptionError("this model reads no text that a patch could be compared with.")
    length = len(ids) - special
    step = max(1, (len(pool) - length) // max(count, 1))
    out = []
    for n in range(count):
        start = (n * step) % len(pool)
        body = [pool[(start + i) % len(pool)] for i in range(length)]
        out.append([*ids[:special], *body])
    return out


def other_prompt(ids: Sequence[int], token: int, foil: int) -> tuple[int, ...]:
    """A prompt with two of its tokens exchanged."""
    pair = {token: foil, foil: token}
    return tuple(pair.get(one, one) for one in ids)
