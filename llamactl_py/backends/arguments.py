"""Options to words: the one place where an option becomes part of a command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llamactl_py.backends.catalogue import Catalogue, Flag
from llamactl_py.backends.values import Scalar, Value, write

EXTRA = "extra_args"
"""The option that holds words which the catalogue does not know, verbatim and in order."""


def arguments(catalogue: Catalogue, options: Mapping[str, Value], *, positional_model: bool) -> list[str]:
    """*options* (normalised) as words: the model first, then the catalogue's order, then extra_args as they are.

    With *positional_model* the model stands bare, as `vllm serve MODEL` wants it.
    """
    words: list[str] = []
    if "model" in options:
        model = str(options["model"])
        bare = catalogue.flags["model"].is_positional or (positional_model and not model.startswith("-"))
        words += [model] if bare else _flag_words(catalogue, catalogue.flags["model"], model)
    for key, flag in catalogue.flags.items():
        if key in options and key != "model":
            words += _flag_words(catalogue, flag, options[key])
    extra = options.get(EXTRA, [])
    assert isinstance(extra, list)
    return words + [str(word) for word in extra]


def _flag_words(catalogue: Catalogue, flag: Flag, value: Value) -> Iterator[str]:
    if isinstance(value, list):
        yield from _list_words(catalogue, flag, value)
    elif value is True and flag.arity in ("switch", "optional"):
        yield flag.flag
    elif value is False and flag.arity == "switch":
        yield from flag.negations[:1]
    else:
        yield from _valued(catalogue, flag, value)


def _list_words(catalogue: Catalogue, flag: Flag, value: list[Scalar]) -> Iterator[str]:
    if flag.arity == "repeat":
        for item in value:
            yield from _valued(catalogue, flag, item)
    elif len(value) == 1:
        yield from _valued(catalogue, flag, value[0])
    else:
        yield flag.flag
        yield from map(write, value)


def _valued(catalogue: Catalogue, flag: Flag, value: Scalar) -> Iterator[str]:
    word = write(value)
    # argparse reads `--flag -x` as two flags, and could not tell the value of an optional one from a model's name.
    # llama.cpp has neither trouble, and knows no `=`.
    if catalogue.grammar == "argparse" and (word.startswith("-") or flag.arity == "optional"):
        yield f"{flag.flag}={word}"
    else:
        yield flag.flag
        yield word
