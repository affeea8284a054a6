"""Who may do what: every kind of route, for every caller, under every requirement. One row is one (route, caller).

The four letters of a row are the outcomes when these keys are asked for: both, inference only, management only, none.
`y` lets pass, `k` asks for a key (401), `n` says that this key may not (403).
"""

from __future__ import annotations

import pytest

from llamactl_py.auth.policy import Access, Caller, Requirements, admit
from llamactl_py.ground.errors import Forbidden, Unauthenticated

REQUIRED = {
    "both": Requirements(inference=True, management=True),
    "inference": Requirements(inference=True, management=False),
    "management": Requirements(inference=False, management=True),
    "none": Requirements(inference=False, management=False),
}
CALLERS = {"nobody": None, "client": Caller("notebook", is_manager=False), "manager": Caller("management", is_manager=True)}
TABLE = {
    (Access.PUBLIC, "nobody"): "yyyy",
    (Access.PUBLIC, "client"): "yyyy",
    (Access.PUBLIC, "manager"): "yyyy",
    (Access.INFERENCE, "nobody"): "kkyy",
    (Access.INFERENCE, "client"): "yyyy",
    (Access.INFERENCE, "manager"): "yyyy",
    (Access.MANAGEMENT, "nobody"): "kyky",
    (Access.MANAGEMENT, "client"): "nyny",
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


def test_the_matrix_is_complete() -> None:
    assert set(TABLE) == {(access, who) for access in Access for who in CALLERS}


def test_everything_is_asked_for_unless_said_otherwise() -> None:
    assert Requirements() == REQUIRED["both"]


def test_a_refusal_says_what_to_do() -> None:
    with pytest.raises(Unauthenticated, match=r"needs an inference key; send it as: Authorization: Bearer KEY"):
        admit(Access.INFERENCE, None, Requirements())
    with pytest.raises(Unauthenticated, match=r"needs a management key; send it as: Authorization: Bearer KEY"):
        admit(Access.MANAGEMENT, None, Requirements())
    with pytest.raises(Forbidden, match=r"key 'notebook' is an inference key; this route needs a management key"):
        admit(Access.MANAGEMENT, CALLERS["client"], Requirements())
