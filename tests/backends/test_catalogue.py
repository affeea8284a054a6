"""The data: complete, without contradictions, and read lazily; and the script that writes them."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from time import perf_counter
from types import ModuleType

import pytest

from llamactl_py.backends import BACKENDS
from llamactl_py.backends.backend import Backend
from llamactl_py.backends.catalogue import load
from llamactl_py.backends.helptext import argparse_entries, llama_entries

SCRIPT = Path(__file__).parents[2] / "scripts" / "catalogue.py"

SERVERS = {name: b for name, b in BACKENDS.items() if not b.takes_any_command}
HELP = Path(__file__).parent / "help"

each_backend = pytest.mark.parametrize("backend", SERVERS.values(), ids=list(SERVERS))


@pytest.fixture(name="script")
def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("catalogue_script", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@each_backend
def test_every_flag_of_the_help_is_there(backend: Backend) -> None:
    """The script counted the entries that it read, before it made rows of them."""
    catalogue = backend.catalogue
    of_help = [flag for flag in catalogue if not flag.historic and not flag.is_positional]
    assert len(of_help) == catalogue.flags_in_help
    assert sum(len(f.spellings) + len(f.negations) for f in of_help) >= catalogue.spellings_in_help


def test_the_helps_had_this_many_flags() -> None:
    """Counted apart from the script, with grep over the help texts: a parser that loses a flag shows here."""
    counted = {b.type: (b.catalogue.version, b.catalogue.flags_in_help, b.catalogue.spellings_in_help) for b in SERVERS.values()}
    assert counted == {
        "llama_cpp": ("0.6.0-dev", 256, 413),
        "llama_cpp_python": ("0.3.36", 58, 59),
        "lmdeploy": ("0.18.0", 78, 79),
        "mlx_lm": ("0.32.2", 27, 28),
        "sglang": ("0.5.23", 530, 559),
        "vllm": ("0.32.0", 317, 430),
    }


@each_backend
def test_every_flag_that_the_help_prints_has_an_entry_with_a_type_and_a_group(
    backend: Backend, record_property: Callable[[str, object], None]
) -> None:
    """`help/` holds what grep found in each help text: a line for each flag, with all its spellings."""
    printed = [line.split() for line in (HELP / f"{backend.type}.txt").read_text(encoding="utf-8").splitlines()]
    known = [s for s in printed if (hit := backend.catalogue.by_word(s[0])) and hit.flag.type and hit.flag.group]
    share = f"{len(known)} of {len(printed)} flags, {len(known) / len(printed):.0%}"
    record_property("catalogue", share)
    print(f"{backend.type} {backend.catalogue.version}: {share}")  # noqa: T201 shown by pytest -rP
    for spellings in printed:
        flags = {(*hit.flag.spellings, *hit.flag.negations) for word in spellings if (hit := backend.catalogue.by_word(word))}
        assert len(flags) == 1, spellings
        assert set(spellings) <= set(flags.pop()), spellings
    assert len(known) == len(printed) == backend.catalogue.flags_in_help


@each_backend
def test_no_two_flags_share_a_name(backend: Backend) -> None:
    spelled = ({s.lstrip("-").replace("-", "_") for s in (*f.spellings, *f.negations)} for f in backend.catalogue)
    names = Counter(name for of_one_flag in spelled for name in of_one_flag)
    assert [name for name, times in names.items() if times > 1] == []
    for flag in backend.catalogue:
        hit = backend.catalogue.by_name(flag.key)
        assert hit
        assert (hit.flag, hit.negated) == (flag, False)


@each_backend
def test_keys_are_python_names_in_order_and_members_fit_together(backend: Backend) -> None:
    keys = list(backend.catalogue.flags)
    assert keys == sorted(keys)
    for flag in backend.catalogue:
        assert flag.key.isidentifier()
        assert flag.is_positional or flag.spellings[0] == flag.flag
        assert flag.group, flag.key
        assert flag.arity != "switch" or flag.type == "bool", flag.key
        assert flag.type != "bool" or flag.arity in ("switch", "one"), flag.key
        assert not flag.negations or flag.arity == "switch", flag.key
        assert flag.help or flag.historic, flag.key


@each_backend
def test_what_the_daemon_decides_is_owned(backend: Backend) -> None:
    owned = {flag.key for flag in backend.catalogue if flag.owned}
    address = {hit.flag.key for word in backend.address_flags if (hit := backend.catalogue.by_word(word))}
    assert len(address) == 2
    assert {*address, "help"} <= owned
    assert {f.key for f in backend.catalogue if re.fullmatch("(admin_)?api_key.*|uds", f.key)} <= owned
    keys = [f for f in backend.catalogue if f.key.startswith("api_key") and f.env]
    assert backend.has_api_key == bool(keys)


@each_backend
def test_secrets_have_a_variable_to_travel_in(backend: Backend) -> None:
    assert all(flag.env or flag.owned for flag in backend.catalogue if flag.secret)
    assert {f.key for f in backend.catalogue if "token" in f.key and f.env == "HF_TOKEN"} <= {
        f.key for f in backend.catalogue if f.secret
    }


@each_backend
def test_one_flag_a_line_makes_good_diffs(backend: Backend) -> None:
    text = files("llamactl_py.backends").joinpath("data", f"{backend.type}.json").read_text(encoding="utf-8")
    assert sum(line.startswith('{"key"') for line in text.splitlines()) == len(backend.catalogue.flags)


def test_options_that_older_clients_store_are_known() -> None:
    """Keys as llamactl stores them, among them some that today's servers call otherwise, or no more."""
    stored = {
        "llama_cpp": [
            "predict",
            "gpu_layers",
            "n_gpu_layers",
            "no_mmap",
            "mlock",
            "sampling_seq",
            "webui",
            "draft_max",
            "model_draft",
        ],
        "vllm": ["swap_space", "task", "device", "disable_log_requests", "worker_use_ray", "prompt_adapters"],
        "mlx_lm": ["chat_template_args", "use_default_chat_template", "num_draft_tokens"],
    }
    assert [key for name, keys in stored.items() for key in keys if BACKENDS[name].catalogue.by_name(key) is None] == []


