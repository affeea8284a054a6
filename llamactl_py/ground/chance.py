"""What nobody can guess."""

from __future__ import annotations

import os


def token(size: int) -> str:
    """*size* random bytes in hexadecimal: `secrets.token_hex`, without the four modules that come with it at every start."""
    return os.urandom(size).hex()
