"""What is said of keys: how one is asked for and changed, how it is shown, and what its grant is to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from llamactl_py.api.route import View
from llamactl_py.ground.errors import Invalid, NotFound, Problem
from llamactl_py.ground.fields import Frozen, about
from llamactl_py.ground.grant import Grant, Scope
from llamactl_py.ground.names import GroupName, KeyName
from llamactl_py.ground.readers import MOST_PROBLEMS
from llamactl_py.instances.fleet import Fleet
from llamactl_py.storage.keys import KeyRow

Mode = Literal["allow_all", "per_instance"]

MOST_NAMED = 1000
"""Instances, and groups, that one key can name."""

Moment = Annotated[int, Meta(le=253_402_300_799)]
Numbers = Annotated[tuple[int, ...], Meta(max_length=MOST_NAMED)]
Names = Annotated[tuple[str, ...], Meta(max_length=MOST_NAMED)]
Groups = Annotated[tuple[Annotated[GroupName, Meta(min_length=1)], ...], Meta(max_length=MOST_NAMED)]

CODES = {
    "name": "invalid_name",
    "permission_mode": "invalid_permission_mode",
    "expires_at": "invalid_expires_at",
    "instance_ids": "invalid_instance_id",
    "instances": "invalid_instance_id",
    "groups": "invalid_group",
    "scope": "invalid_scope",
}
"""llamactl's code for a problem with a field; those without one have the usual code."""


class KeyChange(Frozen):
    """What is to be different about a key; what is left out stays. Without a limit of instances it is for all of them."""

    name: Annotated[KeyName | None, about("Who or what it is for.")] = None
    expires_at: Annotated[Moment | UnsetType | None, about("Unix seconds, to the year 9999; null means never.")] = UNSET
    permission_mode: Annotated[
        Mode | None, about("Whether the key is for all instances, or for some. Left out, it is what the lists below say.")
    ] = None
    instance_ids: Annotated[Numbers | None, about("Numbers of the instances that it may use.")] = None
    instances: Annotated[Names | None, about("Names of the instances that it may use, beside those given by number.")] = None
    groups: Annotated[
        Groups | None, about("Names of groups: it may use every instance that is in one of them, now or later.")
    ] = None
    may_start: Annotated[bool | None, about("May its requests start an instance that is down?")] = None
    may_evict: Annotated[bool | None, about("May such a start stop an idle instance to have room?")] = None


class NewKey(KeyChange, kw_only=True):
    """What a new key is to be. llamactl's fields mean what they do there; the others are ours."""

    name: Annotated[KeyName, about("Who or what it is for.")]
    scope: Annotated[Scope, about("inference: asks models; read: sees what management sees; management: everything.")] = (
        Scope.INFERENCE
    )


class KeyView(View, kw_only=True, omit_defaults=False):
    """A key, without the key."""

    id: int
    name: str
    user_id: Annotated[Literal["system"], about("llamactl's; there are no users.")] = "system"
    scope: Scope
    permission_mode: Mode
    prefix: Annotated[str, about("Its first characters.")]
    instance_ids: Annotated[list[int], about("Numbers of the instances that it may use; none where it is for all.")]
    instances: Annotated[list[str], about("Their names.")]
    groups: Annotated[list[str], about("It may use every instance in these, too.")]
    may_start: bool
    may_evict: bool
    expires_at: Annotated[int | None, about("Unix seconds; null where the key does not expire.")]
    created_at: Annotated[int, about("Unix seconds.")]
    updated_at: Annotated[int, about("Unix seconds of the last change.")]
    last_used_at: Annotated[int | None, about("Unix seconds of its last request; null before the first one.")]


class NewKeyView(KeyView, kw_only=True):
    """A key just made: the only time that the key itself is told."""

    key: str

    def __repr__(self) -> str:
        """Without the key."""
        return f"{type(self).__name__}(name={self.name!r})"


class PermissionView(View):
    """An instance that a key may use."""

    instance_id: int
    instance_name: str


