"""From a request with a `model` to the instance that answers it: the same way for requests that the front took and for those
that aiohttp read. Where the instance is ready and a connection to it rests, the front's go without a task and without waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from llamactl_py.api import permits, problems
from llamactl_py.api.account import Account
from llamactl_py.auth.hosts import names_us
from llamactl_py.auth.keys import digest
from llamactl_py.auth.policy import ANYBODY, OPENS, Access, Caller, may_pass
from llamactl_py.ground.errors import BackendFailed, BadRequest, LlamactlError
from llamactl_py.instances.instance import Instance
from llamactl_py.instances.last_words import telling_line
from llamactl_py.instances.state import State
from llamactl_py.instances.target import Target
from llamactl_py.proxy.client import Client
from llamactl_py.proxy.desk import Work
from llamactl_py.proxy.exchange import Exchange, Watch
from llamactl_py.proxy.front import LONGEST_HEAD, Front
from llamactl_py.proxy.http1 import AnswerHead
from llamactl_py.proxy.narrow import Head
from llamactl_py.proxy.relay import Question, Relayed, cut_short, relay
from llamactl_py.proxy.rewrite import Model, find_model, with_model
from llamactl_py.proxy.upstream import Body, Broken, Stale, Upstream
from llamactl_py.services import Services

if TYPE_CHECKING:
    from llamactl_py.proxy.multipart import Buffer

log = logging.getLogger(__name__)

LARGE_BODY = 1 << 18
"""From this size on (bytes) a body is parsed in a thread: 10 MB take 2 ms, which other streams would feel."""


class _Listed(msgspec.Struct):
    """One line of `model_list`; what `openai.ModelView` says of it, without aiohttp."""

    id: str
    object: str
    created: int
    owned_by: str


INFERRING = tuple(OPENS[Access.INFERENCE])
"""Scopes of keys that may ask models."""


def route(services: Services, body: bytes | bytearray, caller: Caller) -> tuple[Model, Instance, Body]:
    """(the `model` of *body*, its instance, the body as that is to get it). Raises BadRequest, and what `permits.find` does."""
    model = find_model(body)
    instance, found = permits.find(services, caller, model.name)
    return model, instance, with_model(body, model, found.forward)


def model_list(services: Services, caller: Caller) -> bytes:
    """What `GET /v1/models` answers to *caller*."""
    models = [_Listed(name, "model", created, instance) for name, instance, created in permits.listing(services, caller)]
    return msgspec.json.encode({"object": "list", "data": models})


async def infer(services: Services, client: Client, question: Question, caller: Caller, body: bytes | bytearray) -> Relayed:
    """Ask the instance that *body* names; it is started first if it has to be. Raises what `route` and `pass_on` do."""
    try:
        if len(body) < LARGE_BODY:
            model, instance, question.body = route(services, body, caller)
        else:
            model, instance, question.body = await asyncio.to_thread(route, services, body, caller)
    except LlamactlError as error:
        Account(services, None, "", caller, question.method, question.path, len(body)).refused(error)
        raise
    account = Account(services, instance, model.name, caller, question.method, question.path, len(body))
    return await pass_on(services, client, question, instance, account, may_start=True, counts_as_use=True)


async def infer_form(
    services: Services, client: Client, question: Question, caller: Caller, form: Buffer, boundary: bytes
) -> Relayed:
    """`infer` for a form."""
    from llamactl_py.proxy import multipart  # the front gets none: who read the form has imported it

    try:
        field = await asyncio.to_thread(multipart.find_model, form, boundary)
        instance, found = permits.find(services, caller, field.value)
    except LlamactlError as error:
        Account(services, None, "", caller, question.method, question.path, len(form)).refused(error)
        raise
    question.body = multipart.with_model(form, field, found.forward)
    account = Account(services, instance, field.value, caller, question.method, question.path, len(form))
    return await pass_on(services, client, question, instance, account, may_start=True, counts_as_use=True)


async def pass_on(
    services: Services,
    client: Client,
    question: Question,
    instance: Instance,
    account: Account,
    *,
    may_start: bool,
    counts_as_use: bool,
    anew: bool = False,
) -> Relayed:
    """Lease *instance* and relay. Raises what `Dispatcher.lease` does, and BackendFailed with the last words of the backend.

    Whether the caller may use *instance* is known already; what its key may do to have it started is looked at here. *anew*: see
    `relay`.
    """
    was_ready = instance.state is State.READY
    grant = account.caller.grant
    try:
        async with services.dispatcher.lease(
            instance, may_start=may_start and grant.may_start, may_evict=grant.may_evict, counts_as_use=counts_as_use
        ) as target:
            account.granted(instance, was_ready)
            relayed = await relay(
                services.pool, client, question, target, lambda: instance.target is target, account.hear, anew=anew
            )
        account.answered(relayed)
        return relayed
    except BackendFailed as failure:
        account.refused(failure)
        raise await with_last_words(services, instance, failure) from None
    except LlamactlError as error:
        account.refused(error)
        raise permits.discreet(error, account.caller) from None
    finally:
        account.left()  # if nothing else was said


async def with_last_words(services: Services, instance: Instance, failure: BackendFailed) -> BackendFailed:
    """*failure*, and what the backend's log says of it."""
    said = ""
    with suppress(OSError):  # where we may open no more files, the failure itself is told all the same
        said = telling_line(await asyncio.to_thread(services.log_lines, instance.name, 10))
    return BackendFailed(f"instance {instance.name!r} {failure}" + (f"; its log says: {said}" if said else ""))


