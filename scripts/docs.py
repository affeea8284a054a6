#!/usr/bin/env python3
"""Write the generated parts of apidocs/*.md in place: settings, instance options, backends, errors, routes, metrics, CLI help.

A part stands between `<!-- generated: NAME -->` and `<!-- end: NAME -->`; everything around it is written by hand. With --check,
only say whether all parts are current (exit 1 when one is not).
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from msgspec import Struct

from llamactl_py.accounting.metrics import Figures
from llamactl_py.accounting.sums import Sums
from llamactl_py.api.problems import RETRY_AFTER, TABLE
from llamactl_py.api.route import Route
from llamactl_py.api.system import PAGES
from llamactl_py.app import API
from llamactl_py.backends import BACKENDS
from llamactl_py.backends.placeholders import STOP_MEANING
from llamactl_py.cli.main import cli
from llamactl_py.config import legacy
from llamactl_py.config.changes import LIVE
from llamactl_py.config.settings import Backend, Docker, Instances, Settings
from llamactl_py.config.variables import SECTIONS, variables
from llamactl_py.ground.fields import Field, Form, fields_of, split
from llamactl_py.ground.validation import plain
from llamactl_py.importers import llama_swap, llama_swap_model
from llamactl_py.instances.options import InstanceOptions, parse_options
from llamactl_py.instances.state import EDGES, State, status_word

FOLDER = Path(__file__).resolve().parent.parent / "apidocs"
PART = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |\n" for line in lines)


def code(value: object) -> str:
    return f"`{value}`" if value not in ("", None) else ""


def shown(value: Any) -> str:
    """A value as one writes it into a YAML file."""
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, float) and value.is_integer():
        return code(int(value))
    return {"": "empty", "None": "unset", "()": code("[]")}.get(str(value), code(value))


def unit(field: Field) -> str:
    """' seconds' or ' minutes' where a plain number means that."""
    said = next(
        (one.schema["description"] for one in split(field.hint)[1] if isinstance(one, Form) and one.schema and one.write), ""
    )
    found = re.match(r"a number of (\w+),", said)
    return f" {found[1]}" if found else ""


# -- the parts --------------------------------------------------------------------------------------------------------------


def settings() -> str:
    """Every setting. Those of each backend are the same, and listed once."""
    rows = list(_settings(Settings, ""))
    for model, prefix in ((Backend, "backends.KIND"), (Docker, "backends.KIND.docker")):
        rows += [
            [code(f"{prefix}.{field.name}"), shown(field.default), "see below", field.description]
            for field in fields_of(model)
            if field.section is not Docker
        ]
    by_kind: dict[str, list[str]] = {}
    for dotted, variable in variables():
        if dotted.startswith("backends."):
            by_kind.setdefault(dotted.split(".")[1], []).append(code(variable))
    kinds = table(("`KIND`", "variables"), ([code(kind), ", ".join(known)] for kind, known in by_kind.items()))
    return f"{table(('setting', 'default', 'variable', 'meaning'), rows)}\n{kinds}"


def _settings(model: type[Struct], prefix: str) -> Iterator[list[str]]:
    written, variable_of = plain(Settings()), dict(variables())
    for field in fields_of(model):
        dotted = prefix + field.name
        if field.name == "backends":
            continue
        if field.section:
            yield from _settings(field.section, f"{dotted}.")
            continue
        value = written
        for step in dotted.split("."):
            value = value[step]
        default = "by platform, see below" if field.name == "data_dir" else shown(value) + unit(field)
        yield [code(dotted), default, code(variable_of[dotted]), field.description]


def options() -> str:
    """Every option of an instance, with what it gets when it is left out."""
    filled, _ = parse_options({"backend_type": "llama_cpp"}, Settings().instances)
    defaults = plain(filled)
    of_setting = {name.removeprefix("default_"): name for name in Instances.__struct_fields__ if "default_" in name}
    rows = []
    for field in fields_of(InstanceOptions):
        default = shown(defaults[field.name]) + unit(field)
        if field.name in of_setting:
            default += f" (setting `{of_setting[field.name]}`)"
        rows.append([code(field.name), "required" if field.name == "backend_type" else default, field.description])
    return table(("option", "default", "meaning"), rows)


def states() -> str:
    """The states, llamactl's words for them, and where each may lead."""
    meaning = dict(re.findall(r'(\w+) = "\w+"\n    """(.*?)"""', inspect.getsource(State), re.DOTALL))
    return table(
        ("state", "`status`", "meaning", "next"),
        ([code(s), code(status_word(s)), meaning[s.name], ", ".join(code(to) for to in State if to in EDGES[s])] for s in State),
    )


