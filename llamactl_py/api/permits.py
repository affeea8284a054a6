"""Which instances a key may use, and that it learns nothing of the others: neither their names, nor whether there are any."""

from __future__ import annotations

from llamactl_py.auth.policy import Caller
from llamactl_py.ground.errors import Forbidden, LlamactlError, NoRoom, nearest
from llamactl_py.instances.instance import Instance
from llamactl_py.proxy.routing import Route
from llamactl_py.services import Services


def may_use(caller: Caller, instance: Instance) -> bool:
    return caller.grant.may_use(instance.id, instance.options.group)


def find(services: Services, caller: Caller, model: str) -> tuple[Instance, Route]:
    """The instance that serves *model*, and how. Raises UnknownModel, and Forbidden where *caller* may not use it; to a key
    that may not use all, what does not exist is forbidden as well."""
    routes = services.routes
    if not caller.grant.is_for_all:
        owner = routes.owner(model)
        if owner is None or not may_use(caller, services.fleet.get(owner)):
            known = [name for name, _, _ in listing(services, caller)]
            raise Forbidden(
                f"key {caller.name!r} may use no model {model!r}{nearest(model, known)}; GET /v1/models lists what it may use"
            )
    found = routes.find(model)
    return services.fleet.get(found.instance), found


def instance(services: Services, caller: Caller, name: str) -> Instance:
    """The instance with that very name, for routes that have it in their path. Raises NotFound, Forbidden, as `find` does."""
    if not caller.grant.is_for_all:
        usable = {each.name: each for each in services.fleet if may_use(caller, each)}
        if name not in usable:
            raise Forbidden(f"key {caller.name!r} may use no instance {name!r}{nearest(name, usable)}")
        return usable[name]
    return services.fleet.get(name)


def listing(services: Services, caller: Caller) -> list[tuple[str, str, int]]:
    """What `Routes.listing` tells, as far as *caller* may use it."""
    found = services.routes.listing()
    if caller.grant.is_for_all:
        return found
    usable = {each.name for each in services.fleet if may_use(caller, each)}
    return [row for row in found if row[1] in usable]


def discreet(error: LlamactlError, caller: Caller) -> LlamactlError:
    """*error* as *caller* may hear it: why there is no room names the instances that take it."""
    if caller.grant.is_for_all or not isinstance(error, NoRoom):
        return error
    told = NoRoom("there is no room to start the model now; try again later")
    told.retry_after = error.retry_after
    return told
