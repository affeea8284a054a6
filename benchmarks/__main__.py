"""Measure llamactl-py beside its peers: `python -m benchmarks`. A whole run writes RESULTS.md and its picture."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import build, plot, report
from benchmarks.cases import CASES
from benchmarks.results import Run, combine
from benchmarks.suite import EXTRAS, NAMES, Suite

HERE = Path(__file__).parent
PATHS = ("--llama-swap", "--llamactl", "--json", "--output")


def main() -> None:
    options = arguments(sys.argv[1:])
    if options.report:
        run = combine(options.report)
    else:
        run = Suite(
            rounds=options.rounds,
            turns=options.turns,
            seconds=options.seconds,
            only=options.only,
            candidates=options.candidates,
            llama_swap=options.llama_swap,
            llamactl=options.llamactl,
        ).measure()
        run.typed = [typed(sys.argv[1:])]
        run.save(file := options.json or build.cache() / f"run-{time.strftime('%Y%m%d-%H%M%S')}.json")
        say(f"raw figures: {file}")
    write(run, options.output)


def typed(words: Sequence[str]) -> str:
    """The command, for others to repeat: where this machine has its files is left out."""
    shown = ["PATH" if before in PATHS else word for before, word in zip(("", *words), words, strict=False)]
    return " ".join(("python -m benchmarks", *shown))


def write(run: Run, output: Path | None) -> None:
    """The page and its picture into *output*, or the page alone to the terminal."""
    if output is None:
        print(report.page(run, None))
        return
    (output / "results.svg").write_text(plot.svg(run))
    (output / "RESULTS.md").write_text(report.page(run, "results.svg"))
    say(f"written: {output / 'RESULTS.md'}")


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=_positive(int), help="how often everybody is started anew [3]")
    add("--turns", type=_positive(int), help="how often in a round everybody is asked each case that ratios are taken of [8]")
    add("--seconds", type=_positive(float), help="about how long each case takes [1.5]")
    add("--quick", action="store_true", help="one round of one second, direct, llamactl-py and nginx, no growth: while tuning")
    add("--only", type=_names(*(case.name for case in CASES), *EXTRAS), metavar="CASE,...", help="these cases only")
    add("--candidates", type=_names(*NAMES), metavar="NAME,...", help="these candidates only")
    add("--llama-swap", type=_program, metavar="PATH", help="binary of llama-swap")
    add("--llamactl", type=_program, metavar="PATH", help="binary of llamactl, the one in Go")
    add("--json", type=_new_file, metavar="FILE", help="where the raw figures go [a new file in the cache]")
    add("--report", type=Path, nargs="+", metavar="FILE", help="measure nothing; put together what these files hold")
    add("--output", type=_folder, metavar="FOLDER", help="write RESULTS.md there [of a whole run or a report: into benchmarks/]")
    options = parser.parse_args(words)
    is_whole = not (options.quick or options.only or options.candidates)
    options.output = options.output or (HERE if is_whole else None)
    if options.quick:
        options.candidates = options.candidates or ["direct", "llamactl-py", "nginx"]
        options.only = options.only or [case.name for case in CASES if not case.is_of_growth]
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.turns = options.turns or (1 if options.quick else 8)
    options.seconds = options.seconds or (1.0 if options.quick else 1.5)
    return options


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def positive(text: str) -> float:
        if (value := kind(text)) <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return positive


def _names(*known: str) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        given = [word.strip() for word in text.split(",")]
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"there is no {name!r}; known are {', '.join(known)}")
        return given

    return names


def _program(text: str) -> Path:
    if not (path := Path(text)).is_file():
        raise argparse.ArgumentTypeError(f"there is no program at {text}")
    return path.resolve()


def _folder(text: str) -> Path:
    """Known to be there before half an hour is spent on what is to go there."""
    if not (path := Path(text)).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return path


def _new_file(text: str) -> Path:
    _folder(str(Path(text).parent))
    return Path(text)


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
