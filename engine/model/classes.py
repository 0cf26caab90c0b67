"""Which of transformers' classes reads a checkpoint: by what the classes have, not by their names.

What a checkpoint calls itself decides only where it is plain (``…ForCausalLM``, ``…ForMaskedLM``).
Any other class, such as one that also takes pictures, is asked whether it has an output embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from engine.errors import UnsupportedModel, shorten

CAUSAL, MASKED, BIDIRECTIONAL = "causal", "masked", "bidirectional"
"""Reads from left to right; says what stands at a place; reads ahead, and says what it will."""


def class_for(config: Any, shown: str) -> tuple[Any, str]:
    """What opens the weights, and whether it is taken for ``causal`` or ``masked``.

    Args:
        config: of the checkpoint, as transformers reads it.
        shown: what people call the model.

    Returns:
        A class of transformers with ``from_pretrained``; and the kind, to be proved by a probe
        (:func:`engine.model.probing.reads_ahead`).

    Raises:
        UnsupportedModel: an encoder-decoder, or a model without an output embedding.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    names = [str(n) for n in (getattr(config, "architectures", None) or [])]
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if any(getattr(one, "is_encoder_decoder", False) for one in (config, text)):
        raise UnsupportedModel(
            f"{shown} is an encoder-decoder ({', '.join(names) or config.model_type}): its decoder"
            " reads a second text, which a single prompt does not give; choose a causal model."
        )
    if any("MaskedLM" in n for n in names):
        return AutoModelForMaskedLM, MASKED
    if any("CausalLM" in n or "LMHead" in n for n in names):
        return AutoModelForCausalLM, CAUSAL
    causal, masked = has_class(config, CAUSAL), has_class(config, MASKED)
    if names:
        if declared(names[0]) is None:
            raise UnsupportedModel(
                f"config.json of {shown} names the class {shorten(names[0])!r}, which transformers"
                " does not have here; choose a model ending in ForCausalLM, LMHeadModel or"
                " ForMaskedLM."
            )
        if _own_head(config, names[0]) is None:
            raise UnsupportedModel(
                f"{shown} is of the class {names[0]}, which has no output embedding (LM head) over"
                " a vocabulary; choose a model ending in ForCausalLM, LMHeadModel or ForMaskedLM."
            )
        if not causal and not masked:
            return declared(names[0]), CAUSAL
    elif not causal and not masked:
        raise UnsupportedModel(
            f"config.json of {shown} does not say what class it is (architectures), and"
            f" transformers has no language model for {config.model_type!r}; name the class there."
        )
    if masked and (not causal or getattr(config, "is_decoder", None) is False):
        return AutoModelForMaskedLM, MASKED
    return AutoModelForCausalLM, CAUSAL


def has_class(config: Any, kind: str) -> bool:
    """Whether transformers has a language model of that kind for such a configuration."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    known = MODEL_FOR_CAUSAL_LM_MAPPING if kind == CAUSAL else MODEL_FOR_MASKED_LM_MAPPING
    return type(config) in known


def class_of(factory: Any, config: Any) -> Any:
    """The class that one of transformers' factories takes for a configuration."""
    mapping = getattr(factory, "_model_mapping", None)
    return factory if mapping is None else mapping[type(config)]


def declared(name: str) -> Any:
    """The class of transformers that a checkpoint names; None where there is none."""
    import transformers

    try:
        found = getattr(transformers, name, None)
    except (ImportError, RuntimeError):  # of a package that is not installed
        return None
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def without_weights(config: Any, name: str) -> nn.Module | None:
    """A model of the class that a checkpoint names, with shapes and no values."""
    made = declared(name)
    if made is None:
        return None
    try:
        with torch.device("meta"):
            found: nn.Module = made(config)
    except Exception:  # the architecture's own code, given any configuration
        return None
    return found


def _own_head(config: Any, name: str) -> Any:
    model: Any = without_weights(config, name)
    return None if model is None else model.get_output_embeddings()
