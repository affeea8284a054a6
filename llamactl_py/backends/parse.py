"""A pasted command line, or its words, to options: the inverse of `arguments`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from msgspec import Struct, field

from llamactl_py.backends import lexer
from llamactl_py.backends.arguments import EXTRA
from llamactl_py.backends.backend import Backend
from llamactl_py.backends.catalogue import Catalogue, Flag
from llamactl_py.backends.executables import Start, recognise
from llamactl_py.backends.options import MAX_HINTS, cautions, is_meant, owned_warning
from llamactl_py.backends.placeholders import MEANING
from llamactl_py.backends.values import NUMBER, Scalar, Unfit, Value, on_off, read_word, truth
from llamactl_py.ground.errors import BadCommand, Invalid, Problem


class Parsed(Struct, frozen=True):
    """What a command line says."""

    backend_type: str
    backend_options: dict[str, Value]
    environment: dict[str, str]
    command_override: str | tuple[str, ...] | None
    """The words that start the server, where they are not the backend's usual ones."""
    warnings: tuple[str, ...]
    docker: dict[str, object] | None = None
    """The container that it runs in: engine, image, args (words for the engine), command (words behind the image)."""


def parse_command(command: str | Sequence[str], backend: Backend | None, backends: Mapping[str, Backend]) -> Parsed:
    """Read *command* as *backend*'s, or as that of the backend whose program it starts. Raises BadCommand."""
    any_program = backend is not None and backend.takes_any_command
    split = lexer.split(command, placeholders=MEANING if any_program else None) if isinstance(command, str) else _checked(command)
    start = recognise(split.words, backends.values(), backend)
    if backend and any_program:
        return Parsed(backend.type, _whole(backend, start), start.environment, None, (*split.warnings, *start.warnings))
    chosen = _chosen(start, backend, backends)
    reader = _Reader(chosen.catalogue, start.arguments)
    options = reader.read()
    environment = _environment(start, chosen.catalogue, reader.warnings)
    _forbid_placeholders([*chosen.arguments(options), *environment.values()])
    warnings = [*split.warnings, *start.warnings, *reader.warnings, *cautions(chosen.catalogue, options)]
    docker = start.container.context(start.command) if start.container else None
    override = None if start.container else _override(start, chosen)
    return Parsed(chosen.type, options, environment, override, tuple(dict.fromkeys(warnings)), docker)


def _whole(backend: Backend, start: Start) -> dict[str, Value]:
    """The line as the command of a backend that takes any. Raises BadCommand."""
    try:
        return backend.normalise({"command": list(start.arguments)}).options
    except Invalid as invalid:
        raise BadCommand(Problem("command", problem.what) for problem in invalid.problems) from None


def _chosen(start: Start, backend: Backend | None, backends: Mapping[str, Backend]) -> Backend:
    """The backend that was asked for, or that the line names. Raises BadCommand."""
    chosen = backend or start.backend
    if chosen is None:
        what = f"whose image {start.container.image!r} is none that is known" if start.container else "that names no program"
        raise BadCommand([Problem("backend_type", f"is needed for a line {what}; one of {', '.join(backends)}")])
    if start.backend and start.backend is not chosen:
        said = f"the command starts {start.backend.title}, but backend_type is {chosen.type!r}"
        raise BadCommand([Problem("command", f"{said}; change one of the two")])
    return chosen


def _forbid_placeholders(words: Sequence[str]) -> None:
    """`${PORT}` is at home behind flags that the daemon owns; anywhere else in a known server's command nobody fills it in."""
    if left := next((word for word in words for name in lexer.ADDRESS if f"${{{name}}}" in word), None):
        what = f"{left[:60]!r} holds a placeholder; only commands of backend_type custom have them, write the value itself"
        raise BadCommand([Problem("command", what)])


def _checked(words: Sequence[str]) -> lexer.Lexed:
    """Words as a caller split them: nothing is special in them."""
    if any("\0" in word for word in words):
        raise BadCommand([Problem("command", "holds a NUL character, which no command line can carry")])
    if (length := sum(map(len, words)) + len(words) - 1) > lexer.MAX_LENGTH:
        raise BadCommand([Problem("command", f"has {length} characters; at most {lexer.MAX_LENGTH} are read")])
    return lexer.Lexed(tuple(words), ())


