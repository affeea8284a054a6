"""The law of the package: what options become on a command line is read back as the same options. Over every flag there is.

LLAMACTL_TEST_ROUND_TRIPS=20000 tries so many cases in all, shared out over the backends; without it there are 1,200.
"""

from __future__ import annotations

import os
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamactl_py.backends import BACKENDS, parse_command
from llamactl_py.backends.backend import Backend
from llamactl_py.backends.catalogue import Catalogue, Flag
from llamactl_py.backends.placeholders import has_placeholder
from llamactl_py.backends.values import Unfit, read_word

CASES = int(os.environ.get("LLAMACTL_TEST_ROUND_TRIPS", "1200"))

SERVERS = {name: b for name, b in BACKENDS.items() if not b.takes_any_command}

each_server = pytest.mark.parametrize("backend", SERVERS.values(), ids=list(SERVERS))

_TEXT = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(["-x", "--y=z", "-1", "a=b", " ", "on"]),
).filter(lambda text: not has_placeholder(text))  # a pasted line with ${PORT} is refused: only custom commands fill that in
_EXTRA = st.lists(st.text(string.ascii_letters, min_size=3, max_size=8).map(lambda t: f"--zz-{t}"), min_size=1, max_size=3)


def _is_fit(catalogue: Catalogue, flag: Flag, text: str) -> bool:
    try:
        return read_word(catalogue, flag, text) == text
    except Unfit:
        return False


def scalars(catalogue: Catalogue, flag: Flag) -> st.SearchStrategy[Any]:
    texts = _TEXT.filter(lambda text: _is_fit(catalogue, flag, text))
    whole = st.integers(-(10**20), 10**20)
    if flag.arity == "optional":
        return st.sampled_from(flag.choices) if flag.choices else st.one_of(st.just(True), texts)
    match flag.type:
        case "bool":
            return st.booleans() if flag.negations or flag.arity == "one" else st.just(True)
        case "int":
            return whole
        case "float":
            return st.floats(allow_nan=False, allow_infinity=False)
        case "int|str":
            return st.one_of(whole, texts)
        case _:
            return texts


def values(catalogue: Catalogue, flag: Flag) -> st.SearchStrategy[Any]:
    size = {"two": (2, 2), "many": (1, 3), "repeat": (1, 3)}.get(flag.arity)
    one = scalars(catalogue, flag)
    return st.lists(one, min_size=size[0], max_size=size[1]) if size else one


def settable(backend: Backend) -> dict[str, st.SearchStrategy[Any]]:
    return {flag.key: values(backend.catalogue, flag) for flag in backend.catalogue if not flag.owned}


@each_server
def test_options_survive_the_way_to_words_and_back(backend: Backend) -> None:
    each = settable(backend)
    chosen = st.lists(st.sampled_from(sorted(each)), max_size=12, unique=True)

    @given(chosen.flatmap(lambda keys: st.fixed_dictionaries({k: each[k] for k in keys}, optional={"extra_args": _EXTRA})))
    @settings(max_examples=CASES // len(SERVERS), deadline=None)
    def law(options: dict[str, Any]) -> None:
        assert backend.normalise(options).options == options
        words = backend.arguments(options)
        if words:
            assert parse_command([*backend.command, *words]).backend_options == options

    law()


@each_server
def test_all_flags_at_once_survive_too(backend: Backend) -> None:
    @given(st.fixed_dictionaries(settable(backend)))
    @settings(max_examples=3, deadline=None)
    def law(options: dict[str, Any]) -> None:
        assert parse_command([*backend.command, *backend.arguments(options)]).backend_options == options

    law()


@each_server
def test_every_spelling_of_every_flag_is_read(backend: Backend) -> None:
    samples = {"bool": "true", "int": "3", "float": "0.5", "int|str": "3"}
    for flag in backend.catalogue:
        if flag.owned:
            continue
        value = flag.choices[0] if flag.choices else samples.get(flag.type, "x")
        words = {"switch": [], "two": [value, value]}.get(flag.arity, [value])
        for spelling in flag.spellings:
            options = parse_command([*backend.command, spelling, *words]).backend_options
            assert list(options) == [flag.key], spelling
        for spelling in flag.negations:
            assert parse_command([*backend.command, spelling]).backend_options == {flag.key: False}, spelling
