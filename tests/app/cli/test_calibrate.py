"""`lexiscope calibrate` and `evaluate`, and the report: what is printed, written and refused."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from parsed import Parsed

from app.calibrate.question import CalibrationQuestion
from app.cli import main as cli
from app.cli.report import evaluation_csv, report_html
from app.cli.text import evaluation_text
from engine import LatentSpace, load
from engine.calibration.evidence import evaluation as running
from engine.calibration.evidence.evaluation import evaluate
from engine.calibration.evidence.evaluation_result import Evaluation
from engine.calibration.evidence.methods import METHODS
from engine.calibration.evidence.protocol import Method, MethodContext, MethodSettings, Outcome
from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.tables import Table, read_table
from engine.calibration.labelled.tasks import make_task
from engine.calibration.training.artifact import load_calibration
from engine.calibration.training.losses import LOSSES
from engine.calibration.training.options import CalibrationOptions
from engine.progress import Steps, drain

pytestmark = pytest.mark.slow

HOSTILE_LABEL = "<b>up\x1b[31m"


def rows(count: int = 60, second: str = "right") -> str:
    """Short sentences; the label stands in them."""
    draw = random.Random(1)
    out = ["sentence,kind"]
    for i in range(count):
        label, word = (("left", "dog"), (second, "cat"))[i % 2]
        out.append(f"the {word} sat {draw.randrange(10_000)},{label}")
    return "\n".join(out) + "\n"


@pytest.fixture
def where(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("LEXISCOPE_DATA_DIR", str(tmp_path / "data"))
    return ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.csv"
    path.write_text(rows(), encoding="utf-8")
    return path


COLUMNS = ["--text-column", "sentence", "--label-column", "kind", "--template", "{sentence} ="]
WORDS = ["--labels", "left=a,right=b"]


def test_calibrate_prints_a_sentence_and_both_sides(
    where: list[str], data: Path, capfd: Any
) -> None:
    """The first line is the sentence; before, logits, after, probe and controls follow."""
    command = ["calibrate", str(data), *COLUMNS, *WORDS, "--epochs", "4", *where]
    assert cli.main(command) == 0
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert re.match(
        r"Calibration reads \d+ % of \d+ test texts rightly, .* the best without", lines[0]
    )
    for start in (
        "before, nearest",
        "before, the model's",
        "head cosines, thresholds",
        "always the largest class",
        "after − best untrained",
        "after  ",
        "linear probe",
        "trained on",
    ):
        assert any(line.startswith(start) for line in lines), start
    assert all(len(line) <= 110 for line in lines[2:])


def test_calibrate_json_is_the_comparison_and_save_keeps_it(
    where: list[str], data: Path, tmp_path: Path, capfd: Any, model_folder: Path
) -> None:
    """The JSON has both sides; what was saved opens again and says the same of its options."""
    kept = tmp_path / "kept"
    command = [
        *("calibrate", str(data), *COLUMNS, *WORDS, "--epochs", "3", "--quick", "--json"),
        *("--method", "calibration-sm-gt", "--save", str(kept), "--seed", "5", *where),
    ]
    assert cli.main(command) == 0
    plain = json.loads(capfd.readouterr().out)
    assert plain["method"] == "calibration-sm-gt"
    assert plain["options"]["loss"] == "sm-gt"
    assert plain["controls"] == []
    assert plain["layers"] is None
    assert len(plain["rows"]) == plain["task"]["test"] == 15
    space = load(model_folder, device="cpu", offline=True)
    opened = load_calibration(kept, space)
    assert (opened.options.loss, opened.options.seed) == ("sm-gt", 5)
    assert cli.main(["verify", str(kept), "--data", str(data), *where]) == 0
    assert re.match(r"Recomputed [\d,]+ numbers: the same calibration", capfd.readouterr().out)
    assert cli.main(["verify", str(kept), *where]) == 2
    assert "name them with --data" in capfd.readouterr().err
    data.write_text(rows(58), encoding="utf-8")
    assert cli.main(["verify", str(kept), "--data", str(data), *where]) == 2
    assert "these rows are not those" in capfd.readouterr().err


def test_an_evaluation_verifies(where: list[str], data: Path, tmp_path: Path, capfd: Any) -> None:
    out = tmp_path / "report.json"
    many = ["evaluate", str(data), *COLUMNS, *WORDS, "--methods", "zero-shot,class-mean"]
    assert cli.main([*many, "--seeds", "2", "--out", str(out), *where]) == 0
    capfd.readouterr()
    check = ["verify", str(out), "--data", str(data), *where]
    assert cli.main(check) == 0
    assert "the same evaluation; the largest difference is" in capfd.readouterr().out
    changed = json.loads(out.read_text())
    changed["methods"][1]["tasks"]["sentences"]["macro_f1"]["value"] += 0.01
    out.write_text(json.dumps(changed))
    assert cli.main([*check, "--json"]) == 1
    found = json.loads(capfd.readouterr().out)
    assert found["differs"].endswith("macro_f1.value differs")
    assert found["largest_difference"] == pytest.approx(0.01)


def test_an_evaluation_that_is_kept_goes_on_where_it_was_stopped(
    where: list[str], data: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    run = running.run_method

    def stops(method: Method, context: MethodContext) -> Steps[Outcome]:
        if method.name == "class-mean" and not ran.count("class-mean"):
            ran.append("class-mean")
            raise KeyboardInterrupt
        ran.append(method.name)
        return run(method, context)

    monkeypatch.setattr(running, "run_method", stops)
    many = ["evaluate", str(data), *COLUMNS, *WORDS, "--methods", "zero-shot,class-mean", "--json"]
    keep = ["--seeds", "1", "--keep", str(tmp_path / "runs"), *where]
    assert cli.main([*many, *keep]) == 130
    assert cli.main([*many, *keep]) == 0
    found = json.loads(capfd.readouterr().out)
    assert cli.main([*many, *keep]) == 0
    again = json.loads(capfd.readouterr().out)
    assert ran == ["zero-shot", "class-mean", "class-mean"]
    scores = [[m["average"]["accuracy"] for m in one["methods"]] for one in (found, again)]
    assert scores[0] == scores[1]


def test_untaught_words_reach_the_comparison_and_the_table(
    where: list[str], data: Path, capfd: Any
) -> None:
    """Given words are read by in `calibrate`; `evaluate` has a column; a mistake is a sentence."""
    own = [*COLUMNS, *WORDS, "--untaught", "left=c,d;right=e,f"]
    command = ["calibrate", str(data), *own, "--epochs", "2", "--quick", *where]
    assert cli.main([*command, "--json"]) == 0
    plain = json.loads(capfd.readouterr().out)
    assert [one["words"] for one in plain["untaught"]["sets"]] == [["c", "e"], ["d", "f"]]
    assert plain["untaught"]["random"] is None  # no controls were asked for
    assert cli.main(command) == 0
    out = capfd.readouterr().out
    assert re.search(r"untaught words, after +\d+\.\d %", out)
    many = ["evaluate", str(data), *own, "--methods", "zero-shot,calibration-sm", "--seeds", "1"]
    assert cli.main([*many, "--json", *where]) == 0
    methods = {m["name"]: m for m in json.loads(capfd.readouterr().out)["methods"]}
    assert methods["zero-shot"]["average"]["untaught"] is None
    assert 0 <= methods["calibration-sm"]["average"]["untaught"]["value"] <= 1
    wrong = ["calibrate", str(data), *COLUMNS, *WORDS, "--untaught", "left=c", *where]
    assert cli.main(wrong) == 2
    assert "the label 'right' has no untaught word" in capfd.readouterr().err


def test_the_header_says_what_was_calibrated_on(where: list[str], data: Path, capfd: Any) -> None:
    """Sizes, the page's seed, the template and the method; the share to stop by is a share of what
    is used, however many rows the file has."""
    command = ["calibrate", str(data), *COLUMNS, *WORDS, "--rows", "18", "--quick", "--epochs", "2"]
    assert cli.main([*command, *where]) == 0
    out = capfd.readouterr().out
    assert "sentences: 18 train, 2 valid, 15 test; seed 42" in out
    assert "template  {sentence} =" in out
    assert "loss own basis against the others [sm], read by cosine, bases output" in out


@pytest.mark.parametrize("loss", LOSSES)
def test_every_option_reaches_the_training(
    where: list[str], data: Path, capfd: Any, loss: str
) -> None:
    """All five losses, and what else is set, stand in the options of the result."""
    command = [
        *("calibrate", str(data), *COLUMNS, *WORDS, "--quick", "--json", "--loss", loss),
        *("--inference", "mm", "--temperature", "0.25", "--epochs", "2", "--batch", "16"),
        *("--patience", "7", *where),
    ]
    assert cli.main(command) == 0
    plain = json.loads(capfd.readouterr().out)
    asked = {"loss": loss, "inference": "mm", "temperature": 0.25, "batch": 16, "patience": 7}
    assert {key: plain["options"][key] for key in asked} == asked
    assert plain["method"] == "calibration"


@pytest.mark.parametrize("target", ["head", "layers:1", "lora"])
def test_other_targets(where: list[str], data: Path, capfd: Any, target: str) -> None:
    """The head's rows, the last block, LoRA."""
    command = ["calibrate", str(data), *COLUMNS, *WORDS, "--quick", "--json", "--epochs", "1"]
    assert cli.main([*command, "--target", target, *where]) == 0
    plain = json.loads(capfd.readouterr().out)
    assert plain["options"]["target"] == target
    assert plain["method"] == ("head-only" if target == "head" else "calibration")


