#!/usr/bin/env python3
"""Write apidocs/openapi.json from the route table; with --check, only say whether it is current (exit 1 when it is not)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llamactl_py.api.openapi import document
from llamactl_py.app import API

FILE = Path(__file__).resolve().parent.parent / "apidocs" / "openapi.json"


def text() -> str:
    """The document as it is committed."""
    return json.dumps(document(API), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    if "--check" not in sys.argv:
        FILE.write_text(text())
        return 0
    if FILE.exists() and FILE.read_text() == text():
        return 0
    print(f"{FILE} is stale; run: python scripts/openapi.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
