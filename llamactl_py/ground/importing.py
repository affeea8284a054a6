"""How to import much in little time: what is not needed yet comes later, and nothing is prepared that nobody will use."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


class _Later(ModuleType):
    """A module that is imported when something in it is asked for, by whichever thread is first; others wait for it, as for every
    import. (importlib's LazyLoader lets them see half of it.)"""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def lazily(name: str) -> ModuleType:
    """The module *name*, which is loaded when something in it is asked for. Raises ModuleNotFoundError."""
    if name in sys.modules:
        return sys.modules[name]
    if importlib.util.find_spec(name) is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return _Later(name)


@contextmanager
def quickly() -> Iterator[None]:
    """For the imports in the block: no collection looks through what they make, which lives as long as the process."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def without_certificates() -> Iterator[None]:
    """For the import of aiohttp in the block, which makes two TLS contexts for clients that we are not: they read no certificates
    (40 ms, 2 MB). Whoever opens a TLS connection here has to bring a context of his own. What is started meanwhile must not
    be given this process' own variables."""
    before = {name: os.environ.get(name) for name in _CERTIFICATES}
    os.environ.update(dict.fromkeys(_CERTIFICATES, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
