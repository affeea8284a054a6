"""The installed version against the catalogue: texts as servers print them, made from the catalogue and then changed.

`help_of(catalogue, less, more)` is a help without some flags and with others.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from llamactl_py.backends import BACKENDS, recognises
from llamactl_py.backends.catalogue import Catalogue
from llamactl_py.backends.installed import Installed, installed, read_help
from llamactl_py.backends.schema import DIALECT, schema

LLAMA, MLX, VLLM = (BACKENDS[kind].catalogue for kind in ("llama_cpp", "mlx_lm", "vllm"))


def help_of(catalogue: Catalogue, less: tuple[str, ...] = (), more: str = "") -> str:
    """Laid out as llama.cpp does (column 0), or argparse (column 2)."""
    indent = "" if catalogue.grammar == "llama.cpp" else "  "
    lines = [
        f"{indent}{', '.join((*flag.spellings, *flag.negations))} N   {flag.help}"
        for flag in catalogue
        if not flag.removed and flag.key not in less
    ]
    return "usage: server [-h]\n\n----- common params -----\n\n" + "\n".join(lines) + "\n" + more


def known(catalogue: Catalogue, less: tuple[str, ...] = (), more: str = "", version: str = "1.0") -> Installed:
    found = installed(catalogue, version, help_of(catalogue, less, more))
    assert found
    return found


class TestReading:
    def test_llama_cpp_prints_flags_in_column_0(self) -> None:
        text = (
            "----- common params -----\n\n"
            "-h,    --help, --usage                  print usage and exit\n"
            "-kvo,  --kv-offload, -nkvo, --no-kv-offload\n"
            "                                        whether to enable it\n"
            "--mmap, --no-mmap                       the argument has been removed. use --load-mode mmap (env: LLAMA_ARG_MMAP)\n"
        )
        usage, offload, mmap = read_help(text)
        assert usage.spellings == ("-h", "--help", "--usage")
        assert (offload.spellings, offload.help) == (("-kvo", "--kv-offload", "-nkvo", "--no-kv-offload"), "whether to enable it")
        assert (mmap.spellings, mmap.refused, mmap.instead) == (("--mmap", "--no-mmap"), True, "--load-mode mmap")

    def test_argparse_prints_them_in_column_2(self) -> None:
        text = (
            "usage: x [-h] [--model MODEL]\n                [--in-usage X]\n\noptions:\n"
            "  -h, --help            show this help\n"
            "  --api-server-count API_SERVER_COUNT, -asc API_SERVER_COUNT\n"
            "                        How many. Not --this one.\n"
            "  --log {a,b} [{a,b} ...]\n"
        )
        assert [flag.spellings for flag in read_help(text)] == [("-h", "--help"), ("--api-server-count", "-asc"), ("--log",)]

    @pytest.mark.parametrize(
        "text", ["", "\0" * 1000, "-", "--", "-----\n- x\n", "--=\n", "  -\n", "-" * 100_000, "\n" * 100_000]
    )
    def test_what_is_no_help_has_no_flags(self, text: str) -> None:
        assert read_help(text) == ()
        assert installed(LLAMA, "1", text) is None

    def test_the_help_of_another_server_is_not_taken_for_its_own(self) -> None:
        assert installed(LLAMA, "1", help_of(VLLM)) is None
        assert installed(VLLM, "1", help_of(MLX)) is None

    def test_a_hundred_thousand_flags_are_read_in_no_time(self) -> None:
        assert len(read_help("\n".join(f"--flag-{n}  x" for n in range(100_000)))) == 5000


class TestDifferences:
    def test_the_version_that_is_described_has_none(self) -> None:
        for catalogue in (LLAMA, MLX, VLLM):
            found = known(catalogue)
            assert (found.new, found.lacking) == ((), ())

    def test_what_it_has_and_lacks_is_told(self) -> None:
        found = known(LLAMA, less=("ctx_size",), more="-nf, --new-flag N    does new things\n")
        assert [flag.spellings for flag in found.new] == [("-nf", "--new-flag")]
        assert [flag.key for flag in found.lacking] == ["ctx_size"]

    def test_a_flag_that_is_named_only_as_removed_is_lacking(self) -> None:
        found = known(LLAMA, less=("ctx_size",), more="-c, --ctx-size N   the argument has been removed. use --context\n")
        assert [flag.key for flag in found.lacking] == ["ctx_size"]
        (said,) = found.objections({"ctx_size": 4096})
        assert said == "llama-server 1.0, which is the one installed, refuses --ctx-size; use --context"


class TestObjections:
    @pytest.mark.parametrize(
        ("options", "refused"),
        [
            ({"ctx_size": 1}, ["--ctx-size"]),
            ({"threads": 1}, []),
            ({"extra_args": ["--bogus", "-1", "--threads", "2", "x"]}, ["--bogus"]),
            ({"extra_args": ["--bogus", "--bogus"]}, ["--bogus"]),
            ({"model": "--x"}, []),
            ({"an_option_of_an_older_catalogue": 1}, []),
            ({}, []),
        ],
    )
    def test_each_flag_that_it_does_not_take_is_told_once(self, options: dict[str, Any], refused: list[str]) -> None:
        said = known(LLAMA, less=("ctx_size",)).objections(options)
        assert [sentence.partition(" refuses ")[2].partition(";")[0] for sentence in said] == refused

    def test_a_removed_flag_names_its_replacement(self) -> None:
        (said,) = known(LLAMA).objections({"mmap": False})
        assert said.startswith("llama-server 1.0, which is the one installed, refuses --no-mmap; use --load-mode mmap")

    def test_what_travels_in_the_environment_is_no_flag(self) -> None:
        secret = next(flag for flag in LLAMA if flag.secret and flag.env and not flag.owned)
        assert known(LLAMA, less=(secret.key,)).objections({secret.key: "x"}) == ()

    @pytest.mark.parametrize("word", ["--compilation-config.mode", "--max-model", "--max_model_len=3", "-O3"])
    def test_vllm_takes_fields_beginnings_underscores_and_values_that_are_attached(self, word: str) -> None:
        assert known(VLLM, more="  --optimization-level N, -O N\n").takes(word)

    def test_llama_cpp_takes_no_beginnings(self) -> None:
        assert known(LLAMA).takes("--ctx-size")
        assert not known(LLAMA).takes("--ctx-siz")


class TestWarnings:
    def test_what_its_own_help_contradicts_is_left_out(self) -> None:
        found = known(LLAMA, more="--brand-new N   x\n--mmap, --no-mmap   memory-map the model\n")
        warnings = (
            "--brand-new is not known to llama-server; it is passed on as it is",
            "--other is not known to llama-server; it is passed on as it is",
            "newer llama-server refuses --mmap; use --load-mode mmap",
            "newer llama-server refuses --mlock; use --load-mode mlock",
        )
        assert found.still_true(warnings) == (warnings[1], warnings[3])


class TestSchema:
    @pytest.mark.parametrize("kind", BACKENDS)
    def test_every_option_but_what_the_daemon_decides_is_described(self, kind: str) -> None:
        catalogue = BACKENDS[kind].catalogue
        made = json.loads(json.dumps(schema("x", catalogue, None)))
        assert made["$schema"] == DIALECT
        assert set(made["properties"]) - {"extra_args"} == {flag.key for flag in catalogue if not flag.owned} - {"extra_args"}
        groups = {found.get("x-group") for found in made["properties"].values()} - {None}
        assert groups == set(made["x-groups"])

    def test_types_lists_choices_and_secrets(self) -> None:
        properties = schema("x", LLAMA, None)["properties"]
        assert properties["ctx_size"]["type"] == "integer"
        assert properties["lora"]["type"] == "array"
        assert properties["kv_offload"]["x-spellings"][0] == "--kv-offload"
        chosen = next(flag for flag in LLAMA if flag.choices and flag.arity == "one" and flag.type == "str" and not flag.owned)
        assert properties[chosen.key]["enum"] == list(chosen.choices)
        secret = next(flag for flag in LLAMA if flag.secret and not flag.owned)
        assert (properties[secret.key]["writeOnly"], properties[secret.key]["x-secret"]) == (True, True)

    def test_it_is_narrowed_to_the_installed_version(self) -> None:
        made = schema("x", LLAMA, known(LLAMA, less=("ctx_size",), more="--brand-new N   does it\n", version="7"))
        assert made["properties"]["ctx_size"]["deprecated"] is True
        assert "deprecated" not in made["properties"]["threads"]
        assert (made["x-version"], made["x-is-installed-version"]) == ("7", True)
        assert made["x-new-flags"] == [{"spellings": ["--brand-new"], "description": "does it"}]

    def test_a_removed_flag_that_the_installed_version_still_has_is_not_deprecated(self) -> None:
        assert schema("x", LLAMA, None)["properties"]["mmap"]["deprecated"] is True
        made = schema("x", LLAMA, known(LLAMA, more="--mmap, --no-mmap   memory-map the model\n"))
        assert "deprecated" not in made["properties"]["mmap"]


@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        ("llama_cpp", ("/opt/llama-server",), True),
        ("llama_cpp", ("/opt/llama-server-cuda",), True),
        ("llama_cpp", ("/opt/run-my-model.sh",), False),
        ("llama_cpp", ("/usr/bin/vllm", "serve"), False),
        ("vllm", ("/usr/bin/vllm", "serve"), True),
        ("vllm", ("/usr/bin/python3", "-m", "vllm.entrypoints.openai.api_server"), True),
        ("vllm", ("/usr/bin/python3", "serve.py"), False),
        ("llama_cpp_python", ("/usr/bin/python3", "-m", "llama_cpp.server"), True),
        ("mlx_lm", ("/x/mlx_lm.server",), True),
        ("mlx_lm", ("/usr/bin/nice", "-n", "5", "/x/mlx_lm.server"), True),
        ("mlx_lm", (), False),
        ("custom", ("/usr/bin/anything", "--port", "1"), False),
    ],
)
def test_a_program_is_known_by_its_name_only(kind: str, words: tuple[str, ...], expected: bool) -> None:
    assert recognises(BACKENDS[kind], words) == expected
