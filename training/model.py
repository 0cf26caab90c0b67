"""The network of a configuration and how its scores become a loss. Knows nothing about text."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from training.config import Config


def build(config: Config, end_of_text: int) -> LlamaForCausalLM:
    """A Llama with an untied head and random weights, seeded by the configuration.

    Matrices start normal with standard deviation 0.02; those that write to the residual stream are
    divided by the square root of their number, so that depth does not widen the stream.

    Args:
        config: Its sizes.
        end_of_text: The token that begins and ends documents.
    """
    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.positions,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=False,
            bos_token_id=end_of_text,
            eos_token_id=end_of_text,
            # No padding token here: its embedding would stay zero and never be trained, and the
            # only candidate is end-of-text, which begins documents.
            pad_token_id=None,
        )
    )
    writers = ("o_proj.weight", "down_proj.weight")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(writers):
                parameter.div_(math.sqrt(2 * config.layers))
    return model


def loss(model: torch.nn.Module, rows: Tensor) -> Tensor:
    """Mean cross-entropy, in nats per token, of each token after the first given those before.

    Args:
        model: A causal language model of `transformers`.
        rows: Token numbers, shape (rows, tokens).
    """
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    # float32 whatever the model computes in: the sum over the vocabulary needs it.
    return functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())
