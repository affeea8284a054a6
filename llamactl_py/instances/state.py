"""The states of an instance, the edges between them, and their public words. Pure."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where an instance is."""

    STOPPED = "stopped"
    """No process of it exists."""
    STARTING = "starting"
    """Its process exists, or is about to, and does not answer yet."""
    READY = "ready"
    """It answers."""
    STOPPING = "stopping"
    """It was asked to end; requests in flight may still finish."""
    BACKOFF = "backoff"
    """Its backend died; what was left of the tree is ended, and after a pause it starts again."""
    FAILED = "failed"
    """We gave up on it, for a stated reason. No process of it exists."""


EDGES: dict[State, frozenset[State]] = {
    State.STOPPED: frozenset({State.STARTING, State.FAILED}),
    State.STARTING: frozenset({State.READY, State.STOPPING, State.BACKOFF, State.FAILED}),
    State.READY: frozenset({State.STOPPING, State.BACKOFF, State.FAILED}),
    State.STOPPING: frozenset({State.STOPPED, State.FAILED}),
    State.BACKOFF: frozenset({State.STARTING, State.STOPPED, State.FAILED}),
    State.FAILED: frozenset({State.STARTING}),
}
"""FAILED can be reached from everywhere: a defect of ours may show in any state, and ends there."""

AT_REST = frozenset({State.STOPPED, State.FAILED})
"""States in which no process of the instance exists."""


def status_word(state: State) -> str:
    """The word that llamactl's API has for it."""
    return {State.STARTING: "running", State.READY: "running", State.STOPPING: "shutting_down", State.BACKOFF: "restarting"}.get(
        state, state.value
    )
