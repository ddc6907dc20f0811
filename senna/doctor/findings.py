"""What a check has found, and how it is shown. Imports nothing heavy."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TextIO

OK, WARN, FAIL = "ok", "warn", "fail"
_COLOURS = {OK: "32", WARN: "33", FAIL: "31"}
_LEVEL, _TOPIC = 6, 14  # columns
_WRAP = {"break_long_words": False, "break_on_hyphens": False}


@dataclass(frozen=True)
class Finding:
    """What one check says. ``remedy`` is a command or a flag wherever one exists, "" where nothing is to be done."""

    level: Literal["ok", "warn", "fail"]
    topic: str
    says: str
    remedy: str = ""


def of_error(topic: str, error: Exception) -> Finding:
    """A fail from an error whose message ends, after a semicolon, with what to do."""
    says, _, remedy = str(error).rpartition("; ")
    if not says or remedy.count("(") != remedy.count(")"):  # no such end, or a semicolon within a parenthesis
        says, remedy = str(error), ""
    return Finding(FAIL, topic, says, remedy)


def render(finding: Finding, stream: TextIO | None = None) -> str:
    """``fail  model  what is wrong``, and the remedy on a line below, indented.

    For a terminal lines are wrapped, and coloured unless NO_COLOR is set (no-color.org).
    """
    terminal = stream is not None and stream.isatty()
    width = shutil.get_terminal_size().columns if terminal else sys.maxsize
    indent = " " * (_LEVEL + _TOPIC)
    says = textwrap.wrap(
        f"{finding.level:{_LEVEL}}{finding.topic:{_TOPIC}}{finding.says}", width, subsequent_indent=indent, **_WRAP
    )
    if terminal and not os.environ.get("NO_COLOR"):
        says[0] = f"\033[{_COLOURS[finding.level]}m{finding.level:{_LEVEL}}\033[0m{says[0][_LEVEL:]}"
    if finding.remedy:
        lead = {"initial_indent": f"{indent}-> ", "subsequent_indent": f"{indent}   "}
        says += textwrap.wrap(finding.remedy, width, **lead, **_WRAP)
    return "\n".join(says)


def count(findings: Iterable[Finding]) -> str:
    """ "14 ok, 1 warn, 2 fail"."""
    levels = [finding.level for finding in findings]
    return ", ".join(f"{levels.count(level)} {level}" for level in (OK, WARN, FAIL) if level in levels)


def failed(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == FAIL]


def some(names: Iterable[str], most: int = 3) -> Iterator[str]:
    """The first few of the names, and how many more there are."""
    names = list(names)
    yield from names[:most]
    if len(names) > most:
        yield f"{len(names) - most} more"


def size(count: float) -> str:
    """Bytes for people, in powers of ten as disks and cards are sold: "13.5 GB", "290 kB"."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB" if count < 1000 else f"{count / 1000:.1f} TB"
