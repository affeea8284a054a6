"""`python -m llamactl_py` is `llamactl`."""

from llamactl_py.cli.main import main

main()