def test_importing_reads_no_data() -> None:
    program = "import llamactl_py.backends.catalogue as c, llamactl_py.backends; assert c.load.cache_info().currsize == 0"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=SCRIPT.parents[1])


def test_a_catalogue_is_read_once_and_at_once() -> None:
    """It takes some 3 ms; the bound is for a busy machine."""
    assert load("vllm") is load("vllm")
    times = []
    for _ in range(5):
        load.cache_clear()
        began = perf_counter()
        load("sglang")
        times.append(perf_counter() - began)
    assert min(times) < 0.03


# --- The script -------------------------------------------------------------------------------------------------------

LLAMA_HELP = """\
----- common params -----

-c,    --ctx-size N                     size of the context (default: 0, 0 = loaded from
                                        model)
                                        (env: LLAMA_ARG_CTX_SIZE)
-kvo,  --kv-offload, -nkvo, --no-kv-offload
                                        whether to offload (default: enabled)
--no-host                               bypass host buffer
--temp N                                temperature (default: 0.80)


----- speculative params -----

--draft, --draft-max N                  the argument has been removed. use --new-one
                                        (env: LLAMA_ARG_DRAFT_MAX)
-fa,   --flash-attn [on|off|auto]       set it
"""

ARGPARSE_HELP = """\
usage: vllm serve [options]

options:
  --api-key KEY [KEY ...], -k KEY [KEY ...]
                        Keys. (default: None)
  --eager, --no-eager, -e
                        Whether. More. (default: False)

ModelConfig:
  --max-len MAX_LEN     Length. (default: 7)
  --hf-token [HF_TOKEN]
                        Token.
  --mode {a,b}          Mode of self- hosting. (default: a)
  --use_it USE_IT       Use it. (default: True)
  --split [SPLIT ...]   Split.

When passing JSON arguments:
   --json-arg '{}'
"""


def test_the_script_reads_llama_cpps_layout(script: ModuleType) -> None:
    rows = {r["key"]: r for r in (script.row(e, {}) for e in llama_entries(LLAMA_HELP))}
    assert list(rows) == ["ctx_size", "kv_offload", "no_host", "temp", "draft", "flash_attn"]
    assert (rows["ctx_size"]["type"], rows["ctx_size"]["env"]) == ("int", "LLAMA_ARG_CTX_SIZE")
    assert rows["ctx_size"]["default"] == "0, 0 = loaded from model"
    assert (rows["kv_offload"]["spellings"], rows["kv_offload"]["negations"]) == (["-kvo"], ["--no-kv-offload", "-nkvo"])
    assert (rows["no_host"]["type"], rows["no_host"]["negations"]) == ("bool", [])
    assert rows["temp"]["type"] == "float"
    assert rows["draft"]["instead"] == "--new-one"
    assert rows["flash_attn"]["choices"] == ["on", "off", "auto"]
    assert rows["flash_attn"]["group"] == "speculative"


