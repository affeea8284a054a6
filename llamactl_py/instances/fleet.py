"""All instances: created, changed and deleted here, each with its owner task. Stored first, then acted on.

A transaction that was begun cannot be called back. So a client that leaves meanwhile does not stop what follows from it:
store and fleet would tell different things until the next start of the daemon.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager
from enum import StrEnum

from msgspec import Struct, field

from llamactl_py.ground.clock import Now
from llamactl_py.ground.errors import Changed, Conflict, Declared, Invalid, LimitReached, NameTaken, NotFound, nearest
from llamactl_py.ground.names import instance_name
from llamactl_py.ground.waiting import to_its_end
from llamactl_py.instances.command import Workshop
from llamactl_py.instances.declared import Declaration, Difference, compare
from llamactl_py.instances.instance import Instance
from llamactl_py.instances.options import (
    InstanceOptions,
    model_names,
    parse_options,
    patched,
    restore_options,
)
from llamactl_py.instances.state import AT_REST, State
from llamactl_py.storage.instances import InstanceRow, InstanceStore

log = logging.getLogger(__name__)

Listener = Callable[[Instance, State], None]
"""Called synchronously with the instance and its former state, after each change of state."""


class Edit(StrEnum):
    """What was done to an instance by somebody, in contrast to what happened to it."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"