def test_one_seed_for_page_and_terminal(where: list[str], data: Path, capfd: Any) -> None:
    """42 without --seed, in both commands; evaluate counts on from it."""
    assert CalibrationQuestion(set="topics").seed == CalibrationOptions().seed == 42
    command = ["calibrate", str(data), *COLUMNS, *WORDS, "--quick", "--epochs", "2", "--json"]
    assert cli.main([*command, *where]) == 0
    plain = json.loads(capfd.readouterr().out)
    assert plain["options"]["seed"] == 42
    assert cli.main([*command, "--seed", "42", *where]) == 0
    assert json.loads(capfd.readouterr().out)["rows"] == plain["rows"]
    many = ["evaluate", str(data), *COLUMNS, *WORDS, "--methods", "zero-shot", "--seeds", "2"]
    assert cli.main([*many, *where]) == 0
    assert "2 seeds (42, 43)" in capfd.readouterr().out


def test_a_data_set_of_the_hub(
    where: list[str], capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hub:ID is read by its id and named by its last part; without `datasets`, one sentence."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert cli.main(["calibrate", "hub:someone/ag_news", *where]) == 2
    err = capfd.readouterr().err
    assert "`datasets`" in err
    assert err.count("\n") == 1
    asked = []

    def read(name: str) -> Table:
        asked.append(name)
        return read_table(rows().encode(), "t.csv")

    monkeypatch.setattr("app.cli.labelled.read_hub", read)
    command = ["calibrate", "hub:someone/news", *COLUMNS, *WORDS, "--quick", "--epochs", "2"]
    assert cli.main([*command, *where]) == 0
    assert asked == ["someone/news"]
    assert "\nnews: " in capfd.readouterr().out


@pytest.mark.parametrize("method", ["zero-shot", "knn-lm", "linear-probe"])
def test_calibrate_with_a_competitor(where: list[str], data: Path, capfd: Any, method: str) -> None:
    """Any method by name; its JSON has the report."""
    command = ["calibrate", str(data), *COLUMNS, *WORDS, "--method", method, *where]
    assert cli.main(command) == 0
    assert METHODS[method].title in capfd.readouterr().out.splitlines()[0]
    assert cli.main([*command, "--json"]) == 0
    plain = json.loads(capfd.readouterr().out)
    assert plain["method"] == method
    assert 0 <= plain["report"]["accuracy"]["value"] <= 1


def test_evaluate_writes_all_kinds(
    where: list[str], data: Path, tmp_path: Path, capfd: Any
) -> None:
    """The table in the terminal; HTML, JSON and CSV by the ending."""
    command = [
        *("evaluate", str(data), *COLUMNS, *WORDS, "--methods", "zero-shot,class-mean"),
        *("--seeds", "2", *where),
    ]
    for ending in ("html", "json", "csv"):
        out = tmp_path / f"report.{ending}"
        assert cli.main([*command, "--out", str(out)]) == 0
        printed, said = capfd.readouterr()
        assert "Nearest class mean" in printed
        assert out.stat().st_size > 500
        assert said == f"written: report.{ending}\n"
    plain = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [m["name"] for m in plain["methods"]] == ["zero-shot", "class-mean"]
    assert len(plain["methods"][0]["tasks"]["sentences"]["per_seed"]) == 2
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_folder_with_train_and_test(where: list[str], tmp_path: Path, capfd: Any) -> None:
    """Its own test rows are taken, all of them."""
    folder = tmp_path / "news"
    folder.mkdir()
    (folder / "train.csv").write_text(rows(40), encoding="utf-8")
    (folder / "test.csv").write_text(rows(18).replace("sat", "ran"), encoding="utf-8")
    command = ["evaluate", str(folder), *COLUMNS, *WORDS, "--methods", "zero-shot", "--json"]
    assert cli.main([*command, "--seeds", "1", *where]) == 0
    plain = json.loads(capfd.readouterr().out)
    assert plain["tasks"][0]["test"] == 18
    assert plain["tasks"][0]["name"] == "news"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["calibrate", "nowhere.csv"], "there is no file or folder"),
        (["calibrate", "DATA", "--text-column", "nothing"], "nothing"),
        (["calibrate", "DATA", *COLUMNS, "--labels", "up=a"], "no label of the data"),
        (["calibrate", "DATA", *COLUMNS, "--method", "zero-shot", "--save", "x"], "--save keeps"),
        (["calibrate", "DATA", *COLUMNS, "--epochs", "none"], "a whole number"),
        (["calibrate", "DATA", *COLUMNS, "--target", "tail"], "target must be one of"),
        (
            ["calibrate", "DATA", *COLUMNS, "--temperature", "0"],
            "--temperature: it must be a number from 0.001 to 1,000",
        ),
        (["calibrate", "DATA", *COLUMNS, "--method", "lora", "--loss", "sm"], "one of the two"),
        (["calibrate", "hub:"], "needs the id"),
        (["evaluate", "DATA", *COLUMNS, "--methods", "magic"], "methods must be"),
        (["evaluate", "DATA", *COLUMNS, "--out", "report.pdf"], "--out must end in"),
        (["evaluate", "DATA", "DATA", *COLUMNS, "--test", "DATA"], "--test belongs to one set"),
        (["evaluate", "DATA", "DATA", *COLUMNS, *WORDS], "two tasks are named"),
    ],
)
def test_mistakes_are_one_sentence(
    where: list[str], data: Path, capfd: Any, wrong: list[str], words: str
) -> None:
    """Status 2, one line, no traceback."""
    command = [str(data) if word == "DATA" else word for word in wrong]
    assert cli.main([*command, *where]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("lexiscope: ")
    assert words in err
    assert err.count("\n") == 1


def test_hostile_labels_do_not_act_on_a_terminal(
    where: list[str], tmp_path: Path, capfd: Any
) -> None:
    """A label with an escape sequence is shown, not obeyed."""
    path = tmp_path / "bad.csv"
    path.write_text(rows(60, HOSTILE_LABEL), encoding="utf-8")
    command = ["calibrate", str(path), *COLUMNS, "--epochs", "2", "--quick", *where]
    assert cli.main(command) == 0
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", capfd.readouterr().out)


@pytest.fixture(scope="module")
def evaluation(model_folder: Path) -> Evaluation:
    """Two tasks with hostile names, two seeds."""
    space: LatentSpace = load(model_folder, device="cpu", offline=True)

    def task(name: str, second: str) -> Any:
        table = read_table(rows(60, second).encode(), "t.csv")
        spec = TaskSpec(
            name=name,
            text_columns=("sentence",),
            label_column="kind",
            template="{sentence} =",
            label_words={"left": "a", second: "b"},
        )
        return make_task(spec, table, space.model)

    names = "zero-shot,class-mean,linear-probe,calibration-sm,calibration-sm-gt,random-bases"
    return drain(
        evaluate(
            space,
            [task("plain", "right"), task("<script>x</script>", "<b>&up")],
            [names],
            [0, 1],
            settings=MethodSettings(calibration=CalibrationOptions(epochs=3)),
        )
    )


def test_the_report_stands_alone(evaluation: Evaluation) -> None:
    """Well formed, nothing fetched, no script, one h1, every number of the table in it."""
    page = report_html(evaluation)
    parsed = Parsed(page)
    assert not parsed.all("script")
    parsed.one("h1")
    for element in parsed.elements:
        assert not {"src", "href", "onclick", "style", "srcset"} & set(element.attrs)
    assert "http" not in page.replace("http-equiv", "")
    assert "url(" not in page
    assert "@import" not in page
    text = parsed.one("body").text
    assert "<script>x</script>" in text  # shown as text, not as a tag
    for (method, _), cell in evaluation.cells.items():
        assert METHODS[method].title in text
        assert f"{100 * cell.accuracy.value:.1f}" in text
    for average in evaluation.averages.values():  # clusters in the page and in the terminal's table
        assert f"{average.nmi:.2f}" in text
        assert f"{average.ari:>6.2f}{average.nmi:>6.2f}" in evaluation_text(evaluation)
    for finding in evaluation.findings:
        assert finding.text in text
    assert re.match(
        r"Calibration reaches \d+ %, .* the linear probe \(\d+ %\)", evaluation.sentence
    )
    assert "goal" not in page.lower()
    assert not re.search(r"[\s>(]-\d", text)  # minus signs are real
    assert evaluation.model["fingerprint"][:12] in text


def drawings(evaluation: Evaluation) -> list[str]:
    """Mean accuracies with their intervals, then accuracy and time."""
    return re.findall(r"<svg.*?</svg>", report_html(evaluation), re.S)


def test_the_drawings_show_every_method(evaluation: Evaluation) -> None:
    """A dot per method, inside the drawing, higher accuracy further right or up."""
    assert len(drawings(evaluation)) == 2
    for drawing in drawings(evaluation):
        circles = re.findall(r'<circle class="[^"]*" cx="([\d.]+)" cy="([\d.]+)"', drawing)
        assert len(circles) == len(evaluation.averages)
        width, height = map(int, re.findall(r'viewBox="0 0 (\d+) (\d+)"', drawing)[0])
        assert all(0 < float(x) < width and 0 < float(y) < height for x, y in circles)
    places = dict(
        re.findall(
            r"<title>([^:]+): [^<]*</title>.*?cx=\"([\d.]+)\"", drawings(evaluation)[0], re.S
        )
    )
    means = {METHODS[m].title: a.accuracy.value for m, a in evaluation.averages.items()}
    order = sorted(places, key=lambda t: float(places[t]))
    values = [means[t] for t in order]
    assert values == sorted(values)


def test_only_the_front_and_calibration_are_named(evaluation: Evaluation) -> None:
    """In the drawing of accuracy and time; the names do not cover each other or a dot."""
    drawing = drawings(evaluation)[1]
    named = re.findall(r'<text x="([\d.]+)" y="([\d.]+)">([^<]+)</text></g>', drawing)
    own = {METHODS[m].title: (a.accuracy.value, a.seconds) for m, a in evaluation.averages.items()}
    front = {
        title
        for title, (right, seconds) in own.items()
        if not any(
            (r >= right and s < seconds) or (r > right and s <= seconds) for r, s in own.values()
        )
    }
    assert {title for _, _, title in named} == front | {"Calibration [sm]"}
    dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawing)
    boxes = [(float(x), float(x) + 6.6 * len(t), float(y) - 4) for x, y, t in named]
    for i, (begin, end, at) in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert other[0] > end or other[1] < begin or abs(other[2] - at) >= 13
        for x, y in dots:
            assert not (begin < float(x) - 7 < end and abs(float(y) - at) < 10)


