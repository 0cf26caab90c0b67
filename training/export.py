"""From a checkpoint to a model folder that `transformers` loads.

Weights are written in bfloat16 in shards small enough for a repository. The folder says nothing of
the machine: no paths, no times.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM

from training.train import CHECKPOINT, Run

SHARD_BYTES = 15 * 1024 * 1024
"""Largest file of weights."""


def export(model: LlamaForCausalLM, tokenizer: Path, out: Path) -> None:
    """Writes weights, configuration and tokenizer; other files in the folder stay.

    The model itself is left as it was. Weights of an earlier export are removed.

    Args:
        model: The network, in any dtype.
        tokenizer: A folder `training.tokenizer` wrote.
        out: The model folder.
    """
    copy = deepcopy(model).to(torch.bfloat16)
    copy.config.dtype = torch.bfloat16
    end = model.config.eos_token_id
    copy.generation_config = GenerationConfig(
        bos_token_id=end, eos_token_id=end, pad_token_id=end, do_sample=True, temperature=0.8,
        top_k=40,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    # Written beside and moved in, so that a reader of the folder never meets half a file.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as staging:
        # A shard's header counts as well: leave it room below the bound.
        copy.save_pretrained(staging, max_shard_size=SHARD_BYTES - (1 << 16))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tokenizer / name, Path(staging) / name)
        written = sorted(Path(staging).iterdir())
        for stale in {*out.glob("*.safetensors"), *out.glob("*.safetensors.index.json")}:
            if stale.name not in {file.name for file in written}:
                stale.unlink()
        for file in written:
            file.chmod(0o644)
            file.replace(out / file.name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Exports the newest checkpoint of a configuration."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=main.__doc__)
    parser.add_argument("--config", default="small")
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    parser.add_argument("--out", type=Path, default=Path("models/small"))
    options = parser.parse_args(arguments)
    run = Run.resume(options.work / options.config / CHECKPOINT, torch.device("cpu"))
    export(run.model, options.work / "tokenizer", options.out)
    print(f"{run.config.name} after {run.step} steps in {options.out}")


if __name__ == "__main__":
    main()
