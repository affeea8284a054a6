"""Where files live: the platform's data directory, and the names inside it."""

from __future__ import annotations

import os
import sys
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


def private_directory(path: Path) -> Path:
    """Make *path* readable by its owner alone, as are parents made for it, whatever the umask; gives it back. Raises OSError."""
    for missing in reversed([folder for folder in path.parents if not folder.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)  # one by one: `parents=True` gives the upper ones the umask's mode
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_mode & 0o077 and path.stat().st_uid == os.getuid():
        path.chmod(0o700)
    return path
