"""From options to the exact command: which program, which words, which variables; and what is refused before any start.

`Catcher` stands for a launcher: it keeps the commands that it gets and starts nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.backends import BACKENDS, Backend
from llamactl_py.config.settings import Instances, Settings
from llamactl_py.ground.errors import StartFailed, StorageFailed
from llamactl_py.ground.ticket import Ticket
from llamactl_py.ground.validation import parse
from llamactl_py.instances import command
from llamactl_py.instances.command import Workshop, executable, refuse_missing_model
from llamactl_py.instances.options import InstanceOptions, parse_options
from llamactl_py.instances.ports import Ports
from llamactl_py.launchers.base import Command, Exit, Listening, Record

LLAMA, MLX, VLLM = BACKENDS["llama_cpp"], BACKENDS["mlx_lm"], BACKENDS["vllm"]
PORTS = (24000, 24009)


class Nothing:
    """A handle of a process that is not there."""

    ticket = Ticket("token", "a", "boot", 1, 1)

    async def exited(self) -> Exit:
        return Exit(0)

    async def stop(self, grace: float, repeat_term_after: float | None = None) -> Exit:
        return Exit(0)

    def kill(self) -> None: ...

    def hurry(self) -> None: ...

    async def listening(self, port: int) -> Listening:
        return Listening.NOBODY


@dataclass
class Catcher:
    commands: list[Command] = field(default_factory=list)
    fails: Exception | None = None

    async def launch(self, command: Command, record: Record) -> Nothing:
        self.commands.append(command)
        await record(Nothing.ticket)
        if self.fails:
            raise self.fails
        return Nothing()


@dataclass
class Drawer:
    """Tickets in memory; a full one takes no more."""

    tickets: list[str] = field(default_factory=list)
    is_full: bool = False

    async def add(self, ticket: Ticket) -> None:
        if self.is_full:
            raise StorageFailed("the disk is full")
        self.tickets.append(ticket.token)

    async def remove(self, token: str) -> None:
        if token in self.tickets:
            self.tickets.remove(token)


def options(backend_type: str = "llama_cpp", **raw: Any) -> InstanceOptions:
    return parse_options({"backend_type": backend_type, **raw}, Instances())[0]


Make = Callable[..., Workshop]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(environ: dict[str, str] | None = None, **settings: Any) -> Workshop:
        tree = parse(Settings, {"data_dir": str(tmp_path / "data"), **settings})
        return Workshop(tree, Catcher(), Drawer(), Ports(*PORTS), environ or {})

    return make


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """An executable file that does nothing."""
    file = tmp_path / "bin" / "my server"
    file.parent.mkdir()
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


class TestWords:
    @pytest.mark.parametrize(
        ("kind", "words"), [("llama_cpp", ("llama-server",)), ("mlx_lm", ("mlx_lm.server",)), ("vllm", ("vllm", "serve"))]
    )
    def test_without_configuration_it_is_the_usual_command(self, make: Make, kind: str, words: tuple[str, ...]) -> None:
        assert make().words(BACKENDS[kind], options(kind)) == words

    @pytest.mark.parametrize(
        ("configured", "override", "words"),
        [
            ({"command": "/opt/vllm"}, None, ("/opt/vllm", "serve")),
            ({"args": ["serve", "--x"]}, None, ("vllm", "serve", "--x")),
            ({"args": []}, None, ("vllm",)),
            ({"command": "docker", "args": ["run", "vllm"]}, None, ("docker", "run", "vllm")),
            ({}, "/mine", ("/mine", "serve")),
            ({"command": "/opt/vllm", "args": ["a"]}, "/mine", ("/mine", "a")),
            ({"command": "/opt/vllm", "args": ["a"]}, ["/mine"], ("/mine",)),
            ({}, ["nice", "-n", "5", "vllm", "serve"], ("nice", "-n", "5", "vllm", "serve")),
            ({}, "rm -rf / ; echo $HOME", ("rm -rf / ; echo $HOME", "serve")),
        ],
    )
    def test_an_instance_wins_over_the_backends_settings(
        self, make: Make, configured: dict[str, Any], override: object, words: tuple[str, ...]
    ) -> None:
        workshop = make(backends={"vllm": configured, "mlx": {"command": "other"}})
        assert workshop.words(VLLM, options("vllm", command_override=override)) == words


class TestEnvironment:
    INHERITED = (
        "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV",
        "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HF_HOME",
        "HF_TOKEN", "HUGGINGFACE_HUB_CACHE", "LLAMA_CACHE", "GGML_CUDA_NO_PINNED", "VLLM_LOGGING_LEVEL", "TORCH_HOME",
        "OMP_NUM_THREADS", "https_proxy", "NO_PROXY", "SSL_CERT_FILE",
    )  # fmt: skip
    KEPT_BACK = (
        "LD_PRELOAD", "PYTHONPATH", "PYTHONSTARTUP", "BASH_ENV", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "GITHUB_TOKEN",
        "SSH_AUTH_SOCK", "LLAMACTL_MANAGEMENT_KEYS", "LLAMACTL_API_KEY", "LLAMACTL_SPAWN", "NOTIFY_SOCKET", "LISTEN_FDS",
        "MY_PATH", "PATHS", "path", "XHF_TOKEN", "CUDA", "SUDO_USER", "PS1", "PATH\nLD_PRELOAD",
    )  # fmt: skip

    def test_a_backend_gets_what_finds_programs_models_and_devices_and_nothing_else(self, make: Make) -> None:
        environ = dict.fromkeys((*self.INHERITED, *self.KEPT_BACK), "x")
        assert set(make(environ).environment(LLAMA, options())) == set(self.INHERITED)

    def test_an_instance_wins_over_its_backend_and_that_over_the_daemon(self, make: Make) -> None:
        workshop = make(
            {"PATH": "daemon", "HOME": "daemon", "HF_HOME": "daemon"},
            backends={
                "llama-cpp": {"environment": {"HOME": "backend", "HF_HOME": "backend"}},
                "vllm": {"environment": {"A": "b"}},
            },
        )
        found = workshop.environment(LLAMA, options(environment={"HF_HOME": "instance", "LD_PRELOAD": "on purpose"}))
        assert found == {"PATH": "daemon", "HOME": "backend", "HF_HOME": "instance", "LD_PRELOAD": "on purpose"}


class TestExecutable:
    def test_a_name_is_looked_up_on_the_path_and_the_rest_is_kept(self, program: Path) -> None:
        found = executable(("my server", "--flag", "a b", ""), str(program.parent), LLAMA.install_hint)
        assert found == (str(program), "--flag", "a b", "")

    def test_a_path_is_made_absolute(self, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(program.parent.parent)
        monkeypatch.setenv("HOME", str(program.parent.parent))
        for word in ("bin/my server", "./bin/my server", "~/bin/my server", str(program)):
            assert executable((word,), "/nowhere", LLAMA.install_hint) == (str(program),)

    def test_programs_beside_our_own_interpreter_are_found_last(self, tmp_path: Path) -> None:
        ours = Path(sys.executable)
        assert executable((ours.name,), "/nowhere", MLX.install_hint) == (str(ours),)
        (tmp_path / ours.name).symlink_to("/bin/true")
        assert executable((ours.name,), str(tmp_path), MLX.install_hint) == (str(tmp_path / ours.name),)

    @pytest.mark.parametrize(
        "word",
        ["nope", "/no-such-place-as-this", "~nobody/nope", "", " ", "a\0b", "x" * 5000, "my server --flag", "$(my server)"],
    )
    def test_what_is_no_program_is_refused_with_what_installs_it(self, program: Path, word: str) -> None:
        with pytest.raises(StartFailed) as caught:
            executable((word,), str(program.parent), VLLM.install_hint)
        said = f"{word!r} is not an executable file or a command on PATH; {VLLM.install_hint}"
        assert str(caught.value) == said

    def test_a_file_that_may_not_be_executed_and_a_directory_are_refused(self, program: Path) -> None:
        program.chmod(0o644)
        for word in (str(program), str(program.parent), "my server"):
            with pytest.raises(StartFailed, match="is not an executable file"):
                executable((word,), str(program.parent), LLAMA.install_hint)


class TestModel:
    @pytest.mark.parametrize("kind", [LLAMA, MLX, VLLM], ids=lambda kind: kind.type)
    @pytest.mark.parametrize(
        "model",
        [
            "/no-such-place-as-this/m.gguf",
            "./nope",
            "../nope",
            "~/nope.gguf",
            "~nobody/nope",
            "/" + "x" * 300,
            "/dev/null/x",
            "/" * 5000 + "x",
        ],
    )
    def test_a_path_that_does_not_exist_is_refused_before_any_start(self, kind: Any, model: str) -> None:
        with pytest.raises(StartFailed, match="does not exist"):
            refuse_missing_model(kind, options(kind.type, backend_options={"model": model}))

    @pytest.mark.parametrize("model", ["/dev/null", "/", "~", "./", "org/model", "model.gguf", "hf:x"])
    def test_what_exists_or_is_no_path_of_this_machine_is_left_to_the_server(self, model: str) -> None:
        refuse_missing_model(LLAMA, options(backend_options={"model": model}))

    def test_a_model_below_the_home_directory_is_given_by_its_whole_path(
        self, make: Make, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "a model.gguf").touch()
        wanted = options(backend_options={"model": "~/a model.gguf"}, command_override=str(program))
        argv = make().compose("a", wanted, "127.0.0.1", 8001, None).command.argv
        assert argv[argv.index("--model") + 1] == str(tmp_path / "a model.gguf")
        assert wanted.backend_options["model"] == "~/a model.gguf"

    def test_no_model_is_no_missing_model(self) -> None:
        refuse_missing_model(LLAMA, options())


class TestPrepare:
    async def test_the_command_is_complete_and_the_key_travels_in_the_environment_only(
        self, make: Make, program: Path, tmp_path: Path
    ) -> None:
        workshop = make({"PATH": "/bin", "LLAMA_API_KEY": "the daemon's own"})
        launch = await workshop.prepare("a", options(command_override=str(program), backend_options={"model": "/dev/null"}))
        (command,) = workshop.launcher.commands  # type: ignore[attr-defined]
        port = str(launch.port)
        assert command.argv == (str(program), "--model", "/dev/null", "--alias", "a", "--host", "127.0.0.1", "--port", port)
        assert PORTS[0] <= launch.port <= PORTS[1]
        assert (command.port, command.log, launch.program) == (launch.port, tmp_path / "data" / "logs" / "a.log", "my server")
        key = command.environment["LLAMA_API_KEY"]
        assert len(key) > 40
        assert launch.target.headers == {"Authorization": f"Bearer {key}"}
        assert key not in repr(command) + repr(launch) + " ".join(command.argv)
        assert workshop.tickets.tickets == ["token"]  # type: ignore[attr-defined]

    async def test_every_start_has_a_key_and_a_port_of_its_own(self, make: Make, program: Path) -> None:
        workshop = make()
        launches = [await workshop.prepare("a", options(command_override=str(program))) for _ in range(3)]
        assert len({launch.port for launch in launches}) == 3
        assert len({launch.target.headers["Authorization"] for launch in launches}) == 3

    async def test_a_server_that_knows_no_keys_gets_none(self, make: Make, program: Path) -> None:
        workshop = make()
        launch = await workshop.prepare(
            "a", options("mlx_lm", command_override=[str(program)], backend_options={"model": "/dev"})
        )
        assert launch.target.headers == {}

    @pytest.mark.parametrize(
        ("changes", "fails", "is_full", "said"),
        [
            ({"command_override": "/no-such-place-as-this"}, None, False, "is not an executable file"),
            ({"backend_options": {"model": "/no-such-place-as-this"}}, None, False, "does not exist"),
            ({}, StartFailed("exec failed"), False, "exec failed"),
            ({}, None, True, "the disk is full"),
        ],
        ids=["no program", "no model", "no start", "no ticket"],
    )
    async def test_a_start_that_fails_leaves_neither_port_nor_ticket(
        self, make: Make, program: Path, changes: dict[str, Any], fails: Exception | None, is_full: bool, said: str
    ) -> None:
        workshop = make()
        before = repr(workshop.ports)
        workshop.launcher.fails = fails  # type: ignore[attr-defined]
        workshop.tickets.is_full = is_full  # type: ignore[attr-defined]
        with pytest.raises((StartFailed, StorageFailed), match=said):
            await workshop.prepare("a", options(**{"command_override": str(program), **changes}))
        assert repr(workshop.ports) == before
        assert workshop.tickets.tickets == []  # type: ignore[attr-defined]

    async def test_the_path_of_the_instance_is_the_one_that_is_searched(self, make: Make, program: Path) -> None:
        workshop = make({"PATH": os.defpath})
        environment = {"PATH": str(program.parent)}
        launch = await workshop.prepare("a", options(command_override="my server", environment=environment))
        assert launch.program == "my server"

    async def test_logs_go_where_the_settings_say(self, make: Make, program: Path, tmp_path: Path) -> None:
        workshop = make(instances={"logs_dir": str(tmp_path / "elsewhere")})
        await workshop.prepare("a", options(command_override=str(program)))
        assert workshop.launcher.commands[0].log == tmp_path / "elsewhere" / "a.log"  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Stoppable(Backend):
    """A kind of server that is asked to end by a command."""

    def stop_argv(self, options: Any, *, host: str, port: int, name: str = "", pid: int = 0) -> tuple[str, ...]:
        return ("my server", "--end", f"{name}@{host}:{port}", str(pid))


class TestStopCommands:
    def test_without_one_signals_are_enough(self, make: Make, program: Path) -> None:
        made = make().compose("a", options(command_override=str(program)), "127.0.0.1", 8001, None)
        assert made.command.stop is None

    def test_it_is_looked_up_as_the_server_is_and_told_whom_to_stop(
        self, make: Make, program: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kind = Stoppable(**{f.name: getattr(LLAMA, f.name) for f in fields(LLAMA)})
        monkeypatch.setattr(command, "backend", lambda name: kind)
        made = make({"PATH": str(program.parent)}).compose("a", options(command_override=str(program)), "127.0.0.1", 8001, None)
        assert made.command.stop
        assert made.command.stop(77) == (str(program), "--end", "a@127.0.0.1:8001", "77")