def backends() -> str:
    """The facts of each backend."""
    rows = []
    for b in BACKENDS.values():
        key = f"in `{b.api_key_variable}`" if b.api_key_variable else "has none"
        name = code(b.catalogue.flags[b.name_key].flag) if b.name_key else "no flag"
        again = f"after {b.stop.repeat_term_after:g} s" if b.stop.repeat_term_after else "no"
        flags = f"{len(b.catalogue.flags)} ({b.catalogue.version})" if b.catalogue.version else "none"
        command = code(" ".join(b.command)) or "any"
        rows.append([code(b.type), code(b.slug), command, code(b.health_path), key, name, again, flags])
    return table(
        (
            "`backend_type`",
            "in URLs and settings",
            "command",
            "ready when 200",
            "key",
            "model name",
            "second SIGTERM",
            "flags known",
        ),
        rows,
    )


def custom() -> str:
    """The options of a custom command."""
    rows = [[code(f.key), shown(f.default), f.help] for f in BACKENDS["custom"].catalogue]
    return table(("option", "default", "meaning"), rows)


def placeholders() -> str:
    """What may stand in a custom command."""
    rows = [[code(f"${{{name}}}"), meaning] for name, meaning in STOP_MEANING.items()]
    return table(("placeholder", "stands for"), rows)


def owned() -> str:
    """What the daemon decides."""
    rows = [[code(b.type), code(f.flag), f.owned] for b in BACKENDS.values() for f in b.catalogue if f.owned and f.key != "help"]
    return table(("backend", "flag", "instead"), rows)


def cautions() -> str:
    """What is kept, with a warning."""
    rows = [[code(b.type), code(f.flag), f.warn] for b in BACKENDS.values() for f in b.catalogue if f.warn]
    return table(("backend", "flag", "warning"), rows)


def errors() -> str:
    """The one table of errors."""
    rows = []
    for error, (status, name) in sorted(TABLE.items(), key=lambda item: (item[1], item[0].__name__)):
        wait = str(RETRY_AFTER[error]) if error in RETRY_AFTER and status in (503, 504) else ""
        rows.append([str(status), code(name), wait, inspect.cleandoc(error.__doc__ or "").partition("\n")[0]])
    return table(("status", "code", "`Retry-After`", "meaning"), rows)


def routes() -> str:
    """Every route; one row where several methods do the same."""
    found: dict[tuple[str, Any], list[Route]] = {}
    for route in (*API, *PAGES):
        found.setdefault((route.openapi_path, route.call), []).append(route)
    rows = []
    for (path, call), same in found.items():
        summary = inspect.cleandoc(call.__doc__ or "").partition("\n")[0]
        rows.append([", ".join(r.method for r in same), code(path), same[0].access.value, str(same[0].status), summary])
    return table(("method", "path", "key", "success", "what it does"), rows)


def metrics() -> str:
    """Every metric of ours, with its labels, from an exposition in which each has a sample."""
    sums = Sums()
    sums.answers[200, "answered"] = 1
    for histogram in (sums.queue, sums.load, sums.first_byte, sums.duration):
        histogram.add([1.0])
    suffix = {"counter": "_total", "info": "_info"}
    rows = []
    for family in Figures("", [("", "", sums)], [("", "", 0)], [""]).collect():
        labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
        if family.name.startswith("llamactl_"):
            name = family.name + suffix.get(family.type, "")
            rows.append([code(name), family.type, ", ".join(map(code, labels)), family.documentation])
    return table(("metric", "type", "labels", "meaning"), rows)


