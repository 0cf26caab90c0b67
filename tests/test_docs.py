"""The documents say what the code does: links, settings, commands, names, routes, JSON fields.

Fast and without a model: everything is read from the sources and from the app's own descriptions.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from pydantic_core import PydanticUndefined

import app
import engine
import engine.errors
from app.bases import api as bases_api
from app.calibrate.question import CalibrationQuestion
from app.calibrate.sets import SetView
from app.calibrate.views import SavedView
from app.cli.main import parser as commands_parser
from app.jobs.job import JobView
from app.maps.question import MapQuestion
from app.model import api as model_api
from app.settings import Settings
from app.trace import api as trace_api
from app.trace.question import TraceQuestion
from app.web import answers
from app.web.questions import Question
from engine import Trace
from engine.bases.frame_report import FrameReport
from engine.bases.token_basis import TokenBasis
from engine.maps import Map, Quality
from engine.trace.agreement import Agreement
from engine.trace.cell import Cell, Curves
from engine.trace.contexts import Contexts
from engine.trace.words import InWords

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted(
    [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")]
    + list((ROOT / "docs").rglob("*.md"))
)
LONGEST = 125
"""Characters of a line that is no table, picture or code."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
NAME = re.compile(r"`((?:engine|app)(?:\.\w+)+)`")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """The document without its code blocks."""
    return FENCE.sub("", text_of(path))


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (name_of(path), body)
        for path in DOCS
        for found, body in FENCE.findall(text_of(path))
        if found == language
    ]


def anchors(path: Path) -> set[str]:
    """The anchors that headings get: lower case, signs dropped, blanks become hyphens."""
    out = set()
    for heading in re.findall(r"^#+ (.+)$", prose(path), re.M):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        out.add(plain.replace(" ", "-"))
    return out


each_document = pytest.mark.parametrize("path", DOCS, ids=name_of)


# ---- form ----------------------------------------------------------------------------------------


@each_document
def test_a_document_has_one_title_and_readable_lines(path: Path) -> None:
    assert len(re.findall(r"^# ", prose(path), re.M)) == 1
    long = [
        f"{n}: {len(line)}"
        for n, line in enumerate(text_of(path).splitlines(), 1)
        if len(line) > LONGEST and not line.startswith(("|", "!["))
    ]
    assert not long, f"lines of {name_of(path)} that are too long: {', '.join(long)}"


@each_document
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for picture, target in LINK.findall(prose(path)):
        if picture or target.startswith(("https://", "http://")):
            continue
        place, _, anchor = target.partition("#")
        file = (path.parent / place).resolve() if place else path
        inside = file.is_relative_to(ROOT)
        if not inside or not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@each_document
def test_pictures_are_files_of_ours(path: Path) -> None:
    pictures = [target for picture, target in LINK.findall(prose(path)) if picture]
    missing = [one for one in pictures if not (path.parent / one).is_file()]
    assert not missing, f"put the picture at {missing} (a screenshot of the real page)"


@each_document
def test_no_document_names_a_place_of_one_machine(path: Path) -> None:
    assert not re.search(r"(?<![\w.])/(?:work|root|tmp|mnt)/|pypi\.org|C:\\", text_of(path))


def test_every_decision_is_numbered_and_tells_context_decision_consequences() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [path.name[:4] for path in decisions]
    assert numbers == [f"{n:04}" for n in range(1, len(decisions) + 1)]
    for path in decisions:
        text = text_of(path)
        assert text.startswith(f"# {path.name[:4]} "), name_of(path)
        titles = re.findall(r"^## (.+)$", text, re.M)
        assert titles == ["Context", "Decision", "Consequences"], name_of(path)


# ---- settings and commands -----------------------------------------------------------------------


