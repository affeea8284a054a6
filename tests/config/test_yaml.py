"""Configuration files as they come: half written, damaged, hostile. The outcome is settings, or one line that tells where.

`outcome` is that: the settings, or what was said. Anything else that is raised fails the test.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llamactl_py.config.load import Sources, load
from llamactl_py.config.settings import Settings
from llamactl_py.config.yaml_file import MAX_FILE_BYTES, read_yaml
from llamactl_py.ground.errors import BadConfiguration

FULL = """\
# llamactl
server:
  host: "127.0.0.1"   # loopback
  port: 8081
  allowed_hosts: [a.example, 'b.example']
  body_timeout: 1h30m
data_dir: /srv/llamactl
backends:
  llama-cpp: {command: llama-server, args: ["--no-webui"]}
  mlx:
    environment:
      HF_HOME: |
        /models
      'X': "\\u00fc\\n"
instances:
  port_range:
  - 21000
  - 21999
  default_auto_restart: yes
  log_rotation_max_size: 1.5e+1
auth: {require_inference_auth: true, management_keys: [0123456789abcdefx]}
"""

ODD_BYTES = [bytes([byte]) for byte in b"\0\t\n :-[]{}&*!|>'\"%@`#,?\\\x7f\xff019~=<"]


def outcome(file: Path, content: bytes) -> Settings | str:
    file.write_bytes(content)
    try:
        return load(Sources(file, {}, {})).settings
    except BadConfiguration as error:
        return str(error)


def assert_one_line_about(file: Path, said: str) -> None:
    assert said.startswith(str(file))
    assert "\n" not in said
    assert "Traceback" not in said
    assert "Node(" not in said


def test_the_full_file_is_understood(tmp_path: Path) -> None:
    found = outcome(tmp_path / "c.yaml", FULL.encode())
    assert isinstance(found, Settings), found
    assert found.server.body_timeout == 5400
    assert found.backends.llama_cpp.args == ("--no-webui",)
    assert found.backends.mlx.environment == {"HF_HOME": "/models\n", "X": "ü\n"}
    assert found.instances.port_range == (21000, 21999)
    assert found.instances.log_rotation_max_size == 15


def test_a_file_cut_at_any_byte_is_settings_or_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    refused = 0
    for end in range(len(FULL.encode())):
        found = outcome(file, FULL.encode()[:end])
        if isinstance(found, str):
            refused += 1
            assert_one_line_about(file, found)
    assert refused > 100


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_with_damaged_bytes_is_settings_or_one_clear_line(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(FULL.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(ODD_BYTES))
    found = outcome(tmp_path / "c.yaml", bytes(content))
    if isinstance(found, str):
        assert_one_line_about(tmp_path / "c.yaml", found)


@given(st.text(st.sampled_from("ab01.:-_ \n\t[]{}&*!|>'\"?,#~=<+eXouinfsrvt\\ud8%"), max_size=60))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example("? [a]\n: 1")
@example("? {a: b}\n: 1")
@example('"\\ud800": 1')
@example('server: {host: "\\ud800"}')
@example("a: 0_0:0")
@example("a: !!timestamp x")
@example("%YAML 9.9\n---\na: 1")
def test_any_text_is_settings_or_one_clear_line(tmp_path: Path, text: str) -> None:
    found = outcome(tmp_path / "c.yaml", text.encode())
    if isinstance(found, str):
        assert_one_line_about(tmp_path / "c.yaml", found)
        found.encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"server:\n  port: 1\n  port: 2\n", ":3: port is given twice"),
        (b'server:\n  port: 1\n  "port": 2\n', ":3: port is given twice"),
        (b"server: {port: 1}\nserver: {host: x}\n", ":2: server is given twice"),
        (b"a: &x 1\nb: *x\n", ":2: YAML aliases (*x) are not supported; write the value out"),
        (b"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n", ":2: YAML aliases (*a) are not supported; write the value out"),
        (b"server:\n  <<: {port: 1}\n", ":2: server.<<: unknown key"),
        (b"server:\n  host: 'a\0b'\n", ":2: holds U+0000, a character that YAML does not allow"),
        (b"a: 1\nb: \x1b[31m\n", ":2: holds U+001B, a character that YAML does not allow"),
        ("server: {port: 1}\n".encode("utf-16"), ": is not UTF-8 text"),
        (b"server: \xff\n", ": is not UTF-8 text"),
        (b"server:\n\tport: 1\n", ":2: is not valid YAML: found character '\\t' that cannot start any token"),
        (b"server: {port: 1\n", ":2: is not valid YAML: "),
        (b"server: 'x\n", ":2: is not valid YAML: "),
        (b"a: 1\n---\nb: 2\n", ":2: is not valid YAML: but found another document"),
        (b"a: @x\n", ":1: is not valid YAML: "),
        (b"a: !!python/object/apply:os.system [reboot]\n", ":1: a: YAML tags (os.system) are not supported"),
        (b"server: !!python/object:os.system {}\n", ":1: server: YAML tags (os.system) are not supported"),
        (b"server: !!set {a, b}\n", ":1: server: YAML tags (set) are not supported"),
        (b"a: !!python/name:os.system x\n", ":1: a: cannot be read as os.system; put it into quotes if text is meant"),
        (b"a: !secret x\n", ":1: a: cannot be read as !secret; put it into quotes if text is meant"),
        (b"a: !!int x\n", ":1: a: cannot be read as a plain decimal number; put it into quotes if text is meant"),
        (b"a: !!float x\n", ":1: a: cannot be read as float; put it into quotes if text is meant"),
        (b"a: !!bool x\n", ":1: a: cannot be read as bool; put it into quotes if text is meant"),
        (b"a: !!binary x\n", ":1: a: cannot be read as binary; put it into quotes if text is meant"),
        (b"a: 2024-13-45\n", ":1: a: cannot be read as timestamp; put it into quotes if text is meant"),
        (b"a: =\n", ":1: a: cannot be read as value; put it into quotes if text is meant"),
        (b'a: "\\ud800"\n', ":1: a: cannot be read as str; put it into quotes if text is meant"),
        (
            b"server:\n  port: 010\n",
            ":2: server.port: cannot be read as a plain decimal number; put it into quotes if text is meant",
        ),
        (b"a: 1:30\n", ":1: a: cannot be read as a plain decimal number; put it into quotes if text is meant"),
        (b"a: 0x1f\n", ":1: a: cannot be read as a plain decimal number; put it into quotes if text is meant"),
        (b"a: " + b"9" * 5000 + b"\n", ":1: a: cannot be read as a plain decimal number; put it into quotes if text is meant"),
        (b"? [a, b]\n: 1\n", ":1: a name is expected before the colon"),
        (b"\n? {a: b}\n: 1\n", ":2: a name is expected before the colon"),
        (b'"a\\nb": 1\n', ":1: a name is expected before the colon"),
        (b"[" * 50_000, ":1: is nested too deeply"),
        (b"{a: " * 5_000, ":1: is nested too deeply"),
        (b"- " * 5_000, ":1: is nested too deeply"),
        (b"? " * 5_000, ":1: is nested too deeply"),
        (b"".join(b" " * i + b"a:\n" for i in range(100)), ":21: is nested too deeply"),
        (b"#" * (MAX_FILE_BYTES + 1), f": is over {MAX_FILE_BYTES} bytes; that is no configuration file"),
    ],
)
def test_hostile_yaml_is_refused_where_it_stands(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "c.yaml"
    found = outcome(file, content)
    assert isinstance(found, str)
    assert found.removeprefix(str(file)).startswith(said)
    assert_one_line_about(file, found)


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"# nothing\n", b"---\n", b"---\n...\n", b"~\n", b"\xef\xbb\xbf# only a mark\n"]
)
def test_a_file_that_says_nothing_leaves_the_defaults(tmp_path: Path, content: bytes) -> None:
    assert outcome(tmp_path / "c.yaml", content) == load(Sources(Path("/dev/null"), {}, {})).settings


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfserver:\n  port: 1\n",
        b"server:\r\n  port: 1\r\n",
        b"server: &unused {port: 1}\n",
        b"---\nserver: {port: 1}\n...\n",
    ],
)
def test_marks_and_line_ends_of_other_systems_do_not_matter(tmp_path: Path, content: bytes) -> None:
    found = outcome(tmp_path / "c.yaml", content)
    assert isinstance(found, Settings), found
    assert found.server.port == 1


def test_every_line_is_known_by_its_dotted_name(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("server:\n  port: 1\n\ninstances:\n  port_range:\n  - 1\n  - 2\n")
    lines = read_yaml(file).lines
    assert lines["server"] == 1
    assert lines["server.port"] == 2
    assert lines["instances.port_range"] == 5
    assert lines["instances.port_range.1"] == 7
