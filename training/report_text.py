"""The model report in words and tables. Pure: figures in, Markdown out.

Bits per byte are rounded against the model, its own up and what it is held against down. Whether a
floor is passed is read off the figures, never written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

BEGIN: Final = "<!-- report: written by make model-report -->"
END: Final = "<!-- end of the report -->"

TITLES: Final = {
    "prose": "held-out prose",
    "textbooks": "held-out textbooks",
    "wikitext2-valid": "WikiText-2 valid",
    "wikitext2-test": "WikiText-2 test",
}
FRAME_NAMES: Final = {
    "output": "output (semantic bases)",
    "input": "input",
    "head": "raw head rows",
    "tight": "tight",
    "random": "random (the control)",
}


def markdown(report: Mapping[str, Any]) -> str:
    """All sections that were measured."""
    sections = [report["absent"]] if report["absent"] else [_bits(report)]
    sections.append(_written(report))
    sections.append(_neighbours(report["neighbours"]))
    if "labels" in report:
        sections.append(_labels(report["labels"]))
    return "\n".join(sections)


def into_card(card: str, text: str) -> str:
    """The card with what stands between the marks replaced.

    Raises:
        ValueError: the card does not hold both marks once.
    """
    if card.count(BEGIN) != 1 or card.count(END) != 1 or card.index(BEGIN) > card.index(END):
        raise ValueError(
            f"A card must hold the line {BEGIN} and after it the line {END}, once each; add them"
            " where the report is to stand."
        )
    before, after = card[: card.index(BEGIN)], card[card.index(END) :]
    return f"{before}{BEGIN}\n\n{text}\n{after}"


def passes(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Floor → texts on which the model needs fewer bits per byte than it."""
    passed: dict[str, list[str]] = {}
    for name, row in report["texts"].items():
        for floor, bits in _floors(report, row).items():
            passed.setdefault(floor, [])
            if row["bits_per_byte"] < bits:
                passed[floor].append(name)
    return passed


def _floors(report: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, float]:
    return {
        "`xz -9e`": row["xz_bits_per_byte"],
        **row["ngram_bits_per_byte"],
        report["peer"]["name"]: row["peer_bits_per_byte"],
    }


