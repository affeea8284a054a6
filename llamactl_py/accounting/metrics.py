"""The sums of the ledger, the states of instances and the daemon's own process, as Prometheus reads them.

Import this only to answer a scrape, in a thread: prometheus_client takes up to 60 ms, a quarter of a daemon's start.
How metrics are to be called: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter

from prometheus_client import Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from llamactl_py.accounting.sums import BOUNDS, Sums

Pairs = Sequence[tuple[str, str, Sums]]
"""(instance, key, what their requests came to)."""

PAIR = ("instance", "key")
BUCKETS = (*map(str, BOUNDS), "+Inf")
TIMES = {
    "queue": "From the arrival of a request to its lease, or to the start of its instance for it.",
    "load": "What a request then waited for its instance to load.",
    "first_byte": "From the arrival of a request to the first byte of its answer.",
    "duration": "From the arrival of a request to its end.",
}
"""The histograms of Sums, and what each is."""


@dataclass(frozen=True)
class Figures(Collector):
    """All that is told, as it was at one moment: nobody changes it while it is written out."""

    version: str
    pairs: Pairs
    instances: Sequence[tuple[str, str, int]]
    """(name, state, restarts)."""
    states: Sequence[str]
    """Every state that there is."""

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("llamactl_build", "The version of llamactl.", value={"version": self.version})
        yield from _instances(self)
        yield from _requests(self.pairs)
        yield from _tokens(self.pairs)
        yield from _times(self.pairs)
        yield from ProcessCollector(registry=None).collect()  # nothing where there is no /proc


def exposition(figures: Figures, accept: str) -> tuple[bytes, str]:
    """*figures* as text, and its content type: OpenMetrics where *accept* (a header) asks for it, else Prometheus' own."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # it takes any version for a number
        encode, content_type = choose_encoder("")
    return encode(figures), content_type


def _instances(figures: Figures) -> Iterator[Metric]:
    states = GaugeMetricFamily("llamactl_instance_state", "1 for the state that an instance is in.", labels=("instance", "state"))
    restarts = CounterMetricFamily("llamactl_instance_restarts", "Automatic restarts of an instance.", labels=("instance",))
    for name, now, count in figures.instances:
        for state in figures.states:
            states.add_metric((name, state), int(state == now))
        restarts.add_metric((name,), count)
    yield states
    yield restarts


def _requests(pairs: Pairs) -> Iterator[Metric]:
    ended = CounterMetricFamily("llamactl_requests", "Requests that have ended.", labels=(*PAIR, "status", "outcome"))
    running = GaugeMetricFamily("llamactl_requests_in_flight", "Requests that have not, those that wait among them.", labels=PAIR)
    taken = CounterMetricFamily("llamactl_request_body_bytes", "Bytes of the bodies of requests.", labels=PAIR)
    given = CounterMetricFamily("llamactl_answer_body_bytes", "Bytes of the bodies of their answers.", labels=PAIR)
    for instance, key, sums in pairs:
        for (status, outcome), count in sums.answers.items():
            ended.add_metric((instance, key, str(status), outcome), count)
        running.add_metric((instance, key), sums.in_flight)
        taken.add_metric((instance, key), sums.bytes_in)
        given.add_metric((instance, key), sums.bytes_out)
    yield from (ended, running, taken, given)


def _tokens(pairs: Pairs) -> Iterator[Metric]:
    tokens = CounterMetricFamily("llamactl_tokens", "Tokens, as far as backends tell.", labels=(*PAIR, "kind"))
    seconds = CounterMetricFamily("llamactl_backend_seconds", "Time of backends, as far as they tell.", labels=(*PAIR, "phase"))
    for instance, key, sums in pairs:
        tokens.add_metric((instance, key, "prompt"), sums.prompt_tokens - sums.cached_tokens)
        tokens.add_metric((instance, key, "cached"), sums.cached_tokens)
        tokens.add_metric((instance, key, "completion"), sums.completion_tokens)
        seconds.add_metric((instance, key, "prompt"), sums.prompt_seconds)
        seconds.add_metric((instance, key, "generation"), sums.generation_seconds)
    yield from (tokens, seconds)


def _times(pairs: Pairs) -> Iterator[Metric]:
    for name, meaning in TIMES.items():
        family = HistogramMetricFamily(f"llamactl_request_{name}_seconds", meaning, labels=PAIR)
        histogram_of = attrgetter(name)
        for instance, key, sums in pairs:
            histogram = histogram_of(sums)
            counts = list(accumulate(histogram.counts))
            if counts[-1]:
                family.add_metric((instance, key), list(zip(BUCKETS, counts, strict=True)), histogram.total)
        yield family
