"""The result of a check and its display. Imports nothing heavy."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TextIO

from senna.errors import SennaError

Level = Literal["ok", "warn", "fail"]
OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"
NO_GPU = "no GPU"
_COLORS = {OK: "32", WARN: "33", FAIL: "31"}
_LEVEL, _TOPIC = 6, 14  # column widths


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        level: "ok", "warn" (a run is possible) or "fail" (a run is refused).
        topic: the checked thing, for example "model" or the name of a package.
        message: the result, with the values that it depends on.
        remedy: a command or flag where one exists; "" if nothing needs to be done.
        code: a name of the result for programs: ``NO_GPU``, or "".
        required_by: the flag or setting of the run that needs the package; "" for other findings.
    """

    level: Level
    topic: str
    message: str
    remedy: str = ""
    code: str = ""
    required_by: str = ""


def from_error(topic: str, error: SennaError) -> Finding:
    """Return an error as a failed check."""
    location = f"{error.location}: " if error.location else ""
    return Finding(FAIL, topic, location + error.message, error.remedy or "")


def render(finding: Finding, stream: TextIO | None = None) -> str:
    """Return ``fail  model  message`` and, on an indented line below, the remedy.

    On a terminal, lines are wrapped, and colored unless NO_COLOR is set (no-color.org).
    """
    is_terminal = stream is not None and stream.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else sys.maxsize
    indent = " " * (_LEVEL + _TOPIC)

    def wrap(text: str, first_indent: str, next_indent: str) -> list[str]:
        return textwrap.wrap(
            text, width, initial_indent=first_indent, subsequent_indent=next_indent,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip

    lines = wrap(f"{finding.level:{_LEVEL}}{finding.topic:{_TOPIC}}{finding.message}", "", indent)
    if is_terminal and not os.environ.get("NO_COLOR"):
        lines[0] = f"\033[{_COLORS[finding.level]}m{finding.level:{_LEVEL}}\033[0m{lines[0][_LEVEL:]}"
    if finding.remedy:
        lines += wrap(finding.remedy, f"{indent}-> ", f"{indent}   ")
    return "\n".join(lines)


def count(findings: Iterable[Finding]) -> str:
    """Return the number of findings of each level: "14 ok, 1 warn, 2 fail"."""
    levels = [finding.level for finding in findings]
    return ", ".join(f"{levels.count(level)} {level}" for level in (OK, WARN, FAIL) if level in levels)


def failed(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings of level "fail"."""
    return [finding for finding in findings if finding.level == FAIL]


def some(names: list[str], most: int = 3) -> list[str]:
    """Return the first ``most`` names, and how many more there are."""
    return names[:most] + ([f"{len(names) - most} more"] if len(names) > most else [])


def size(count: float) -> str:
    """Return bytes in powers of ten, as disks are sold: "13.5 GB", "290 kB"."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB" if count < 1000 else f"{count / 1000:.1f} TB"