def _bits(report: Mapping[str, Any]) -> str:
    texts = report["texts"]
    floors = list(_floors(report, next(iter(texts.values()))))
    lines = [
        "## How good it is",
        "",
        "Bits per byte: the lower the better; they compare across models, the loss does not. All of"
        " each",
        f"text, each token given up to {report['window_tokens']} tokens before it (windows overlap"
        " by half).",
        "",
        f"| text | bytes | loss, nats per token | **this model** | {' | '.join(floors)} |",
        f"|---|---:|---:|---:|{'---:|' * len(floors)}",
    ]
    for name, row in texts.items():
        cells = [
            TITLES.get(name, name),
            f"{row['utf8_bytes']:,}",
            f"{_up(row['loss'])}",
            f"**{_up(row['bits_per_byte'])}**",
            *(f"{_down(bits)}" for bits in _floors(report, row).values()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *_verdicts(report), "", *_what_floors_are(report), ""]
    return "\n".join(lines)


def _verdicts(report: Mapping[str, Any]) -> list[str]:
    """One line per floor: passed everywhere, or where not."""
    lines = []
    for floor, passed in passes(report).items():
        failed = [TITLES.get(name, name) for name in report["texts"] if name not in passed]
        if failed:
            lines.append(f"- **It does not beat {floor} on {_list(failed)}.**")
        else:
            lines.append(f"- It beats {floor} on every text.")
    return lines


def _what_floors_are(report: Mapping[str, Any]) -> list[str]:
    fitted = [
        f"the {ngram['name']} on {ngram['trained_symbols']:,} {ngram['name'].split()[0]}s"
        for ngram in report["ngrams"]
    ]
    peer = report["peer"]
    megabytes = report["ngrams"][0]["trained_bytes"] / 1e6
    return [
        "`xz -9e` compresses the same bytes and, unlike the models, learns from them as it goes."
        " The n-grams are interpolated Kneser–Ney, one discount"
        " per order,",
        f"fitted on {megabytes:.0f} MB of the model's own training text in the shares in which the"
        f" model saw it: {_list(fitted)}.",
        f"{peer['name']} is another real model, of {peer['parameters']:,} parameters, made for"
        f" children's stories; it reads {peer['window_tokens']} tokens at a time.",
        "Our figures are rounded up, theirs down. WikiText-2 is CC BY-SA 3.0 and was used to"
        " measure only.",
    ]


def _written(report: Mapping[str, Any]) -> str:
    how = report["sampling"]
    lines = [
        "## What it writes",
        "",
        f"{report['continuation_tokens']} tokens, greedy, and sampled once at temperature"
        f" {how['temperature']} among the {how['top_k']} likeliest tokens with seed",
        f'{how["seed"]}. Nothing was picked; line breaks are shown as " / ".',
        "",
    ]
    for row in report["continuations"]:
        lines.append(f"- **{row['prompt']}**")
        lines += [f"  - {kind}: {_one_line(row[kind])}" for kind in ("greedy", "sampled")]
    return "\n".join([*lines, ""])


def _neighbours(found: Mapping[str, Any]) -> str:
    frames = found["frames"]
    fields = list(next(iter(frames.values()))["by_field"])
    lines = [
        "## Semantic neighbours",
        "",
        f"{found['asked']} everyday words of {len(fields)} fields, chosen before looking"
        " (`training/neighbours.py` lists them). A word",
        "counts if its five nearest tokens by cosine, of the whole vocabulary, hold another word of"
        " its field.",
        "",
        f"| frame | share | 95 % interval | {' | '.join(fields)} |",
        f"|---|---:|---:|{'---:|' * len(fields)}",
    ]
    for name, frame in frames.items():
        share = frame["share"]
        cells = [
            FRAME_NAMES.get(name, name),
            f"{share['value']:.2f}",
            f"{share['low']:.2f} to {share['high']:.2f}",
            *(f"{hit}/{asked}" for hit, asked in frame["by_field"].values()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *_comparison(frames), ""]
    for row in frames["output"]["words"]:
        if row["word"] == _first_of(frames["output"]["words"], row["field"]):
            near = ", ".join(f"`{_cell(text)}`" for text in row["nearest"])
            lines.append(f"- {row['field']}, output frame: *{row['word']}* is nearest to {near}")
    return "\n".join([*lines, ""])


def _comparison(frames: Mapping[str, Any]) -> list[str]:
    """Whether the frames can be told apart by so few words."""
    low = frames["output"]["share"]["low"]
    control = frames["random"]["share"]["high"]
    trained = [frame["share"] for name, frame in frames.items() if name != "random"]
    apart = max(s["low"] for s in trained) > min(s["high"] for s in trained)
    return [
        "The semantic bases are clearly above the random control."
        if low > control
        else "The semantic bases are not clearly above the random control.",
        "The trained frames differ by more than so few words can blur."
        if apart
        else "So few words do not tell the four trained frames apart.",
    ]


def _labels(tables: Sequence[Mapping[str, Any]]) -> str:
    sizes = tables[0]["sizes"]
    lines = [
        "## What its states know of labels",
        "",
        f"Accuracy on {sizes['test']:,} test rows with its 95 % bootstrap interval, and the"
        " difference from the bag of words on",
        f"the same rows. {sizes['train']:,} rows to fit on, {sizes['valid']:,} to choose strengths"
        " and epochs by; the prompt's last state at",
        "the last layer. The bag of words is a logistic regression on tf-idf counts and sees no"
        " model.",
        "",
        "| data set | method | accuracy | interval | against the bag of words |",
        "|---|---|---:|---:|---:|",
    ]
    for table in tables:
        lines.append(f"| {table['name']} | largest class | {table['chance']:.3f} | | |")
        for row in table["methods"]:
            own, over = row["accuracy"], row["over_words"]
            against = (
                ""
                if row["method"] == "bag of words"
                else f"{over['value']:+.3f} ({over['low']:+.3f} to {over['high']:+.3f})"
            )
            lines.append(
                f"| {table['name']} | {row['method']} | {own['value']:.3f}"
                f" | {own['low']:.3f} to {own['high']:.3f} | {against} |"
            )
    return "\n".join([*lines, "", *_label_verdicts(tables), ""])


def _label_verdicts(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line per trained method: above, below or level with the bag of words, by data set."""
    lines = []
    for i, row in enumerate(tables[0]["methods"]):
        if row["method"] == "bag of words":
            continue
        places: dict[str, list[str]] = {"above": [], "below": [], "level with": []}
        for table in tables:
            over = table["methods"][i]["over_words"]
            where = "above" if over["low"] > 0 else "below" if over["high"] < 0 else "level with"
            places[where].append(table["name"])
        said = [f"{where} the bag of words on {_list(names)}" for where, names in places.items()
                if names]  # fmt: skip
        lines.append(f"- {row['method'][0].upper()}{row['method'][1:]}: {'; '.join(said)}.")
    return lines


def _first_of(rows: Sequence[Mapping[str, Any]], field: str) -> str:
    return next(str(row["word"]) for row in rows if row["field"] == field)


def _cell(text: str) -> str:
    """A token's text that breaks neither a code span nor a line."""
    return text.strip().replace("`", "'").replace("\n", " / ") or "␣"


def _one_line(text: str) -> str:
    return " / ".join(part.strip() for part in text.split("\n") if part.strip())


def _list(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _up(value: float) -> str:
    return f"{math.ceil(value * 1000) / 1000:.3f}"


def _down(value: float) -> str:
    return f"{math.floor(value * 1000) / 1000:.3f}"
