"""Histograms count many at a time what they would count one by one."""

from __future__ import annotations

import random

import pytest

from llamactl_py.accounting.sums import BOUNDS, Histogram


def bucket(seconds: float) -> int:
    return next((number for number, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))


@pytest.mark.parametrize("count", [0, 1, 2, 64, 1000])
def test_each_is_counted_in_the_first_bucket_whose_bound_it_does_not_pass(count: int) -> None:
    chance = random.Random(count)
    seconds = [chance.choice((chance.choice(BOUNDS), 10 ** chance.uniform(-5, 4))) for _ in range(count)]
    histogram, expected = Histogram(), [0] * (len(BOUNDS) + 1)
    for one in seconds:
        expected[bucket(one)] += 1
    for start in range(0, count, 100):
        histogram.add(seconds[start : start + 100])
    assert histogram.counts == expected
    assert histogram.total == pytest.approx(sum(seconds))


def test_what_takes_longer_than_all_bounds_is_counted_too() -> None:
    histogram = Histogram()
    histogram.add([BOUNDS[-1], 1e9, 0.0])
    assert (histogram.counts[0], histogram.counts[-2:]) == (1, [1, 1])
