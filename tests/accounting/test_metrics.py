"""What Prometheus is told, read back by its own parsers."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from llamactl_py.accounting.ledger import MOST_PAIRS, Ledger, Outcome
from llamactl_py.accounting.metrics import Figures, exposition
from llamactl_py.accounting.usage import Usage

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
Samples = dict[str, float]


def told(ledger: Ledger, accept: str = "", instances: tuple[tuple[str, str, int], ...] = (("a", "ready", 2),)) -> Samples:
    """Every sample, as `name{label="value",...}`."""
    body, content_type = exposition(Figures("1.2.3", list(ledger.sums()), instances, ("stopped", "ready")), accept)
    assert content_type.startswith("application/openmetrics-text" if accept else "text/plain; version=0.0.4")
    families = (read_openmetrics if accept else read_text)(body.decode())
    samples: Samples = {}
    for family in families:
        for sample in family.samples:
            name = sample.name + "{" + ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items())) + "}"
            assert name not in samples, f"{name} is told twice"
            samples[name] = sample.value
    return samples


def filled(instance: str = "a", key: str = "k") -> Ledger:
    ledger = Ledger(10, lambda: 0.0)
    entry = ledger.begin(10.0, instance, "m", key, "POST", "/", 500)
    entry.loading, entry.granted, entry.first_byte = 10.5, 14.5, 15.0
    entry.end(20.0, 200, Outcome.ANSWERED, 800, Usage(12, 2, 10, 0.5, 24.0, 4.0, 2.5))
    ledger.begin(10.0, instance, "m", key, "POST", "/").end(10.0, 0, Outcome.LEFT)
    ledger.begin(10.0, instance, "m", key, "POST", "/")
    return ledger


@pytest.mark.parametrize("accept", ["", OPENMETRICS], ids=["Prometheus", "OpenMetrics"])
def test_everything_that_was_counted_is_told(accept: str) -> None:
    samples = told(filled(), accept)
    pair = "instance=a,key=k"
    of = {name: value for name, value in samples.items() if name.startswith("llamactl_") and "_bucket" not in name}
    assert of == {
        "llamactl_build_info{version=1.2.3}": 1,
        "llamactl_instance_state{instance=a,state=stopped}": 0,
        "llamactl_instance_state{instance=a,state=ready}": 1,
        "llamactl_instance_restarts_total{instance=a}": 2,
        f"llamactl_requests_total{{{pair},outcome=answered,status=200}}": 1,
        f"llamactl_requests_total{{{pair},outcome=left,status=0}}": 1,
        f"llamactl_requests_in_flight{{{pair}}}": 1,
        f"llamactl_request_body_bytes_total{{{pair}}}": 500,
        f"llamactl_answer_body_bytes_total{{{pair}}}": 800,
        f"llamactl_tokens_total{{{pair},kind=prompt}}": 10,
        f"llamactl_tokens_total{{{pair},kind=cached}}": 2,
        f"llamactl_tokens_total{{{pair},kind=completion}}": 10,
        f"llamactl_backend_seconds_total{{{pair},phase=prompt}}": 0.5,
        f"llamactl_backend_seconds_total{{{pair},phase=generation}}": 4,
        f"llamactl_request_queue_seconds_count{{{pair}}}": 1,
        f"llamactl_request_queue_seconds_sum{{{pair}}}": 0.5,
        f"llamactl_request_load_seconds_count{{{pair}}}": 1,
        f"llamactl_request_load_seconds_sum{{{pair}}}": 4,
        f"llamactl_request_first_byte_seconds_count{{{pair}}}": 1,
        f"llamactl_request_first_byte_seconds_sum{{{pair}}}": 5,
        f"llamactl_request_duration_seconds_count{{{pair}}}": 2,
        f"llamactl_request_duration_seconds_sum{{{pair}}}": 10,
    }


def test_buckets_are_cumulative() -> None:
    samples = told(filled())
    buckets = [value for name, value in samples.items() if name.startswith("llamactl_request_duration_seconds_bucket")]
    assert buckets == [1] * 10 + [2] * 7  # one took no time, one 10 seconds
    assert samples["llamactl_request_duration_seconds_bucket{instance=a,key=k,le=5.0}"] == 1
    assert samples["llamactl_request_duration_seconds_bucket{instance=a,key=k,le=+Inf}"] == 2


def test_the_daemons_own_process_is_told() -> None:
    if not sys.platform.startswith("linux"):
        return  # the library reads /proc
    samples = told(Ledger(0, lambda: 0.0))
    assert samples["process_resident_memory_bytes{}"] > 1e6
    assert samples["process_open_fds{}"] > 2
    assert samples["process_start_time_seconds{}"] > 1e9
    assert samples["process_cpu_seconds_total{}"] > 0


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
    | st.sampled_from(['a"b', "a\\b", "\\n", 'x"} 5'])
)
def test_a_name_may_be_anything_that_a_key_may_be_called(key: str) -> None:
    for accept in ("", OPENMETRICS):
        assert told(filled(key=key), accept)[f"llamactl_requests_in_flight{{instance=a,key={key}}}"] == 1


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("text/html,application/json", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=x,text/plain", "text/plain; version=0.0.4"),
        ("application/openmetrics-text", "application/openmetrics-text; version="),
        (f"{OPENMETRICS},text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "application/openmetrics-text; version=1.0.0"),
        (";;;,,," * 100, "text/plain; version=0.0.4"),
    ],
)
def test_the_form_is_the_one_that_was_asked_for(accept: str, content_type: str) -> None:
    body, given = exposition(Figures("1", [], [], []), accept)
    assert given.startswith(content_type)
    assert body.endswith(b"# EOF\n") is given.startswith("application/openmetrics-text")


WORDS = st.sampled_from(
    ["application/openmetrics-text", "text/plain", "version", "escaping", "=", ";", ",", "1.0.0", "2", "x", ".", "-1", "1.é"]
)


@given(st.lists(WORDS, max_size=12).map("".join))
def test_whatever_is_asked_for_there_is_an_answer(accept: str) -> None:
    assert exposition(Figures("1", [], [], []), accept)[0]


def test_a_full_ledger_is_told_whole() -> None:
    ledger = Ledger(0, lambda: 0.0)
    for number in range(MOST_PAIRS + 10):
        ledger.begin(0.0, f"i{number}", "m", "k", "POST", "/").end(1.0, 200, Outcome.ANSWERED)
    samples = told(ledger)
    assert sum(value for name, value in samples.items() if name.startswith("llamactl_requests_total")) == MOST_PAIRS + 10


def test_a_daemon_that_starts_does_not_pay_for_it() -> None:
    program = "import sys, llamactl_py.daemon; print('prometheus_client' in sys.modules)"
    done = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
