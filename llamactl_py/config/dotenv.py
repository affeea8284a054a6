"""`.env` files: variables for the daemon and its backends, below those of the real environment. Nothing is expanded in them."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct, field

from llamactl_py.ground.errors import Problem

MAX_FILE_BYTES = 65_536

_LINE = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>.*?)\s*", re.ASCII | re.DOTALL)
_ESCAPE = re.compile(r'\\([nrt\\"$])')
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}


class DotEnv(Struct):
    """What a `.env` file says: the variables, the line of each, and what is wrong with other lines."""

    file: Path | None = None
    variables: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_dotenv(file: Path) -> DotEnv:
    """Read *file*; nothing is said of one that is not there.

    Lines are `NAME=value`, `export NAME=value`, comments (`#`) or blank. A value is taken as it is up to ` #`; in single
    quotes to the letter; in double quotes with \\n, \\r, \\t, \\\\, \\" and \\$. A name that is given twice is a problem, as is
    everything else that is not understood; no problem shows a value, which may be a secret.
    """
    said = DotEnv(file)
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        return DotEnv()
    except (OSError, UnicodeDecodeError) as error:
        why = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else "is not UTF-8 text"
        said.problems.append(Problem(str(file), why))
        return said
    if len(data) > MAX_FILE_BYTES:
        said.problems.append(Problem(str(file), f"is over {MAX_FILE_BYTES} bytes; that is no file of variables"))
        return said
    for number, line in enumerate(re.split(r"\r?\n", text), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            name, value = _read_line(line)
            if name in said.variables:
                raise ValueError(f"{name} is given twice")
        except ValueError as error:
            said.problems.append(Problem(f"{file}:{number}", str(error)))
            continue
        said.variables[name], said.lines[name] = value, number
    return said


def _read_line(line: str) -> tuple[str, str]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError("expected NAME=value, where a name has letters, digits and _")
    name, value = match["name"], match["value"]
    if "\0" in value:
        raise ValueError(f"{name}: holds a NUL character")
    if value[:1] not in ("'", '"'):
        return name, re.sub(r"(?:^|\s+)#.*", "", value)
    quote = value[0]
    inside = re.match(r"'([^']*)'|\"((?:[^\"\\]|\\.)*)\"", value)
    if inside is None:
        raise ValueError(f"{name}: the {quote} is never closed; a value ends on its line (\\n in double quotes is a line end)")
    if not re.fullmatch(r"\s*(#.*)?", value[inside.end() :]):
        raise ValueError(f"{name}: something follows the closing {quote}; quote all of the value, or none of it")
    if quote == "'":
        return name, inside[1]
    return name, _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), inside[2])
