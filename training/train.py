"""Training: rows in, checkpoints and a log out.

The same code trains in float32 on a CPU and in bfloat16 on a GPU, compiled on both. Hidden
matrices are trained by Muon, everything else by AdamW. The rates rise, then fall linearly to zero
as the run uses up its steps or its minutes, whichever is nearer its end; so a run limited by time
still ends with a whole schedule. A checkpoint holds all a run depends on; in a run limited by steps
alone, resuming gives the numbers an uninterrupted run gives.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.optim import Optimizer
from transformers import LlamaForCausalLM

from training.config import CONFIGS, Config
from training.data import END_OF_TEXT, Mixture, open_streams
from training.model import build, loss

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of the log."""

    step: int
    """Optimizer steps done."""
    tokens: int
    """Tokens trained on so far."""
    seconds: float
    """Time spent so far in this run, before interruptions included."""
    rate: float
    """Fraction of the peak learning rates in force, in [0, 1]."""
    loss: float
    """Training loss of this step's rows, nats per token."""
    valid: dict[str, float] | None = None
    """Validation loss by source, nats per token; absent between validations."""


@dataclass
class Run:
    """A training run at some step: the network, its optimizers and how far it is."""

    config: Config
    model: LlamaForCausalLM
    optimizers: tuple[Optimizer, ...]
    step: int = 0
    """Optimizer steps done."""
    seconds: float = 0.0
    """Time spent so far, earlier processes included."""

    @classmethod
    def start(cls, config: Config, end_of_text: int, device: torch.device) -> Run:
        """A run at step zero."""
        model = build(config, end_of_text).to(device)
        return cls(config, model, make_optimizers(model, config))

    @classmethod
    def resume(cls, file: Path, device: torch.device) -> Run:
        """The run a checkpoint holds."""
        state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
        run = cls.start(Config(**state["config"]), state["end_of_text"], device)
        run.model.load_state_dict(state["model"])
        for optimizer, value in zip(run.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(value)
        run.step, run.seconds = state["step"], state["seconds"]
        return run

    def save(self, file: Path) -> None:
        """Writes a checkpoint; the file is always a whole one, the old or the new."""
        part = file.with_name(file.name + ".part")
        torch.save(
            {
                "config": asdict(self.config),
                "end_of_text": self.model.config.eos_token_id,
                "model": self.model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "step": self.step,
                "seconds": self.seconds,
            },
            part,
        )
        part.replace(file)


def make_optimizers(model: LlamaForCausalLM, config: Config) -> tuple[Optimizer, ...]:
    """Muon for the matrices of the blocks; AdamW for the embedding, the head and the norms."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if ".layers." in name and p.ndim == 2]
    others = [p for name, p in named if not (".layers." in name and p.ndim == 2)]
    return (
        torch.optim.Muon(
            matrices,
            lr=config.matrix_rate,
            weight_decay=config.weight_decay,
            # Scales each update to the size AdamW's would have, so one rate fits every shape.
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, lr=config.vector_rate, betas=(0.9, 0.95), weight_decay=0.0),
    )


def rate(step: int, spent: float, warmup_steps: int) -> float:
    """The fraction of the peak rate in force: a linear rise, then a linear fall to zero.

    Args:
        step: Steps done.
        spent: Fraction of the run used up, in [0, 1].
        warmup_steps: Length of the rise.
    """
    return min(1.0, (step + 1) / max(1, warmup_steps)) * max(0.0, 1.0 - spent)


def train(
    run: Run,
    mixture: Mixture,
    held_out: Mixture,
    folder: Path,
    minutes: float | None = None,
    compiled: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Record]:
    """Trains to the end of the run, a record per step; writes checkpoints into the folder.

    Args:
        run: Where to begin; advanced in place.
        mixture: The training rows.
        held_out: The validation rows, the first of each source's.
        folder: Where the checkpoint goes.
        minutes: The most time the run may take in all, earlier processes included; `None` is no
            limit. The run stops at `config.steps` in any case.
        compiled: Whether `torch.compile` makes the step faster at the price of a slow first one.
        clock: Seconds, from any beginning.
    """
    config, device = run.config, run.model.device
    begun = clock() - run.seconds
    compute: Callable[[Tensor], Tensor] = lambda rows: loss(run.model, rows)  # noqa: E731
    if compiled:
        # One program for each length of rows, and none that is slower because it serves them all.
        compute = torch.compile(compute, dynamic=False)

    def spent() -> float:
        timed = run.seconds / (60 * minutes) if minutes else 0.0
        return max(run.step / config.steps, timed)

    run.model.train()
    while spent() < 1.0:
        fraction = rate(run.step, spent(), config.warmup_steps)
        rows = batch(config, mixture, run.step).to(device)
        mean = _step(run, rows, fraction, compute)
        run.step, run.seconds = run.step + 1, clock() - begun
        ended = spent() >= 1.0
        record = Record(
            step=run.step,
            tokens=run.step * config.rows * config.context,
            seconds=round(run.seconds, 1),
            rate=round(fraction, 5),
            loss=mean,
        )
        if ended or run.step % config.valid_every_steps == 0:
            record = replace(record, valid=validate(run, held_out, compute))
        if ended or run.step % config.save_every_steps == 0:
            run.save(folder / CHECKPOINT)
        yield record


def batch(config: Config, mixture: Mixture, step: int) -> Tensor:
    """The rows of a step: `config.rows` of `config.context` tokens, or more and shorter ones.

    Each has a token more than it is long, the last target.
    """
    if config.short_context is None or step >= config.short_steps:
        return mixture.batch(step, config.rows)
    times = config.context // config.short_context
    return replace(mixture, context=config.short_context).batch(step, times * config.rows)


@torch.no_grad()
def validate(
    run: Run, held_out: Mixture, compute: Callable[[Tensor], Tensor] | None = None
) -> dict[str, float]:
    """The loss on fixed held-out rows of each source, nats per token."""
    compute = compute or (lambda rows: loss(run.model, rows))
    result = {}
    for name, stream in held_out.streams.items():
        rows = Mixture({name: stream}, {name: 1.0}, held_out.context, held_out.seed).batch(
            0, run.config.valid_rows
        )
        parts = torch.split(rows.to(run.model.device), run.config.rows_at_once)
        with _autocast(run.model.device):
            total = sum(float(compute(part)) * len(part) for part in parts)
        result[name] = total / len(rows)
    return result


def _step(run: Run, rows: Tensor, fraction: float, compute: Callable[[Tensor], Tensor]) -> float:
    """One optimizer step; returns the mean loss of its rows."""
    mean = torch.zeros((), device=rows.device)
    at_once = run.config.rows_at_once * len(rows) // run.config.rows
    for part in torch.split(rows, at_once):
        with _autocast(rows.device):
            value = compute(part) * (len(part) / len(rows))
        value.backward()  # type: ignore[no-untyped-call]
        mean += value.detach()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.config.clip)
    peaks = (run.config.matrix_rate, run.config.vector_rate)
    for optimizer, peak in zip(run.optimizers, peaks, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * fraction
        optimizer.step()
        optimizer.zero_grad()
    return float(mean)


def _autocast(device: torch.device) -> AbstractContextManager[object]:
    # On a CPU float32 was the faster one when measured; bfloat16 pays on a GPU.
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains a configuration on what `training.data` packed, or resumes where it stopped."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=main.__doc__)
    parser.add_argument("--config", choices=sorted(CONFIGS), default="small")
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    parser.add_argument("--minutes", type=float, help="limit on the run, interruptions not counted")
    parser.add_argument("--steps", type=int, help="length of the run, in steps")
    parser.add_argument("--threads", type=int, help="CPU threads; all when not given")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    folder = options.work / options.config
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT
    tokenizer = Tokenizer.from_file(str(options.work / "tokenizer" / "tokenizer.json"))
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    if end_of_text is None:
        raise SystemExit(f"The tokenizer must have the token {END_OF_TEXT}; make it anew.")
    if checkpoint.exists():
        run = Run.resume(checkpoint, device)
    else:
        run = Run.start(CONFIGS[options.config], end_of_text, device)
    if options.steps:
        run.config = replace(run.config, steps=options.steps)
    # A run that resumes keeps the configuration it began with.
    config = run.config
    pairs = {name: open_streams(options.work / "packed", name) for name in config.weights}
    streams = {name: pair[0] for name, pair in pairs.items()}
    held_out = {name: pair[1] for name, pair in pairs.items()}
    records = train(
        run,
        Mixture(streams, config.weights, config.context, config.seed),
        Mixture(held_out, config.weights, config.context, config.seed),
        folder,
        options.minutes,
        options.compile,
    )
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    print(f"{config.name}: {parameters} parameters on {device.type}, from step {run.step}")
    with (folder / LOG).open("a", encoding="utf-8") as log:
        for record in records:
            line = {key: value for key, value in asdict(record).items() if value is not None}
            log.write(json.dumps(line) + "\n")
            log.flush()
            if record.valid or record.step % 20 == 0:
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
