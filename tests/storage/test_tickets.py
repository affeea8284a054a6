"""Tickets: there from before the process runs until it is settled, exactly as they were written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llamactl_py.ground.ticket import Ticket
from llamactl_py.storage.database import Database
from llamactl_py.storage.tickets import TicketStore

TICKETS = [Ticket("t1", "a", "boot", 4_194_304, 2**53), Ticket("t2", "a", "boot", 2, 0, ("docker", "rm", "--force", "a b\n"))]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TicketStore]:
    database = Database(tmp_path / "a.db")
    yield TicketStore(database, lambda: 1.0)
    database.close()


async def test_tickets_are_found_again_as_they_were_written(store: TicketStore) -> None:
    for ticket in TICKETS:
        await store.add(ticket)
    assert await store.all() == TICKETS


async def test_a_settled_one_is_gone_and_settling_twice_is_harmless(store: TicketStore) -> None:
    for ticket in TICKETS:
        await store.add(ticket)
    await store.remove("t1")
    await store.remove("t1")
    assert await store.all() == TICKETS[1:]