class Fleet(Struct):
    """The instances by name, in the order of their creation. `run` must be running for owners to act."""

    store: InstanceStore
    workshop: Workshop
    now: Now
    _instances: dict[str, Instance] = field(default_factory=dict)
    _owners: dict[Instance, asyncio.Task[None]] = field(default_factory=dict)
    """Of those that are wanted, or not at rest yet."""
    _tasks: asyncio.TaskGroup | None = None
    _listeners: list[Listener] = field(default_factory=list)
    _reshaped: list[Callable[[], None]] = field(default_factory=list)
    _edited: list[Callable[[Instance, Edit], None]] = field(default_factory=list)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held from a check (is the name free? is there room?) until what it allowed is stored."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Rows that could not be understood, and why: kept in the database, and shown."""

    def __iter__(self) -> Iterator[Instance]:
        return iter(self._instances.values())

    def __contains__(self, instance: Instance) -> bool:
        return self._instances.get(instance.name) is instance

    def __len__(self) -> int:
        return len(self._instances)

    def awake(self) -> Iterable[Instance]:
        """Those that have an owner: all that are wanted, or not at rest yet."""
        return self._owners

    def get(self, name: str) -> Instance:
        """Raises NotFound with the nearest name."""
        found = self._instances.get(name)
        if found is None:
            owners = (f"; that is an alias of {each.name!r}" for each in self if name in each.options.aliases)
            raise NotFound(f"there is no instance named {name!r}{next(owners, None) or nearest(name, self._instances)}")
        return found

    def on_change(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def on_edit(self, listener: Callable[[Instance, Edit], None]) -> None:
        """Called after an instance was created, updated or deleted."""
        self._edited.append(listener)

    def on_reshape(self, listener: Callable[[], None]) -> None:
        """Called after instances were added, removed, or got other options."""
        self._reshaped.append(listener)

    async def load(self, declared: Collection[Declaration] = ()) -> list[str]:
        """Read the store, and add what is *declared*; gives the names that were up when the last daemon ended.

        Raises BadConfiguration when a declared name belongs to another instance, or there are too many.
        """
        rows = await self.store.all()
        for row in rows:
            if row.declared:
                continue
            try:
                instance_name(row.name)
                self._add(row, restore_options(row.options))
            except Invalid as error:
                self.damaged[row.name] = str(error)
                log.error("instance %s is stored in a form that cannot be used and is left out: %s", row.name, error)
        self.compare(declared, self.workshop.limits.max_instances)
        await self._load_declared({row.name: row for row in rows if row.declared}, declared)
        self._tell_reshaped()
        return [row.name for row in rows if row.resume]

    async def _load_declared(self, rows: dict[str, InstanceRow], declared: Collection[Declaration]) -> None:
        wanted = {one.name for one in declared}
        gone = [name for name in rows if name not in wanted]
        new = [one.name for one in declared if one.name not in rows]
        rows |= {row.name: row for row in await self.store.declare(new, gone)}
        for name in gone:
            log.info("%s is not declared any more and was deleted", name)
            self.workshop.launcher.forget_log(self.workshop.log_file(name))
        for one in sorted(declared, key=lambda one: rows[one.name].id):
            self._add(rows[one.name], one.options).declared_at = one.where

    async def run(self) -> None:
        """Keep an owner for each instance that is wanted until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                for instance in self:
                    if instance.is_wanted:
                        self._employ(instance)
                await asyncio.Event().wait()
            finally:
                self._tasks = None  # the group is ending

    async def create(self, name: str, raw: object) -> tuple[Instance, tuple[str, ...]]:
        """Raises Invalid, NameTaken, LimitReached, StorageFailed; then nothing exists that did not before."""
        options, warnings = parse_options(raw, self.workshop.limits)
        return await to_its_end(self._create(name, options)), warnings

    async def _create(self, name: str, options: InstanceOptions) -> Instance:
        limit = self.workshop.limits.max_instances
        async with self._writing:
            if 0 <= limit <= len(self):
                raise LimitReached(f"{len(self)} instances exist and max_instances is {limit}; delete one or raise the limit")
            self._refuse_taken(name, options)
            instance = self._add(await self.store.add(name, options.stored()), options)
        self._tell_edited(instance, Edit.CREATED)
        return instance

    def to_change(self, name: str) -> Instance:
        """That instance, for somebody who is going to change or delete it. Raises NotFound, Declared."""
        instance = self.get(name)
        if instance.declared_at:
            file, _, line = instance.declared_at.rpartition(":")
            raise Declared(
                f"instance {name!r} is declared in the configuration file; edit {file} line {line}, "
                "then reload the configuration: llamactl config reload"
            )
        return instance

    async def change(
        self, name: str, raw: object, *, merge: bool = False, expected: Collection[str] | None = None
    ) -> tuple[Instance, tuple[str, ...]]:
        """Replace the options by *raw*, or *merge* it into them; where its process would have to change for them, one that is up
        keeps its old ones until it is restarted.

        *expected*: revisions of which it must have one. Raises as `create`, NotFound, Declared, and Changed.
        """
        instance = self.to_change(name)
        return instance, await to_its_end(self._change(instance, raw, merge, expected))

    async def _change(self, instance: Instance, raw: object, merge: bool, expected: Collection[str] | None) -> tuple[str, ...]:
        async with self._writing:  # from reading the options on: what is merged into is what is replaced
            refuse_changed(instance, expected)
            wanted = patched(instance.options, raw) if merge else raw
            options, warnings = parse_options(wanted, self.workshop.limits, instance.options)
            self._refuse_taken(instance.name, options)
            await self.store.change(instance.name, options.stored())
            instance.use(options)
        self._tell_edited(instance, Edit.UPDATED)
        return warnings

    async def delete(self, name: str, *, expected: Collection[str] | None = None) -> None:
        """Forget one that is at rest and that nobody can claim (`Dispatcher.retiring`). Raises NotFound, Changed, Conflict,
        StorageFailed."""
        async with self._writing:  # a change under way is seen first
            instance = self._take_out(name, expected)
        await to_its_end(self._forget(instance))

    def _take_out(self, name: str, expected: Collection[str] | None = None) -> Instance:
        """Out of the fleet before the await: nobody can start it while its row is being removed."""
        instance = self.get(name)
        refuse_changed(instance, expected)
        if instance.state not in AT_REST or instance.is_wanted:  # its owner would go on with one that nobody knows
            what = "about to start" if instance.state in AT_REST else instance.state.value
            raise Conflict(f"instance {name!r} is {what}; stop it first, or delete it with force")
        return self._instances.pop(name)

    async def _forget(self, instance: Instance) -> None:
        name = instance.name
        try:
            await self.store.remove(name)
        except BaseException:
            self._instances[name] = instance
            raise
        self.workshop.launcher.forget_log(self.workshop.log_file(name))
        self._tell_edited(instance, Edit.DELETED)

    # -- what the configuration file declares ---------------------------------------------------------------------------

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """For the length of the block nobody else creates, changes or deletes an instance: what was compared stays true."""
        async with self._writing:
            yield

    def compare(self, declared: Collection[Declaration], limit: int) -> Difference:
        """What has to happen until exactly *declared* is declared. Raises BadConfiguration when it cannot."""
        return compare(self, declared, self.damaged, limit)

    async def forget(self, name: str) -> None:
        """`delete`, inside `held`."""
        await to_its_end(self._forget(self._take_out(name)))

    async def declare(self, difference: Difference) -> list[Instance]:
        """Add and change as *difference* says, inside `held`; what it removes has to be gone. Gives those to be restarted.

        Options that the process does not see take effect at once. Raises StorageFailed, having changed nothing.
        """
        rows = await self.store.declare([one.name for one in difference.added])
        to_restart: list[Instance] = []
        for row, one in zip(rows, difference.added, strict=True):
            self._add(row, one.options)
        for one in difference.changed:
            instance = self._instances[one.name]
            if not instance.use(one.options) and instance.is_wanted:
                to_restart.append(instance)
        for one in difference.declared:
            self._instances[one.name].declared_at = one.where
        for edit, those in ((Edit.CREATED, difference.added), (Edit.UPDATED, difference.changed)):
            for one in those:
                self._tell_edited(self._instances[one.name], edit)
        return to_restart

    def _refuse_taken(self, name: str, options: InstanceOptions) -> None:
        """Names and aliases are one space of model names: each leads to one instance."""
        wanted = {word.casefold(): word for word in (*model_names(options), name)}
        for other in self:
            theirs = {word.casefold() for word in (other.name, *model_names(other.options))}
            if other.name != name and (taken := wanted.keys() & theirs):
                raise _taken(wanted[min(taken)], name, other)

    def _add(self, row: InstanceRow, options: InstanceOptions) -> Instance:
        now, changed, wanted = self.now, self._tell_changed, self._employ
        instance = Instance(row.name, row.id, row.created_at, options, self.workshop, now, changed, wanted, now())
        self._instances[row.name] = instance
        return instance

    def _employ(self, instance: Instance) -> None:
        """See to it that *instance* has an owner."""
        if self._tasks and instance not in self._owners:
            self._owners[instance] = self._tasks.create_task(self._own(instance), name=f"owner of {instance.name}")

    async def _own(self, instance: Instance) -> None:
        try:
            await instance.run()
        finally:
            del self._owners[instance]

    def _tell_changed(self, instance: Instance, old: State) -> None:
        for listener in self._listeners:
            listener(instance, old)

    def _tell_edited(self, instance: Instance, edit: Edit) -> None:
        self._tell_reshaped()
        for listener in self._edited:
            listener(instance, edit)

    def _tell_reshaped(self) -> None:
        for listener in self._reshaped:
            listener()


def refuse_changed(instance: Instance, expected: Collection[str] | None) -> None:
    """Raises Changed unless the instance has one of the *expected* revisions; None expects nothing."""
    if expected is not None and instance.revision not in expected:
        error = Changed(f"instance {instance.name!r} was changed meanwhile; read it again and decide anew")
        error.revision = instance.revision
        raise error


def _taken(word: str, name: str, other: Instance) -> NameTaken:
    """Why *name*, or its alias *word*, is not free."""
    what = "name" if word == name else "alias"
    if word.casefold() == other.name.casefold():
        why = "that is its name" if word == other.name else "they differ in case only"
    else:
        why = "it answers to that, too" if what == "name" else "that is an alias of it"
    remedy = "choose another (names and aliases share one space, in any case)"
    return NameTaken(f"the {what} {word!r} is taken by instance {other.name!r}: {why}; {remedy}")
