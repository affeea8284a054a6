"""A client of our own API, for the command line: blocking, and light enough to start in milliseconds."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

Instance = dict[str, Any]

_HOST_AND_PORT = re.compile(r"(\[[^\]/]*\]|[^:/@\s]+):\d+/?")


class Unreachable(Exception):
    """No daemon answers at that address."""


class BadAddress(Unreachable):
    """What was given as its address cannot be one."""


class BrokenOff(Unreachable):
    """The daemon had begun to answer when the connection ended."""


class Refused(Exception):
    """The daemon answered with an error; the message is what it said."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Client:
    """`Client("http://127.0.0.1:8080", key)`; raises BadAddress. Every method raises Unreachable and Refused.

    *key_source* says to people where the key came from.
    """

    def __init__(self, url: str, key: str | None, timeout: float = 300.0, *, key_source: str = "") -> None:
        self.url = address(url)
        self._parts = urlsplit(self.url)
        self._timeout = timeout
        self._key_source = key_source
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    # -- instances --------------------------------------------------------------------------------------------------------

    def instances(self, **query: str | int) -> list[Instance]:
        """All, or those that *query* asks for: status, group, backend_type, search, sort, order, limit, offset, stats."""
        found: list[Instance] = self._json("GET", "/api/v1/instances" + (f"?{urlencode(query)}" if query else ""))
        return found

    def instance(self, name: str, *, stats: bool = False) -> Instance:
        """With *stats* also `usage`: what its processes take of the machine."""
        return self._instance("GET", name, "?stats=true" if stats else "")

    def stats(self, name: str) -> dict[str, Any]:
        """Its state, process and requests, and in `usage` what its processes take of the machine."""
        return self._instance("GET", name, "/stats")

    def create(self, name: str, options: Mapping[str, Any]) -> Instance:
        return self._instance("POST", name, body=options)

    def replace(self, name: str, options: Mapping[str, Any], *, revision: str | None = None) -> Instance:
        """With *revision*, only while it still is that one; else Refused with status 412."""
        return self._instance("PUT", name, body=options, headers=_if_match(revision))

    def patch(self, name: str, changes: Mapping[str, Any], *, revision: str | None = None) -> Instance:
        """Merge *changes* into the options (RFC 7396); None means the default. *revision* as in `replace`."""
        return self._instance("PATCH", name, body=changes, headers=_if_match(revision))

    def start(self, name: str) -> Instance:
        return self._instance("POST", name, "/start")

    def stop(self, name: str) -> Instance:
        return self._instance("POST", name, "/stop")

    def restart(self, name: str) -> Instance:
        return self._instance("POST", name, "/restart")

    def act_on_several(
        self, action: str, *, names: Iterable[str] | None = None, group: str | None = None
    ) -> list[dict[str, Any]]:
        """`start`, `stop` or `restart` those named, those of *group*, or all; what became of each, as the API tells it."""
        which = {"names": list(names)} if names is not None else {"group": group} if group is not None else {"all": True}
        # A stop waits for the requests in flight, however long these may take.
        results: list[dict[str, Any]] = self._json("POST", f"/api/v1/instances/{action}", which, patient=True)["results"]
        return results

    def delete(self, name: str, *, force: bool = False) -> None:
        self._json("DELETE", _path(name) + ("?force=true" if force else ""))

    def command(self, name: str) -> dict[str, Any]:
        """What a start of that instance would run."""
        found: dict[str, Any] = self._json("GET", _path(name) + "/command")
        return found

    def try_command(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """What a start of an instance that does not exist would run."""
        found: dict[str, Any] = self._json("POST", "/api/v1/instances/command", {"name": name, "options": options})
        return found

    def try_change(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """What a start of that instance would run with other options, as for `replace`."""
        return self._instance("POST", name, "/command", body=options)

    def try_patch(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """What a start of that instance would run with some options changed, as for `patch`."""
        return self._instance("POST", name, "/command", body=changes, headers={"Content-Type": "application/merge-patch+json"})

    def parse_command(self, command: str | Sequence[str], backend_type: str | None = None) -> dict[str, Any]:
        """*command*, a line or its words, as options; *backend_type* where it names no known program ("custom": any program)."""
        body: dict[str, Any] = {"command": command} | ({"backend_type": backend_type} if backend_type else {})
        parsed: dict[str, Any] = self._json("POST", "/api/v1/backends/parse-command", body)
        return parsed

    def backends(self) -> list[dict[str, Any]]:
        """Every kind of server, and whether it is installed where the daemon runs."""
        found: list[dict[str, Any]] = self._json("GET", "/api/v1/backends")
        return found

    def backend(self, kind: str, *, refresh: bool = False) -> dict[str, Any]:
        """One kind of server; the first time, or with *refresh*, its program is asked, which may take a minute."""
        path = f"/api/v1/backends/{quote(kind, safe='')}" + ("?refresh=true" if refresh else "")
        with self._request("GET", path, patient=True) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found

    def logs(
        self, name: str, lines: int, *, follow: bool = False, newest_run: bool = False, stream: str = "all"
    ) -> Iterator[bytes]:
        """The log in pieces as they come; with *follow* it does not end by itself. *newest_run*: from its last start on."""
        query = {"lines": str(lines)} | ({"follow": "true"} if follow else {}) | ({"since": "start"} if newest_run else {})
        query |= {"stream": stream} if stream != "all" else {}
        with self._request("GET", f"{_path(name)}/logs?{urlencode(query)}", patient=follow) as answer:
            while part := answer.read1(1 << 16):
                yield part

    def events(self, last_id: str = "", **query: str | int) -> Iterator[tuple[str, Any, str]]:
        """(kind, data, id) of what happens, as it happens; *query*: logs, requests, limit. With *last_id* first what was missed.

        It ends when the daemon does, or drops us as too slow: come back with the last id that was not empty.
        """
        headers = {"Last-Event-ID": last_id} if last_id else {}
        path = "/api/v1/events" + (f"?{urlencode(query)}" if query else "")
        with self._request("GET", path, headers=headers, patient=True) as answer:
            fields: dict[str, str] = {}
            for line in _lines(answer):
                name, _, value = line.decode().rstrip("\r\n").partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields:
                    yield fields.get("event", "message"), json.loads(fields["data"]), fields.get("id", "")
                    fields = {}

    def log_file(self, name: str) -> Iterator[bytes]:
        """All that is kept of the log, the oldest first, in pieces."""
        with self._request("GET", f"{_path(name)}/logs?download=true") as answer:
            while part := answer.read1(1 << 16):
                yield part

    def router_models(self, name: str) -> list[dict[str, Any]]:
        """The models of a llama.cpp instance in router mode, with the status of each; it is started for that."""
        found: list[dict[str, Any]] = self._json("GET", f"/api/v1/llama-cpp/{quote(name, safe='')}/models")["data"]
        return found

    def load_model(self, name: str, model: str, *, load: bool = True) -> None:
        """Have a llama.cpp instance in router mode load *model*, or unload it."""
        action = "load" if load else "unload"
        self._json("POST", f"/api/v1/llama-cpp/{quote(name, safe='')}/models/{quote(model)}/{action}")

    # -- keys, models, the daemon -----------------------------------------------------------------------------------------

    def keys(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._json("GET", "/api/v1/auth/keys")
        return found

    def key(self, id_: int) -> dict[str, Any]:
        found: dict[str, Any] = self._json("GET", f"/api/v1/auth/keys/{id_}")
        return found

    def create_key(self, name: str, **fields: Any) -> dict[str, Any]:
        """*fields*: scope, expires_at, permission_mode, instances, instance_ids, groups, may_start, may_evict."""
        made: dict[str, Any] = self._json("POST", "/api/v1/auth/keys", {"name": name, **fields})
        return made

    def edit_key(self, id_: int, **fields: Any) -> dict[str, Any]:
        """*fields*: as those of `create_key`, but for the scope, and name; what is left out stays."""
        changed: dict[str, Any] = self._json("PATCH", f"/api/v1/auth/keys/{id_}", fields)
        return changed

    def key_permissions(self, id_: int) -> list[dict[str, Any]]:
        """The instances that a key may use: instance_id, instance_name; none for one that may use all."""
        found: list[dict[str, Any]] = self._json("GET", f"/api/v1/auth/keys/{id_}/permissions")
        return found

    def delete_key(self, id_: int) -> None:
        self._json("DELETE", f"/api/v1/auth/keys/{id_}")

    def config(self) -> dict[str, Any]:
        shown: dict[str, Any] = self._json("GET", "/api/v1/config")
        return shown

    def reload_config(self) -> dict[str, Any]:
        done: dict[str, Any] = self._json("POST", "/api/v1/config/reload")
        return done

    def version(self) -> str:
        with self._request("GET", "/api/v1/version") as answer:
            return answer.read().decode()

    def requests(self, **query: str | int) -> list[dict[str, Any]]:
        """The newest requests, newest first; *query*: instance, key, limit, before."""
        found: list[dict[str, Any]] = self._json("GET", "/api/v1/requests" + (f"?{urlencode(query)}" if query else ""))
        return found

    def usage(self) -> dict[str, Any]:
        """What all requests came to since the daemon started: since, total, instances, keys."""
        found: dict[str, Any] = self._json("GET", "/api/v1/usage")
        return found

    def chat(self, model: str, messages: list[dict[str, str]], **parameters: Any) -> Iterator[str]:
        """The words of a streamed answer, as they come."""
        for chunk in self.chat_chunks(model, messages, **parameters):
            for choice in chunk.get("choices") or ():
                if text := (choice.get("delta") or {}).get("content"):
                    yield text

    def chat_chunks(self, model: str, messages: list[dict[str, str]], **parameters: Any) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer, as they come. Raises Refused also for an error that comes in the midst of it."""
        body = {"model": model, "messages": messages, "stream": True, **parameters}
        with self._request("POST", "/v1/chat/completions", body, patient=True) as answer:
            for line in _lines(answer):
                name, _, event = line.strip().partition(b":")
                if name not in (b"data", b"error") or event.strip() == b"[DONE]":
                    continue
                yield _chunk(answer.status, name == b"error", event)

    def complete(self, model: str, messages: list[dict[str, str]], **parameters: Any) -> dict[str, Any]:
        """The whole answer at once, as the server gave it."""
        body = {"model": model, "messages": messages, **parameters}
        found: dict[str, Any] = self._json("POST", "/v1/chat/completions", body, patient=True)
        return found

    # -- the wire ---------------------------------------------------------------------------------------------------------

    def _instance(
        self,
        method: str,
        name: str,
        action: str = "",
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Instance:
        found: Instance = self._json(method, _path(name) + action, body, headers)
        return found

    def _json(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        patient: bool = False,
    ) -> Any:
        with self._request(method, path, body, headers, patient=patient) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    @contextmanager
    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        patient: bool = False,
    ) -> Iterator[http.client.HTTPResponse]:
        """*patient*: silence is no failure, however long it lasts."""
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=None if patient else self._timeout)
        has_begun = False
        try:
            data = json.dumps(body).encode() if body is not None else None
            sent = {**self._headers, **({"Content-Type": "application/json"} if data is not None else {}), **(headers or {})}
            connection.request(method, self._parts.path.rstrip("/") + path, data, sent)
            answer = connection.getresponse()
            has_begun = True
            if answer.status >= 400:
                raise _refusal(answer.status, answer.read(), self._key_source)
            yield answer
        except (OSError, http.client.HTTPException) as error:
            if has_begun:
                raise BrokenOff(f"the daemon at {self.url} broke off in the middle of its answer; did it end?") from None
            raise Unreachable(f"no daemon answers at {self.url} ({_plain(error)}); is `llamactl serve` running?") from None
        finally:
            connection.close()


def address(text: str) -> str:
    """*text* as the URL of a daemon; HOST:PORT is one of http. Raises BadAddress."""
    url = (f"http://{text}" if _HOST_AND_PORT.fullmatch(text) else text).rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise BadAddress(f"{text!r} is not an address of a daemon; write it like http://127.0.0.1:8080 or 127.0.0.1:8080")
    return url


def _lines(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """The lines of *answer*, as they come. Raises IncompleteRead where it breaks off: its own lines simply end there."""
    rest = b""
    while piece := answer.read1(1 << 16):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if answer.length:
        raise http.client.IncompleteRead(rest, answer.length)
    if rest:
        yield rest


def _chunk(status: int, is_error: bool, event: bytes) -> dict[str, Any]:
    """An event of a chat. Raises Refused for an error, which some servers tell in a field of its own."""
    try:
        chunk = json.loads(event)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise Refused(
            status, "", f"the server sent {event[:60].decode(errors='replace').strip()!r} in its stream, which is no JSON object"
        )
    if is_error or chunk.get("error"):
        error = chunk.get("error") or chunk
        message = error.get("message") if isinstance(error, dict) else error
        raise Refused(status, "", f"the answer ended with an error: {message}")
    return chunk


def _if_match(revision: str | None) -> dict[str, str]:
    return {"If-Match": f'"{revision}"'} if revision else {}


def _path(name: str) -> str:
    return f"/api/v1/instances/{quote(name, safe='')}"


def _plain(error: Exception) -> str:
    """What went wrong on the way, without the names and numbers of Python."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError):
        return "it closed the connection without an answer"
    if isinstance(error, http.client.HTTPException):
        return "what answers there does not speak HTTP"
    return (getattr(error, "strerror", None) or str(error)).lower()


def _refusal(status: int, text: bytes, key_source: str) -> Refused:
    try:
        body = json.loads(text)
    except ValueError:
        return Refused(status, "", f"the daemon answered {status}")
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        code, message = str(error.get("code", "")), str(error.get("message", ""))
    else:
        code = str(error)
        message = str(body.get("details", error)) if isinstance(body, dict) else f"the daemon answered {status}"
    if status == 401 and key_source:
        needed, *reasons = message.split("; ")
        expired = [f"{reason}: " for reason in reasons if " has expired " in reason]
        message = f"{needed}; {''.join(expired)}{key_source}"
    return Refused(status, code, message)