def commands() -> str:
    """Every command, from its parameters and docstring: click's own layout of them changes with its versions."""
    return "\n".join(_command(cli, ("llamactl",)))


def _command(command: click.Command, words: tuple[str, ...]) -> Iterator[str]:
    names = command.list_commands(click.Context(command)) if isinstance(command, click.Group) else []
    arguments = [_argument(p) for p in command.params if isinstance(p, click.Argument)]
    usage = " ".join([*words, "[OPTIONS]", *arguments, *(["COMMAND"] if names else [])])
    text = _help(command)
    options = [p for p in command.params if isinstance(p, click.Option)]
    yield f"{'#' * (len(words) + 1)} {' '.join(words)}\n\n`{usage}`\n\n{text}\n" + (
        "\n" + table(("option", "meaning"), map(_option, options)) if options else ""
    )
    for name in names:
        assert isinstance(command, click.Group)
        below = command.get_command(click.Context(command), name)
        assert below is not None
        yield from _command(below, (*words, name))


def _help(command: click.Command) -> str:
    """Its docstring; what is indented is code, and wants an empty line on either side."""
    lines: list[str] = []
    for line in inspect.cleandoc((command.help or "").replace("\b", "")).splitlines():
        is_code = line.startswith("  ")
        if line and lines and lines[-1] and is_code != lines[-1].startswith("    "):
            lines.append("")
        lines.append(f"  {line}" if is_code else line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    if name == "COMMAND":
        return "-- COMMAND..."
    return name


def _option(option: click.Option) -> tuple[str, str]:
    value = "" if option.is_flag else f" {option.metavar or (option.name or '').upper()}"
    meaning = option.help or ""
    if isinstance(option.type, click.Choice):
        meaning += f" One of {', '.join(map(code, option.type.choices))}."
    if option.show_default:
        meaning += f" Default: {code(option.default)}."
    return code(", ".join((*option.opts, *option.secondary_opts)) + value), meaning.replace("[default: ", "Default: ").replace(
        "]", "."
    )


def replaced() -> str:
    """llamactl's keys and variables that are settings no more."""
    keys = table(("llamactl's key", "instead"), ([code(key), instead] for key, instead in legacy.KEYS.items()))
    names = table(("llamactl's variable", "instead"), ([code(name), instead] for name, instead in legacy.VARIABLES.items()))
    return f"{keys}\n{names}"


def swap() -> str:
    """llama-swap's keys that are not carried over."""
    rows = [[code(key), instead] for key, instead in sorted(llama_swap.DROPPED.items())]
    rows += [[code(f"models.*.{key}"), instead] for key, instead in sorted(llama_swap_model.DROPPED.items())]
    return table(("llama-swap's key", "instead"), rows)


def live() -> str:
    """Settings that change while the daemon runs."""
    return ", ".join(code(f"{name}.*" if name in SECTIONS else name) for name in LIVE) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "replaced": replaced,
    "live": live,
    "swap": swap,
    "options": options,
    "states": states,
    "backends": backends,
    "custom": custom,
    "placeholders": placeholders,
    "owned": owned,
    "cautions": cautions,
    "errors": errors,
    "routes": routes,
    "metrics": metrics,
    "commands": commands,
}


def renewed(text: str) -> str:
    """*text* with each of its parts as it has to be."""
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[3]}", text)


def main() -> int:
    stale = {page: new for page in sorted(FOLDER.glob("*.md")) if (new := renewed(old := page.read_text())) != old}
    if "--check" not in sys.argv:
        for page, text in stale.items():
            page.write_text(text)
        return 0
    for page in stale:
        print(f"{page} is stale; run: python scripts/docs.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