class FrontDesk:
    """Answers the requests that the front took (a `Desk`)."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def greet(self, head: Head) -> bytes | None:
        if not names_us(head.host, self.services.settings.server):
            return None
        return digest(head.key) if head.key else b""

    def caller(self, digest: bytes) -> Caller | None:
        caller = self.services.keys.holder(digest) if digest else None
        if caller is not None and caller.grant.scope in INFERRING:
            return caller
        return caller or ANYBODY if may_pass(Access.INFERENCE, caller, self.services.requirements) else None

    def begin(self, front: Front, head: Head, caller: Caller, body: bytes | bytearray) -> Work | None:
        services = self.services
        if head.method == "GET":
            front.answer(200, {}, model_list(services, caller))
            return None
        if len(body) >= LARGE_BODY:
            return self.errand(front, head, infer(services, front, _question(head), caller, body))
        try:
            model, instance, asked = route(services, body, caller)
        except LlamactlError as error:
            Account(services, None, "", caller, "POST", head.path, len(body)).refused(error)
            self.refuse(front, head, error)
            return None
        target = services.dispatcher.grant(instance)
        upstream = services.pool.take(target.authority) if target else None
        if upstream is not None and target is not None:  # nothing else can happen until the passage carries it, below
            upstream.send(head.opening(target, sum(map(len, asked))), asked)  # the books are kept while the backend works
        account = Account(services, instance, model.name, caller, "POST", head.path, len(body))
        if target is None:
            return self.wait_for(front, head, asked, account, instance)
        if upstream is None:
            return self.errand(front, head, self._reach(front, head, asked, account, instance, target))
        return Passage(self, front, head, asked, account, instance, target, upstream)

    async def _reach(self, front: Front, head: Head, body: Body, account: Account, instance: Instance, target: Target) -> None:
        """Connect to *instance*, which is ready, and ask it; the lease goes over to the passage. Raises BackendFailed."""
        services = self.services
        try:
            upstream = await services.pool.connect(target.authority)
            if front.transport is None:
                upstream.close()
                raise ConnectionResetError("the client has left")
        except Broken as broken:
            services.dispatcher.give_back(instance, counts_as_use=True)
            failure = BackendFailed(str(broken))
            account.refused(failure)
            raise await with_last_words(services, instance, failure) from None
        except BaseException:
            services.dispatcher.give_back(instance, counts_as_use=True)
            account.left()
            raise
        upstream.send(head.opening(target, sum(map(len, body))), body)
        front.go_on_with(Passage(self, front, head, body, account, instance, target, upstream))

    def wait_for(self, front: Front, head: Head, body: Body, account: Account, instance: Instance, *, anew: bool = False) -> Work:
        """Ask *instance* in a task: it has to be started first, or asked *anew*."""
        asked = _question(head, body)
        passing = pass_on(self.services, front, asked, instance, account, may_start=True, counts_as_use=True, anew=anew)
        return self.errand(front, head, passing)

    def errand(self, front: Front, head: Head, relaying: Coroutine[Any, Any, Relayed | None]) -> Work:
        """See *relaying* through in a task of its own; where it gives None, other work goes on with the answer."""
        return Errand(front.spawn(self._see_through(front, head, relaying)))

    async def _see_through(self, front: Front, head: Head, relaying: Coroutine[Any, Any, Relayed | None]) -> None:
        try:
            relayed = await relaying
        except LlamactlError as error:
            self.refuse(front, head, error)
        except ConnectionError:
            front.abort()  # the client has left, or its connection was reset on purpose
        except Exception:  # a defect of ours: the one who asked gets an answer, and our log the traceback
            log.exception("POST %s failed", head.path)
            front.answer(*problems.told_plain(500, "internal_error", problems.INTERNAL, head.path))
        else:
            if relayed is not None:
                front.finish(relayed)

    def refuse(self, front: Front, head: Head, error: LlamactlError) -> None:
        front.answer(*problems.told(error, head.path))

    def too_slow(self, front: Front, head: Head) -> None:
        timeout = self.services.settings.server.body_timeout
        self.refuse(front, head, BadRequest(f"the request body did not arrive within {timeout:g} seconds (server.body_timeout)"))

    def too_long(self, front: Front) -> None:
        message = f"the head of the request is over {LONGEST_HEAD} bytes"
        front.answer(*problems.told_plain(431, "head_too_long", message, ""))


def _question(head: Head, body: Body = ()) -> Question:
    return Question("POST", head.path, head.lines, body)


class Errand:
    """An answer that a task sees to (a `Work`)."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def leave(self) -> None:
        """A task that is cancelled before its first step would not take it, and give back nothing of what it was handed."""
        asyncio.get_running_loop().call_soon(self._task.cancel)

    def go_on(self) -> None:
        """The task waits for that itself."""


