"""The display of findings."""

import ast
import io

import pytest

from senna.doctor.findings import FAIL, OK, Finding, count, from_error, render, size
from senna.errors import DataError, UsageError
from tests.helpers.paths import REPOSITORY


class Terminal(io.StringIO):
    def isatty(self):
        return True


FOUND = Finding(FAIL, "model", "shard model-00002-of-00003.safetensors is missing " * 4, "copy it again")


def test_a_finding_and_its_remedy_are_one_line_each_in_a_pipe():
    first, second = render(FOUND, io.StringIO()).splitlines()
    assert first.startswith("fail  model         shard model-00002")
    assert second == " " * 20 + "-> copy it again"


def test_lines_are_wrapped_to_the_terminal_and_colored_unless_no_color_is_set(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert render(FOUND, Terminal()).startswith("\033[31mfail  \033[0mmodel ")
    monkeypatch.setenv("NO_COLOR", "1")
    lines = render(FOUND, Terminal()).splitlines()
    assert len(lines) > 2
    assert max(len(line) for line in lines) <= 80
    assert all(line.startswith(" " * 20) for line in lines[1:])


def test_message_location_and_remedy_of_an_error_become_a_finding():
    assert from_error("data", UsageError("a is wrong; seed 1", remedy="write b")) == Finding(
        FAIL, "data", "a is wrong; seed 1", "write b"
    )
    error = DataError("no answer", file="a.json", record=3)
    assert from_error("data", error) == Finding(FAIL, "data", "a.json: record 3: no answer")


def test_counts_and_sizes_are_readable():
    assert count([FOUND, FOUND, Finding(OK, "a", "b")]) == "1 ok, 2 fail"
    assert [size(n) for n in (12, 13_476, 14_126_019_328, 1.2e12)] == ["12 bytes", "13 kB", "14.1 GB", "1.2 TB"]


def calls(name, path):
    """Return the calls of a function in a file."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "senna" / "doctor").glob("*.py")), ids=lambda path: path.stem)
def test_every_warning_failure_and_error_has_a_remedy(path):
    for call in calls("Finding", path):
        is_ok = not call.args or ast.unparse(call.args[0]) == "OK"  # no arguments: read from a worker
        assert is_ok or len(call.args) > 3 or "remedy" in [word.arg for word in call.keywords], ast.unparse(call)
    for name in ("DataError", "UsageError", "SennaError"):
        for call in calls(name, path):
            assert "remedy" in [word.arg for word in call.keywords], ast.unparse(call)
