"""An evaluation as one HTML page that stands alone, and as CSV.

No script, no font, no picture from elsewhere: style and drawings are in the page, so it can be sent
by mail, printed, and opened without a network. Light and dark follow the reader's system.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from app.cli.report_drawings import KIND_LINES, accuracy_and_time, dots_with_intervals
from app.figures.theme import DARK, LIGHT, Theme, text_colours
from app.web import export
from engine.calibration.evidence.evaluation import Cell, Evaluation
from engine.calibration.evidence.findings import Finding, counted, signed
from engine.calibration.evidence.methods import METHODS
from engine.calibration.evidence.metrics import Interval
from engine.calibration.evidence.protocol import KINDS

_HEADLINE = "calibration-sm"


def report_html(found: Evaluation) -> str:
    """The page."""
    names = ", ".join(t.name for t in found.tasks)
    model = found.model
    title = f"Calibration and its competitors: {model['name']}"
    body = [
        '<header><p class="eyebrow">Lexiscope · evaluation</p>',
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(found.sentence)}</p>',
        f'<p class="facts">{_facts(found)}</p></header>',
        _cards(found),
        _section(
            "Mean accuracy",
            "Each dot is a method's mean over the data sets and seeds, the line its 95 % interval."
            " The dashed line is always guessing the largest class.",
            dots_with_intervals(found),
        ),
        _section(
            "Method × data set",
            "Accuracy in %, its 95 % interval below it; the stronger the colour, the further above"
            " chance. The best of each column is underlined. Seconds are summed over the data sets;"
            f" reading the texts is charged to each method. {_clock(found)}",
            _table(found),
        ),
        _section(
            "Accuracy and time",
            "Up is more accurate, left is quicker. Time is training and inference together, on a"
            " logarithmic scale. Named are calibration and the methods that no other beats in both;"
            " the others are named in the table above and under the pointer.",
            accuracy_and_time(found),
        ),
    ]
    if found.differences:
        body.append(
            _section(
                "Differences on the same rows",
                "Accuracy of the first method minus the second's in points, with the paired 95 %"
                " interval. Bold where the interval does not hold zero.",
                _differences(found),
            )
        )
    body += [
        _section("What the table says", "", _findings(found.findings)),
        _section("Notes and settings", "", _notes(found)),
        f"<footer><p>{_provenance(found)}</p></footer>",
    ]
    return _page(title, f"{title} on {names}", "\n".join(body))


def evaluation_csv(found: Evaluation) -> bytes:
    """One row per method and task, and one per method for the average."""
    return export.table(f"{found.sentence} {_plain_provenance(found)}", found.rows())


def _page(title: str, description: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
        " style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta name="description" content="{escape(description)}">\n'
        f"<title>{escape(title)}</title>\n<style>{_style()}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, words: str, inside: str) -> str:
    note = f'<p class="note">{escape(words)}</p>' if words else ""
    return f"<section><h2>{escape(title)}</h2>{note}{inside}</section>"


def _facts(found: Evaluation) -> str:
    model, task = found.model, found.tasks[0]
    same = len({(t.train, t.valid, t.test) for t in found.tasks}) == 1
    rows = (
        f"{task.train:,} rows to train, {task.valid:,} to choose, {task.test:,} to test"
        if same
        else "sizes below"
    )
    return escape(
        f"{model['parameters']:,} parameters, d = {model['width']}, v = {model['vocabulary']:,} · "
        f"{counted(len(found.tasks), 'data set')} · {rows} · {counted(len(found.seeds), 'seed')}"
    )


def _clock(found: Evaluation) -> str:
    if found.settings.get("clock") == "processor":
        return "They are processor time of this process."
    return "They are on the clock."


def _cards(found: Evaluation) -> str:
    cards = []
    if _HEADLINE in found.averages:
        mean = found.averages[_HEADLINE].accuracy
        cards.append(("calibration", f"{100 * mean.value:.1f} %", _range(mean, ""), ""))
    pairs = {(d.first, d.second): d.mean for d in found.differences}
    for other, words in (("knn-prompting", "kNN prompting"), ("linear-probe", "linear probe")):
        gain = pairs.get((_HEADLINE, other))
        if gain is not None:
            tone = "good" if gain.low > 0 else "bad" if gain.high < 0 else "even"
            name = f"points, calibration minus {words}"
            cards.append((name, signed(gain.value), _range(gain, "+"), tone))
    if {_HEADLINE, "knn-prompting"} <= found.averages.keys():
        ours, theirs = (found.averages[m].seconds for m in (_HEADLINE, "knn-prompting"))
        if theirs > 0:
            tone = "good" if ours <= theirs / 2 else "bad"
            words = f"{ours:,.1f} s against {theirs:,.1f} s"
            cards.append(("of kNN prompting's time", f"× {ours / theirs:.2f}", words, tone))
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card {tone}"><p class="figure">{escape(value)}</p>'
            f"<p>{escape(name)}</p><p class='range'>{escape(extra)}</p></div>"
            for name, value, extra, tone in cards
        )
        + "</div>"
        if cards
        else ""
    )


def _range(interval: Interval, sign: str) -> str:
    if sign:
        return f"{signed(interval.low)} to {signed(interval.high)}"
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _table(found: Evaluation) -> str:
    names = [t.name for t in found.tasks]
    best = {
        n: max(
            (c.accuracy.value for (m, t), c in found.cells.items() if t == n), default=float("nan")
        )
        for n in names
    }
    heads = "".join(
        f'<th scope="col" class="n">{escape(t.name)}<small>{len(t.label_names)} classes, chance'
        f" {100 * t.chance:.0f}</small></th>"
        for t in found.tasks
    )
    out = [
        '<div class="wide" tabindex="0" role="region" aria-label="Methods and data sets"><table>'
        f'<thead><tr><th scope="col">Method</th>{heads}<th scope="col" class="n">Mean</th>'
        '<th scope="col" class="n">F1</th><th scope="col" class="n">train s</th>'
        '<th scope="col" class="n">infer s</th><th scope="col" class="n">peak MiB</th>'
        '<th scope="col" class="n">stored KiB</th></tr></thead>'
    ]
    chance = {t.name: t.chance for t in found.tasks}
    for kind, words in KINDS.items():
        members = [m for m in found.methods if METHODS[m].kind == kind]
        if not members:
            continue
        out.append(
            f'<tbody><tr class="group"><th scope="rowgroup" colspan="{len(names) + 7}">'
            f'<i class="swatch l{KIND_LINES[kind]}"></i>{escape(words)}</th></tr>'
        )
        for method in members:
            cells = "".join(_cell(found.cells.get((method, n)), chance[n], best[n]) for n in names)
            out.append(
                f'<tr><th scope="row">{escape(METHODS[method].title)}'
                f"<small>{escape(METHODS[method].source)}</small></th>{cells}"
                f"{_summary(found, method, names)}</tr>"
            )
        out.append("</tbody>")
    out.append("</table></div>")
    return "".join(out)


def _cell(cell: Cell | None, chance: float, best: float) -> str:
    if cell is None:
        return '<td class="n off">–</td>'
    value = cell.accuracy.value
    level = max(0.0, (value - chance) / max(1e-9, 1 - chance))
    step = min(6, int(level * 7))
    top = " best" if value >= best - 1e-12 else ""
    return (
        f'<td class="n s{step}{top}"><b>{100 * value:.1f}</b>'
        f"<small>{100 * cell.accuracy.low:.0f}–{100 * cell.accuracy.high:.0f}</small></td>"
    )


def _summary(found: Evaluation, method: str, names: Sequence[str]) -> str:
    average = found.averages.get(method)
    own = [found.cells[method, n] for n in names if (method, n) in found.cells]
    if average is None or not own:
        return '<td class="n off" colspan="6">not run for every data set</td>'
    numbers = (
        f"{100 * average.macro_f1.value:.1f}",
        f"{average.seconds_train:,.1f}",
        f"{average.seconds_infer:,.1f}",
        f"{max(c.peak_bytes for c in own) / 2**20:,.0f}",
        f"{sum(c.stored_bytes for c in own) / len(own) / 1024:,.1f}",
    )
    mean = average.accuracy
    return (
        f'<td class="n mean"><b>{100 * mean.value:.1f}</b>'
        f"<small>{100 * mean.low:.1f}–{100 * mean.high:.1f}</small></td>"
        + "".join(f'<td class="n">{n}</td>' for n in numbers)
    )


def _differences(found: Evaluation) -> str:
    names = [t.name for t in found.tasks]
    heads = "".join(f'<th scope="col" class="n">{escape(n)}</th>' for n in names)
    rows = []
    for one in found.differences:
        cells = "".join(
            _gap(one.per_task[n]) if n in one.per_task else '<td class="n off">–</td>'
            for n in names
        )
        rows.append(
            f'<tr><th scope="row">{escape(found.title(one.first))}<small>minus'
            f" {escape(found.title(one.second))}</small></th>{_gap(one.mean)}{cells}</tr>"
        )
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Differences"><table><thead><tr>'
        f'<th scope="col">Pair</th><th scope="col" class="n">Mean</th>{heads}</tr></thead><tbody>'
        + "".join(rows)
        + "</tbody></table></div>"
    )


def _gap(interval: Interval) -> str:
    tone = "good" if interval.low > 0 else "bad" if interval.high < 0 else ""
    value = signed(interval.value)
    shown = f"<b>{value}</b>" if tone else value
    return f'<td class="n {tone}">{shown}<small>{_range(interval, "+")}</small></td>'


def _findings(findings: Sequence[Finding]) -> str:
    # Verdicts belong to goals that were set for this project's own bench: a reader has others.
    rows = "".join(f"<li>{escape(one.text)}</li>" for one in findings)
    return f'<ul class="findings">{rows}</ul>'


def _notes(found: Evaluation) -> str:
    rows = []
    for task in found.tasks:
        words = ", ".join(
            f"{a} → “{b}”" for a, b in zip(task.label_names, task.label_words, strict=True)
        )
        rows.append(
            f"<li><b>{escape(task.name)}</b>: {task.train:,} train, {task.valid:,} validation,"
            f" {task.test:,} test rows, {task.median_tokens:.0f} tokens in the median prompt;"
            f" {escape(words)}.</li>"
        )
    for method in found.methods:
        said = list(
            dict.fromkeys(
                note
                for task in found.tasks
                if (method, task.name) in found.cells
                for note in found.cells[method, task.name].notes
            )
        )
        if said:
            shown = " ".join(said[:3]) + (" …" if len(said) > 3 else "")
            rows.append(f"<li><b>{escape(found.title(method))}</b>: {escape(shown)}</li>")
    for (method, task_name), reason in found.left_out.items():
        rows.append(
            f"<li><b>{escape(found.title(method))}</b> did not run on {escape(task_name)}:"
            f" {escape(reason)}</li>"
        )
    return (
        f"<details><summary>{counted(len(rows), 'note')}</summary>"
        f'<ul class="notes">{"".join(rows)}</ul>'
        "</details>"
    )


def _plain_provenance(found: Evaluation) -> str:
    versions = ", ".join(f"{n} {v}" for n, v in found.versions.items())
    return (
        f"Model {found.model['name']}, fingerprint {found.model['fingerprint'][:12]}, on"
        f" {found.model['device']} in {found.model['dtype']}; seeds"
        f" {', '.join(map(str, found.seeds))}; {versions}. Intervals: 95 % bootstrap over seeds"
        " and test rows."
    )


def _provenance(found: Evaluation) -> str:
    return escape(_plain_provenance(found))


def _variables(colours: Theme, extra: str) -> str:
    sequence = "".join(f"--s{i}:{c};" for i, c in enumerate(colours.sequential))
    grid = [i / 6 for i in range(7)]
    inks = text_colours(np.array(grid, dtype=np.float32), colours.sequential)
    text = "".join(f"--t{i}:{c};" for i, c in enumerate(inks))
    lines = "".join(f"--l{i}:{c};" for i, c in enumerate(colours.lines))
    return (
        f"--surface:{colours.surface};--ink:{colours.ink};--muted:{colours.muted};"
        f"--rule:{colours.rule};--mark:{colours.mark};{sequence}{text}{lines}{extra}"
    )


def _style() -> str:
    light = _variables(LIGHT, "--paper:#f7f7f4;--good:#19703a;--bad:#b02318;--wash:#f0f1ed;")
    dark = _variables(DARK, "--paper:#0f1316;--good:#62d08c;--bad:#ff8d80;--wash:#12171b;")
    steps = "".join(f".s{i}{{background:var(--s{i});color:var(--t{i})}}" for i in range(7))
    swatches = "".join(
        f".l{i}{{background:var(--l{i})}}.f{i}{{fill:var(--l{i})}}.k{i}{{stroke:var(--l{i})}}"
        for i in range(8)
    )
    return (
        f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        + _RULES
        + steps
        + swatches
    )


_RULES = """
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,"Liberation Sans",sans-serif}
main{max-width:76rem;margin:0 auto;padding:clamp(1rem,4vw,3.5rem) clamp(.75rem,3vw,2rem)}
h1,h2,.figure{font-family:"Iowan Old Style","Palatino Linotype",Palatino,"Liberation Serif",
Georgia,serif;font-weight:600;line-height:1.15;letter-spacing:-.01em;text-wrap:balance}
h1{font-size:clamp(1.7rem,4.5vw,2.9rem);margin:.2rem 0 1rem}h2{font-size:1.5rem;margin:0 0 .35rem}
.eyebrow{margin:0;color:var(--l0);font-weight:600;letter-spacing:.08em;text-transform:uppercase;
font-size:.78rem}.lead{font-size:clamp(1.05rem,2vw,1.3rem);max-width:60ch;margin:0 0 .75rem}
.facts,.note,.range,small{color:var(--muted)}.facts{margin:0}.note{max-width:75ch;margin:0 0 1rem}
section{background:var(--surface);border:1px solid var(--rule);border-radius:14px;
padding:clamp(1rem,2.5vw,1.75rem);margin:1.5rem 0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:1rem;
margin:2rem 0 0}.card{background:var(--surface);border:1px solid var(--rule);border-radius:14px;
padding:1.1rem 1.25rem;border-top:4px solid var(--l0)}.card p{margin:0}
.card.good{border-top-color:var(--good)}.card.bad{border-top-color:var(--bad)}
.card.even{border-top-color:var(--muted)}.card .figure{font-size:2.3rem}
.range{font-size:.85rem;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto;margin:0 -.5rem;padding:0 .5rem}.wide:focus-visible{outline:2px solid
var(--l0)}table{border-collapse:separate;border-spacing:2px;width:100%;font-size:.92rem}
th{text-align:left;font-weight:500;padding:.35rem .6rem}thead th{vertical-align:bottom;
color:var(--muted);border-bottom:1px solid var(--rule)}small{display:block;font-size:.74rem;
font-weight:400;line-height:1.25}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;
padding:.3rem .6rem;white-space:nowrap;border-radius:5px}td small{color:inherit;opacity:.78}
td b{font-weight:650}td.best b{text-decoration:underline;text-decoration-thickness:2px;
text-underline-offset:3px}td.mean{background:var(--wash)}td.off{color:var(--muted)}
td.good{color:var(--good)}td.bad{color:var(--bad)}tr.group th{padding-top:1rem;
font-size:.78rem;letter-spacing:.06em;text-transform:uppercase;color:var(--muted)}
tbody th{white-space:nowrap}.swatch{display:inline-block;width:.7rem;height:.7rem;
border-radius:50%;margin-right:.5rem}svg{display:block;width:100%;height:auto;max-width:64rem}
svg text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--ink)}
svg text{paint-order:stroke;stroke:var(--surface);stroke-width:3px;stroke-linejoin:round}
svg .soft{fill:var(--muted);font-size:12px}svg .rule{stroke:var(--rule)}
svg .chance{stroke:var(--mark);stroke-dasharray:4 4}svg .ring{stroke:var(--surface)}
.findings,.notes{padding:0;margin:0;list-style:none}.findings li{padding:.7rem 0;
border-top:1px solid var(--rule);max-width:85ch}.findings li:first-child{border-top:0}
.notes li{margin:.5rem 0;
font-size:.92rem}details summary{cursor:pointer;color:var(--l0)}footer{color:var(--muted);
font-size:.85rem;max-width:90ch}
@media print{body{background:#fff}section,.card{break-inside:avoid}}
@media (max-width:40rem){.scroll{overflow-x:auto}.scroll svg{min-width:38rem}}
"""
