"""Who may do what: every kind of route, for every caller, under every requirement. One row is one (route, caller).

The four letters of a row are the outcomes when these keys are asked for: both, inference only, management only, none.
`y` lets pass, `k` asks for a key (401), `n` says that this key may not (403).
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamactl_py.auth.policy import Access, Caller, Requirements, admit, may_pass
from llamactl_py.ground.errors import Forbidden, Unauthenticated
from llamactl_py.ground.grant import Grant, Scope

REQUIRED = {
    "both": Requirements(inference=True, management=True),
    "inference": Requirements(inference=True, management=False),
    "management": Requirements(inference=False, management=True),
    "none": Requirements(inference=False, management=False),
}
CALLERS = {
    "nobody": None,
    "client": Caller("notebook", Grant()),
    "reader": Caller("prometheus", Grant(Scope.READ)),
    "manager": Caller("management", Grant(Scope.MANAGEMENT)),
}
TABLE = {
    (Access.PUBLIC, "nobody"): "yyyy",
    (Access.PUBLIC, "client"): "yyyy",
    (Access.PUBLIC, "reader"): "yyyy",
    (Access.PUBLIC, "manager"): "yyyy",
    (Access.INFERENCE, "nobody"): "kkyy",
    (Access.INFERENCE, "client"): "yyyy",
    (Access.INFERENCE, "reader"): "nnyy",
    (Access.INFERENCE, "manager"): "yyyy",
    (Access.READ, "nobody"): "kyky",
    (Access.READ, "client"): "nyny",
    (Access.READ, "reader"): "yyyy",
    (Access.READ, "manager"): "yyyy",
    (Access.MANAGEMENT, "nobody"): "kyky",
    (Access.MANAGEMENT, "client"): "nyny",
    (Access.MANAGEMENT, "reader"): "nyny",
    (Access.MANAGEMENT, "manager"): "yyyy",
}


def outcome(access: Access, caller: Caller | None, required: Requirements) -> str:
    try:
        admit(access, caller, required)
    except Unauthenticated:
        return "k"
    except Forbidden:
        return "n"
    return "y"


@pytest.mark.parametrize(("access", "who"), TABLE)
def test_the_matrix(access: Access, who: str) -> None:
    assert "".join(outcome(access, CALLERS[who], required) for required in REQUIRED.values()) == TABLE[access, who]
    for required, letter in zip(REQUIRED.values(), TABLE[access, who], strict=True):
        assert may_pass(access, CALLERS[who], required) == (letter == "y")


def test_the_matrix_is_complete() -> None:
    assert set(TABLE) == {(access, who) for access in Access for who in CALLERS}
    assert {caller.grant.scope for caller in CALLERS.values() if caller} == set(Scope)


def test_everything_is_asked_for_unless_said_otherwise() -> None:
    assert Requirements() == REQUIRED["both"]


def test_a_refusal_says_what_to_do() -> None:
    with pytest.raises(Unauthenticated, match=r"needs an inference key; send it as: Authorization: Bearer KEY"):
        admit(Access.INFERENCE, None, Requirements())
    with pytest.raises(Unauthenticated, match=r"needs a management key; send it as: Authorization: Bearer KEY"):
        admit(Access.MANAGEMENT, None, Requirements())
    with pytest.raises(Unauthenticated, match=r"needs a management key, or a read-only one; send it as"):
        admit(Access.READ, None, Requirements())
    with pytest.raises(Forbidden, match=r"key 'notebook' is an inference key; this route needs a management key"):
        admit(Access.MANAGEMENT, CALLERS["client"], Requirements())
    with pytest.raises(Forbidden, match=r"key 'prometheus' is a read-only key; this route needs an inference key"):
        admit(Access.INFERENCE, CALLERS["reader"], Requirements())


ids, groups = st.integers(1, 6), st.sampled_from(["", "a", "b", "c"])


@given(st.none() | st.frozensets(ids), st.frozensets(groups.filter(bool)), ids, groups)
def test_a_grant_opens_what_it_names_and_nothing_else(
    instances: frozenset[int] | None, of_groups: frozenset[str], instance: int, group: str
) -> None:
    grant = Grant(instances=instances, groups=of_groups)
    assert grant.is_for_all == (instances is None)
    assert grant.may_use(instance, group) == (instances is None or instance in instances or group in of_groups)


def test_a_key_for_no_instance_is_not_one_for_all() -> None:
    assert not Grant(instances=frozenset()).may_use(1, "")
    assert not Grant(instances=frozenset()).is_for_all
