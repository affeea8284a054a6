"""Programs that start another program: which of their words are theirs, and where the other program begins.

Some only prepare the start and do nothing for a server that the daemon runs; they are left out. The others (numactl, uv run,
conda run) decide how it runs, and stay part of the command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from llamactl_py.ground.errors import BadCommand, Problem


class Wrapper(Struct, frozen=True):
    """How the words of one such program are read."""

    valued: frozenset[str] = frozenset()
    """Flags whose value is the next word."""
    positionals: int = 0
    """Words of its own that are no flags (`taskset 0x3`)."""
    commands: frozenset[tuple[str, ...]] = frozenset({()})
    """Sub-commands behind which the other program stands (`uv run`)."""
    is_kept: bool = True
    why: str = ""
    """Where it is left out: what to tell the person; empty when it makes no difference."""


def _wrapper(valued: str = "", positionals: int = 0, commands: str = "") -> Wrapper:
    said = frozenset(tuple(command.split()) for command in commands.split(",")) if commands else frozenset({()})
    return Wrapper(frozenset(valued.split()), positionals, said)


def _dropped(valued: str = "", why: str = "") -> Wrapper:
    return Wrapper(frozenset(valued.split()), is_kept=False, why=why)


_CONDA = _wrapper("-n --name -p --prefix --cwd -a --attach -e --env --root-prefix -r", commands="run")
_UV = (
    "--with --with-editable --with-requirements --extra --no-extra --group --no-group --only-group --project --directory -p "
    "--python --env-file --index --default-index -i --index-url --extra-index-url -f --find-links --package --from -P "
    "--refresh-package --config-file --cache-dir --resolution --prerelease -C --exclude-newer --link-mode --index-strategy "
    "--torch-backend -c"
)

WRAPPERS: Mapping[str, Wrapper] = {
    # left out
    "exec": _dropped("-a"),
    "nohup": _dropped(),
    "setsid": _dropped(),
    "time": _dropped("-f -o --format --output"),
    "command": _dropped(),
    "sudo": _dropped(
        "-u --user -g --group -h --host -p --prompt -C --close-from -D --chdir -R --chroot -T --command-timeout -r --role -t "
        "--type",
        why="the server runs as the daemon's user",
    ),
    "doas": _dropped("-u -C -a", why="the server runs as the daemon's user"),
    # kept
    "nice": _wrapper("-n --adjustment"),
    "ionice": _wrapper("-c -n --class --classdata"),
    "chrt": _wrapper("-T -P -D", positionals=1),
    "stdbuf": _wrapper("-i -o -e --input --output --error"),
    "numactl": _wrapper(
        "-i --interleave -w --weighted-interleave -p --preferred -P --preferred-many -N --cpunodebind -C --physcpubind -m "
        "--membind"
    ),
    "taskset": _wrapper(positionals=1),
    "caffeinate": _wrapper("-t -w"),
    "prlimit": _wrapper(),
    "catchsegv": _wrapper(),
    "arch": _wrapper("-e -d"),
    "conda": _CONDA,
    "mamba": _CONDA,
    "micromamba": _CONDA,
    "uv": _wrapper(_UV, commands="run,tool run"),
    "uvx": _wrapper(_UV),
    "pipx": _wrapper("--spec --python --pip-args --index-url --fetch-missing-python", commands="run"),
    "poetry": _wrapper("-C --directory -P --project", commands="run"),
    "pdm": _wrapper("-p --project -c --config", commands="run"),
    "hatch": _wrapper("-e --env -p --project", commands="run"),
    "rye": _wrapper(commands="run"),
    "pixi": _wrapper("-e --environment --manifest-path -p --platform", commands="run"),
}
"""By name, as their manuals have them."""


def own_words(name: str, words: Sequence[str]) -> int:
    """How many of *words*, the first of which is the wrapper *name*, are its own. Raises BadCommand."""
    wrapper = WRAPPERS[name]
    at = _flags(wrapper, words, 1)
    command = next((c for c in sorted(wrapper.commands, key=len, reverse=True) if tuple(words[at : at + len(c)]) == c), None)
    if command is None:
        wanted = " or ".join(sorted(" ".join([name, *c]) for c in wrapper.commands))
        raise BadCommand([Problem("command", f"{' '.join([name, *words[at : at + 1]])!r} starts no program; {wanted!r} does")])
    at = _flags(wrapper, words, at + len(command))
    return min(at + wrapper.positionals, len(words))


def _flags(wrapper: Wrapper, words: Sequence[str], at: int) -> int:
    while at < len(words) and words[at].startswith("-"):
        if words[at] == "--":
            return at + 1
        at += 2 if words[at] in wrapper.valued else 1
    return at