class Passage(Exchange):
    """An answer on its way from an instance that was ready, over a connection that is sent the request: all that is left to do is
    to listen (a `Work`). It holds a lease."""

    def __init__(
        self,
        desk: FrontDesk,
        front: Front,
        head: Head,
        body: Body,
        account: Account,
        instance: Instance,
        target: Target,
        upstream: Upstream,
    ) -> None:
        Exchange.__init__(self, front, target)  # what super() would find, at a third of its price
        self._desk = desk
        self._front = front
        self._asked = head
        self._body = body
        self._account = account
        self._instance = instance
        self._upstream = upstream
        account.granted_at_once()
        upstream.carry(self)

    def leave(self) -> None:
        if not self.is_over:
            self.lose_client()
            self._upstream.close()
            self._give_back()
            self._account.left()

    def go_on(self) -> None:
        if self.is_full:
            self._upstream.go_on()

    def is_current(self) -> bool:
        return self._instance.target is self.target

    def hear(self, head: AnswerHead) -> Watch:
        return self._account.hear(head)

    def hear_whole(self, head: AnswerHead, body: bytes) -> None:
        self._account.hear_whole(head, body)

    def tell(self) -> None:
        if not self.is_complete and not self.failure:
            return  # the client is slow: `go_on` comes when it has read
        self._give_back()
        front = self._front
        try:
            self._upstream.conclude()
        except ConnectionError:
            self._account.left()
            front.abort()
        except Stale:  # it was closed before our request got there; a new one tells whether the backend lives
            front.go_on_with(self._desk.wait_for(front, self._asked, self._body, self._account, self._instance, anew=True))
        except Broken as broken:
            front.go_on_with(self._desk.errand(front, self._asked, self._tell(broken)))
        else:
            assert self.head is not None
            relayed = Relayed(self.head.status, self.sent, self.stays_open)
            self._account.answered(relayed)
            front.finish(relayed)

    async def _tell(self, broken: Broken) -> Relayed:
        try:
            relayed = cut_short(broken, self._front, self.target)
            self._account.answered(relayed)
            return relayed
        except BackendFailed as failure:
            self._account.refused(failure)
            raise await with_last_words(self._desk.services, self._instance, failure) from None

    def _give_back(self) -> None:
        self._desk.services.dispatcher.give_back(self._instance, counts_as_use=True)