def test_the_script_reads_argparses_layout(script: ModuleType) -> None:
    rows = {r["key"]: r for r in (script.row(e, {}) for e in argparse_entries(ARGPARSE_HELP))}
    assert list(rows) == ["api_key", "eager", "max_len", "hf_token", "mode", "use_it", "split"]
    assert (rows["api_key"]["arity"], rows["api_key"]["spellings"]) == ("many", ["-k"])
    assert (rows["eager"]["spellings"], rows["eager"]["negations"]) == (["-e"], ["--no-eager"])
    assert rows["eager"]["help"] == "Whether"
    assert (rows["max_len"]["type"], rows["max_len"]["group"]) == ("int", "ModelConfig")
    assert rows["hf_token"]["arity"] == "optional"
    assert (rows["mode"]["choices"], rows["mode"]["help"]) == (["a", "b"], "Mode of self-hosting")
    assert (rows["use_it"]["type"], rows["use_it"]["arity"]) == ("bool", "one")
    assert rows["split"]["arity"] == "many"


def test_facts_fill_in_what_the_help_does_not_say(script: ModuleType) -> None:
    facts = {"help": {"yarn": "A factor"}, "default": {"yarn": "1.0"}, "types": {"float": ["yarn"]}}
    (entry,) = argparse_entries("  --yarn YARN\n")
    made = script.row(entry, facts)
    assert (made["type"], made["help"], made["default"]) == ("float", "A factor", "1.0")


def test_a_fact_about_a_flag_that_is_gone_stops_the_script(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match="speaks of flags that the help does not have"):
        script.catalogue("mlx_lm", "options:\n  --model MODEL  The model.\n", "0")


NEWER_HELP = """\
----- common params -----

-c,    --ctx-size N                     size of the context (default: 4096)
                                        (env: LLAMA_ARG_CTX_SIZE)
-kvo,  --kv-offload, -nkvo, --no-kv-offload
                                        whether to offload (default: enabled)
--temperature, --temp N                 temperature (default: 0.80)
--quiet-host                            bypass host buffer
--brand-new FNAME                       does something new


----- speculative params -----

-fa,   --flash-attn [on|off|auto|best]  set it
"""


def test_two_helps_are_held_side_by_side(script: ModuleType) -> None:
    assert sorted(script.differences(LLAMA_HELP, NEWER_HELP)) == [
        "added    --brand-new path  does something new",
        "changed  --ctx-size default: 0, 0 = loaded from model -> 4096",
        "changed  --flash-attn choices: +best",
        "removed  --draft",
        "renamed  --no-host -> --quiet-host",
        "renamed  --temp -> --temperature",
    ]
    assert list(script.differences(NEWER_HELP, NEWER_HELP)) == []


def test_a_lost_spelling_and_another_type_are_told(script: ModuleType) -> None:
    old = "options:\n  --size SIZE, -s SIZE\n                        Size. (default: 5)\n"
    new = "options:\n  --size SIZE           Size. (default: 0.5)\n"
    assert sorted(script.differences(old, new)) == [
        "changed  --size default: 5 -> 0.5",
        "changed  --size type: int -> float",
        "removed  -s (a spelling of --size)",
    ]


def test_a_flag_of_tomorrow_needs_its_help_text_and_nothing_else(script: ModuleType, tmp_path: Path) -> None:
    """The catalogue of mlx_lm, written again from a help with one more flag, is read by the engine as it is."""
    printed = "".join(f"  {f.flag} X\n                        (default: 1)\n" for f in load("mlx_lm") if not f.historic)
    text = printed + "  --brand-new BRAND_NEW\n                        A new thing, in seconds. (default: 3)\n"
    made = tmp_path / "mlx_lm.json"
    made.write_text(script.dumps(script.catalogue("mlx_lm", text, "tomorrow")), encoding="utf-8")
    (new,) = (row for row in json.loads(made.read_text(encoding="utf-8"))["flags"] if row["key"] == "brand_new")
    assert (new["type"], new["arity"], new["default"], new["unit"]) == ("int", "one", "3", "seconds")


def test_lmdeploys_layout_has_positional_words_types_and_one_flag_in_two_groups(script: ModuleType) -> None:
    text = """\
positional arguments:
  model_path            The path of a model. it could be one of
                        the following.

options:
  --quant-policy P      KV cache policy. Default: 0. Type: int

PyTorch engine arguments:
  --tp TP               GPUs. Default: 1. Type: int
  --hf-overrides H      Extra. Default: None. Type: loads

TurboMind engine arguments:
  --tp TP               GPUs. Default: 1. Type: int
"""
    rows = {r["key"]: r for r in (script.row(e, {}) for e in script._merged(argparse_entries(text)))}
    assert [(r["key"], r["type"], r["default"], r["group"]) for r in rows.values()] == [
        ("quant_policy", "int", "0", "options"),
        ("tp", "int", "1", "PyTorch engine and TurboMind engine"),
        ("hf_overrides", "json", "", "PyTorch engine"),
    ]
    assert script.positional_row("model_path", text)["help"].startswith("The path of a model")
