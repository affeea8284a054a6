"""The kinds of servers that can be run, and the way from a command line to an instance's options and back.

Pure: nothing here starts, waits or looks at a file other than the package's own data. Another backend is one file with one
`Backend`, its catalogue (see scripts/catalogue.py), and its name in `BACKENDS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from llamactl_py.backends.backend import Backend, CommandLine, Served, StopRule
from llamactl_py.backends.custom import CUSTOM
from llamactl_py.backends.llama_cpp import LLAMA_CPP
from llamactl_py.backends.llama_cpp_python import LLAMA_CPP_PYTHON
from llamactl_py.backends.lmdeploy import LMDEPLOY
from llamactl_py.backends.mlx_lm import MLX_LM
from llamactl_py.backends.options import Normalised
from llamactl_py.backends.sglang import SGLANG
from llamactl_py.backends.values import Value
from llamactl_py.backends.vllm import VLLM
from llamactl_py.ground.errors import Invalid, Problem, nearest

if TYPE_CHECKING:
    from llamactl_py.backends.parse import Parsed

__all__ = [
    "BACKENDS",
    "Backend",
    "CommandLine",
    "Normalised",
    "Served",
    "StopRule",
    "Value",
    "backend",
    "parse_command",
    "recognises",
]

BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {b.type: b for b in (LLAMA_CPP, LLAMA_CPP_PYTHON, LMDEPLOY, MLX_LM, SGLANG, VLLM, CUSTOM)}
)
"""By type."""


_BY_NAME = {name: one for one in BACKENDS.values() for name in (one.type, one.slug)}

BACKEND_NAMES = tuple(_BY_NAME)
"""Every type and slug."""


def backend(name: str) -> Backend:
    """The backend with that type or slug, in any case. Raises Invalid."""
    if known := _BY_NAME.get(name) or _BY_NAME.get(name.casefold()):
        return known
    hint = nearest(name, BACKEND_NAMES)
    raise Invalid([Problem("backend_type", f"unknown backend {name!r}{hint}; known are {_known()}")])


def _known() -> str:
    """Each as `llamactl backends` lists it, with its type where that is another word."""
    return ", ".join(one.slug if one.slug == one.type else f"{one.slug} ({one.type})" for one in BACKENDS.values())


def recognises(kind: Backend, words: Sequence[str]) -> bool:
    """Does the program that *words* start bear the name of that server?"""
    from llamactl_py.backends.executables import recognise  # asked of programs that are looked for, after the start

    try:
        return not kind.takes_any_command and recognise((*words, "--help"), (kind,)).backend is kind
    except Invalid:
        return False


def parse_command(command: str | Sequence[str], backend_type: str | None = None) -> Parsed:
    """A pasted command line (or its words) as an instance's options.

    Without *backend_type* the program tells which backend it is; a line of options alone needs it. Unknown flags are kept
    verbatim in `extra_args`; what the daemon decides (host, port, keys) is left out with a warning. Raises Invalid.
    """
    from llamactl_py.backends import parse  # it knows all shells; a daemon whose instances have options starts without

    return parse.parse_command(command, backend(backend_type) if backend_type is not None else None, BACKENDS)