def test_the_csv_has_a_row_per_cell(evaluation: Evaluation) -> None:
    """And one per average; names of tasks cannot become formulas."""
    lines = list(csv.reader(io.StringIO(evaluation_csv(evaluation).decode())))
    assert lines[0][0].startswith("# ")
    head, body = lines[1], lines[2:]
    assert len(body) == len(evaluation.cells) + len(evaluation.averages)
    first = dict(zip(head, body[0], strict=True))
    cell = evaluation.cells[first["method"], first["task"]]
    assert float(first["accuracy"]) == pytest.approx(cell.accuracy.value)


def test_what_was_not_read_of_a_file_is_said(where: list[str], tmp_path: Path, capfd: Any) -> None:
    """Rows that a quote has joined and rows of other lengths: on stderr, the figures on stdout."""
    lines = rows().splitlines()
    lines[3], lines[6] = f'"{lines[3]}', lines[6].replace(",", '",')
    path = tmp_path / "odd.csv"
    path.write_text("\n".join([*lines, "one cell", ""]))
    command = ["calibrate", str(path), *COLUMNS, *WORDS, "--epochs", "1", *where]
    assert cli.main(command) == 0
    out, err = capfd.readouterr()
    assert "line 4 is closed on line 7" in err
    assert "1 of its rows are left out (line 62: 1 cell where the header has 2)" in err
    assert "note" not in out
