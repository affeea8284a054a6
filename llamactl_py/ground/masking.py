"""Which values are secrets, by the names that they are given under, and what is shown in their place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MASK = "********"
SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)

_FLAG = re.compile(r"(--?[\w-]*(?:token|key|secret|passw|credential)[\w-]*)(=.*)?", re.IGNORECASE | re.DOTALL)


def masked(value: Any, name: str = "") -> Any:
    """A tree of JSON values with every text that stands under a secret's name masked, and words behind a flag of such a name."""
    if isinstance(value, Mapping):
        return {key: masked(below, key) for key, below in value.items()}
    if isinstance(value, list | tuple):
        if SECRET_NAME.search(name):
            return [masked(item, name) for item in value]
        return _masked_words(value)
    return MASK if isinstance(value, str) and value and SECRET_NAME.search(name) else value


def _masked_words(words: Sequence[Any]) -> list[Any]:
    shown: list[Any] = []
    is_secret = False
    for word in words:
        flag = _FLAG.fullmatch(word) if isinstance(word, str) else None
        if flag and flag[2]:
            shown.append(f"{flag[1]}={MASK}")
        else:
            shown.append(MASK if is_secret and not str(word).startswith("--") else masked(word))
        is_secret = bool(flag and not flag[2])
    return shown
