"""Nothing that can be sent is without a bound: every number, text, list and object of the API.

Read from the description that the API itself gives, and, for pages that read their query string
themselves, from their query models.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest
from asgi import settings_with
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, TypeAdapter

import app
from app.calibrate.question import CalibrationQuestion
from app.main import create_app
from app.settings import Settings

ANSWERS = ("Document", "Fault", "CellOfTrace")
"""How the models end whose values only the server sends."""
Schema = dict[str, Any]
STATUSES = {"400", "401", "403", "404", "408", "409", "413", "415", "422", "503", "504", "507"}
"""What every address of the API may answer besides its own."""


@pytest.fixture(scope="module")
def description() -> Schema:
    return create_app(settings_with()).openapi()


def finite(pattern: str) -> bool:
    """Whether only texts of a bounded length fit an expression, as far as can be seen from it."""
    plain = re.sub(r"\\.|\[[^\]]*\]", "x", pattern)
    anchored = plain.startswith("^") and plain.endswith("$")
    return anchored and not re.search(r"[*+]|\{\d+,\}", plain)


def unbounded(schema: Schema, root: Schema, where: str, seen: frozenset[str]) -> Iterator[str]:
    """Where something endless fits into a schema."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        found = root.get("components", {}).get("schemas", {}) | root.get("$defs", {})
        if name not in seen:
            yield from unbounded(found[name], root, f"{where}({name})", seen | {name})
        return
    if "enum" in schema or "const" in schema or schema.get("format") == "binary":
        return
    parts = [*schema.get("anyOf", []), *schema.get("oneOf", []), *schema.get("allOf", [])]
    for part in parts:
        yield from unbounded(part, root, where, seen)
    kind = schema.get("type")
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        if low is None or high is None:
            yield f"{where}: a {kind} between {low} and {high}"
    elif kind == "string":
        if "maxLength" not in schema and not finite(schema.get("pattern", "")):
            yield f"{where}: a text of any length"
    elif kind == "array":
        if "maxItems" not in schema:
            yield f"{where}: a list of any length"
        for item in [schema.get("items", {}), *schema.get("prefixItems", [])]:
            if item:
                yield from unbounded(item, root, f"{where}[]", seen)
        if "items" not in schema and "prefixItems" not in schema:
            yield f"{where}: a list of anything"
    elif kind == "object":
        yield from _unbounded_object(schema, root, where, seen)
    elif kind is None and not parts:
        yield f"{where}: anything"


def _unbounded_object(
    schema: Schema, root: Schema, where: str, seen: frozenset[str]
) -> Iterator[str]:
    for name, value in schema.get("properties", {}).items():
        yield from unbounded(value, root, f"{where}.{name}", seen)
    further = schema.get("additionalProperties", True)
    if further is False:
        return
    if further is True:
        yield f"{where}: an object with any fields"
        return
    if "maxProperties" not in schema:
        yield f"{where}: an object with any number of fields"
    if "maxLength" not in schema.get("propertyNames", {}):
        yield f"{where}: an object with names of any length"
    yield from unbounded(further, root, f"{where}.*", seen)


def operations(description: Schema) -> Iterator[tuple[str, Schema]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_everything_that_can_be_sent_to_the_api_is_bounded(description: Schema) -> None:
    found, parameters, bodies = [], 0, 0
    for name, operation in operations(description):
        for parameter in operation.get("parameters", []):
            parameters += 1
            where = f"{name} {parameter['in']} {parameter['name']}"
            found += unbounded(parameter["schema"], description, where, frozenset())
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            bodies += 1
            found += unbounded(content["schema"], description, f"{name} {kind}", frozenset())
    assert found == []
    assert parameters > 300
    assert bodies >= 5


def test_every_address_says_how_it_may_fail(description: Schema) -> None:
    for name, operation in operations(description):
        answers = operation["responses"]
        missing = STATUSES - set(answers)
        assert not missing, f"{name} does not describe {sorted(missing)}"
        for status in STATUSES:
            schema = answers[status]["content"]["application/json"]["schema"]
            assert schema["$ref"].endswith("/FaultDocument"), (name, status)
        assert set(answers) & {"200", "201", "202", "204"}, name


def query_models() -> list[type[BaseModel]]:
    """The models of the app that are filled from what a client sends."""
    found = {CalibrationQuestion}
    for module in pkgutil.walk_packages(app.__path__, "app."):
        if module.name == "app.__main__":
            continue
        for _, model in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(model, BaseModel) and not model.__name__.endswith(ANSWERS):
                found.add(model)
    return sorted(found - {BaseModel, Settings}, key=lambda model: model.__name__)


@pytest.mark.parametrize("model", query_models(), ids=lambda model: model.__name__)
def test_every_field_of_a_query_model_is_bounded(model: type[BaseModel]) -> None:
    schema = TypeAdapter(model).json_schema()
    assert list(unbounded(schema, schema, model.__name__, frozenset())) == []
    assert model.model_config.get("extra") == "forbid", f"{model.__name__} takes unknown fields"


@pytest.mark.parametrize("model", query_models(), ids=lambda model: model.__name__)
def test_a_number_that_is_none_is_refused(model: type[BaseModel]) -> None:
    """JSON knows no NaN, but Python's reader does, and a bound alone lets NaN through."""
    fields = {
        name: str(field)
        for name, field in model.model_fields.items()
        if "float" in str(field.annotation)
    }
    if model.model_config.get("allow_inf_nan") is not False:
        assert all("allow_inf_nan=False" in text for text in fields.values()), fields


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "integer", "minimum": 0}, "a integer between 0 and None"),
        ({"type": "number", "exclusiveMaximum": 1}, "a number between None and 1"),
        ({"type": "string", "pattern": "^a*$"}, "a text of any length"),
        ({"type": "string", "pattern": "^[a]{2,}$"}, "a text of any length"),
        ({"type": "string", "pattern": "[ab]{2}"}, "a text of any length"),
        ({"type": "array", "items": {"type": "boolean"}}, "a list of any length"),
        ({"type": "array", "maxItems": 3}, "a list of anything"),
        ({"type": "object", "properties": {}}, "an object with any fields"),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, "a text of any length"),
        ({}, "anything"),
        (
            {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2},
            "an object with names of any length",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_walk_finds_what_is_endless(schema: Schema, told: str) -> None:
    assert [one.removeprefix("x: ") for one in unbounded(schema, {}, "x", frozenset())] == [told]


def test_the_walk_passes_what_ends() -> None:
    for schema in (
        {"type": "string", "pattern": r"^(a|layers:[*+]{1,3}\+)$"},
        {"type": "string", "maxLength": 3},
        {"type": "integer", "minimum": 0, "maximum": 2},
        {"type": "array", "maxItems": 2, "items": {"enum": ["a"]}},
        {"type": "object", "additionalProperties": False},
    ):
        assert list(unbounded(schema, {}, "x", frozenset())) == []


def test_the_walk_follows_references() -> None:
    root = {"components": {"schemas": {"A": {"type": "array", "maxItems": 2,
            "items": {"$ref": "#/components/schemas/B"}}, "B": {"type": "string"}}}}  # fmt: skip
    found = unbounded({"$ref": "#/components/schemas/A"}, root, "x", frozenset())
    assert list(found) == ["x(A)[](B): a text of any length"]


def test_the_whole_api_is_described(description: Schema) -> None:
    described = set(description["paths"])
    served = {
        context.path
        for context in iter_route_contexts(create_app(settings_with()).routes)
        if (context.path or "").startswith("/api/")
    }
    assert served - described == {"/api/v1/openapi.json"}
    assert len(described) >= 30
