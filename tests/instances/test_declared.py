"""Instances that the file declares: from its words to options, each mistake with its line; and what has to change for them.

`declared(folder, text)` reads the section `declared_instances` of a file with that text.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from llamactl_py.config.load import Sources, load
from llamactl_py.ground.errors import BadConfiguration, Declared, NameTaken, StorageFailed
from llamactl_py.instances.declared import Declaration, read_declared
from llamactl_py.instances.options import WITHOUT_PROCESS, InstanceOptions, is_same_process, parse_options
from llamactl_py.instances.state import State
from tests.support.fakes import World, raw_options, world
from tests.support.virtual import in_virtual_time


def declared(folder: Path, text: str, environ: dict[str, str] | None = None) -> dict[str, Declaration]:
    (folder / "c.yaml").write_text("declared_instances:\n" + "".join(f"  {line}\n" for line in text.splitlines()))
    return {one.name: one for one in read_declared(load(Sources(folder / "c.yaml", environ or {}, {})))}


def complaints(folder: Path, text: str) -> list[str]:
    with pytest.raises(BadConfiguration) as caught:
        declared(folder, text)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


# ---- what the file says


def test_an_instance_is_a_command_line_or_options_or_both(tmp_path: Path) -> None:
    found = declared(
        tmp_path,
        """\
short: llama-server -m /a.gguf -c 8192
line:
  command: |
    HF_TOKEN=x llama-server \\
      -m /a.gguf \\
      -c 8192
  idle_timeout: 15m
  environment: {B: "2"}
words: {command: [llama-server, -m, /a.gguf, -c, "8192"], aliases: [w]}
options:
  backend_type: llama_cpp
  backend_options: {model: /a.gguf, ctx_size: 8192}
