"""Compiles what of the package is in C, where that can be done: `python hatch_build.py`, or as a part of every installation.

Without a C compiler, without Python's header files, and elsewhere than on Linux the package is all Python, and does the same.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
SOURCE = ROOT / "llamactl_py" / "proxy" / "_pump.c"
MADE = SOURCE.with_suffix(".abi3.so")
FLAGS = ("-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
OLDEST = "cp311"
"""The first Python whose stable ABI has what the C file uses."""


class CannotCompile(Exception):
    """Why."""


def compile_pump() -> None:
    """Make MADE. Raises CannotCompile."""
    if sys.platform != "linux":
        raise CannotCompile("only Linux has epoll")
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise CannotCompile(f"there is no Python.h in {headers} (on Debian: apt-get install python3-dev)")
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    new = MADE.with_suffix(".new")
    named = sysconfig.get_config_var("CC") or "cc"
    try:
        compiler = shlex.split(named)
    except ValueError as error:
        raise CannotCompile(f"CC is {named!r}: {error}") from None
    words = (*compiler, *FLAGS, f'-DSOURCE="{digest}"', f"-I{headers}", str(SOURCE), "-o", str(new))
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotCompile(f"{compiler[0]}: {error.strerror} (on Debian: apt-get install gcc)") from None
    if done.returncode:
        raise CannotCompile(done.stderr.strip() or f"{compiler[0]} ended with {done.returncode}")
    try:
        new.replace(MADE)
    except OSError as error:
        raise CannotCompile(f"{MADE}: {error.strerror}") from None


class Hook(BuildHookInterface[Any]):
    """What hatchling calls before it makes a wheel, an editable one too."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        try:
            compile_pump()
        except CannotCompile as reason:
            with suppress(OSError):  # nothing can be written there, or there is none; unnamed it is not in the wheel
                MADE.unlink()
            self.app.display_warning(f"streams will be passed on by Python alone: {reason}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"{OLDEST}-abi3-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append(str(MADE.relative_to(ROOT)))


if __name__ == "__main__":
    try:
        compile_pump()
    except CannotCompile as reason:
        sys.exit(str(reason))
