"""The API's description: current as committed, complete for every operation, and true to the route table that it is made from."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.api.openapi import document
from llamactl_py.api.problems import status_of
from llamactl_py.api.route import Route
from llamactl_py.app import API
from llamactl_py.auth.policy import Access
from llamactl_py.config.settings import Instances
from llamactl_py.ground import errors
from llamactl_py.ground.validation import parse
from llamactl_py.instances.options import InstanceOptions, parse_options

SCRIPT = Path(__file__).parents[2] / "scripts" / "openapi.py"
DOCUMENT = document(API)
EVERY_ROUTE = pytest.mark.parametrize("route", API, ids=lambda route: f"{route.method} {route.path}")


def operation(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][route.openapi_path][route.method.lower()]
    return found


def test_the_committed_document_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(SCRIPT))
    monkeypatch.setattr("sys.argv", ["openapi.py", "--check"])
    assert script["main"]() == 0, "run: python scripts/openapi.py"


def test_a_stale_document_is_noticed_and_rewritten(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = runpy.run_path(str(SCRIPT))
    script["main"].__globals__["FILE"] = tmp_path / "openapi.json"
    (tmp_path / "openapi.json").write_text(script["text"]().replace("llamactl", "other", 1))
    monkeypatch.setattr("sys.argv", ["openapi.py", "--check"])
    assert script["main"]() == 1
    assert "is stale; run: python scripts/openapi.py" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["openapi.py"])
    assert script["main"]() == 0
    assert json.loads((tmp_path / "openapi.json").read_text()) == json.loads(json.dumps(DOCUMENT))


@EVERY_ROUTE
def test_every_operation_says_what_it_does(route: Route) -> None:
    described = operation(route)
    assert re.fullmatch(r"[A-Z].{5,80}\.( .+)?", described["summary"]), described["summary"]
    assert "\n" not in described["summary"] + described.get("description", "")
    assert described["tags"] == [route.tag]


@EVERY_ROUTE
def test_every_operation_says_which_key_it_needs(route: Route) -> None:
    needed = {
        Access.PUBLIC: [],
        Access.INFERENCE: [{"inferenceKey": []}, {"managementKey": []}],
        Access.READ: [{"readKey": []}, {"managementKey": []}],
        Access.MANAGEMENT: [{"managementKey": []}],
    }
    assert operation(route)["security"] == needed[route.access]
    assert {"inferenceKey", "readKey", "managementKey"} == set(DOCUMENT["components"]["securitySchemes"])


@EVERY_ROUTE
def test_every_operation_has_its_success_and_every_error_that_it_raises(route: Route) -> None:
    responses = operation(route)["responses"]
    assert str(route.status) in responses
    everywhere = {errors.BadRequest, errors.Forbidden}
    keyed = {errors.Unauthenticated} if route.access is not Access.PUBLIC else set()
    raised = {*route.raises, *everywhere, *keyed}
    assert set(responses) == {str(s) for s in (route.status, *route.also, *(status_of(error)[0] for error in raised))}
    for error in raised:
        said = (error.__doc__ or "").partition("\n")[0].rstrip(".")
        assert said in responses[str(status_of(error)[0])]["description"], f"{error.__name__} is not described"


@EVERY_ROUTE
def test_every_error_has_the_shape_that_is_told(route: Route) -> None:
    for status, response in operation(route)["responses"].items():
        if int(status) not in (route.status, *route.also):
            shape = "OpenAIError" if route.path.startswith("/v1") or status == "401" else "Problem"
            assert response["content"]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{shape}"}


@EVERY_ROUTE
def test_every_parameter_is_described(route: Route) -> None:
    parameters = operation(route)["parameters"]
    in_path = [parameter["name"] for parameter in parameters if parameter["in"] == "path"]
    assert in_path == re.findall(r"\{(\w+)\}", route.openapi_path)
    assert [p["name"] for p in parameters if p["in"] == "query"] == [query.name for query in route.query]
    assert all(parameter["description"] for parameter in parameters)
    assert all(parameter["required"] for parameter in parameters if parameter["in"] == "path")


@EVERY_ROUTE
def test_every_body_is_described_and_its_example_is_accepted(route: Route) -> None:
    body = operation(route).get("requestBody")
    assert (body is None) == (route.body is None and route.example is None)
    if route.body is InstanceOptions:
        assert parse_options(route.example, Instances())[1] == ()
    elif route.body:
        assert parse(route.body, route.example)
    if body and route.body:
        assert body["content"]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{route.body.__name__}"}


def test_every_route_of_the_table_is_there_and_nothing_else() -> None:
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == {(route.method, route.openapi_path) for route in API}
    assert len(API) == len(described), "no route is there twice"


def test_operations_have_names_of_their_own() -> None:
    names = [operation(route)["operationId"] for route in API]
    assert len(names) == len(set(names))


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            yield reference
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


def test_every_reference_leads_to_a_schema() -> None:
    schemas = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    found = set(references(DOCUMENT))
    assert found
    assert found <= schemas


def test_every_field_of_an_instances_options_is_described() -> None:
    schema = DOCUMENT["components"]["schemas"]["InstanceOptions"]
    assert set(schema["properties"]) == set(InstanceOptions.model_fields)
    assert [name for name, field in schema["properties"].items() if not field.get("description")] == []
    assert schema["additionalProperties"] is False
