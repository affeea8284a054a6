"""The one door: OpenAI-style requests, each led by its `model` to the instance that serves it."""

from __future__ import annotations

from typing import Literal

from aiohttp import web

from llamactl_py.api import inference, permits
from llamactl_py.api.body import read_body, read_upload
from llamactl_py.api.route import Route, View, caller_of
from llamactl_py.auth.policy import Access
from llamactl_py.ground import errors
from llamactl_py.proxy.asked import AlreadySent, Asked
from llamactl_py.proxy.heads import refuse_tricks
from llamactl_py.proxy.multipart import boundary_of
from llamactl_py.services import Services


class ModelView(View, kw_only=True, omit_defaults=False):
    """One model name that requests may carry."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(View, kw_only=True, omit_defaults=False):
    """Every model name that requests may carry: instances and their aliases."""

    object: Literal["list"] = "list"
    data: list[ModelView]


async def list_models(services: Services, request: web.Request) -> web.StreamResponse:
    """List the models.

    One entry for each instance that the key may use, running or not, and for each of its aliases; `owned_by` is the instance
    that answers.
    """
    return web.Response(body=inference.model_list(services, caller_of(request)), content_type="application/json")


async def get_model(services: Services, request: web.Request) -> ModelView:
    """Show one model: any name that requests with that key may carry."""
    name = request.match_info["model"]
    instance, _ = permits.find(services, caller_of(request), name)
    return ModelView(id=name, created=instance.created_at, owned_by=instance.name)


async def infer(services: Services, request: web.Request) -> web.StreamResponse:
    """Pass an OpenAI-style request to the instance that its `model` names.

    `model` is an instance, an alias, or `instance/model`. A stopped instance is started first, and the request waits for it.
    The body, JSON or a form (multipart/form-data, as audio is sent), reaches the backend byte for byte, except the value of
    `model` where the backend knows itself by another name.
    """
    client, caller = Asked(request), caller_of(request)
    question = client.question(refuse_tricks(request.raw_path), ())
    if request.content_type == "multipart/form-data":
        boundary = boundary_of(request.headers["Content-Type"])
        async with read_upload(services, request) as form:
            return AlreadySent(await inference.infer_form(services, client, question, caller, form, boundary))
    return AlreadySent(await inference.infer(services, client, question, caller, await read_body(services, request)))


_INFER_RAISES = (
    errors.BackendFailed, errors.BadRequest, errors.NoRoom, errors.NotRunning, errors.ShuttingDown, errors.StartFailed,
    errors.TimedOut, errors.TooLarge, errors.UnknownModel, errors.WasStopped,
)  # fmt: skip

ROUTES = (
    Route("GET", "/v1/models", list_models, Access.INFERENCE, "inference", returns=ModelList),
    Route(
        "GET", "/v1/models/{model:.+}", get_model, Access.INFERENCE, "inference", returns=ModelView,
        raises=(errors.UnknownModel,),
    ),
    Route(
        "POST", "/v1/{path}", infer, Access.INFERENCE, "inference", raises=_INFER_RAISES,
        example={"model": "my-model", "messages": [{"role": "user", "content": "Hello"}], "stream": True},
    ),
)  # fmt: skip
