"""`llamactl chat`: one question in a pipe, and a conversation at a terminal. The stub counts; with `record` it notes what it
was asked. `hostile` is a server whose words try to steer the terminal.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import PROGRAM, Llamactl, Said, surroundings
from tests.support.daemons import Daemon, wait_for
from tests.support.terminal import CTRL_C, CTRL_D, Terminal, terminal

SERVER = ("llama-server", "-m", "/dev/null")
COUNTED = " one two three four five six seven eight nine ten"


def piped(served: Daemon, text: str, *words: str) -> Said:
    done = subprocess.run(
        (*PROGRAM, "--data-dir", str(served.data), *words),
        input=text,
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def record(llamactl: Llamactl, tmp_path: Path) -> Path:
    """What instance `a` was asked."""
    file = tmp_path / "record"
    llamactl("create", "a", "--alias", "gpt", "--env", f"STUBD=record={file}", "--", *SERVER)
    return file


def asked(record: Path) -> list[list[tuple[str, str]]]:
    """The messages of each chat, as (role, content)."""
    if not record.exists():
        return []
    notes = [json.loads(line) for line in record.read_text().splitlines()]
    bodies = [json.loads(note["body"]) for note in notes if note["target"] == "/v1/chat/completions"]
    return [[(message["role"], message["content"]) for message in body["messages"]] for body in bodies]


# ---- one question


def test_a_question_on_the_command_line_is_answered_and_starts_the_instance(served: Daemon, record: Path) -> None:
    said = piped(served, "", "chat", "gpt", "Count", "please", "--system", "Be brief.", "--max-tokens", "3")
    assert (said.code, said.out) == (0, " one two three\n")
    assert asked(record) == [[("system", "Be brief."), ("user", "Count please")]]


@pytest.mark.parametrize(
    ("words", "text", "question"),
    [
        ((), "Count.\n", "Count."),
        (("Review this:", "-"), "a\nb\n", "Review this:\n\na\nb"),
        (("-",), "Count.", "Count."),
        (("Count",), "not read", "Count"),
    ],
)
def test_a_question_may_come_from_stdin(served: Daemon, record: Path, words: tuple[str, ...], text: str, question: str) -> None:
    assert piped(served, text, "chat", "a", *words).out == f"{COUNTED}\n"
    assert asked(record) == [[("user", question)]]


def test_json_gives_the_answer_of_the_server_whole(served: Daemon, record: Path) -> None:
    answer = json.loads(piped(served, "Count.", "chat", "a", "--json", "--temperature", "0").out)
    assert (answer["object"], answer["choices"][0]["message"]["content"]) == ("chat.completion", COUNTED)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("nobody", "Hello"), 4, "no instance serves the model 'nobody'; llamactl ps lists what there is"),
        (("a", ""), 2, "the question is empty"),
        (("a",), 2, "there is no question: stdin is empty"),
        (("a", "x", "--max-tokens", "0"), 2, "--max-tokens"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(
    served: Daemon, record: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    said = piped(served, "", "chat", *words)
    assert (said.code, said.out) == (code, "")
    assert told in said.err


def test_an_instance_that_does_not_come_up_is_told_with_its_reason(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "bad", "--", "llama-server", "-m", "/no/such.gguf")
    said = piped(served, "Hello", "chat", "bad")
    assert (said.code, said.out) == (4, "")
    assert "model '/no/such.gguf' does not exist" in said.err


def test_an_answer_that_breaks_off_is_no_success(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "a", "--env", "STUBD=drop-mid-stream=3", "--", *SERVER)
    said = piped(served, "Count.", "chat", "a")
    assert said.code in (3, 4)
    assert said.out.startswith(" one two")
    assert said.err.startswith("llamactl: ")


def test_what_is_waited_for_is_told_where_a_program_reads(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "a", "--env", "STUBD=load-time=2.5", "--", *SERVER)
    said = piped(served, "Count.", "chat", "a")
    assert (said.code, said.out) == (0, f"{COUNTED}\n")
    assert "a is starting" in said.err.splitlines()


# ---- a conversation


def talk(served: Daemon, *words: str, **environment: str) -> Any:
    return terminal("--data-dir", str(served.data), "chat", *words, **environment)


def ask(screen: Terminal, text: str) -> None:
    screen.type(f"{text}\r")
    screen.until("ten\n")
    screen.until("> ")


def test_a_conversation_remembers_and_forgets(served: Daemon, record: Path) -> None:
    with talk(served, "a", "--system", "One.") as screen:
        screen.until("/help tells the commands")
        screen.until("> ")
        ask(screen, "first")
        screen.type("second \\\r")
        screen.until(". ")
        ask(screen, "line")
        screen.type("/system Two.\r")
        screen.until("system: Two.")
        ask(screen, "/retry")
        screen.type("/reset\r")
        screen.until("is forgotten")
        ask(screen, "//etc")
        screen.type(CTRL_D)
        assert screen.end() == 0
    first = [("user", "first"), ("assistant", COUNTED)]
    assert asked(record) == [
        [("system", "One."), *first[:1]],
        [("system", "One."), *first, ("user", "second \nline")],
        [("system", "Two."), *first, ("user", "second \nline")],
        [("system", "Two."), ("user", "/etc")],
    ]


def test_commands_of_a_conversation_explain_themselves(served: Daemon, record: Path) -> None:
    with talk(served, "a") as screen:
        screen.until("> ")
        screen.type("/help\r")
        for word in ("/help", "/reset", "/system", "/retry", "/exit"):
            screen.until(word)
        screen.until("> ")
        screen.type("/rest\r")
        screen.until("there is no command /rest (did you mean '/reset'?)")
        screen.type("/retry\r")
        screen.until("nothing was asked yet")
        screen.type("/quit\r")
        assert screen.end() == 0
    assert asked(record) == []


def test_ctrl_c_ends_an_answer_and_not_the_conversation(served: Daemon, llamactl: Llamactl, tmp_path: Path) -> None:
    record = tmp_path / "record"
    llamactl("create", "a", "--env", f"STUBD=hang-after=2 record={record}", "--", *SERVER)
    with talk(served, "a") as screen:
        screen.until("> ")
        screen.type("half a line")
        screen.until("half a line")
        screen.type(CTRL_C)
        screen.until("> ", again=CTRL_C)
        screen.type("Count.\r")
        screen.until("one two")
        screen.type(CTRL_C)
        screen.until("interrupted")
        screen.until("> ")
        wait_for(lambda: served.client.instance("a")["in_flight"] == 0, 10)
        screen.type("Again.\r")
        screen.until("one two")
        screen.type(CTRL_C)
        screen.until("> ")
        screen.type(CTRL_D)
        assert screen.end() == 0
    wait_for(lambda: len(asked(record)) == 2, 10)
    assert asked(record)[-1] == [("user", "Count."), ("assistant", " one two"), ("user", "Again.")]


def test_a_watcher_is_told_what_is_waited_for_and_how_fast_it_was(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "a", "--env", "STUBD=load-time=2 tok-rate=20", "--", *SERVER)
    with talk(served, "a", "Count.") as screen:
        screen.until("a is starting (")
        screen.until(COUNTED.strip())
        screen.until("[10 tokens, ")
        screen.until("tokens/s, the first after ")
        assert screen.end() == 0


def test_a_refusal_does_not_end_the_conversation(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "bad", "--", "llama-server", "-m", "/no/such.gguf")
    with talk(served, "bad") as screen:
        for _ in range(2):
            screen.until("> ")
            screen.type("Hello\r")
            screen.until("model '/no/such.gguf' does not exist")
        screen.until("> ")
        screen.type("/exit\r")
        assert screen.end() == 0


HOSTILE = """
import http.server, json, sys
class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer("application/json", b"{}")
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        deltas = [{"reasoning_content": "th\\x1b]0;t\\x07ink"}, {"content": "a\\x1b[2Jb\\u202ec\\x9b"}, {"content": "d"}]
        events = [{"choices": [{"delta": delta}]} for delta in deltas]
        self.answer("text/event-stream", b"".join(b"data: %s\\n\\n" % json.dumps(e).encode() for e in events))
    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Server).serve_forever()
"""


def test_words_of_a_model_do_not_steer_the_terminal_and_a_program_gets_them_as_they_are(
    served: Daemon, llamactl: Llamactl, tmp_path: Path
) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE)
    made = llamactl("create", "h", "--backend", "custom", "--", sys.executable, str(tmp_path / "hostile.py"), "${PORT}")
    assert made.code == 0
    said = piped(served, "x", "chat", "h")
    assert (said.code, said.out) == (0, "a\x1b[2Jb\u202ec\x9bd\n")
    with talk(served, "h", "x") as screen:
        screen.until("th\\x1b]0;t\\x07ink")
        screen.until("a\\x1b[2Jb\\u202ec\\x9bd\n")
        screen.until("[about 3 tokens")
        assert screen.end() == 0
