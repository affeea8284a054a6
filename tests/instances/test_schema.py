"""The JSON Schema of the configuration file: what the daemon takes it takes, and it marks the mistakes that people make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from llamactl_py.config.settings import Backend
from llamactl_py.config.variables import SECTIONS, variables
from llamactl_py.instances.options import InstanceOptions
from llamactl_py.instances.schema import schema
from tests.config.test_layers import SECTION_7

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "llamactl.yaml"


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema())


def commented_out(text: str) -> str:
    """*text* with what its comments declare declared."""
    head, _, tail = text.partition("# declared_instances:")
    lines = tail.splitlines()
    end = next(at for at, line in enumerate(lines) if at and not line.startswith("#"))
    return "\n".join([head, "declared_instances:", *(line.removeprefix("# ") for line in lines[1:end]), *lines[end:]])


@pytest.mark.parametrize(
    "text",
    [
        EXAMPLE.read_text(),
        commented_out(EXAMPLE.read_text()),
        SECTION_7,
        "",
        "server:\ninstances:\nbackends: {vllm: }\ndeclared_instances:\n",
        "server: {port: '${PORT}', access_log: '${LOG:-yes}', body_timeout: '${T}'}\n",
        "instances: {port_range: ['${A}', 9000], default_idle_timeout: 90s, logs_dir: }\n",
        "declared_instances: {a: llama-server, b: {command: [x]}, c: {backend_type: vllm, backend_options: {model: x}}}\n",
        "declared_instances: {a: {command: x, max_restarts: '${N}', aliases: ['${B}'], environment: {A: b}, autostart: true}}\n",
    ],
)
def test_what_a_file_may_say_is_valid(validator: jsonschema.Draft202012Validator, text: str) -> None:
    assert [error.message for error in validator.iter_errors(yaml.safe_load(text) or {})] == []


@pytest.mark.parametrize(
    "text",
    [
        "sever: {}",
        "server: {prot: 1}",
        "server: {port: x}",
        "server: {port: 70000}",
        "server: {access_log: 5}",
        "instances: {port_range: [1, 2, 3]}",
        "instances: {default_idle_timeout: soon}",
        "backends: {vllm: {comand: x}}",
        "backends: {lama: {}}",
        "auth: {management_keys: 5}",
        "declared_instances: [a]",
        "declared_instances: {a: 5}",
        "declared_instances: {a: {}}",
        "declared_instances: {a: {idle_timeout: 5}}",
        "declared_instances: {a: {command: x, idle_timeut: 5}}",
        "declared_instances: {a: {command: 5}}",
        "declared_instances: {a: {command: x, group: 5}}",
    ],
)
def test_a_mistake_is_marked(validator: jsonschema.Draft202012Validator, text: str) -> None:
    assert not validator.is_valid(yaml.safe_load(text))


def test_every_setting_and_option_is_described() -> None:
    document = schema()

    def at(dotted: str) -> dict[str, Any]:
        node = document
        for step in dotted.split("."):
            found = node["properties"][step]
            inner = next((one for one in found.get("anyOf", ()) if "$ref" in one), None)
            node = document["$defs"][inner["$ref"].rpartition("/")[2]] if inner else found
        return node

    for name, variable in variables():
        assert at(name)["description"], name
        assert name.startswith("backends.") or variable in at(name)["description"]
    assert all(at(section)["additionalProperties"] is False for section in SECTIONS)
    assert set(Backend.__struct_fields__) <= set(at("backends.mlx")["properties"])
    entry = document["properties"]["declared_instances"]["anyOf"][0]["additionalProperties"]["anyOf"][1]
    assert set(entry["properties"]) == {"command", *InstanceOptions.__struct_fields__}
    assert at("database")["deprecated"] is True
    assert at("server")["properties"]["allowed_origins"]["deprecated"] is True
    assert at("backends.llama-cpp")["properties"]["cache_dir"]["deprecated"] is True
