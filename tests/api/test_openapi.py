"""The API's description: current as committed, complete for every operation, and true to the route table that it is made from."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema.protocols import Validator

from llamactl_py.api.openapi import TAGS, document
from llamactl_py.api.openapi.requests import ANY_BODY
from llamactl_py.api.openapi.responses import HEADERS, is_passed_on
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
        Access.INFERENCE: [{"inferenceKey": ["inference"]}, {"managementKey": ["management"]}],
        Access.READ: [{"readKey": ["read"]}, {"managementKey": ["management"]}],
        Access.MANAGEMENT: [{"managementKey": ["management"]}],
    }
    assert operation(route)["security"] == needed[route.access]
    assert {"inferenceKey", "readKey", "managementKey"} == set(DOCUMENT["components"]["securitySchemes"])


@EVERY_ROUTE
def test_every_operation_has_its_success_and_every_error_that_it_raises(route: Route) -> None:
    responses = operation(route)["responses"]
    assert str(route.status) in responses
    everywhere = {errors.BadRequest, errors.Forbidden}
    keyed = {errors.Unauthenticated} if route.access is not Access.PUBLIC else set()
    asked = {errors.Invalid} if route.knows_its_query else set()
    raised = {*route.raises, *everywhere, *keyed, *asked}
    told = {str(s) for s in (route.status, *route.also, *(status_of(error)[0] for error in raised))}
    assert set(responses) == told | ({"default"} if is_passed_on(route) else set())
    for error in raised:
        said = (error.__doc__ or "").partition("\n")[0].rstrip(".")
        assert said in responses[str(status_of(error)[0])]["description"], f"{error.__name__} is not described"


@EVERY_ROUTE
def test_every_error_has_the_shape_that_is_told(route: Route) -> None:
    for status, response in operation(route)["responses"].items():
        if status != "default" and int(status) not in (route.status, *route.also):
            shape = "OpenAIError" if route.path.startswith("/v1") or status == "401" else "Problem"
            schema = response["content"]["application/json"]["schema"]
            assert (schema["anyOf"][0] if is_passed_on(route) else schema) == {"$ref": f"#/components/schemas/{shape}"}


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
    any_body = is_passed_on(route) and route.method in ANY_BODY
    assert (body is None) == (route.body is None and route.example is None and not any_body)
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


def validator(schema: Any) -> Validator:
    """Of *schema*, which may refer to the components."""
    return jsonschema.Draft202012Validator({"$schema": "https://json-schema.org/draft/2020-12/schema", **resolved(schema)})


def resolved(node: Any) -> Any:
    """*node* with what it refers to in its place."""
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            kind, name = reference.split("/")[2:]
            return resolved(DOCUMENT["components"][kind][name])
        return {name: resolved(value) for name, value in node.items()}
    return [resolved(item) for item in node] if isinstance(node, list) else node


@EVERY_ROUTE
def test_every_body_of_a_request_or_an_answer_has_an_example_that_fits_its_schema(route: Route) -> None:
    described = operation(route)
    bodies = [("request", described.get("requestBody", {}))]
    bodies += [(status, response) for status, response in described["responses"].items()]
    for where, body in bodies:
        for kind, content in body.get("content", {}).items():
            examples = (
                [content["example"]] if "example" in content else [e["value"] for e in resolved(content["examples"]).values()]
            )
            assert examples, (where, kind)
            assert "schema" in content or kind == "text/event-stream", (where, kind)
            for example in examples:
                validator(content.get("schema", {})).validate(example)


def test_only_what_a_backend_answers_is_described_as_that() -> None:
    passed_on = {route.openapi_path for route in API if is_passed_on(route)}
    assert {path for path in passed_on if not path.startswith("/llama-cpp/")} == {
        "/v1/{path}",
        "/api/v1/instances/{name}/proxy/{path}",
        "/api/v1/llama-cpp/{name}/models",
        "/api/v1/llama-cpp/{name}/models/{model}/load",
        "/api/v1/llama-cpp/{name}/models/{model}/unload",
    }


@EVERY_ROUTE
def test_every_answer_with_a_body_says_so(route: Route) -> None:
    for status, response in operation(route)["responses"].items():
        is_without = status in ("204", "304", "default") or (route.method == "HEAD" and status == "200")
        assert ("content" in response) == (not is_without), status
        assert response["description"]


@EVERY_ROUTE
def test_every_header_of_an_answer_is_described(route: Route) -> None:
    for status, response in operation(route)["responses"].items():
        for name, header in resolved(response.get("headers", {})).items():
            assert name in HEADERS
            assert header["description"]
            assert header["schema"]["type"]
        needed = {"201": {"Location"}, "304": {"ETag"}, "401": {"WWW-Authenticate"}}.get(status, set())
        assert needed <= set(response.get("headers", {})), status


@EVERY_ROUTE
def test_every_parameter_says_what_it_takes(route: Route) -> None:
    free = {"path", "model", "node", "search", "group", "instance", "key", "Last-Event-ID", "If-Match", "If-None-Match"}
    for parameter in operation(route)["parameters"]:
        schema = parameter["schema"]
        bounds = {"integer": {"minimum", "maximum"}, "array": {"minItems", "items"}, "string": {"pattern"}, "boolean": set()}
        if parameter["name"] not in free and "enum" not in schema:
            assert bounds[schema["type"]] <= set(schema), parameter["name"]
        if "default" in schema:
            validator(schema).validate(schema["default"])
        assert "example" in parameter or "enum" in schema or parameter["in"] != "path"
        if "example" in parameter:
            validator(schema).validate(parameter["example"])


def test_every_tag_is_described_and_used() -> None:
    assert {tag["name"] for tag in DOCUMENT["tags"]} == set(TAGS) == {route.tag for route in API}
    assert all(tag["description"] for tag in DOCUMENT["tags"])


def test_links_lead_from_a_thing_to_all_that_can_be_done_with_it() -> None:
    ids = {found["operationId"] for methods in DOCUMENT["paths"].values() for found in methods.values()}
    for link in DOCUMENT["components"]["links"].values():
        assert link["operationId"] in ids
    made = DOCUMENT["paths"]["/api/v1/instances/{name}"]["post"]["responses"]["201"]["links"]
    assert {"get_instance", "patch_instance", "start_instance", "stop_instance", "delete_instance"} <= set(made)
    key = DOCUMENT["paths"]["/api/v1/auth/keys"]["post"]["responses"]["201"]["links"]
    assert {"get_key", "change_key", "delete_key", "get_permissions"} == set(key)


def test_no_start_of_a_daemon_pays_for_the_description() -> None:
    told = subprocess.run(
        (sys.executable, "-c", "import sys, llamactl_py.daemon, llamactl_py.app; print(*sys.modules)"),
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert "llamactl_py.app" in told
    assert [name for name in told if name.startswith(("llamactl_py.api.openapi", "jsonschema"))] == []


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            yield reference
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


def test_every_reference_leads_somewhere_and_nothing_is_there_for_nothing() -> None:
    known = {f"#/components/{kind}/{name}" for kind, names in DOCUMENT["components"].items() for name in names}
    found = set(references(DOCUMENT))
    assert found
    assert found <= known
    assert {name for name in known - found if "/securitySchemes/" not in name and "/headers/" not in name} == set(), "unused"


def test_every_field_of_an_instances_options_is_described() -> None:
    schema = DOCUMENT["components"]["schemas"]["InstanceOptions"]
    assert set(schema["properties"]) == set(InstanceOptions.__struct_fields__)
    assert [name for name, field in schema["properties"].items() if not field.get("description")] == []
    assert schema["additionalProperties"] is False
