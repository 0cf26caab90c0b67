"""Runs in the peers' environment: the lenses as their own libraries compute them.

Started by :mod:`bench.peers` with a folder that holds a model and its states. One JSON line on
standard output says what can be run; then each line of standard input `name time|memory` is
answered by one JSON line. Only the reading part is timed: the states are there already.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from bench.measure import clocked, extra_bytes

Work = Callable[[], object]


def plain(module: Any, given: dict[str, torch.Tensor], k: int) -> Work:
    """What such lenses compute, written plainly: every logit of every layer in memory at once."""
    head, norm = module.lm_head, module.transformer.ln_f
    targets = given["targets"].view(given["raw"].shape[0], -1)

    def work() -> object:
        logits = head(norm(given["raw"]))
        log_probabilities = logits.log_softmax(-1)
        top = log_probabilities.topk(k, dim=-1)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
        own = log_probabilities.gather(-1, targets.unsqueeze(-1))
        return top, entropy, 1 + (log_probabilities > own).sum(-1)

    return work


def tuned_lens(module: Any, given: dict[str, torch.Tensor], k: int) -> dict[str, Work]:
    """LogitLens and its PredictionTrajectory, from states that are cached."""
    # Neither library is installed where the types are checked.
    from tuned_lens import model_surgery
    from tuned_lens.nn import unembed
    from tuned_lens.nn.lenses import LogitLens
    from tuned_lens.plotting.prediction_trajectory import PredictionTrajectory

    # It asks transformer-lens for a class that left with 4.0, for models that are not these.
    for part in (model_surgery, unembed):
        part._transformer_lens_available = False
    lens = LogitLens.from_model(module)
    raw = given["raw"]

    class Cache:
        model = SimpleNamespace(tokenizer=None, cfg=SimpleNamespace(n_layers=len(raw) - 1))

        def __getitem__(self, key: tuple[str, int]) -> torch.Tensor:
            return raw[key[1]]

    with torch.no_grad():
        logits = module.lm_head(module.transformer.ln_f(raw[-1]))
    targets = given["targets"].view(len(raw), -1)[-1]

    def trajectory() -> Any:
        return PredictionTrajectory.from_lens_and_cache(
            lens, given["ids"], Cache(), logits, targets=targets
        )

    def with_entropy() -> object:
        made = trajectory()
        return made, made.entropy()

    def with_rank() -> object:
        made = trajectory()
        return made, made.entropy(), made.rank()

    return {
        "tuned-lens: trajectory, entropy": with_entropy,
        "tuned-lens: trajectory, entropy, rank": with_rank,
    }


def transformer_lens(folder: Path, given: dict[str, torch.Tensor], k: int) -> dict[str, Work]:
    """The documented recipe, and the chunked reading of version 4."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools.analysis import logit_lens

    model = TransformerBridge.boot_transformers(str(folder), device="cpu")
    _, cache = model.run_with_cache(given["ids"].unsqueeze(0))
    targets = given["targets"].view(given["raw"].shape[0], -1)

    def full() -> object:
        stack = cache.accumulated_resid(apply_ln=True)
        log_probabilities = model.unembed(stack).log_softmax(-1)
        top = log_probabilities.topk(k, dim=-1)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
        own = log_probabilities.gather(-1, targets[:, None, :, None])
        return top, entropy, 1 + (log_probabilities > own).sum(-1)

    def chunked() -> object:
        top = logit_lens(model, cache=cache, positions=None, top_k=k)
        return top, logit_lens(model, cache=cache, positions=None, targets=targets[-1:])

    return {
        "TransformerLens: recipe, top-k, entropy, rank": full,
        "TransformerLens 4: logit_lens in chunks of rows, twice": chunked,
    }


@torch.no_grad()
def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    folder, threads, k = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    from transformers import GPT2LMHeadModel

    module: Any = GPT2LMHeadModel.from_pretrained(folder)
    module.eval()
    given = torch.load(folder / "states.pt", weights_only=True)
    works: dict[str, Work] = {"plain implementation, all logits": plain(module, given, k)}
    errors: dict[str, str] = {}
    for name, make in (
        ("tuned-lens", lambda: tuned_lens(module, given, k)),
        ("TransformerLens", lambda: transformer_lens(folder, given, k)),
    ):
        try:
            works |= make()
        except Exception as error:
            traceback.print_exc()
            errors[name] = f"{type(error).__name__}: {error}"
    for name in list(works):
        try:
            works[name]()
        except Exception as error:
            traceback.print_exc()
            errors[name] = f"{type(error).__name__}: {error}"
            del works[name]
    print(json.dumps({"works": list(works), "errors": errors}), file=answers, flush=True)
    for line in sys.stdin:
        name, _, what = line.strip().rpartition(" ")
        if what == "memory":
            out: dict[str, object] = {"bytes": extra_bytes(works[name])}
        else:
            wall, cpu = clocked(works[name])
            out = {"wall": wall, "cpu": cpu}
        print(json.dumps(out), file=answers, flush=True)


if __name__ == "__main__":
    main()
