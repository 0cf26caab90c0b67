"""A GGUF file as a folder that transformers opens at once: dequantised once, kept by content.

Reading a GGUF file takes transformers the longer part of a minute, mostly for its vocabulary and
its quantised numbers. So the first opening writes a copy in float32, the exact values, with
tokenizer and configuration as `save_pretrained` lays them out; every later one opens the copy.

The copy is made by a process of its own (``python -m engine.model.gguf_copy``), whose memory is
limited and returned, so that a hostile file costs its opener a sentence. Its name is the digest of
the file's every byte and of the versions that decide the numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil

from engine.errors import ModelError, ModelTooLarge, UnsupportedModel, shorten
from engine.model.gguf_header import GgufHeader, read_header

_FORM: Final = 1
"""Of the copy; another number makes every copy anew."""
_SPARE: Final = 256 * 2**20
_REFUSED: Final = 3
_SHARD: Final = "2GB"


@contextlib.contextmanager
def as_folder(
    path: Path, shown: str, cache: Path | None, check: Callable[[], None]
) -> Iterator[tuple[Path, GgufHeader]]:
    """The folder of a GGUF file's copy, made where it is not kept yet, and the file's header.

    Args:
        path: the GGUF file.
        shown: what people call it.
        cache: where copies are kept; None, or where nothing can be written: the copy lasts for the
            block only.
        check: raises to stop.

    Raises:
        ModelError, ModelTooLarge, UnsupportedModel: one sentence each.
    """
    header = read_header(path, shown)
    _supported(header, shown)
    with contextlib.ExitStack() as stack:
        try:
            if cache is None:
                raise OSError
            rooms = cache / "gguf"
            rooms.mkdir(parents=True, exist_ok=True)
            kept = rooms / _digest(path, check)
            if not kept.is_dir():
                aside = tempfile.TemporaryDirectory(prefix="new-", dir=rooms)
                made = Path(stack.enter_context(aside)) / "copy"
                _make(path, made, header, shown, check)
                with contextlib.suppress(OSError):  # another process was faster
                    made.rename(kept)
        except OSError:
            aside = tempfile.TemporaryDirectory(prefix="lexiscope-gguf-")
            kept = Path(stack.enter_context(aside)) / "copy"
            _make(path, kept, header, shown, check)
        yield kept, header


def _supported(header: GgufHeader, shown: str) -> None:
    """Refuse by name what transformers does not convert."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    known = sorted(set(GGUF_SUPPORTED_ARCHITECTURES) - {"general", "tokenizer", "t5", "umt5"})
    spelled = {name.replace("_", "") for name in known} | set(known)
    if header.architecture.replace("-", "").replace("_", "") not in spelled:
        raise UnsupportedModel(
            f"{shown} holds a model of the architecture {shorten(header.architecture, 40)!r}, and"
            f" of GGUF files these are converted: {', '.join(known)}; give the model's folder with"
            " safetensors instead."
        )


def _digest(path: Path, check: Callable[[], None]) -> str:
    """Names the file's every byte and what decides the numbers made of it."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{_FORM} {version('transformers')} {version('gguf')}".encode())
    with path.open("rb") as file:
        while piece := file.read(2**24):
            check()
            digest.update(piece)
    return digest.hexdigest()


def _make(
    path: Path, target: Path, header: GgufHeader, shown: str, check: Callable[[], None]
) -> None:
    """Write the copy in a process of its own.

    Raises:
        OSError: it cannot be written there.
    """
    need = header.dequantised_bytes
    if need + _SPARE > (free := shutil.disk_usage(target.parent).free):
        raise ModelTooLarge(
            f"{shown} takes {need / 2**30:,.1f} GiB once it is dequantised, and"
            f" {free / 2**30:,.1f} GiB are free in the cache folder; make room there, or name"
            " another one by the setting cache_dir."
        )
    if 2 * need > (memory := psutil.virtual_memory().available):
        raise ModelTooLarge(
            f"{shown} takes up to {2 * need / 2**30:,.1f} GiB while it is dequantised, and"
            f" {memory / 2**30:,.1f} GiB are free; choose a smaller model."
        )
    orders = {"source": str(path.resolve()), "target": str(target), "memory": 3 * need + 2**30}
    child = subprocess.Popen(  # nosec B603  # our own module, a list, no shell
        # -P: a folder named engine where this was started must not be taken for ours.
        [sys.executable, "-P", "-m", "engine.model.gguf_copy", json.dumps(orders)],
        env={**os.environ, "PYTHONPATH": _search_path(), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        while child.poll() is None:
            check()
            time.sleep(0.05)
        said = (child.stdout.read() if child.stdout else b"").decode("utf-8", "replace").strip()
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()
    if child.returncode == _REFUSED:
        raise UnsupportedModel(f"{shown} cannot be opened: {said[-600:]}")
    if child.returncode != 0:
        raise ModelError(
            f"{shown} took more memory than its header says it needs, or ended the process that"
            " read it; it is damaged, copy or download it again."
        )


def _search_path() -> str:
    """Our own code first, for a checkout that is run without being installed."""
    ours = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))


# In the process of its own


def _convert(source: Path, target: Path) -> None:
    """Write the folder.

    Raises:
        UnsupportedModel: what is refused, in a sentence without the file's name.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    folder = str(source.parent)
    try:
        module, info = AutoModelForCausalLM.from_pretrained(  # nosec B615  # a file of this disk
            folder, dtype=torch.float32, output_loading_info=True, **where
        )
    except Exception as error:
        raise UnsupportedModel(f"its weights are not what they seem ({_short(error)}).") from error
    tied = {"lm_head.weight"} if module.config.tie_word_embeddings else set()
    if missing := sorted(set(info.get("missing_keys") or ()) - tied):
        raise UnsupportedModel(f"it lacks the tensor {missing[0]!r}, which would be random.")
    header = read_header(source, "it")
    if left := _untaken(module, header):
        raise UnsupportedModel(
            f"its tensor {shorten(left[0])!r}"
            + (f" and {len(left) - 1} more" if len(left) > 1 else "")
            + " would be left out, so that the numbers would be another model's."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **where)  # nosec B615
    except Exception as error:
        raise UnsupportedModel(f"its tokenizer cannot be read ({_short(error)}).") from error
    # What was quantised is not any more; transformers would refuse to save it as such.
    module.hf_quantizer = None
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(module.config, name):
            delattr(module.config, name)
    module.is_quantized = False
    module.config._name_or_path = ""
    module.save_pretrained(target, max_shard_size=_SHARD)
    tokenizer.save_pretrained(target)
    _only_listed(target / "tokenizer.json", header.vocabulary)


def _only_listed(path: Path, count: int) -> None:
    """Take out the tokens that transformers adds beyond those that the file lists."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document["added_tokens"] = [one for one in document["added_tokens"] if one["id"] < count]
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def _untaken(module: Any, header: GgufHeader) -> list[str]:
    """Tensors of the file that no parameter took."""
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)
    taken = get_gguf_hf_weights_map(module, processor(config=module.config.to_dict()))
    # Experts are stored together and taken apart one by one, under names of their own.
    return [t.name for t in header.tensors if t.name not in taken and "exps" not in t.name]


def _short(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return shorten(f"{type(error).__name__}: {first}" if first else type(error).__name__, 200)


def _limit(memory: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        most = int(psutil.Process().memory_info().vms) + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _child(argument: str) -> int:
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    orders = json.loads(argument)
    _limit(orders["memory"])
    try:
        _convert(Path(orders["source"]), Path(orders["target"]))
    except UnsupportedModel as error:
        print(error)
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_child(sys.argv[1]))
