"""llamactl's names for options, all 352 of them: an instance that it stored works as it is."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.backends import BACKENDS
from llamactl_py.backends.arguments import EXTRA
from llamactl_py.ground.errors import Invalid

NAMES: dict[str, dict[str, dict[str, Any]]] = tomllib.loads(Path(__file__).with_name("llamactl.toml").read_text(encoding="utf-8"))
OPTIONS = [(kind, name, fact) for kind, names in NAMES.items() for name, fact in names.items()]

SAMPLES: dict[str, Any] = {
    "bool": True,
    "int": 3,
    "float": 0.5,
    "str": "auto",
    "list": ["a", "b"],
    "map": {"foo_bar": "", "baz": "1"},
}


LOST = {
    "control_vector_layer_range": "takes two values, got 1",
    "spec_replace": "takes two values, got 1",
    "lookup_cache_static": "takes a path, got true",
    "lookup_cache_dynamic": "takes a path, got true",
}
"""What llamactl loses when it stores them: it keeps one value of two, and a file's name as a truth. No server starts so."""


def sample(kind: str, name: str, type_name: str) -> Any:
    """A value as llamactl would store it."""
    flag = None if name == EXTRA else BACKENDS[kind].catalogue.flags.get(name)
    if type_name == "str" and flag and flag.type in ("int", "float"):
        return "3"
    return SAMPLES[type_name]


def test_they_are_all_there() -> None:
    assert {kind: len(names) for kind, names in NAMES.items()} == {"llama_cpp": 222, "vllm": 113, "mlx_lm": 17}


@pytest.mark.parametrize(("kind", "name", "fact"), OPTIONS, ids=[f"{kind}.{name}" for kind, name, _ in OPTIONS])
def test_each_name_is_an_option_and_takes_what_llamactl_stores(kind: str, name: str, fact: dict[str, Any]) -> None:
    backend = BACKENDS[kind]
    value = sample(kind, name, fact["type"])
    if name in LOST:
        with pytest.raises(Invalid, match=LOST[name]):
            backend.normalise({name: value})
        value = {"two": "1 2"}.get(backend.catalogue.flags[name].arity, "file")
    normal = backend.normalise({name: value})
    if name == EXTRA:
        assert normal.options == {EXTRA: ["--foo_bar", "--baz", "1"]}
        return
    hit = backend.catalogue.by_name(name)
    assert hit
    assert hit.flag.owned or list(normal.options) == [hit.flag.key]
    if not hit.flag.owned:
        assert backend.arguments(normal.options)
    for spelling in fact.get("also", ()):
        same = backend.catalogue.by_word(spelling)
        assert same, spelling
        assert same.flag == hit.flag, spelling
        assert backend.catalogue.by_name(spelling.lstrip("-")) == same


@pytest.mark.parametrize("kind", NAMES)
def test_an_instance_with_all_of_them_is_taken(kind: str) -> None:
    stored = {name: sample(kind, name, fact["type"]) for name, fact in NAMES[kind].items() if not name.startswith("no_")}
    stored = {name: value for name, value in stored.items() if name not in LOST}
    normal = BACKENDS[kind].normalise(stored)
    assert len(normal.options) > 0.9 * len(
        [n for n in stored if (hit := BACKENDS[kind].catalogue.by_name(n)) and not hit.flag.owned]
    )


def test_what_llamactl_gets_wrong_comes_out_right() -> None:
    backend = BACKENDS["llama_cpp"]
    stored = {"no_mmap": True, "lookup_cache_static": "f.bin", "spec_replace": "TARGET DRAFT", "fim_qwen_1_5b_default": True}
    assert backend.arguments(backend.normalise(stored).options) == [
        "--fim-qwen-1.5b-default",
        *("--lookup-cache-static", "f.bin"),
        "--no-mmap",
        *("--spec-replace", "TARGET", "DRAFT"),
    ]