def _override(start: Start, backend: Backend) -> str | tuple[str, ...] | None:
    if start.command in ((), backend.command):
        return None
    return start.command[0] if len(start.command) == 1 else start.command


def _environment(start: Start, catalogue: Catalogue, warnings: list[str]) -> dict[str, str]:
    """The assignments, without those that say what the daemon decides (LLAMA_ARG_PORT=...)."""
    owned = {flag.env: flag for flag in catalogue if flag.owned and flag.env}
    warnings += [f"{name} was left out: {owned[name].owned}" for name in start.environment if name in owned]
    return {name: value for name, value in start.environment.items() if name not in owned}


class _Reader(Struct):
    """Goes through the words once; `at` is the next one to read."""

    catalogue: Catalogue
    words: Sequence[str]
    at: int = 0
    options: dict[str, Value] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    strays: list[int] = field(default_factory=list)
    """Places in `extra` of words that belong to no flag; the first of them may turn out to be the model."""
    warnings: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    hints: int = 0
    """How many unknown flags a near one was looked for; that costs a millisecond each."""

    def read(self) -> dict[str, Value]:
        """All words as options. Raises BadCommand with every problem found."""
        while self.at < len(self.words):
            word = self.words[self.at]
            self.at += 1
            name, equals, value = word.partition("=")
            if word == "--" and self.catalogue.grammar == "argparse":
                self._bare_words()
            elif not _looks_like_flag(word):
                self.strays.append(len(self.extra))
                self.extra.append(word)
            elif word.startswith("---"):
                self.problems.append(Problem("command", f"{word[:40]!r} has more dashes than a flag can have"))
            elif hit := self.catalogue.by_word(name):
                if self.catalogue.is_abbreviated(name) and not hit.flag.owned:
                    self.warnings.append(f"{name} is read as {hit.flag.negations[0] if hit.negated else hit.flag.flag}")
                self._known(hit.flag, hit.negated, name, value if equals else None)
            else:
                self._unknown(word)
        if self.problems:
            raise BadCommand(self.problems)
        self._settle_strays()
        return self.options | ({EXTRA: list[Scalar](self.extra)} if self.extra else {})

    def _bare_words(self) -> None:
        """Behind `--`, argparse takes no flags. It is left out: the daemon's own flags come last."""
        while (word := self._next()) is not None:
            self.at += 1
            self.strays.append(len(self.extra))
            self.extra.append(word)
            if word.startswith("-"):
                self.problems.append(Problem("command", f"{word[:40]!r} behind '--' is no flag; put flags before it"))

    def _known(self, flag: Flag, negated: bool, name: str, attached: str | None) -> None:
        try:
            value = self._value(flag, negated, name, attached)
        except Unfit as unfit:
            self.problems.append(Problem(flag.key, str(unfit)))
            return
        if flag.owned:
            self.warnings.append(owned_warning(flag))
            return
        before = self.options.get(flag.key)
        if flag.arity == "repeat" and isinstance(before, list) and isinstance(value, list):
            value = before + value
        elif before is not None and before != value:
            self.warnings.append(f"{name} is given more than once; the last one counts")
        if is_meant(flag, value):
            self.options[flag.key] = value
        else:
            self.options.pop(flag.key, None)

    def _value(self, flag: Flag, negated: bool, name: str, attached: str | None) -> Value:
        """The value of *flag*, from behind its `=` or from the words that follow. Raises Unfit."""
        if flag.arity == "switch":
            return self._switch(flag, name, attached) is not negated
        if flag.arity == "optional":
            return self._optional(flag, attached)
        if flag.arity == "many":
            given = [attached] if attached is not None else self._take_many(flag)
        elif flag.arity == "two":
            given = [self._take(flag, name) if attached is None else attached, self._take(flag, name)]
        else:
            given = [self._take(flag, name) if attached is None else attached]
        # What is left out anyway need not be right.
        values = [word if flag.owned else read_word(self.catalogue, flag, word) for word in given]
        return values if flag.takes_list else values[0]

    def _switch(self, flag: Flag, name: str, attached: str | None) -> bool:
        if attached is not None:
            return read_word(self.catalogue, flag, attached) is True
        following = self._next()
        said = truth(following) if following is not None else None
        if said is None:
            return True
        self.at += 1
        self.warnings.append(f"{name} is a switch: {following!r} behind it was read as {str(said).lower()}")
        return said

    def _optional(self, flag: Flag, attached: str | None) -> Value:
        following = self._next() if attached is None else attached
        if flag.choices:
            takes_it = following is not None and (attached is not None or on_off(flag, following) is not None)
        else:
            takes_it = following is not None and (attached is not None or not _looks_like_flag(following))
        if not takes_it or following is None:
            return "on" if flag.choices else True
        self.at += attached is None
        return read_word(self.catalogue, flag, following)

    def _take(self, flag: Flag, name: str) -> str:
        word = self._next()
        if word is None:
            raise Unfit(f"{name} needs a value, and nothing follows it")
        if self.catalogue.grammar == "argparse" and _looks_like_flag(word) and " " not in word:
            follower = word.partition("=")[0]
            raise Unfit(f"{name} needs a value, and the flag {follower!r} follows it; if it is the value, write {name}={word}")
        self.at += 1
        if _looks_like_flag(word) and not flag.owned:
            self.warnings.append(f"{name}: {word[:40]!r} looks like a flag, and is read as the value")
        return word

    def _take_many(self, flag: Flag) -> list[str]:
        given: list[str] = []
        while (word := self._next()) is not None and not _looks_like_flag(word):
            if word.startswith("-") and flag.type not in ("int", "float"):
                break
            given.append(word)
            self.at += 1
        if not given:
            raise Unfit("needs at least one value")
        if flag.owned and len(given) > 1:
            # A model that was meant to stand behind it is lost to the server too; nobody would see why.
            self.warnings.append(f"{flag.flag} takes every word up to the next flag: {len(given)} here, none of them the model")
        return given

    def _unknown(self, word: str) -> None:
        """Kept as it is, with the word behind it: only the server knows whether that is its value."""
        self.extra.append(word)
        following = self._next()
        has_digits = word[1:2].isalpha() and word[2:].isdigit()  # -O3 has its value in it
        is_whole = "=" in word or has_digits
        name = word.partition("=")[0]
        if not has_digits and not self._may_mean_one(name):
            program = self.catalogue.program
            self.warnings.append(f"{name[:60]} is not known to {program}; it is passed on as it is{self._hint(name)}")
        if following is not None and not is_whole and not _looks_like_flag(following):
            self.extra.append(following)
            self.at += 1

    def _may_mean_one(self, name: str) -> bool:
        """argparse takes the beginning of a long flag, and vLLM the fields of one that takes JSON (--flag.field)."""
        if self.catalogue.grammar != "argparse":
            return False
        if "." in name:
            return self.catalogue.by_word(name.partition(".")[0]) is not None
        return self.catalogue.is_ambiguous(name)

    def _hint(self, name: str) -> str:
        """The nearest spelling; none for short flags, as each is near to all others."""
        self.hints += 1
        if len(name) < 5 or self.hints > MAX_HINTS:
            return ""
        spellings = [s.removeprefix("--") for f in self.catalogue for s in (*f.spellings, *f.negations) if s.startswith("--")]
        close = get_close_matches(name.lstrip("-")[:60].replace("_", "-"), spellings, n=1, cutoff=0.75)
        return f" (did you mean --{close[0]}?)" if close else ""

    def _settle_strays(self) -> None:
        """The first word that belongs to no flag is the model, unless a flag named one."""
        if self.strays and "model" not in self.options:
            try:
                self.options["model"] = read_word(self.catalogue, self.catalogue.flags["model"], self.extra[self.strays[0]])
            except Unfit as unfit:
                raise BadCommand([Problem("model", str(unfit))]) from None
            del self.extra[self.strays.pop(0)]
            self.strays = [place - 1 for place in self.strays]
        self.warnings += [f"{self.extra[place][:40]!r} belongs to no flag; it was kept in {EXTRA}" for place in self.strays]

    def _next(self) -> str | None:
        return self.words[self.at] if self.at < len(self.words) else None


def _looks_like_flag(word: str) -> bool:
    return word.startswith("-") and word != "-" and not NUMBER.fullmatch(word)
