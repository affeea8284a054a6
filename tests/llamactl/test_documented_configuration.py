"""The configuration files that llamactl's own documents show, read and run by us as they stand there.

`SHOWN` holds them, by what they are about. Keys that have nothing to do here are warned of, and everything else is in force.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamactl_py.config.load import Configuration, Sources, load
from llamactl_py.ground.errors import BadConfiguration
from tests.support.house import house

DOCKER = '["run", "--rm", "--network", "host", "--gpus", "all"]'
SERVER = """
server:
  host: "0.0.0.0"
  port: 8080
  allowed_origins: ["*"]
  allowed_headers: ["*"]
  enable_swagger: false
"""
BACKENDS = f"""
backends:
  llama-cpp:
    command: "llama-server"
    args: []
    environment: {{}}
    docker:
      enabled: false
      image: "ghcr.io/ggml-org/llama.cpp:server"
      args: {DOCKER}
      environment: {{}}
    response_headers: {{}}
  vllm:
    command: "vllm"
    args: ["serve"]
    environment: {{}}
    docker:
      enabled: false
      image: "vllm/vllm-openai:latest"
      args: {DOCKER[:-1]}, "--shm-size", "1g"]
      environment: {{}}
    response_headers: {{}}
  mlx:
    command: "mlx_lm.server"
    args: []
    environment: {{}}
    response_headers: {{}}
"""
INSTANCES = """
instances:
  port_range: [8000, 9000]
  configs_dir: data_dir/instances
  logs_dir: data_dir/logs
  auto_create_dirs: true
  max_instances: -1
  max_running_instances: -1
  enable_lru_eviction: true
  default_idle_timeout: 30
  default_auto_restart: true
  default_max_restarts: 3
  default_restart_delay: 5
  default_on_demand_start: true
  on_demand_start_timeout: 120
  timeout_check_interval: 5
  group_limits: {}
"""
ROTATION = """
  log_rotation_enabled: true
  log_rotation_max_size: 100
  log_rotation_compress: false
"""
DATABASE = """
database:
  path: data_dir/llamactl.db
  max_open_connections: 25
  max_idle_connections: 5
  connection_max_lifetime: 5m
"""
AUTH = """
auth:
  require_inference_auth: true
  require_management_auth: true
  management_keys: []
"""
NODES = """
local_node: "main"
nodes:
  main:
"""
DATA = "\ndata_dir: ~/.local/share/llamactl\n"
SHOWN = {
    "everything": SERVER + BACKENDS + DATA + INSTANCES + DATABASE + AUTH + NODES,
    "variables": """
auth:
  management_keys:
    - ${OPENAI_API_KEY}
backends:
  llama-cpp:
    environment:
      CUDA_VISIBLE_DEVICES: ${CUDA_DEVICE:-0}
""",
    "server": SERVER,
    "backends": BACKENDS,
    "data": DATA,
    "instances": INSTANCES + ROTATION,
    "database": DATABASE,
    "auth": AUTH,
    "nodes": 'local_node: "main"\nnodes:\n  main: {address: "", api_key: ""}\n'
    '  worker1: {address: "http://192.168.1.10:8080", api_key: "worker1-api-key"}\n',
    "groups": "instances:\n  max_running_instances: 4\n  group_limits:\n    large: 1\n    small: 3\n",
    "containers": f"backends:\n  vllm:\n    command: vllm\n    args: [serve]\n    docker:\n      enabled: true\n"
    f"      image: vllm/vllm-openai:latest\n      args: {DOCKER}\n",
    "both in containers": "backends:\n  llama-cpp:\n    docker: {enabled: true}\n  vllm:\n    docker: {enabled: true}\n",
    "as little as possible": 'server:\n  host: "0.0.0.0"\n  port: 8080\ninstances:\n  port_range: [8000, 9000]\n',
    "origins": 'server:\n  allowed_origins:\n    - "http://localhost:3000"\n    - "https://yourdomain.com"\n',
    "open": "auth:\n  require_management_auth: false\n  require_inference_auth: false\n",
    "a key": 'auth:\n  management_keys:\n    - "your-management-key"\n',
    "a cache": "backends:\n  llama_cpp:\n    cache_dir: /var/cache/llama.cpp\n",
}
ENVIRONMENT = {"OPENAI_API_KEY": "sk-proj-abc123..."}
COMPOSE = {"LLAMACTL_DATA_DIR": "/data", "LLAMACTL_LLAMACPP_DOCKER_ENABLED": "false", "CUDA_VISIBLE_DEVICES": "all"}
"""What the example for docker compose sets. llamactl never reads the first one."""


def read(folder: Path, text: str, environ: dict[str, str] | None = None) -> Configuration:
    (folder / "llamactl.yaml").write_text(text)
    return load(Sources(folder / "llamactl.yaml", ENVIRONMENT | (environ or {}), {}))


@pytest.mark.parametrize("name", SHOWN)
def test_a_documented_file_is_read_and_what_is_not_used_is_told(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, SHOWN[name])
    assert all(" is not used: " in warning for warning in found.warnings)


def test_what_the_files_say_is_in_force(tmp_path: Path) -> None:
    def settings(name: str) -> Any:
        return read(tmp_path, SHOWN[name]).settings

    everything = settings("everything")
    assert (everything.server.host, everything.server.port, everything.instances.port_range) == ("0.0.0.0", 8080, (8000, 9000))
    assert (everything.instances.default_restart_delay, everything.instances.default_idle_timeout) == (5, 1800)
    assert (everything.backends.vllm.args, everything.data_dir) == (("serve",), Path.home() / ".local/share/llamactl")
    assert settings("groups").instances.group_limits == {"large": 1, "small": 3}
    assert settings("variables").auth.management_keys[0] == ENVIRONMENT["OPENAI_API_KEY"]
    assert settings("variables").backends.llama_cpp.environment == {"CUDA_VISIBLE_DEVICES": "0"}
    assert settings("open").auth.require_inference_auth is False


async def test_a_daemon_runs_with_all_that_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # its logs_dir is relative
    (tmp_path / "llamactl.yaml").write_text(SHOWN["everything"])
    async with house(tmp_path, config=tmp_path / "llamactl.yaml") as h:
        await h.create("a")
        assert (await h.chat("a"))[0] == 200
    assert (tmp_path / "data_dir" / "logs" / "a.log").exists()


async def test_the_words_for_docker_begin_with_run_once(tmp_path: Path) -> None:
    (tmp_path / "llamactl.yaml").write_text(SHOWN["containers"])
    async with house(tmp_path, config=tmp_path / "llamactl.yaml") as h:
        body = {"name": "v", "options": {"backend_type": "vllm", "backend_options": {"model": "m"}}}
        status, found = await h.ask("POST", "/api/v1/instances/command", json=body)
    words = found["argv"]
    assert (status, words[1], words.count("run"), words.count("--rm")) == (200, "run", 1, 1)
    assert words[words.index("--network") + 1] == "host"


def test_open_to_all_machines_without_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"refusing to listen on 0\.0\.0\.0 without keys"):
        read(tmp_path, SHOWN["server"] + SHOWN["open"])


def test_the_variables_of_the_example_for_compose_are_taken(tmp_path: Path) -> None:
    (told,) = read(tmp_path, "", COMPOSE).warnings
    assert "LLAMACTL_DATA_DIRECTORY" in told
