"""One example of each error."""

from __future__ import annotations

from llamactl_py.ground import errors
from llamactl_py.ground.errors import LlamactlError, Problem

_TOLD: tuple[LlamactlError, ...] = (
    errors.NotFound("there is no instance 'qwem' (did you mean 'qwen'?)"),
    errors.UnknownModel("there is no model 'qwem' (did you mean 'qwen'?); GET /v1/models lists what there is"),
    errors.NameTaken("the name 'qwen' belongs to instance 'qwen' already"),
    errors.Conflict("instance 'qwen' is ready: stop it first, or use force"),
    errors.Declared("instance 'qwen' is declared in /etc/llamactl/config.yaml:12: change it there"),
    errors.LimitReached("there are 100 instances already (instances.max_instances)"),
    errors.Changed("instance 'qwen' was changed meanwhile; read it again"),
    errors.NotRunning("instance 'qwen' is stopped and is not started by this request; start it first"),
    errors.NoRoom("every running slot is held by a busy instance; try again later"),
    errors.TooManyWatchers("100 clients follow events and logs already, and server.max_watchers is 100"),
    errors.TimedOut("instance 'qwen' was not ready within 300 seconds"),
    errors.StartFailed("instance 'qwen' could not be started: 'llama-server' is not a command on PATH"),
    errors.WasStopped("instance 'qwen' was stopped while the request waited for it"),
    errors.ShuttingDown("llamactl is shutting down"),
    errors.BackendFailed("instance 'qwen' closed the connection before it answered"),
    errors.StorageFailed("the database could not be written: no space is left on the device; nothing was changed"),
    errors.Unauthenticated("this route needs a management key; no key was sent; send it as: Authorization: Bearer KEY"),
    errors.Forbidden("key 'notebook' is an inference key; this route needs a management key"),
    errors.BadRequest("keys in the query string end up in logs; send the key as: Authorization: Bearer KEY"),
    errors.TooLarge("the request body is over 1048576 bytes (the most that the management API takes)"),
    errors.WrongType("'text/xml' is no form of patch known here; send application/merge-patch+json (RFC 7396)"),
    errors.Invalid([Problem("idle_timeout", "'soon' is not a duration; write a number or a string such as '90s', '15m'")]),
    errors.BadCommand([Problem("command", "line 1, column 14: the quote is not closed")]),
    errors.InvalidName([Problem("name", "'-rf' is not usable: take letters, digits, '.', '_' and '-', beginning with a letter")]),
)  # fmt: skip
ERRORS = {type(error): error for error in _TOLD}
"""By class."""