def _default(value: object) -> str:
    if value is None or value in ("", ()):
        return "unset"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_the_page_of_settings_lists_each_with_its_default_and_meaning() -> None:
    expected = [
        f"| `LEXISCOPE_{name.upper()}` | {_default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    given = re.findall(r"^\| `LEXISCOPE_.*$", text_of(ROOT / "docs" / "settings.md"), re.M)
    assert given == expected, "the table should read:\n" + "\n".join(expected)


def test_every_setting_that_is_named_exists() -> None:
    known = {f"LEXISCOPE_{name.upper()}" for name in Settings.model_fields}
    for path in [*DOCS, ROOT / "Dockerfile", ROOT / "Makefile"]:
        assert set(re.findall(r"LEXISCOPE_[A-Z_]+", text_of(path))) <= known, name_of(path)


def _commands() -> Iterator[tuple[str, list[str]]]:
    for where, body in blocks("sh"):
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield where, words


@pytest.mark.slow
def test_the_commands_of_the_documents_are_understood() -> None:
    tried = 0
    for where, words in _commands():
        if Path(words[0]).name == "lexiscope":
            given = commands_parser().parse_args(words[1:])  # raises a Mistake with a sentence
            assert callable(given.run), where
            tried += 1
    assert tried > 10


def test_the_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.M))
    named = {
        words[1] for _, words in _commands() if words[0] == "make" and not words[1].startswith("-")
    }
    for path in DOCS:
        named |= set(re.findall(r"`make ([a-z-]+)", prose(path)))
    assert {"run", "test"} <= named <= targets


def test_options_in_the_text_exist() -> None:
    """An option such as `--model` in running text belongs to one of the commands."""
    parser = commands_parser()
    commands = next(a for a in parser._actions if isinstance(a.choices, dict)).choices
    assert commands is not None
    actions = [action for command in commands.values() for action in command._actions]
    within = [a.choices for a in actions if isinstance(a.choices, dict)]  # ``lens fit``
    actions += [a for some in within for one in some.values() for a in one._actions]
    known = {option for action in actions for option in action.option_strings}
    known |= {"--gpus", "--build-arg"}  # Docker's
    for path in DOCS:
        named = set(re.findall(r"`[^`]*?(--[a-z][a-z-]+)[^`]*`", prose(path)))
        assert named <= known, name_of(path)


def test_python_in_the_documents_imports_what_exists() -> None:
    found = blocks("python")
    assert found
    for where, body in found:
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                missing = [one.name for one in node.names if not hasattr(module, one.name)]
                assert not missing, f"{where}: {node.module} has no {missing}"


# ---- names in the code ---------------------------------------------------------------------------


def _resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one (fields of classes included)."""
    words = dotted.split(".")
    for cut in range(len(words), 0, -1):
        try:
            value: object = importlib.import_module(".".join(words[:cut]))
        except ModuleNotFoundError:
            continue
        for n, word in enumerate(words[cut:]):
            if hasattr(value, word):
                value = getattr(value, word)
                continue
            last = n == len(words) - cut - 1
            return last and isinstance(value, type) and word in inspect.get_annotations(value)
        return True
    return False


@each_document
def test_every_module_and_function_that_is_named_exists(path: Path) -> None:
    missing = sorted({n for n in NAME.findall(prose(path)) if not _resolves(n)})
    assert not missing


@each_document
def test_every_test_that_is_named_exists(path: Path) -> None:
    """A file, with as much of its folder as is written, or a function in one."""
    named = set(re.findall(r"(?:\w+/)*test_\w+", text_of(path)))
    files = [file for file in ROOT.rglob("tests/**/*.py") if named]
    known = "".join(f"/{file.relative_to(ROOT).with_suffix('')}\n" for file in files)
    known += "".join(f"/{name}\n" for f in files for name in re.findall(r"def (\w+)", text_of(f)))
    assert [name for name in sorted(named) if f"/{name}\n" not in known] == []


def test_names_are_looked_up_for_real() -> None:
    assert _resolves("engine.reading.regions.borders")
    assert _resolves("engine.frames.frame.Frame.place")
    assert _resolves("engine.trace.result.Trace.layers")
    assert not _resolves("engine.reading.similarity.nothing")
    assert not _resolves("engine.nowhere.borders")


def test_every_section_of_the_method_says_which_code_computes_it() -> None:
    text = text_of(ROOT / "docs" / "method.md")
    for section in re.split(r"^## ", text, flags=re.M)[2:-1]:  # not the notation, not the last
        assert NAME.search(section), section.splitlines()[0]


def _modules(package: str) -> set[str]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }


def test_the_architecture_draws_the_whole_tree_of_errors() -> None:
    text = text_of(ROOT / "docs" / "architecture.md")
    classes = {
        name
        for name, value in vars(engine.errors).items()
        if isinstance(value, type) and issubclass(value, engine.errors.LexiscopeError)
    }
    drawn = set(re.findall(r"── (\w+)", text)) | {"LexiscopeError"}
    assert drawn == classes


@pytest.mark.parametrize("package", ["engine", "app"])
def test_the_architecture_draws_the_layers_of_the_import_contracts(package: str) -> None:
    """The same names in the same order, each with what it is."""
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one.get("containers") == [package])
    drawing = next(
        body.split("\n\n")
        for _, body in FENCE.findall(text_of(ROOT / "docs" / "architecture.md"))
        if body.startswith("app\n")
    )
    lines = next(part for part in drawing if part.startswith(f"{package}\n")).splitlines()[1:]
    drawn: list[set[str]] = [set()]
    for line in lines:
        if set(line.strip()) == {"─"}:
            drawn.append(set())
            continue
        match = re.fullmatch(r"    (\w+) +\S.*", line)
        assert match, line
        drawn[-1].add(match[1])
    assert drawn == [set(layer.split(" | ")) for layer in layers]


def test_the_map_of_the_readme_is_the_tree() -> None:
    """A line for every package of engine and app, and nothing that is not there."""
    text = text_of(ROOT / "README.md")
    lines = FENCE.findall(text[text.index("## Map") :])[0][1].splitlines()
    matches = [re.fullmatch(r"(\S+?)/?  +\S.*", line) for line in lines]
    named = [match[1] for match in matches if match]
    assert len(named) == len(lines)
    assert len(set(named)) == len(named)
    assert [one for one in named if not (ROOT / one).is_dir()] == []
    packages = {
        f"{part}/{folder.name}"
        for part in ("engine", "app")
        for folder in (ROOT / part).iterdir()
        if (folder / "__init__.py").is_file()
    }
    assert packages <= set(named)


def test_the_first_screen_of_the_readme_says_what_it_is_and_how_to_run_it() -> None:
    """The two commands and one picture, within twenty lines."""
    screen = "\n".join(text_of(ROOT / "README.md").splitlines()[:20])
    assert screen.count("![") == 1
    for command in ("make run", "make test"):
        assert re.search(rf"^{command} ", screen, re.M)


# ---- the contract --------------------------------------------------------------------------------

API = ROOT / "docs" / "api.md"


def test_every_address_of_the_api_is_documented() -> None:
    modules = [importlib.import_module(name) for name in sorted(_modules("app"))]
    routers = [module.router for module in modules if hasattr(module, "router")]
    routes = {r.path for router in routers for r in router.routes if isinstance(r, APIRoute)}
    routes = {path for path in routes if path.startswith("/api/v1/")}
    table = "\n".join(re.findall(r"^\|.*$", text_of(API), re.M))
    assert set(re.findall(r"`(/api/v1/[^`]+)`", table)) == routes


def _kinds(base: type) -> Iterator[type]:
    """The classes of the app that are made of this one, of whatever module."""
    for name in _modules("app"):
        importlib.import_module(name)
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


def test_every_field_that_is_asked_for_is_documented() -> None:
    asked = [kind for kind in _kinds(Question) if kind.__name__.endswith("Question")]
    assert len(asked) > 10
    for kind in asked:
        for name in kind.model_fields:
            assert re.search(rf"[`{{ ]{name}[`,}}]", text_of(API)), (kind, name)


def test_every_setting_of_a_calibration_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", _section("Asking for a calibration"), re.M))
    fields = CalibrationQuestion.model_fields
    assert set(rows) == set(fields)
    for name, field in fields.items():
        if field.default_factory is None and field.default not in (None, PydanticUndefined):
            default = [*field.default] if isinstance(field.default, tuple) else field.default
            assert json.loads(rows[name].strip("` ")) == default, name


def test_every_field_of_a_job_and_of_what_is_saved_is_documented() -> None:
    for title, kind in (
        ("Job", JobView), ("Label set", SetView), ("Saved calibration", SavedView),
    ):  # fmt: skip
        for name in kind.__dataclass_fields__:
            assert f"`{name}`" in _section(title) or name == "lane", (title, name)


def test_the_default_of_every_question_about_a_prompt_is_documented() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", _section("Requests"), re.M))
    for name, field in TraceQuestion.model_fields.items():
        if field.is_required() or field.default is None:
            assert name in rows
            continue
        default = str(field.default)
        default = default.lower() if isinstance(field.default, bool) else default
        assert rows[name].strip("` ") == default, name


def _section(title: str) -> str:
    pattern = rf"^#+ {re.escape(title)}\n(.*?)(?=^#{{1,3}} |\Z)"
    match = re.search(pattern, text_of(API), re.M | re.S)
    assert match is not None, title
    return match[1]


def _keys(function: object) -> set[str]:
    """The keys of the dictionaries that a `to_dict` writes out."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))  # type: ignore[arg-type]
    return {
        key.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }


def test_the_default_of_every_field_of_a_map_is_documented() -> None:
    """A row may hold several fields; each stands in one with its default."""
    section = _section("maps")
    for name, field in MapQuestion.model_fields.items():
        if name in ("bos", "chat"):
            continue  # as for a prompt
        rows = [line.split("|") for line in section.splitlines() if line.startswith("|")]
        row = next(cells for cells in rows if f"`{name}`" in cells[1])
        default = "none" if field.default is None else str(field.default).replace("-", "−")
        assert default in row[2], name


@pytest.mark.parametrize(
    ("title", "value"),
    [
        ("map", Map),
        ("map/quality", Quality),
        ("trace", Trace),
        ("cell", Cell),
        ("curves", Curves),
        ("words", InWords),
        ("contexts", Contexts),
        ("agreement", Agreement),
        ("bases", TokenBasis),
    ],
)
def test_every_field_of_an_answer_is_documented(title: str, value: type) -> None:
    section = _section(title)
    missing = sorted(
        key
        for key in _keys(value.to_dict)  # type: ignore[attr-defined]
        if not re.search(rf"\b{key}\b", section) and not re.search(rf"`{key}`", _section("trace"))
    )
    assert not missing


def test_every_figure_of_a_frame_is_documented() -> None:
    section = _section("frame")
    fields = set(FrameReport.__dataclass_fields__) - {"seconds"}  # the clock is in no document
    assert not {name for name in fields if f"`{name}`" not in section}


@pytest.mark.parametrize(
    ("title", "document"),
    [
        ("trace", trace_api.TraceDocument),
        ("trace", trace_api.CellOfTrace),
        ("bases", bases_api.BasesDocument),
        ("frame", model_api.FrameDocument),
        ("check", model_api.CheckDocument),
    ],
)
def test_the_promised_fields_are_documented(title: str, document: type[answers.Document]) -> None:
    for name in document.model_fields:
        assert re.search(rf"\b{name}\b", _section(title)), name


def test_every_status_is_documented() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d{3}) \|", _section("Errors"), re.M)}
    assert set(answers._FAULTS) <= listed


def test_the_version_of_the_changelog_is_the_projects() -> None:
    first = re.search(r"^## (\d+\.\d+\.\d+)", text_of(ROOT / "CHANGELOG.md"), re.M)
    assert first is not None
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))
    assert first[1] == project["project"]["version"]
    assert app.version()
    assert engine.__doc__
