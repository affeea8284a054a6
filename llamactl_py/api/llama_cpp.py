"""What only llama.cpp's server has: its native routes for clients, and the models of its router mode for those who manage."""

from __future__ import annotations

import msgspec
from aiohttp import web

from llamactl_py.api import permits
from llamactl_py.api.body import read_body
from llamactl_py.api.instances import pass_on
from llamactl_py.api.route import Route, caller_of
from llamactl_py.auth.policy import Access
from llamactl_py.backends import backend
from llamactl_py.ground import errors
from llamactl_py.ground.errors import NotFound
from llamactl_py.ground.names import instance_name
from llamactl_py.instances.instance import Instance
from llamactl_py.services import Services

READS = ("props", "slots", "health", "metrics", "lora-adapters")
WATCHED = ("health", "metrics")
"""What monitors ask for again and again: that must not start a model."""
WRITES = (
    "apply-template", "completion", "completions", "detokenize", "embedding", "embeddings", "infill", "metrics", "props",
    "rerank", "reranking", "tokenize",
)  # fmt: skip


async def get_page(services: Services, request: web.Request) -> web.StreamResponse:
    """Show the page of a llama.cpp server.

    Only while it is up: looking at a page starts nothing.
    """
    return await _pass_on(services, request, _native(services, request), may_start=False)


async def read_native(services: Services, request: web.Request) -> web.StreamResponse:
    """Ask a llama.cpp server about itself.

    `props`, `slots` and `lora-adapters` start a stopped instance, `health` and `metrics` do not. None keeps it from idling out.
    """
    return await _pass_on(services, request, _native(services, request), may_start=request.match_info["native"] not in WATCHED)


async def call_native(services: Services, request: web.Request) -> web.StreamResponse:
    """Call a native route of a llama.cpp server.

    The path after the name is the server's, and no `model` is needed. A stopped instance is started first.
    """
    return await _pass_on(services, request, _native(services, request), may_start=True)


async def call_openai(services: Services, request: web.Request) -> web.StreamResponse:
    """Call an OpenAI-style route of one llama.cpp server.

    As under /v1, but the instance is named by the path, and the body reaches it as it is.
    """
    return await _pass_on(services, request, _native(services, request), may_start=True)


async def list_router_models(services: Services, request: web.Request) -> web.StreamResponse:
    """List the models of a llama.cpp server.

    In router mode with the status of each. A stopped instance is started first.
    """
    return await pass_on(services, request, _native(services, request), "/models", b"", may_start=True, counts_as_use=False)


async def load_router_model(services: Services, request: web.Request) -> web.StreamResponse:
    """Have a llama.cpp server in router mode load a model.

    Without a body, the model in the path; a body is passed on as it is. A stopped instance is started first.
    """
    return await _switch_model(services, request, "/models/load")


async def unload_router_model(services: Services, request: web.Request) -> web.StreamResponse:
    """Have a llama.cpp server in router mode unload a model.

    Without a body, the model in the path; a body is passed on as it is. A stopped instance is started first.
    """
    return await _switch_model(services, request, "/models/unload")


async def _switch_model(services: Services, request: web.Request, path: str) -> web.StreamResponse:
    instance = _native(services, request)
    body = await read_body(services, request) or msgspec.json.encode({"model": request.match_info["model"]})
    return await pass_on(services, request, instance, path, body, may_start=True, counts_as_use=True)


async def _pass_on(services: Services, request: web.Request, instance: Instance, *, may_start: bool) -> web.StreamResponse:
    path = "/" + request.raw_path.split("/", 3)[3]  # behind the name, however that was spelled
    body = await read_body(services, request)
    return await pass_on(services, request, instance, path, body, may_start, counts_as_use=request.method == "POST")


def _native(services: Services, request: web.Request) -> Instance:
    """Raises InvalidName, NotFound, also for an instance of another kind, and Forbidden where the key is not for it."""
    instance = permits.instance(services, caller_of(request), instance_name(request.match_info["name"]))
    kind = backend(instance.options.backend_type)
    if kind.slug != "llama-cpp":
        raise NotFound(f"instance {instance.name!r} is of type {kind.type!r}: only llama_cpp has native routes; take /v1")
    return instance


_BASE = "/llama-cpp/{name}"
_MODELS = "/api/v1/llama-cpp/{name}/models"
_PASSES = (
    errors.BackendFailed, errors.BadRequest, errors.InvalidName, errors.NoRoom, errors.NotFound, errors.NotRunning,
    errors.TooLarge,
)  # fmt: skip
_STARTS = (*_PASSES, errors.ShuttingDown, errors.StartFailed, errors.TimedOut, errors.WasStopped)

ROUTES = (
    Route("GET", f"{_BASE}/", get_page, Access.INFERENCE, "llama.cpp", raises=_PASSES),
    Route("GET", f"{_BASE}/{{native:{'|'.join(READS)}}}", read_native, Access.INFERENCE, "llama.cpp", raises=_STARTS),
    Route(
        "POST", f"{_BASE}/{{native:{'|'.join(WRITES)}}}", call_native, Access.INFERENCE, "llama.cpp", raises=_STARTS,
        example={"content": "Hello"},
    ),
    Route(
        "POST", f"{_BASE}/v1/{{path}}", call_openai, Access.INFERENCE, "llama.cpp", raises=_STARTS,
        example={"messages": [{"role": "user", "content": "Hello"}]},
    ),
    Route("GET", _MODELS, list_router_models, Access.MANAGEMENT, "llama.cpp", raises=_STARTS),
    Route("POST", f"{_MODELS}/{{model:.+}}/load", load_router_model, Access.MANAGEMENT, "llama.cpp", raises=_STARTS),
    Route("POST", f"{_MODELS}/{{model:.+}}/unload", unload_router_model, Access.MANAGEMENT, "llama.cpp", raises=_STARTS),
)  # fmt: skip
