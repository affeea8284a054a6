"""The real llama-server is asked whether it knows every flag that we build, and takes as many values as we give it.

Each process ends at --version, before anything is loaded; a flag that it does not know, or that leaves a word over, ends it
sooner.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.backends import BACKENDS
from llamactl_py.backends.catalogue import Flag
from llamactl_py.backends.helptext import LAYOUTS

LLAMA = BACKENDS["llama_cpp"]
SAMPLES: dict[str, Any] = {"int": 3, "float": 0.5, "int|str": 3, "json": "{}"}


@pytest.fixture(name="known")
def _known(llama_server: Path) -> set[str]:
    """The flags of the help that this very build prints."""
    printed = subprocess.run((llama_server, "--help"), capture_output=True, text=True, check=True).stdout
    return {spelling for entry in LAYOUTS["llama.cpp"](printed) for spelling in (*entry.spellings, *entry.negations)}


def commands(known: set[str], file: Path) -> Iterator[list[str]]:
    for flag in LLAMA.catalogue:
        if flag.owned or flag.removed or not known.intersection(flag.spellings):
            continue
        for value in (True, False) if flag.negations else (sample(flag, file),):
            options = {flag.key: [value, value] if flag.arity == "two" else [value] if flag.takes_list else value}
            yield LLAMA.arguments(LLAMA.normalise(options).options)


def sample(flag: Flag, file: Path) -> Any:
    if flag.type == "bool":
        return True
    text = str(file) if flag.type == "path" else "x"
    return SAMPLES.get(flag.type, flag.choices[0] if flag.choices else text)


def test_it_knows_every_flag_with_as_many_values(llama_server: Path, known: set[str], tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("{}")

    def complaint(words: list[str]) -> str:
        """Empty where it got to --version; a value that it does not like shows that it took it."""
        done = subprocess.run((llama_server, *words, "--version"), capture_output=True, text=True, check=False, timeout=60)
        said = done.stdout + done.stderr
        is_taken = done.returncode == 0 or f'error while handling argument "{words[0]}"' in said
        return "" if is_taken else f"{words}: {said[-200:]}"

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(complaint, commands(known, file)))
    assert len(said) > 200
    assert [text for text in said if text] == []