beside: {command: llama-server -m /a.gguf, backend_options: {ctx_size: 8192}}
arguments: {command: -m /a.gguf -c 8192, backend_type: llama-cpp}
qwen2.5-7b: llama-server -m /a.gguf -c 8192
""",
    )
    assert list(found) == ["short", "line", "words", "options", "beside", "arguments", "qwen2.5-7b"]
    for one in found.values():
        assert one.options.backend_type == "llama_cpp"
        assert one.options.backend_options == {"model": "/a.gguf", "ctx_size": 8192}
    assert (found["line"].options.idle_timeout, found["line"].options.environment) == (900, {"HF_TOKEN": "x", "B": "2"})
    assert found["words"].options.aliases == ("w",)
    assert {name: one.where for name, one in found.items()} == {
        name: f"{tmp_path}/c.yaml:{line}" for name, line in zip(found, (2, 3, 10, 11, 14, 15, 16), strict=True)
    }


def test_what_is_left_out_comes_from_the_settings(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("instances: {default_idle_timeout: 5}\ndeclared_instances: {a: llama-server -m /a}\n")
    (one,) = read_declared(load(Sources(tmp_path / "c.yaml", {}, {})))
    assert one.options.idle_timeout == 300


def test_variables_are_filled_in_before_the_command_is_read(tmp_path: Path) -> None:
    found = declared(tmp_path, 'a: "llama-server -m ${MODELS}/a.gguf -c ${CTX:-4096}"', {"MODELS": "/m"})
    assert found["a"].options.backend_options == {"model": "/m/a.gguf", "ctx_size": 4096}


def test_what_is_odd_about_a_command_is_kept_as_a_warning(tmp_path: Path) -> None:
    assert "--port" in " ".join(declared(tmp_path, "a: llama-server -m /a --port 9")["a"].warnings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a: {backend_type: llama_cpp, idle_timeut: 5}",
            ":2: declared_instances.a.idle_timeut: unknown key (did you mean 'idle_",
        ),
        (
            "a:\n  backend_type: llama_cpp\n  backend_options:\n    ctx_sise: 1",
            ":5: declared_instances.a.backend_options.ctx_sise",
        ),
        ("a:\n  idle_timeout: 5", ":2: declared_instances.a.backend_type: is required"),
        ("a:\n\n  backend_type: lama", ":4: declared_instances.a.backend_type: unknown backend 'lama'"),
        ("a: llama-server -m /a | tee", ":2: declared_instances.a.command: "),
        ("a: notepad x", ":2: declared_instances.a.command: 'notepad' is no server program"),
        ("a: 5", ":2: declared_instances.a: expected options, or the command line of a server, got a number"),
        ("a: [llama-server]", ":2: declared_instances.a: expected options, or the command line"),
        ("a: {command: 5}", ":2: declared_instances.a.command: expected a command line or a list of its words"),
        ("a: {command: [llama-server, 5]}", ":2: declared_instances.a.command: expected a command line or a list"),
        (
            "a: {command: llama-server -m /a, backend_options: {model: /b}}",
            ":2: declared_instances.a.backend_options.model: is given by command too",
        ),
        (
            "a: {command: A=1 llama-server, environment: {A: '2'}}",
            ":2: declared_instances.a.environment.A: is given by command too",
        ),
        (
            "a: {command: /opt/llama-server -m /a, command_override: x}",
            ":2: declared_instances.a.command_override: is given by command too",
        ),
        ("-rf: llama-server", ":2: declared_instances.-rf.name: '-rf' is not usable"),
        ("'..': llama-server", ":2: declared_instances....name: '..' is not usable"),
        ("'a/b': llama-server", ":2: declared_instances.a/b.name: 'a/b' is not usable"),
        ("a: llama-server\nA: llama-server", ":3: declared_instances.A: the name 'a' is taken by 'a'"),
        (
            "a: {command: llama-server, aliases: [x]}\nb: {command: llama-server, aliases: [X]}",
            ":3: declared_instances.b: the name",
        ),
        ("a: llama-server --alias b\nb: llama-server", ":3: declared_instances.b: the name 'b' is taken by 'a'"),
        ("a: llama-server\na: llama-server", ":3: a is given twice"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (told,) = complaints(tmp_path, text)
    assert told.startswith(f"c.yaml{said}")


def test_every_mistake_of_every_instance_is_told(tmp_path: Path) -> None:
    assert len(complaints(tmp_path, "a: x\nb: {idle: 1, group: '/'}\nc: llama-server\nC: llama-server")) == 5


@pytest.mark.parametrize("text", ["declared_instances: [a]", "declared_instances: a", "declared_instances: 1"])
def test_a_section_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(BadConfiguration, match=r"c\.yaml:1: declared_instances: expected instances by name, got "):
        load(Sources(tmp_path / "c.yaml", {}, {}))


def test_options_are_told_apart_by_whether_a_process_sees_them() -> None:
    base, _ = parse_options({"backend_type": "llama_cpp"}, load(Sources(Path("/dev/null"), {}, {})).settings.instances)
    other: dict[str, Any] = {
        "group": "g", "aliases": ("x",), "environment": {"A": "1"}, "backend_options": {"ctx_size": 1}, "command_override": "x",
    }  # fmt: skip
    for name in InstanceOptions.__struct_fields__:
        was = getattr(base, name)
        changed = other.get(name, (not was) if isinstance(was, bool) else f"{was}x" if isinstance(was, str) else 7)
        assert is_same_process(base, replace(base, **{name: changed})) == (name in WITHOUT_PROCESS), name


# ---- what has to change for it


def declaration(name: str, w: World, where: str = "c.yaml:1", **options: Any) -> Declaration:
    return Declaration(name, parse_options(raw_options(**options), w.settings.instances)[0], where)  # type: ignore[arg-type]


async def declare(w: World, *wanted: Declaration) -> list[str]:
    """As a reload does it, where nothing is removed; the names of those to be restarted."""
    async with w.fleet.held():
        return [instance.name for instance in await w.fleet.declare(w.fleet.compare(wanted, -1))]


@in_virtual_time
async def test_only_the_difference_is_acted_on() -> None:
    async with world() as w:
        await w.fleet.create("api", raw_options())
        assert await declare(w, declaration("a", w), declaration("b", w)) == []
        a = w.fleet.get("a")
        difference = w.fleet.compare([declaration("a", w), declaration("c", w), declaration("b", w, idle_timeout=7)][0:2], -1)
        assert ([one.name for one in difference.added], difference.changed, difference.removed) == (["c"], (), ("b",))
        assert await declare(w, declaration("a", w, where="c.yaml:9"), declaration("b", w, idle_timeout=7)) == []
        assert w.fleet.get("a") is a
        assert (a.declared_at, w.fleet.get("b").options.idle_timeout, w.fleet.get("api").declared_at) == ("c.yaml:9", 420, "")


@in_virtual_time
async def test_one_that_is_up_restarts_only_for_what_its_process_sees() -> None:
    async with world() as w:
        await declare(w, declaration("a", w), declaration("b", w))
        a, b = w.fleet.get("a"), w.fleet.get("b")
        for instance in (a, b):
            await w.dispatcher.start(instance)
        async with w.lease(a):
            assert await declare(w, declaration("a", w, idle_timeout=9), declaration("b", w, environment={"A": "1"})) == ["b"]
            assert a.state is State.READY
            assert a.running_options == a.options
        assert a.options.idle_timeout == 540
        assert b.running_options != b.options


@in_virtual_time
async def test_a_declared_instance_is_not_changed_through_the_api() -> None:
    async with world() as w:
        await declare(w, declaration("a", w, where="/etc/c.yaml:7"))
        with pytest.raises(Declared, match=r"'a' is declared in the configuration file; edit /etc/c\.yaml line 7"):
            await w.fleet.change("a", raw_options())
        with pytest.raises(Declared):
            w.fleet.to_change("a")


@in_virtual_time
async def test_names_of_instances_made_through_the_api_are_taken() -> None:
    async with world() as w:
        await w.fleet.create("made", raw_options(aliases=["other"]))
        w.fleet.damaged["odd"] = "cannot be read"
        for name, options in (("MADE", {}), ("Other", {}), ("x", {"aliases": ["made"]}), ("odd", {})):
            with pytest.raises(BadConfiguration, match=r"c\.yaml:1: declared_instances\.\w+: "):
                w.fleet.compare([declaration(name, w, **options)], -1)
        assert w.fleet.compare([declaration("x", w)], 2).added
        with pytest.raises(
            BadConfiguration, match="1 instances are declared and 1 were made through the API; max_instances is 1"
        ):
            w.fleet.compare([declaration("x", w)], 1)


@in_virtual_time
async def test_an_alias_may_move_from_one_declared_instance_to_another() -> None:
    async with world() as w:
        await declare(w, declaration("a", w, aliases=["x"]), declaration("b", w))
        await declare(w, declaration("a", w), declaration("b", w, aliases=["x"]))
        assert (w.fleet.get("a").options.aliases, w.fleet.get("b").options.aliases) == ((), ("x",))


@in_virtual_time
async def test_what_cannot_be_stored_changes_nothing() -> None:
    async with world() as w:
        await declare(w, declaration("a", w))
        w.store.error = StorageFailed("disk full")
        with pytest.raises(StorageFailed):
            await declare(w, declaration("a", w, idle_timeout=9), declaration("b", w))
        assert ([instance.name for instance in w.fleet], w.fleet.get("a").options.idle_timeout) == (["a"], 1800)


@in_virtual_time
async def test_nobody_creates_an_instance_between_the_comparison_and_what_follows() -> None:
    async with world() as w:
        async with w.fleet.held():
            difference = w.fleet.compare([declaration("a", w)], -1)
            racing = asyncio.ensure_future(w.fleet.create("a", raw_options()))
            await asyncio.sleep(1)
            await w.fleet.declare(difference)
        with pytest.raises(NameTaken, match="exists already"):
            await racing
        assert w.fleet.get("a").declared_at
