"""What answers look like: one example of each model and of each text, told as the daemon itself tells them."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from llamactl_py import __version__
from llamactl_py.accounting.ledger import Outcome
from llamactl_py.api.accounting import NamedTotals, RequestView, Totals, UsageView
from llamactl_py.api.actions import ResultsView, ResultView
from llamactl_py.api.backends import ParsedCommand
from llamactl_py.api.command import CommandView
from llamactl_py.api.config import ConfigView, ReloadView
from llamactl_py.api.key_forms import KeyView, NewKeyView, PermissionView
from llamactl_py.api.openai import ModelList, ModelView
from llamactl_py.api.programs import BackendDetail, BackendView, FlagView, OptionsSchema
from llamactl_py.api.system import Health, Nodes, NodeView, Ready
from llamactl_py.api.views import DescriptionView, FootprintView, InstanceView, stats
from llamactl_py.ground.grant import Scope
from llamactl_py.instances.state import State

_LINE = ["llama-server", "--model", "/models/qwen3-8b-q4_k_m.gguf", "--ctx-size", "8192", "--gpu-layers", "99"]
_OPTIONS: dict[str, Any] = {
    "backend_type": "llama_cpp",
    "backend_options": {"model": "/models/qwen3-8b-q4_k_m.gguf", "ctx_size": 8192, "gpu_layers": 99},
    "auto_restart": True,
    "max_restarts": 3,
    "restart_delay": 5,
    "on_demand_start": True,
    "autostart": False,
    "idle_timeout": 15,
    "start_timeout": 300,
    "stop_timeout": 10,
    "unix_socket": False,
}
_FOOTPRINT = FootprintView(processes=1, memory_bytes=5_870_000_000, cpu_seconds=41.5, cpu_percent=97.2)
_INSTANCE = InstanceView(
    revision="1-9c2f4e", id=1, name="qwen", status="running", created=1_795_000_000, options=_OPTIONS, state=State.READY,
    since=1_795_000_012, pid=26674, port=8000, in_flight=0, idle_seconds=3.2, last_used=1_795_000_100, uptime_seconds=101.4,
    restarts=0, restart_required=False, declared=False,
)  # fmt: skip
_KEY = KeyView(
    id=1, name="notebook", scope=Scope.INFERENCE, permission_mode="per_instance", prefix="llamactl-3fa9", instance_ids=[1],
    instances=["qwen"], groups=[], may_start=True, may_evict=False, expires_at=None, created_at=1_795_000_000,
    updated_at=1_795_000_000, last_used_at=1_795_000_100,
)  # fmt: skip
_TOTALS = Totals(
    requests=12, in_flight=1, outcomes={"answered": 11, "left": 1}, bytes_in=5120, bytes_out=40960, prompt_tokens=830,
    cached_tokens=512, completion_tokens=2048,
)  # fmt: skip
_BACKEND = BackendView(
    type="llama_cpp", slug="llama-cpp", title="llama.cpp", found=True, command=["llama-server"], path="/usr/bin/llama-server",
    version="b9000", options_version="b9000", install="brew install llama.cpp", docker_enabled=False, unix_socket=True,
)  # fmt: skip
_MODEL = ModelView(id="qwen", created=1_795_000_000, owned_by="qwen")

_ANSWERS: tuple[Struct, ...] = (
    _INSTANCE,
    stats(replace(_INSTANCE, usage=_FOOTPRINT)),
    CommandView(
        argv=[*_LINE, "--host", "127.0.0.1", "--port", "8000"], environment={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        directory="/home/me/.local/share/llamactl/instances/qwen", log="/home/me/.local/share/llamactl/logs/qwen.log", port=8000,
        port_is_settled=False, shell=" ".join([*_LINE, "--host 127.0.0.1 --port 8000"]),
    ),
    ResultsView(
        succeeded=1,
        failed=1,
        results=[
            ResultView(name="qwen", http_status=200, instance=_INSTANCE),
            ResultView(name="qwem", http_status=404, error="not_found", details="there is no instance 'qwem'"),
        ],
    ),
    ParsedCommand(backend_type="llama_cpp", backend_options=_OPTIONS["backend_options"]),
    _BACKEND,
    BackendDetail(
        **asdict(_BACKEND), help_is_read=True, new_flags=[FlagView(flags=["--new-flag"], help="does what no older one did")]
    ),
    _KEY,
    NewKeyView(**asdict(replace(_KEY, last_used_at=None)), key="llamactl-" + "3fa9" + 60 * "0"),
    PermissionView(instance_id=1, instance_name="qwen"),
    RequestView(
        id="4f1c-2a", arrived_at=1_795_000_099.125, instance="qwen", model="qwen", key="notebook", method="POST",
        path="/v1/chat/completions", streamed=True, outcome=Outcome.ANSWERED, status=200, bytes_in=512, bytes_out=4096,
        queue_seconds=0.0, first_byte_seconds=0.08, duration_seconds=2.5, prompt_tokens=70, completion_tokens=200,
        completion_tokens_per_second=80.1,
    ),
    UsageView(
        since=1_795_000_000.0, total=_TOTALS, instances=[NamedTotals(name="qwen", **asdict(_TOTALS))],
        keys=[NamedTotals(name="notebook", **asdict(_TOTALS))],
    ),
    ConfigView(
        server={"host": "127.0.0.1", "port": 8080}, data_dir="/home/me/.local/share/llamactl", backends={}, instances={},
        auth={"require_inference_auth": True}, version=__version__, file="/home/me/.config/llamactl/config.yaml",
        origins={"server.port": "/home/me/.config/llamactl/config.yaml:2"}, declared_instances={}, needs_restart=[], warnings=[],
    ),
    ReloadView(
        applied=["instances.max_running_instances"], needs_restart=[], added=["qwen"], changed=[], restarted=[], removed=[],
        warnings=[],
    ),
    DescriptionView(openapi="3.1.0", info={"title": "llamactl", "version": __version__}, paths={}),
    Health(),
    Ready(),
    NodeView(address="http://127.0.0.1:8080"),
    _MODEL,
    ModelList(data=[_MODEL]),
)  # fmt: skip
ANSWERS: dict[type[Struct], object] = {
    **{type(example): example for example in _ANSWERS},
    OptionsSchema: {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "llama.cpp",
        "type": "object",
        "properties": {"ctx_size": {"type": "integer", "description": "size of the prompt context"}},
    },
    Nodes: {},
}
"""By model."""

TEXTS = {
    "get_version": f"Version: {__version__}\nCommit: unknown\nBuild Time: unknown\nPython: 3.13.1\nPlatform: Linux-6.12\n",
    "get_logs": "main: server is listening on http://127.0.0.1:8000\nsrv  update_slots: all slots are idle",
    "get_events": 'id: 5d0c-1\nevent: state\ndata: {"name":"qwen","state":"ready"}\n\n',
    "get_metrics": '# TYPE llamactl_requests_total counter\nllamactl_requests_total{instance="qwen"} 12.0\n',
    **dict.fromkeys(("get_backend_help", "get_server_help"), "usage: llama-server [options]\n"),
    **dict.fromkeys(("get_backend_version", "get_server_version"), "version: 9000 (1a2b3c4)\n"),
    **dict.fromkeys(
        ("get_backend_devices", "get_server_devices"),
        "Available devices:\n  CUDA0: NVIDIA GeForce RTX 4090 (24080 MiB, 23604 MiB free)\n",
    ),
}
"""By operation."""

PASSED_ON = (
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_795_000_000,
        "model": "qwen",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    },
    'data: {"choices": [{"index": 0, "delta": {"content": "Hello"}}]}\n\ndata: [DONE]\n\n',
)
"""What a backend may say to a chat: at once, and as a stream."""
PROPERTIES = {"default_generation_settings": {"n_ctx": 8192}, "total_slots": 1}
"""What one may say of itself."""
