"""Files of llama-swap made to do harm, or broken: each is refused, or what is wrong in it is named, and nothing takes long."""

from __future__ import annotations

import pytest
import yaml

from llamactl_py.ground.errors import BadRequest
from llamactl_py.importers import read
from llamactl_py.importers.macros import MAX_MACROS, MAX_TEXT
from llamactl_py.importers.write import MAX_INSTANCES

SERVER = "models: {m: {cmd: llama-server}}\n"


def nested_aliases() -> str:
    """260 characters that are ten million values when they are written out."""
    levels = ["&a [" + ",".join("x" * 10) + "]"]
    levels += [f"&{name} [{','.join([f'*{below}'] * 10)}]" for below, name in zip("abcdef", "bcdefg", strict=True)]
    return "[" + ", ".join(levels) + "]"


# ---- refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"? {nested_aliases()}\n: 1\nmodels: {{}}\n", "line 1: a name is expected before the colon"),
        ("models:\n  ? [a]\n  : {cmd: llama-server}\n", "line 2: a name is expected before the colon"),
        (f"? {'k' * 2000}\n: {{a: 1}}\nmodels: {{}}\n", "line 2: a name of over 1000 characters"),
        (yaml.safe_dump({"macros": {"m": "x" * (MAX_TEXT // 4)}, "models": {"a": {"env": ["${m}"] * 5}}}), "'m' makes over"),
        (yaml.safe_dump({"macros": {"m": ["x" * 99] * 99}, "models": {"a": {"env": ["${m}"] * 999}}}), "'m' makes over"),
        (yaml.safe_dump({"macros": {f"m{i}": "x" for i in range(MAX_MACROS + 1)}, "models": {}}), "macros: 1001 of them"),
        (yaml.safe_dump({"models": {f"m{i}": {"cmd": "x"} for i in range(MAX_INSTANCES + 1)}}), "over 2000 models"),
    ],
)  # fmt: skip
def test_a_file_that_comes_to_too_much_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        read(text)


# ---- told


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("models: {m: {cmd: llama-server, env: 5}}", "line 1: models.m.env: was left out: expected a list of NAME=value, got 5"),
        ("models: {m: {cmd: llama-server, env: [[A=b]]}}", "line 1: models.m.env.0: was left out: it is not NAME=value"),
        ("models: {m: {cmd: llama-server, aliases: abc}}", "models.m.aliases: was left out: expected a list of names, got 'abc'"),
        ("models: {m: {cmd: llama-server, ttl: " + "1" + ":1" * 50_000 + "}}", "models.m.ttl: was left out: expected a whole"),
        ("models: {m: {cmd: llama-server, ttl: 1:30}}", "models.m.ttl: was left out: expected a whole number, got '1:30'; write"),
        ("models: {m: {cmd: llama-server, ttl: 0x" + "f" * 9999 + "}}", "models.m.ttl: was left out: expected a whole"),
        ("models: {m: {cmd: llama-server, ttl: 1" + ":1" * 999 + ".5}}", "models.m.ttl: was left out: expected a whole number"),
        ("models: {m: {cmd: llama-server, ttl: true}}", "models.m.ttl: was left out: expected a whole number, got True"),
        ("models: {m: {cmd: [llama-server]}}", "models.m.cmd: was left out: expected a command as text, got a list"),
        ('models: {m: {cmd: "llama-server -m /a\\n  -c 9 # more"}}', "models.m.cmd: a word begins with #, which is no comment"),
        (SERVER + "globalTTL: soon", "line 2: globalTTL: was left out: expected a whole number, got 'soon'; write one without"),
        (SERVER + "groups: 5", "line 2: groups: was left out: expected names with values below them, got 5"),
        (SERVER + "groups: {g: {members: 5}}", "line 2: groups.g.members: was left out: expected a list of models, got 5"),
        (SERVER + "groups: {g: {members: [[1]]}}", "line 2: groups.g.members.0: was left out: there is no model a list"),
        (SERVER + "groups: {g: 5}", "line 2: groups.g: was left out: expected names"),
        (SERVER + "hooks: {on_startup: 5}", "line 2: hooks.on_startup: was left out: expected names"),
        (SERVER + "hooks: {on_startup: {preload: [[1]]}}", "line 2: hooks.on_startup.preload.0: was left out: there is no model"),
        (SERVER + "hooks: {on_startup: {preload: m}}", "line 2: hooks.on_startup.preload: was left out: expected a list"),
        (SERVER + "macros: {p: [x]}\nhooks: {on_startup: {preload: '${p}'}}", "line 3: hooks.on_startup.preload.0: was left out"),
        (SERVER + "<<: {odd: 1}", "odd: was left out"),
        (SERVER + "routing: 5", "line 2: routing: was left out: expected names"),
        (SERVER + "routing: {router: {settings: 5}}", "line 2: routing.router.settings: was left out: expected names"),
    ],
)  # fmt: skip
def test_a_value_that_its_key_cannot_take_is_named(text: str, note: str) -> None:
    found = read(text)
    assert any(note in str(one) for one in found.notes), [str(one)[:200] for one in found.notes]
    assert isinstance(yaml.safe_load(found.text()), dict)
