"""Files of other programs as a configuration file of ours: what can be carried over is, and every line that cannot is named."""

from __future__ import annotations

import json

from llamactl_py.importers import llama_swap, llamactl
from llamactl_py.importers.database import read_database
from llamactl_py.importers.write import Imported

__all__ = ["Imported", "read", "read_database"]


def read(text: str) -> Imported:
    """*text*: llama-swap's YAML, or llamactl's instances as JSON (what GET /api/v1/instances answers, or one of them).

    Raises BadRequest when it is neither.
    """
    if text.lstrip()[:1] not in ("{", "["):
        return llama_swap.read(text)
    try:
        return llamactl.read(json.loads(text))
    except (ValueError, RecursionError):
        return llama_swap.read(text)  # YAML in braces
