"""The states and their edges: what must be true of the graph, whatever edges it gets."""

from __future__ import annotations

import pytest

from llamactl_py.instances.state import AT_REST, EDGES, State, status_word


def before(state: State) -> set[State]:
    return {old for old, news in EDGES.items() if state in news}


def test_every_state_has_its_edges_and_none_leads_to_itself() -> None:
    assert set(EDGES) == set(State)
    assert [state for state in State if state in EDGES[state]] == []


@pytest.mark.parametrize("start", State)
def test_every_state_leads_in_the_end_to_every_other(start: State) -> None:
    seen, todo = {start}, [start]
    while todo:
        new = EDGES[todo.pop()] - seen
        seen |= new
        todo += new
    assert seen == set(State)


def test_only_one_that_was_starting_is_ever_ready() -> None:
    assert before(State.READY) == {State.STARTING}


def test_from_rest_there_is_no_way_but_a_start_or_giving_up() -> None:
    assert {new for state in AT_REST for new in EDGES[state]} == {State.STARTING, State.FAILED}


def test_a_running_one_is_stopped_by_way_of_stopping_only() -> None:
    assert before(State.STOPPED) == {State.STOPPING, State.BACKOFF}


def test_giving_up_is_possible_everywhere() -> None:
    assert before(State.FAILED) == set(State) - {State.FAILED}


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (State.STOPPED, "stopped"),
        (State.STARTING, "running"),
        (State.READY, "running"),
        (State.STOPPING, "shutting_down"),
        (State.BACKOFF, "restarting"),
        (State.FAILED, "failed"),
    ],
)
def test_each_state_has_its_public_word(state: State, word: str) -> None:
    assert status_word(state) == word


def test_every_state_has_a_public_word_that_clients_know() -> None:
    assert {status_word(state) for state in State} == {"stopped", "running", "failed", "restarting", "shutting_down"}
