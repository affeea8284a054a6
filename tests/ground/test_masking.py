"""Secrets are known by the names that they stand under: keys of maps, flags of command lines."""

from __future__ import annotations

import pytest

from llamactl_py.ground.masking import MASK, masked


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (
            {"api_key": "x", "HF_TOKEN": "x", "password": "x", "a": "x"},
            {"api_key": MASK, "HF_TOKEN": MASK, "password": MASK, "a": "x"},
        ),
        ({"management_keys": ["x", "y"], "tokens": 5, "key": ""}, {"management_keys": [MASK, MASK], "tokens": 5, "key": ""}),
        ({"a": [{"secret": "x"}, "y"]}, {"a": [{"secret": MASK}, "y"]}),
        (["--api-key", "x", "y"], ["--api-key", MASK, "y"]),
        (["--api-key=x", "y", "-hf-token", "x"], [f"--api-key={MASK}", "y", "-hf-token", MASK]),
        (["--use-token", "--other", "x"], ["--use-token", "--other", "x"]),
        ("x", "x"),
        (5, 5),
        (None, None),
    ],
)
def test_what_stands_under_the_name_of_a_secret_is_masked(value: object, shown: object) -> None:
    assert masked(value) == shown
