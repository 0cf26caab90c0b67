"""The tokenizer: byte-level BPE in which the usual label words are single tokens.

Byte-level means that every string has an encoding and comes back unchanged. The label words get
their merges the way all words do, from the text the trainer reads: they are repeated in it often
enough to be learned. They are not added tokens, so they behave like any other word.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.config import CONFIGS
from training.data import END_OF_TEXT, documents, source, split_files

LABEL_WORDS = (
    *("positive", "negative", "neutral", "terrible", "bad", "okay", "good", "great"),
    *("world", "sports", "business", "technology", "science"),
    *("subjective", "objective", "true", "false", "yes", "no"),
    *("description", "entity", "expression", "abbreviation", "human", "location", "number"),
    *("sadness", "joy", "love", "anger", "fear", "surprise"),
    *("Positive", "Negative", "World", "Sports", "Business", "Technology"),
)
"""Single tokens with a space before them, in every tokenizer made here."""

BYTES_PER_REPEAT = 2_000
"""Each label word is repeated once for so many bytes of the sample: 20,000 times in 40 MB."""


def train_tokenizer(
    sources: Mapping[str, Path], weights: Mapping[str, float], vocab_size: int, sample_bytes: int
) -> Tokenizer:
    """Trains a byte-level BPE on a sample of the sources; the same input gives the same tokenizer.

    Args:
        sources: Where each source lies; only its training files are read.
        weights: Share of the sample by source name.
        vocab_size: Tokens in all, the 256 bytes and end-of-text among them.
        sample_bytes: Size of the sample in UTF-8 bytes; a smaller source gives all it has.

    Raises:
        ValueError: A label word is not a single token: the vocabulary is too small.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(sources, weights, sample_bytes), trainer)
    split = [word for word in LABEL_WORDS if len(tokenizer.encode(f" {word}").ids) != 1]
    if split:
        raise ValueError(
            f"Every label word must be one token; with {vocab_size} tokens these are not: "
            f"{', '.join(split)}. Give a larger vocab_size."
        )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Saves as `tokenizer.json` and `tokenizer_config.json`, which `AutoTokenizer` loads."""
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_max_length=context,
    ).save_pretrained(folder)


def _sample(
    sources: Mapping[str, Path], weights: Mapping[str, float], sample_bytes: int
) -> Iterator[str]:
    repeats = max(1, sample_bytes // BYTES_PER_REPEAT)
    yield from (f" {word}" * repeats for word in LABEL_WORDS)
    total = sum(weights[name] for name in sources)
    for name, place in sources.items():
        room = int(sample_bytes * weights[name] / total)
        for file in split_files(place)[0]:
            # Documents are spread over the file by a stride, and long ones are cut: one book's
            # names must not become tokens.
            for text in islice(documents(file), 0, None, 2):
                if room <= 0:
                    break
                piece = text[: min(100_000, room)]
                room -= len(piece.encode())
                yield piece


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains the tokenizer of a configuration on the sources given."""
    parser = argparse.ArgumentParser(prog="python -m training.tokenizer", description=main.__doc__)
    parser.add_argument("--config", choices=sorted(CONFIGS), default="small")
    parser.add_argument(
        "--source", type=source, action="append", required=True, metavar="NAME=PATH"
    )
    parser.add_argument("--sample-bytes", type=int, default=40_000_000)
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    options = parser.parse_args(arguments)
    config = CONFIGS[options.config]
    tokenizer = train_tokenizer(
        dict(options.source), config.weights, config.vocab_size, options.sample_bytes
    )
    save_tokenizer(tokenizer, options.work / "tokenizer", config.positions)
    print(f"{tokenizer.get_vocab_size()} tokens in {options.work / 'tokenizer'}")


if __name__ == "__main__":
    main()
