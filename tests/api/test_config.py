"""The configuration over the API: what is shown of it, and reading it again while instances run.

`Home` is a daemon on a file: `await home.write(text)` changes it and gives the answer to a reload. `stub(...)` is a declared
instance whose server is the stub.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamactl_py.config.changes import LIVE, adopt, is_live
from llamactl_py.config.load import Sources, load
from llamactl_py.config.settings import Settings
from llamactl_py.config.variables import SECTIONS, variables
from llamactl_py.ground.errors import BadConfiguration
from llamactl_py.ground.validation import parse
from tests.support.house import STUB, House, eventually, house, is_alive

CONFIG = "/api/v1/config"
RELOAD = f"{CONFIG}/reload"
INSTANCES = "/api/v1/instances"
NOTHING: dict[str, list[str]] = {
    "applied": [], "needs_restart": [], "added": [], "changed": [], "restarted": [], "removed": [], "warnings": [],
}  # fmt: skip


@dataclass
class Home:
    """A house and its configuration file."""

    h: House
    file: Path

    def stub(self, name: str, switches: str = "", **options: Any) -> dict[str, Any]:
        return self.h.stub_options(name, switches, **options)

    async def write(self, instances: dict[str, Any] | None = None, /, **sections: Any) -> dict[str, Any]:
        """What a reload of a file with these sections has changed, beside nothing."""
        self.file.write_text(yaml.safe_dump({**sections, "declared_instances": instances or {}}))
        status, body = await self.h.ask("POST", RELOAD)
        assert status == 200, body
        assert body.pop("file") == str(self.file)
        return {name: value for name, value in body.items() if value}

    async def names(self) -> list[str]:
        return [instance["name"] for instance in (await self.h.ask("GET", INSTANCES))[1]]


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    (tmp_path / "c.yaml").write_text("")
    async with house(tmp_path, config=tmp_path / "c.yaml") as h:
        yield Home(h, tmp_path / "c.yaml")


# ---- what is shown


async def test_the_settings_are_shown_as_in_the_file_with_who_says_them(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LLAMACTL_MAX_INSTANCES=9\nOPENAI_API_KEY=canary-env\n")
    (tmp_path / "c.yaml").write_text(
        "auth: {management_keys: [canary-0123456789]}\n"
        "backends:\n  vllm:\n    environment: {HF_TOKEN: canary, A: b}\n    args: [serve, --api-key, canary, --x-token=canary]\n"
        "database: {path: x}\n"
        "declared_instances: {a: {command: llama-server --api-key canary, environment: {MY_SECRET: canary}}}\n"
    )
    async with house(tmp_path, config=tmp_path / "c.yaml") as h:
        status, body = await h.ask("GET", CONFIG)
        assert status == 200
        assert "canary" not in json.dumps(body)
        assert body["auth"]["management_keys"] == ["********"]
        assert body["backends"]["vllm"]["environment"] == {"HF_TOKEN": "********", "A": "b"}
        assert body["backends"]["vllm"]["args"] == ["serve", "--api-key", "********", "--x-token=********"]
        assert body["instances"]["max_instances"] == 9
        assert (body["file"], body["dotenv"]) == (f"{tmp_path}/c.yaml", f"{tmp_path}/.env")
        assert body["declared_instances"] == {"a": f"{tmp_path}/c.yaml:7"}
        assert body["origins"]["auth.management_keys"] == f"{tmp_path}/c.yaml:1"
        assert body["origins"]["instances.max_instances"] == f"{tmp_path}/.env:1: LLAMACTL_MAX_INSTANCES"
        assert body["origins"]["server.port"] == "--port"
        assert "server.host" not in body["origins"]
        assert body["warnings"] == [f"{tmp_path}/c.yaml:6: database is not used: " + body["warnings"][0].partition("used: ")[2]]
        assert "canary" not in json.dumps((await h.ask("GET", f"{INSTANCES}/a"))[1])


async def test_what_is_shown_is_what_a_file_may_hold(home: Home) -> None:
    body = (await home.h.ask("GET", CONFIG))[1]
    shown = {name: body[name] for name in Settings.__struct_fields__}
    home.file.write_text(yaml.safe_dump(shown))
    assert load(Sources(home.file, {}, {})).settings == home.h.daemon.services.settings


# ---- declared instances


async def test_a_declared_instance_is_there_marked_and_starts_on_its_first_request(tmp_path: Path) -> None:
    text = {"a": {"backend_type": "llama_cpp", "command_override": [sys.executable, "-S", "-E", str(STUB)], "aliases": ["x"]}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"declared_instances": text}))
    async with house(tmp_path, config=tmp_path / "c.yaml") as h:
        await h.create("made")
        a, made = (await h.ask("GET", INSTANCES))[1]
        assert (a["name"], a["declared"], a["declared_at"]) == ("a", True, f"{tmp_path}/c.yaml:2")
        assert (made["name"], made["declared"], "declared_at" in made) == ("made", False, False)
        assert (await h.chat("x"))[0] == 200


async def test_a_declared_command_of_any_kind_gets_its_port_at_its_start(tmp_path: Path) -> None:
    line = f"{sys.executable} -S -E {STUB} --port ${{PORT}} --host ${{HOST}}"
    (tmp_path / "c.yaml").write_text(f"declared_instances:\n  a: {{backend_type: custom, command: '{line}'}}\n")
    async with house(tmp_path, config=tmp_path / "c.yaml") as h:
        assert (await h.chat("a"))[0] == 200


@pytest.mark.parametrize("force", ["", "?force=true"])
async def test_it_is_not_changed_or_deleted_through_the_api_and_runs_on(home: Home, force: str) -> None:
    await home.write({"a": home.stub("a")})
    assert (await home.h.chat("a"))[0] == 200
    for method, path in (("PUT", "a"), ("DELETE", f"a{force}")):
        status, body = await home.h.ask(method, f"{INSTANCES}/{path}", json=home.stub("a", group="x"))
        assert (status, body["error"]) == (409, "declared")
        assert f"edit {home.file} line 2" in body["details"]
    assert (await home.h.ask("POST", f"{INSTANCES}/a", json=home.stub("a")))[0] == 409
    assert (await home.h.get("a"))["state"] == "ready"
    assert (await home.h.ask("POST", f"{INSTANCES}/a/restart"))[0] == 200, "starting and stopping is for everybody"


async def test_declared_instances_are_numbered_in_the_order_of_the_file(tmp_path: Path) -> None:
    names = ["b", "z", "a", "y", "c", "x"]
    text = {name: {"backend_type": "mlx_lm"} for name in names}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"declared_instances": text}, sort_keys=False))
    async with house(tmp_path, config=tmp_path / "c.yaml") as h:
        assert await Home(h, tmp_path / "c.yaml").names() == names


async def test_it_keeps_its_number_and_is_up_again_with_the_next_daemon(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("")
    async with house(tmp_path, config=file) as h:
        home = Home(h, file)
        await h.create("made")
        await home.write({"a": home.stub("a"), "b": home.stub("b")})
        await h.chat("a")
        before = [(i["name"], i["id"], i["created"]) for i in (await h.ask("GET", INSTANCES))[1]]
    async with house(tmp_path, config=file) as h:
        assert [(i["name"], i["id"], i["created"]) for i in (await h.ask("GET", INSTANCES))[1]] == before
        await h.until("a", "ready")
        assert (await h.get("b"))["state"] == "stopped"


async def test_one_that_is_not_declared_at_the_next_start_is_gone_and_its_log_too(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("")
    async with house(tmp_path, config=file) as h:
        home = Home(h, file)
        await home.write({"a": home.stub("a"), "b": home.stub("b")})
        await h.chat("a")
        home.file.write_text(yaml.safe_dump({"declared_instances": {"b": home.stub("b")}}))
        assert (tmp_path / "data" / "logs" / "a.log").exists()
    async with house(tmp_path, config=file) as h:
        assert await Home(h, file).names() == ["b"]
        assert not (tmp_path / "data" / "logs" / "a.log").exists()


async def test_a_name_that_was_made_through_the_api_refuses_the_start(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("")
    async with house(tmp_path) as h:
        await h.create("a")
    (tmp_path / "c.yaml").write_text("declared_instances:\n\n  A: llama-server\n")
    with pytest.raises(BadConfiguration, match=r"c\.yaml:3: declared_instances\.A: the name 'a' is taken by instance 'a', made"):
        async with house(tmp_path, config=tmp_path / "c.yaml"):
            pass
    (tmp_path / "c.yaml").write_text("")
    async with house(tmp_path, config=tmp_path / "c.yaml") as h:
        assert await Home(h, tmp_path / "c.yaml").names() == ["a"]


async def test_one_with_autostart_is_up_without_being_asked(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("")
    async with house(tmp_path) as h:
        await h.create("made", autostart=True)
        stub = h.stub_options("a", autostart=True)
        assert (await h.get("made"))["state"] == "stopped"
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"declared_instances": {"a": stub}}))
    async with house(tmp_path, config=tmp_path / "c.yaml") as h:
        await h.until("a", "ready")
        await h.until("made", "ready")


# ---- reload


async def test_nothing_new_changes_nothing(home: Home) -> None:
    assert await home.write({"a": home.stub("a")}) == {"added": ["a"]}
    await home.h.chat("a")
    before = await home.h.get("a")
    assert await home.write({"a": home.stub("a")}) == {}
    after = await home.h.get("a")
    assert (after["pid"], after["since"]) == (before["pid"], before["since"])


async def test_what_did_not_change_streams_on_while_others_are_added_changed_and_removed(home: Home) -> None:
    h = home.h
    streaming = home.stub("streaming", "tokens=40 tok-rate=20")
    await home.write({"streaming": streaming, "changed": home.stub("changed"), "removed": home.stub("removed")})
    for name in ("changed", "removed"):
        assert (await h.chat(name))[0] == 200
    pid = (await h.get("changed"))["pid"]
    gone = h.spawned("removed")
    body = {"model": "streaming", "messages": [], "stream": True}
    async with h.session.post(f"{h.url}/v1/chat/completions", json=body) as answer:
        first = await answer.content.readline()
        done = await home.write(
            {"new": home.stub("new"), "changed": home.stub("changed", environment={"A": "1"}), "streaming": streaming}
        )
        assert not answer.content.at_eof()
        rest = await answer.content.read()
    assert (first + rest).count(b"data: ") >= 41
    assert rest.rstrip().endswith(b"data: [DONE]")
    assert done == {"added": ["new"], "changed": ["changed"], "restarted": ["changed"], "removed": ["removed"]}
    assert sorted(await home.names()) == ["changed", "new", "streaming"]
    assert not any(map(is_alive, gone))
    assert (await h.until("changed", "ready"))["pid"] != pid
    assert len(h.spawned("streaming", "leader")) <= 1
    assert (await h.chat("removed"))[0] == 404


async def test_a_removed_instance_finishes_its_requests_first_and_takes_no_new_ones(home: Home) -> None:
    h = home.h
    await home.write({"a": home.stub("a", "tokens=10 tok-rate=10")})
    asking = asyncio.ensure_future(h.chat("a"))
    await eventually(lambda: h.daemon.services.fleet.get("a").leases.value)
    reloading = asyncio.ensure_future(home.write({}))
    await eventually(lambda: not h.daemon.services.fleet.get("a").is_wanted)
    assert (await h.chat("a"))[0] == 404
    assert (await asking)[0] == 200
    assert await reloading == {"removed": ["a"]}


async def test_options_that_no_process_sees_apply_without_a_restart(home: Home) -> None:
    await home.write({"a": home.stub("a")})
    await home.h.chat("a")
    before = await home.h.get("a")
    assert await home.write({"a": home.stub("a", idle_timeout="7m", aliases=["nick"])}) == {"changed": ["a"]}
    after = await home.h.get("a")
    assert (after["pid"], after["restart_required"], after["options"]["idle_timeout"]) == (before["pid"], False, 7)
    assert (await home.h.chat("nick"))[0] == 200


async def test_a_new_default_reaches_declared_instances_and_not_those_made_through_the_api(home: Home) -> None:
    stub = {name: value for name, value in home.stub("a").items() if name != "stop_timeout"}
    await home.write({"a": stub})
    await home.h.ask("POST", f"{INSTANCES}/made", json=stub)
    done = await home.write({"a": stub}, instances={"default_stop_timeout": 4})
    assert done == {"applied": ["instances.default_stop_timeout"], "changed": ["a"]}
    a, made = (await home.h.ask("GET", INSTANCES))[1]
    assert (a["options"]["stop_timeout"], made["options"]["stop_timeout"]) == (4, 10)


async def test_an_instance_may_be_renamed_keeping_its_old_name_as_an_alias_and_in_another_case(home: Home) -> None:
    await home.write({"old": home.stub("old"), "Twin": home.stub("twin")})
    await home.h.chat("old")
    done = await home.write({"new": home.stub("new", aliases=["old"]), "twin": home.stub("twin")})
    assert done == {"added": ["new", "twin"], "removed": ["Twin", "old"]}
    assert (await home.h.chat("old"))[1]["model"]
    assert sorted(await home.names()) == ["new", "twin"]


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("server: {prot: 1}", ":1", "server.prot: unknown key (did you mean 'port'?)"),
        ("server:\n  host: ${NOT_SET_ANYWHERE}", ":2", "server.host: the variable NOT_SET_ANYWHERE is not set"),
        ("{", ":2", "is not valid YAML"),
        ("server: {host: 0.0.0.0}\nauth: {require_management_auth: false}", "", "refusing to listen on 0.0.0.0 without keys"),
        ("declared_instances:\n  b: notepad", ":2", "declared_instances.b.command: 'notepad' is no server program"),
        ("declared_instances:\n  made: llama-server", ":2", "declared_instances.made: the name 'made' is taken by instance"),
        ("instances: {max_instances: 1}\ndeclared_instances:\n  a: llama-server", "", "max_instances is 1"),
    ],
)
async def test_a_broken_file_changes_nothing_and_is_told(home: Home, text: str, where: str, said: str) -> None:
    h = home.h
    await h.create("made")
    await home.write({"a": home.stub("a")}, instances={"max_queued_requests": 5})
    await h.chat("a")
    before = (await h.ask("GET", CONFIG))[1], (await h.get("a"))["pid"], await home.names()
    valid = "backends: {vllm: {command: /new}}\n" if not text.startswith("{") else ""
    home.file.write_text(text + "\n" + valid)
    status, body = await h.ask("POST", RELOAD)
    assert (status, body["error"]) == (422, "invalid_request")
    assert any(p["field"] == (f"{home.file}{where}" if where else "") and said in p["problem"] for p in body["problems"]), body
    assert ((await h.ask("GET", CONFIG))[1], (await h.get("a"))["pid"], await home.names()) == before


async def test_a_missing_file_changes_nothing(home: Home) -> None:
    await home.write({"a": home.stub("a")})
    home.file.unlink()
    status, body = await home.h.ask("POST", RELOAD)
    assert (status, body["problems"][0]["problem"]) == (422, "cannot be read: No such file or directory")
    assert await home.names() == ["a"]


async def test_settings_that_can_change_do_and_the_others_are_named(home: Home) -> None:
    h = home.h
    done = await home.write(
        {},
        server={"allowed_hosts": ["box"], "max_body_size": 5000},
        backends={"vllm": {"command": "/opt/vllm"}},
        instances={"max_running_instances": 1, "logs_dir": str(home.file.parent)},
        auth={"management_keys": ["0123456789abcdef"], "require_inference_auth": False},
    )
    assert sorted(done["applied"]) == [
        "auth.management_keys", "auth.require_inference_auth", "backends.vllm.command", "instances.max_running_instances",
        "server.allowed_hosts",
    ]  # fmt: skip
    assert sorted(done["needs_restart"]) == ["instances.logs_dir", "server.max_body_size"]
    body = (await h.ask("GET", CONFIG))[1]
    assert sorted(body["needs_restart"]) == ["instances.logs_dir", "server.max_body_size"]
    assert body["server"]["max_body_size"] == 134_217_728, "what is shown is what is in force"
    assert (await h.ask("GET", CONFIG, headers={"Host": "box"}))[0] == 200
    assert (await h.ask("GET", CONFIG, headers={"Authorization": "Bearer 0123456789abcdef"}))[0] == 200
    assert (await h.ask("GET", "/v1/models", headers={"Authorization": "none"}))[0] == 200
    for name in ("a", "b"):
        await h.create(name)
        assert (await h.chat(name))[0] == 200
    assert (await h.get("a"))["state"] in ("stopped", "stopping"), "there is room for one"
    assert sorted((await home.write({}))["applied"]) == sorted(done["applied"])
    assert (await h.ask("GET", CONFIG, headers={"Authorization": "Bearer 0123456789abcdef"}))[0] == 401


async def test_a_variable_that_is_new_in_dotenv_reaches_the_next_start(home: Home) -> None:
    h = home.h
    await home.write({"a": home.stub("a")})
    (home.file.parent / ".env").write_text("HF_HOME=/elsewhere\n")
    assert await home.write({"a": home.stub("a")}) == {}
    assert h.daemon.services.fleet.workshop.environ["HF_HOME"] == "/elsewhere"


async def test_reloads_and_changes_through_the_api_at_once_leave_one_truth(home: Home) -> None:
    h = home.h
    texts = [{"a": home.stub("a")}, {"a": home.stub("a", group="g"), "b": home.stub("b")}, {}]

    async def reload(number: int) -> int:
        home.file.write_text(yaml.safe_dump({"declared_instances": texts[number % 3]}))
        return (await h.ask("POST", RELOAD))[0]

    async def make(number: int) -> int:
        status = (await h.ask("POST", f"{INSTANCES}/{'abc'[number % 3]}", json=home.stub("x")))[0]
        await h.ask("DELETE", f"{INSTANCES}/{'abc'[number % 3]}?force=true")
        return status

    statuses = await asyncio.gather(*(reload(n) for n in range(9)), *(make(n) for n in range(9)))
    assert set(statuses) <= {200, 201, 409, 422}
    for instance in (await h.ask("GET", INSTANCES))[1]:
        await h.ask("DELETE", f"{INSTANCES}/{instance['name']}?force=true")
    await home.write(texts[1])
    assert sorted(await home.names()) == ["a", "b"]
    stored = await h.daemon.services.fleet.store.all()
    assert sorted((row.name, row.declared) for row in stored) == [("a", True), ("b", True)]


# ---- which settings are live


def test_what_is_live_is_a_setting() -> None:
    names = {name for name, _ in variables()} | SECTIONS
    assert [name for name in LIVE if name not in names] == []


def test_a_setting_that_waits_keeps_its_old_value_and_its_neighbours_change() -> None:
    old = parse(Settings, {"server": {"port": 1, "shutdown_timeout": 1}})
    new = parse(Settings, {"server": {"port": 2, "shutdown_timeout": 2}, "backends": {"mlx": {"command": "x"}}})
    adopted = adopt(old, new)
    assert (adopted.settings.server.port, adopted.settings.server.shutdown_timeout) == (1, 2)
    assert (adopted.applied, adopted.needs_restart) == (("server.shutdown_timeout", "backends.mlx.command"), ("server.port",))
    assert adopt(new, new).settings == new
    assert [is_live(name) for name in ("auth.require_inference_auth", "authors", "server.host")] == [True, False, False]