def show_key(row: KeyRow, names: dict[int, str]) -> KeyView:
    """*names*: the instances that there are, by number."""
    grant = row.grant
    own = sorted((grant.instances or frozenset()) & names.keys())
    return KeyView(
        id=row.id,
        name=row.name,
        scope=grant.scope,
        permission_mode="allow_all" if grant.is_for_all else "per_instance",
        prefix=row.prefix,
        instance_ids=own,
        instances=[names[id_] for id_ in own],
        groups=sorted(grant.groups),
        may_start=grant.may_start,
        may_evict=grant.may_evict,
        expires_at=row.expires_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
        last_used_at=row.last_used_at,
    )


def coded(error: Invalid) -> Invalid:
    """*error* with llamactl's code for the first of its problems."""
    return Invalid(error.problems, CODES.get(error.problems[0].where.partition(".")[0], ""))


def refuse_past(expires_at: int | None, now: float) -> None:
    """Raises Invalid."""
    if expires_at is not None and expires_at <= now:
        said = f"{expires_at} has passed already; give a moment to come, in Unix seconds"
        raise coded(Invalid([Problem("expires_at", said)]))


def grant_of(wanted: KeyChange, old: Grant, fleet: Fleet) -> Grant:
    """*old*, changed as *wanted*. Raises Invalid."""
    if old.scope is not Scope.INFERENCE:
        _refuse_limits(wanted, old.scope)
        return old
    instances, groups = _reach(wanted, old, fleet)
    return Grant(
        old.scope,
        instances,
        groups,
        old.may_start if wanted.may_start is None else wanted.may_start,
        old.may_evict if wanted.may_evict is None else wanted.may_evict,
    )


def _refuse_limits(wanted: KeyChange, scope: Scope) -> None:
    nothing: dict[str, tuple[Any, ...]] = {
        "permission_mode": (None, "allow_all"),
        "instance_ids": (None, ()),
        "instances": (None, ()),
        "groups": (None, ()),
        "may_start": (None, True),
        "may_evict": (None, True),
    }
    if limits := [field for field, values in nothing.items() if getattr(wanted, field) not in values]:
        why = f"limits inference keys; a key with scope {scope.value!r} cannot have it"
        raise coded(Invalid(Problem(field, why) for field in limits))


def _reach(wanted: KeyChange, old: Grant, fleet: Fleet) -> tuple[frozenset[int] | None, frozenset[str]]:
    """(instances, groups) of the new grant."""
    named = None if wanted.instance_ids is None and wanted.instances is None else _named(wanted, fleet)
    groups = None if wanted.groups is None else frozenset(wanted.groups)
    mode = wanted.permission_mode
    if mode == "allow_all" and (named or groups):
        said = "'allow_all' contradicts a list of instances or groups; leave out one of the two"
        raise coded(Invalid([Problem("permission_mode", said)]))
    if mode == "allow_all" or (mode is None and old.is_for_all and not named and not groups):
        return None, frozenset()
    own = (old.instances or frozenset()) if named is None else named
    of_groups = old.groups if groups is None else groups
    if not own and not of_groups and (mode, named, groups) != (None, None, None):
        said = "'per_instance' needs instances: give instances, instance_ids or groups that it may use; or take 'allow_all'"
        raise Invalid([Problem("permission_mode", said)], "missing_permissions")
    return own, of_groups


def _named(wanted: KeyChange, fleet: Fleet) -> frozenset[int]:
    by_number = {instance.id for instance in fleet}
    missing = list(islice(_missing(wanted.instance_ids or (), wanted.instances or (), by_number, fleet), MOST_PROBLEMS))
    if missing:
        raise coded(Invalid(missing))
    return frozenset((*(wanted.instance_ids or ()), *(fleet.get(name).id for name in wanted.instances or ())))


def _missing(ids: Sequence[int], names: Sequence[str], known: set[int], fleet: Fleet) -> Iterator[Problem]:
    for number, id_ in enumerate(ids):
        if id_ not in known:
            yield Problem(f"instance_ids.{number}", f"there is no instance with id {id_}")
    for number, name in enumerate(names):
        try:
            fleet.get(name)
        except NotFound as error:
            yield Problem(f"instances.{number}", str(error))
