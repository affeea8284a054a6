"""Which instance answers to a model name. `table` is a fleet of every kind; `HOUSE` says who is in it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamactl_py.backends import Served
from llamactl_py.ground.errors import UnknownModel
from llamactl_py.proxy.routing import Entry, Route, Routes

PLAIN = Served(default=None, names=(), open=False)
HOUSE = (
    Entry("llama", 1, PLAIN, ("gpt-4o", "small")),
    Entry("mlx", 2, Served(default="default_model", names=(), open=False), ("tiny",)),
    Entry("vllm", 3, Served(default=None, names=("sql-lora",), open=False), ("big", "org/big")),
    Entry("named", 4, Served(default="org/base", names=("org/base", "other"), open=False), ("nick",)),
    Entry("router", 5, Served(default=None, names=(), open=True), ("all",)),
)


@pytest.fixture
def table() -> Routes:
    return Routes(HOUSE)


@pytest.mark.parametrize(
    ("model", "route"),
    [
        ("llama", Route("llama")),
        ("gpt-4o", Route("llama", "llama")),  # no server knows the aliases that we give it
        ("small", Route("llama", "llama")),
        ("mlx", Route("mlx", "default_model")),
        ("tiny", Route("mlx", "default_model")),
        ("vllm", Route("vllm")),
        ("big", Route("vllm", "vllm")),
        ("org/big", Route("vllm", "vllm")),
        ("sql-lora", Route("vllm")),
        ("vllm/sql-lora", Route("vllm", "sql-lora")),
        ("named", Route("named", "org/base")),
        ("nick", Route("named", "org/base")),
        ("org/base", Route("named")),
        ("named/org/base", Route("named", "org/base")),
        ("named/other", Route("named", "other")),
        ("router", Route("router")),
        ("all", Route("router")),  # a router may know the name itself
        ("router/ggml-org/gemma:Q4", Route("router", "ggml-org/gemma:Q4")),
        ("router//x", Route("router", "/x")),
    ],
)
def test_a_name_leads_to_its_instance_and_to_what_the_server_calls_itself(table: Routes, model: str, route: Route) -> None:
    assert table.find(model) == route


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("lama", "no instance serves the model 'lama' (did you mean 'llama'?); GET /v1/models lists what there is"),
        ("GPT-4O", "no instance serves the model 'GPT-4O' (did you mean 'gpt-4o'?)"),
        ("zzzzzz", "no instance serves the model 'zzzzzz'; GET /v1/models"),
        ("", "no instance serves the model ''; GET /v1/models"),
        ("/", "no instance serves the model '/'"),
        ("/llama", "no instance serves the model '/llama' (did you mean 'llama'?)"),
        ("nobody/llama", "no instance serves the model 'nobody/llama'"),
        ("gpt-4o/llama", "no instance serves the model 'gpt-4o/llama'"),
        ("llama/", "instance 'llama' does not serve ''; it serves only its own model; leave out what follows the slash"),
        ("llama/gpt-4o", "instance 'llama' does not serve 'gpt-4o'; it serves only its own model"),
        ("mlx//etc/passwd", "instance 'mlx' does not serve '/etc/passwd'; it serves only its own model"),
        ("vllm/zzz", "instance 'vllm' does not serve 'zzz'; it serves 'sql-lora'"),
        ("named/zzz", "instance 'named' does not serve 'zzz'; it serves 'org/base', 'other'"),
        ("router/", "instance 'router' does not serve ''"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest_one(table: Routes, model: str, said: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        table.find(model)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("order", [1, -1])
def test_an_instances_own_name_is_never_hidden_by_anothers_alias(order: int) -> None:
    thief = Entry("thief", 1, Served("base", ("victim",), open=True), ("victim",))
    routes = Routes([thief, Entry("victim", 2, PLAIN)][::order])
    assert routes.find("victim") == Route("victim")
    assert routes.find("thief/victim") == Route("thief", "victim")


def test_an_alias_that_looks_like_instance_and_model_wins_over_the_reading_as_such() -> None:
    routes = Routes([Entry("a", 1, Served(None, (), open=True)), Entry("b", 2, PLAIN, ("a/x",))])
    assert routes.find("a/x") == Route("b", "b")
    assert routes.find("a/y") == Route("a", "y")


def test_an_empty_house_serves_nothing() -> None:
    assert Routes().listing() == []
    with pytest.raises(UnknownModel, match="no instance serves the model 'a'; GET /v1/models lists what there is"):
        Routes().find("a")


def test_every_name_is_listed_once_with_its_instance(table: Routes) -> None:
    assert table.listing() == [
        ("all", "router", 5),
        ("big", "vllm", 3),
        ("gpt-4o", "llama", 1),
        ("llama", "llama", 1),
        ("mlx", "mlx", 2),
        ("named", "named", 4),
        ("nick", "named", 4),
        ("org/base", "named", 4),
        ("org/big", "vllm", 3),
        ("other", "named", 4),
        ("router", "router", 5),
        ("small", "llama", 1),
        ("sql-lora", "vllm", 3),
        ("tiny", "mlx", 2),
        ("vllm", "vllm", 3),
    ]


WORDS = st.text("ab/", min_size=1, max_size=3)
ENTRIES = st.lists(
    st.builds(
        Entry,
        st.text("ab", min_size=1, max_size=3),
        st.integers(0, 9),
        st.builds(Served, st.none() | WORDS, st.lists(WORDS, max_size=2).map(tuple), st.booleans()),
        st.lists(WORDS, max_size=3),
    ),
    unique_by=lambda entry: entry.instance,
    max_size=4,
)


@given(ENTRIES)
@settings(max_examples=100, deadline=None)
def test_what_is_listed_is_found_and_leads_where_the_list_says(entries: list[Entry]) -> None:
    routes = Routes(entries)
    listing = routes.listing()
    assert len(listing) == len({name for name, _, _ in listing})
    for name, instance, _ in listing:
        assert routes.find(name).instance == instance
    assert {entry.instance for entry in entries} <= {name for name, _, _ in listing}


@given(ENTRIES, st.text("ab/", max_size=5))
@settings(max_examples=200, deadline=None)
def test_whatever_is_asked_for_is_a_route_of_the_house_or_unknown(entries: list[Entry], model: str) -> None:
    try:
        route = Routes(entries).find(model)
    except UnknownModel:
        return
    assert route.instance in {entry.instance for entry in entries}
    assert route.forward != ""
