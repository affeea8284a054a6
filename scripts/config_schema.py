#!/usr/bin/env python3
"""Write apidocs/config.schema.json; with --check, only say whether it is current (exit 1 when it is not)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llamactl_py.instances.schema import schema

FILE = Path(__file__).resolve().parent.parent / "apidocs" / "config.schema.json"


def text() -> str:
    """The document as it is committed."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    if "--check" not in sys.argv:
        FILE.write_text(text())
        return 0
    if FILE.exists() and FILE.read_text() == text():
        return 0
    print(f"{FILE} is stale; run: python scripts/config_schema.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
