"""A finding is a line that can be read, searched and told apart."""

import io

from senna.doctor.findings import FAIL, OK, Finding, count, of_error, render, size
from senna.errors import UsageError


class Terminal(io.StringIO):
    def isatty(self):
        return True


FOUND = Finding(FAIL, "model", "shard model-00002-of-00003.safetensors is missing " * 4, "copy it again")


def test_a_finding_is_one_line_where_it_is_piped_and_its_remedy_another():
    first, second = render(FOUND, io.StringIO()).splitlines()
    assert first.startswith("fail  model         shard model-00002")
    assert second == " " * 20 + "-> copy it again"


def test_a_terminal_gets_colour_and_lines_of_its_width_unless_no_color_is_set(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert render(FOUND, Terminal()).startswith("\033[31mfail  \033[0mmodel ")
    monkeypatch.setenv("NO_COLOR", "1")
    lines = render(FOUND, Terminal()).splitlines()
    assert len(lines) > 2
    assert max(len(line) for line in lines) <= 80
    assert all(line.startswith(" " * 20) for line in lines[1:])


def test_what_an_error_says_to_do_is_the_remedy():
    assert of_error("data", UsageError("a is wrong; write b")) == Finding(FAIL, "data", "a is wrong", "write b")
    whole = "other settings (seed 1 -> 2; bits 4 -> 16)"
    assert of_error("output", UsageError(whole)) == Finding(FAIL, "output", whole)


def test_counts_and_sizes_are_for_people():
    assert count([FOUND, FOUND, Finding(OK, "a", "b")]) == "1 ok, 2 fail"
    assert [size(n) for n in (12, 13_476, 14_126_019_328, 1.2e12)] == ["12 bytes", "13 kB", "14.1 GB", "1.2 TB"]
