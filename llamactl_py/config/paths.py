"""Where files live: the platform's data directory, and the names inside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

DATABASE = "llamactl.db"
LOCK = "lock"
MANAGEMENT_KEY = "management.key"
ADDRESS = "address"


def default_data_dir() -> Path:
    """$XDG_DATA_HOME/llamactl, ~/.local/share/llamactl, or the same under ~/Library/Application Support on macOS."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "llamactl"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "llamactl"


def config_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where a configuration file is looked for when none is named, first one first.

    llamactl's places but for `./config.yaml`: a file of that name in the working directory mostly is somebody else's.
    """
    if sys.platform == "darwin":
        shared = Path("/Library/Application Support/llamactl")
        own = Path.home() / "Library" / "Application Support" / "llamactl"
    else:
        shared = Path("/etc/llamactl")
        own = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "llamactl"
    return (Path("llamactl.yaml"), own / "config.yaml", shared / "config.yaml")


def private_directory(path: Path) -> Path:
    """Make *path*, and the parents that it lacks, readable by their owner alone, whatever the umask; gives it back.

    One that exists is left as it is: it may be somebody's home, or /tmp. What we put into it is private file by file.
    Raises OSError.
    """
    for missing in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)  # one by one: `parents=True` gives the upper ones the umask's mode
    path.mkdir(exist_ok=True)  # says what is wrong where there is a file
    return path
