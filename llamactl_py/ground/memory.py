"""What was needed for a while goes back to the system, at moments when nobody waits for us."""

from __future__ import annotations

import gc
import sys
from contextlib import suppress


def give_memory_back() -> None:
    """Collect what is left, and let the system have what was freed. Takes some milliseconds.

    glibc keeps bodies that were freed for the next ones, as a multiple of the largest, which makes uploads fast, but keeps it for
    ever: give it back when the next one is not in sight.
    """
    gc.collect()
    if sys.platform == "linux":
        import ctypes

        with suppress(AttributeError):  # only glibc keeps what was freed, and has this
            ctypes.CDLL(None).malloc_trim(0)


def hold() -> None:
    """Start-up begins: nearly all that it makes lives as long as the process, so nothing is collected before `settle`."""
    gc.disable()


def settle() -> None:
    """Start-up is over: what stays of it is never looked at by a collection again."""
    give_memory_back()
    gc.freeze()
    gc.enable()
