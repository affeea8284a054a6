"""The fleet: instances are stored first, and exist then; with a disk that is slow or full, and clients that leave meanwhile.

The store is in memory (`FakeStore`): `takes` makes its commits slow, `error` makes them fail. Time is virtual.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from llamactl_py.ground.errors import Invalid, LimitReached, NameTaken, NotFound, StorageFailed
from llamactl_py.instances.fleet import Fleet
from llamactl_py.instances.instance import Instance
from llamactl_py.instances.state import State
from tests.support.fakes import FakeLauncher, FakeStore, FakeTickets, Life, World, at_work, build, outcome, raw_options, world
from tests.support.virtual import in_virtual_time, now, run, turns

FULL = StorageFailed("disk full")


def names(fleet: Fleet) -> list[str]:
    return [instance.name for instance in fleet]


def stored(w: World) -> list[str]:
    return list(w.store.rows)


@dataclass
class Reshapes:
    """Counts how often the fleet said that it has another shape."""

    count: int = 0

    def __call__(self) -> None:
        self.count += 1


def reshapes(w: World) -> Reshapes:
    made = Reshapes()
    w.fleet.on_reshape(made)
    return made


async def cancel_after(seconds: float, task: asyncio.Task[object]) -> None:
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


# ---- creating


@in_virtual_time
async def test_a_created_instance_is_stored_told_and_at_rest() -> None:
    async with world() as w:
        told = reshapes(w)
        a, warnings = await w.fleet.create("a", raw_options(idle_timeout="15m"))
        assert (a.state, a.options.idle_timeout, warnings) == (State.STOPPED, 900, ())
        assert (w.fleet.get("a"), stored(w), told.count, len(w.fleet)) == (a, ["a"], 1, 1)


@in_virtual_time
async def test_what_is_not_stored_does_not_exist() -> None:
    async with world() as w:
        told = reshapes(w)
        w.store.error = FULL
        with pytest.raises(StorageFailed):
            await w.fleet.create("a", raw_options())
        assert (names(w.fleet), stored(w), told.count) == ([], [], 0)
        w.store.error = None
        await w.fleet.create("a", raw_options())


@in_virtual_time
async def test_bad_options_touch_neither_store_nor_fleet() -> None:
    async with world() as w:
        with pytest.raises(Invalid, match="max_restart"):
            await w.fleet.create("a", raw_options(max_restart=3))
        assert (names(w.fleet), stored(w)) == ([], [])


@pytest.mark.parametrize("instead", ["a", "A", "x", "X", "served"])
@in_virtual_time
async def test_a_model_name_leads_to_one_instance(instead: str) -> None:
    """Names, aliases and the names that the server itself answers to share one space, whatever their case."""
    async with world() as w:
        await w.create("a", aliases=["x"], backend_options={"alias": "served"})
        for options in ({}, {"aliases": [instead]}):
            with pytest.raises(NameTaken, match="'a'"):
                await w.fleet.create(instead if not options else "b", raw_options(**options))
        assert names(w.fleet) == ["a"]


@pytest.mark.parametrize(
    ("name", "alias", "said"),
    [
        ("A", None, "the name 'A' is taken by instance 'a': they differ in case only"),
        ("x", None, "the name 'x' is taken by instance 'a': it answers to that, too"),
        ("b", "a", "the alias 'a' is taken by instance 'a': that is its name"),
        ("b", "X", "the alias 'X' is taken by instance 'a': that is an alias of it"),
    ],
)
@in_virtual_time
async def test_a_name_that_is_taken_is_told_from_an_alias_that_is(name: str, alias: str | None, said: str) -> None:
    async with world() as w:
        await w.create("a", aliases=["x"])
        with pytest.raises(NameTaken, match=f"^{said}; choose another"):
            await w.fleet.create(name, raw_options(aliases=[alias] if alias else []))


@in_virtual_time
async def test_of_two_that_want_one_name_at_the_same_time_one_gets_it() -> None:
    async with world() as w:
        w.store.takes = 1
        results = await asyncio.gather(*(outcome(w.fleet.create("a", raw_options())) for _ in range(3)))
        assert [type(result) for result in results] == [tuple, NameTaken, NameTaken]
        assert (names(w.fleet), stored(w)) == (["a"], ["a"])


@in_virtual_time
async def test_the_limit_holds_for_creations_at_the_same_time() -> None:
    async with world(max_instances=2) as w:
        w.store.takes = 1
        results = await asyncio.gather(*(outcome(w.fleet.create(name, raw_options())) for name in "abcd"))
        assert [type(result) for result in results] == [tuple, tuple, LimitReached, LimitReached]
        await w.fleet.delete("a")
        await w.fleet.create("e", raw_options())
        assert names(w.fleet) == stored(w) == ["b", "e"]


@in_virtual_time
async def test_an_instance_whose_client_left_while_it_was_stored_exists_all_the_same() -> None:
    """The transaction cannot be called back: a row without an instance would hold a name that nobody can see or delete."""
    async with world() as w:
        w.store.takes = 5
        creation = asyncio.create_task(w.fleet.create("a", raw_options()))
        await cancel_after(2, creation)
        assert now() == 5
        assert names(w.fleet) == stored(w) == ["a"]
        assert await w.use(w.fleet.get("a")) == 5 + 1  # it has an owner, too


@in_virtual_time
async def test_a_client_that_leaves_while_another_creates_creates_nothing_half() -> None:
    async with world() as w:
        w.store.takes = 5
        first = asyncio.create_task(w.fleet.create("a", raw_options()))
        await turns()
        await cancel_after(1, asyncio.create_task(w.fleet.create("b", raw_options())))
        await first
        await asyncio.sleep(60)
        assert names(w.fleet) == stored(w)


# ---- finding


@in_virtual_time
async def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    async with world() as w:
        await w.create("qwen3-8b")
        with pytest.raises(NotFound, match=r"'qwen3_8b' \(did you mean 'qwen3-8b'\?\)"):
            w.fleet.get("qwen3_8b")


# ---- changing


@in_virtual_time
async def test_a_change_that_is_not_stored_changes_nothing() -> None:
    async with world() as w:
        a = await w.create("a")
        told = reshapes(w)
        old = a.options
        w.store.error = FULL
        with pytest.raises(StorageFailed):
            await w.fleet.change("a", raw_options(aliases=["x"]))
        assert (a.options, told.count) == (old, 0)
        w.store.error = None
        await w.fleet.change("a", raw_options(aliases=["x"]))
        assert (a.options.aliases, told.count, w.store.rows["a"].options) == (("x",), 1, a.options.stored())


@in_virtual_time
async def test_a_change_may_keep_its_own_aliases_and_not_take_those_of_others() -> None:
    async with world() as w:
        await w.create("a", aliases=["x"])
        await w.create("b")
        await w.fleet.change("a", raw_options(aliases=["x", "y"]))
        with pytest.raises(NameTaken, match="'y' is taken by instance 'a'"):
            await w.fleet.change("b", raw_options(aliases=["y"]))


@in_virtual_time
async def test_a_change_whose_client_left_is_in_force_if_it_is_stored() -> None:
    async with world() as w:
        a = await w.create("a")
        w.store.takes = 5
        await cancel_after(2, asyncio.create_task(w.fleet.change("a", raw_options(aliases=["x"]))))
        assert w.store.rows["a"].options == a.options.stored()
        assert a.options.aliases == ("x",)


@in_virtual_time
async def test_a_change_of_one_that_was_deleted_and_made_anew_meanwhile_is_a_change_of_the_new_one() -> None:
    async with world() as w:
        await w.create("a")
        w.store.takes = 5
        blocker = asyncio.create_task(w.fleet.create("b", raw_options()))  # holds the lock until 5
        await turns()
        change = asyncio.create_task(outcome(w.fleet.change("a", raw_options(aliases=["x"]))))
        await turns()
        w.store.takes = 0
        await w.fleet.delete("a")
        remade = asyncio.create_task(outcome(w.fleet.create("a", raw_options())))
        await asyncio.gather(blocker, change, remade)
        for name, row in w.store.rows.items():
            assert row.options == w.fleet.get(name).options.stored()


# ---- owners


def owners() -> list[str]:
    return [name for task in asyncio.all_tasks() if (name := task.get_name()).startswith("owner of")]


@in_virtual_time
async def test_who_is_at_rest_has_no_owner_and_gets_one_whenever_it_is_wanted() -> None:
    async with world() as w:
        a, b = await w.create("a", Life(), Life()), await w.create("b")
        await turns()
        assert owners() == []
        for _ in range(2):
            a.want_up()
            await turns()
            assert (owners(), list(w.fleet.awake())) == (["owner of a"], [a])
            await w.until(a, State.READY)
            a.want_restart(0.0)
            a.want_down(0.0)
            await a.down()
            await turns()
            assert owners() == []
        assert b.state is State.STOPPED


@in_virtual_time
async def test_who_is_wanted_before_the_fleet_runs_is_owned_when_it_does() -> None:
    w = build(FakeLauncher(), FakeStore(), FakeTickets())
    a, b = await w.create("a"), await w.create("b")
    a.want_up()
    async with at_work(w):
        await w.until(a, State.READY)
        assert owners() == ["owner of a"]
        assert b.state is State.STOPPED
    w.refuse_leftovers()


@in_virtual_time
async def test_a_wish_that_is_taken_back_at_once_starts_nothing() -> None:
    async with world() as w:
        a = await w.create("a")
        a.want_up()
        a.want_down(0.0)
        await turns()
        assert (owners(), w.path(a)) == ([], [])
        await w.fleet.delete("a")


# ---- deleting


@in_virtual_time
async def test_a_deleted_instance_is_gone_and_its_name_is_free() -> None:
    async with world() as w:
        a = await w.create("a", aliases=["x"])
        told = reshapes(w)
        log = w.fleet.workshop.log_file("a")
        await w.fleet.delete("a")
        assert (names(w.fleet), stored(w), told.count, w.launcher.forgotten_logs) == ([], [], 1, [log])
        await turns()
        assert "owner of a" not in [task.get_name() for task in asyncio.all_tasks()]
        with pytest.raises(NotFound):
            await w.fleet.delete("a")
        b = await w.create("a", aliases=["x"])
        assert b is not a
        assert await w.use(b) == 1


@in_virtual_time
async def test_a_deletion_that_fails_leaves_the_instance_as_it_was() -> None:
    async with world() as w:
        for name in "abc":
            await w.create(name)
        w.store.error = FULL
        with pytest.raises(StorageFailed):
            await w.fleet.delete("b")
        w.store.error = None
        assert sorted(names(w.fleet)) == stored(w) == ["a", "b", "c"]
        assert w.launcher.forgotten_logs == []
        assert await w.use(w.fleet.get("b")) == 1


@in_virtual_time
async def test_a_deletion_whose_client_left_is_done_if_the_row_is_gone() -> None:
    async with world() as w:
        await w.create("a")
        w.store.takes = 5
        await cancel_after(2, asyncio.create_task(w.fleet.delete("a")))
        assert names(w.fleet) == stored(w) == []
        await w.create("a")


@pytest.mark.parametrize("seed", range(20))
def test_a_name_that_is_taken_again_while_its_row_is_being_removed_leads_to_the_new_one(seed: int) -> None:
    async def scenario() -> None:
        async with world() as w:
            old = await w.create("a")
            w.store.takes = 5
            deletion = asyncio.create_task(w.fleet.delete("a"))
            await turns()
            new, _ = await w.fleet.create("a", raw_options())
            await deletion
            assert w.fleet.get("a") is new is not old
            assert await w.use(new) == now() == 5 + 1  # it has an owner

    run(scenario(), seed)


@in_virtual_time
async def test_of_two_deletions_at_the_same_time_one_finds_it() -> None:
    async with world() as w:
        await w.create("a")
        w.store.takes = 5
        results = await asyncio.gather(*(outcome(w.fleet.delete("a")) for _ in range(2)))
        assert [type(result) for result in results] == [type(None), NotFound]


@in_virtual_time
async def test_nobody_finds_an_instance_whose_row_is_being_removed() -> None:
    async with world() as w:
        await w.create("a")
        w.store.takes = 5
        deletion = asyncio.create_task(w.fleet.delete("a"))
        await turns()
        with pytest.raises(NotFound):
            w.fleet.get("a")
        await deletion


# ---- loading


def from_disk(**rows: tuple[str, bool]) -> World:
    """A world whose store has these rows: options as stored, and whether they are to be brought up again."""
    made = build(FakeLauncher(), FakeStore(), FakeTickets())
    for name, (options, resume) in rows.items():
        made.store.put(name, options, resume)
    return made


async def text(**options: object) -> str:
    async with world() as w:
        instance: Instance = await w.create("any", **options)
        return instance.options.stored()


@in_virtual_time
async def test_what_was_stored_is_there_again_in_its_order_and_owned() -> None:
    w = from_disk(b=(await text(aliases=["x"]), True), a=(await text(), False), c=(await text(), True))
    told = reshapes(w)
    assert await w.fleet.load() == ["b", "c"]
    assert (names(w.fleet), told.count, w.fleet.get("b").options.aliases) == (["b", "a", "c"], 1, ("x",))
    async with at_work(w):
        assert await w.use(w.fleet.get("a")) == 1
    w.refuse_leftovers()


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"backend_type": "llama_cpp", "no_such_option": 1}'])
@in_virtual_time
async def test_a_row_that_cannot_be_understood_is_kept_and_shown_and_the_others_live(damage: str) -> None:
    w = from_disk(a=(damage, True), b=(await text(), True))
    assert await w.fleet.load() == ["a", "b"], "both were up"
    assert (names(w.fleet), list(w.fleet.damaged), stored(w)) == (["b"], ["a"], ["a", "b"])
    assert w.fleet.damaged["a"]


@in_virtual_time
async def test_a_store_that_cannot_be_read_is_an_error_and_no_empty_fleet() -> None:
    w = from_disk()
    w.store.error = FULL
    with pytest.raises(StorageFailed):
        await w.fleet.load()


# ---- listeners


@in_virtual_time
async def test_every_listener_hears_every_change_in_the_turn_in_which_it_happens() -> None:
    async with world() as w:
        heard: list[tuple[str, State, State]] = []
        w.fleet.on_change(lambda instance, old: heard.append((instance.name, old, instance.state)))
        a = await w.create("a", Life(load=2))
        await w.use(a)
        assert heard == [("a", State.STOPPED, State.STARTING), ("a", State.STARTING, State.READY)]
        assert [(change.name, change.old, change.new) for change in w.changes] == heard
