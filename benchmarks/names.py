"""What candidates are called, where more than one file has to know."""

from __future__ import annotations

OURS = "llamactl-py"
ONE_HUNDRED, ONE_THOUSAND = f"{OURS}, 100 instances", f"{OURS}, 1,000 instances"
AT_SCALE = {ONE_HUNDRED: 100, ONE_THOUSAND: 1000}
"""Ourselves again, with so many instances registered."""
FEW_THREADS = f"{OURS}, --threads-http as it comes"
"""Ourselves before a llama-server that was not told to expect many connections."""
ALL_PYTHON = f"{OURS}, all Python"
"""Ourselves as where nothing could be compiled."""
