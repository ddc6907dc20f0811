"""Shell text on standard output, for `eval "$(senna download ...)"`: it sets the variables of the scripts.

After a failure it clears them and ends with `false`, so that no later command runs with the values of an earlier download.
"""

import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from senna.download.assets import PRESETS, Asset


def exports(assets: Sequence[Asset], out: Path) -> str:
    """Return shell lines that set the variables of the scripts.

    If two assets set the same variable, the line of the second is a comment.
    """
    lines: list[str] = []
    exported: set[str] = set()
    for asset in assets:
        for variable, path in asset.exports:
            line = f"export {variable}={shlex.quote(str(out / asset.name / path))}"
            lines.append(comment(line) if variable in exported else line)
            exported.add(variable)
        if asset.hint:
            lines.append(comment(asset.hint.format(folder=shlex.quote(str(out / asset.name)))))
    return "\n".join(lines)


def comment(text: str) -> str:
    """Return a text as shell comments; a path may hold line breaks."""
    return "\n".join(f"# {line}" for line in text.split("\n"))


class ShellOutput:
    """The shell text of one download; see ``shell_output``."""

    def __init__(self) -> None:
        self._cleared = False

    def clear(self, assets: Sequence[Asset]) -> None:
        """Print the line that clears the variables of assets. It comes first, in case that this process is killed."""
        names = sorted({variable for asset in assets for variable, _ in asset.exports})
        if names:
            self.write(f"unset {' '.join(names)}")
        self._cleared = True

    def write(self, text: str) -> None:
        """Print lines. Paths are printed as the bytes that the file system has, whatever the encoding of the terminal."""
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(f"{text}\n"))
        sys.stdout.buffer.flush()

    def fail(self) -> None:
        """Print the lines after which `eval` fails."""
        if not self._cleared:
            self.clear(PRESETS["all"])
        self.write("false")


@contextmanager
def shell_output() -> Iterator[ShellOutput]:
    """Yield the output for shell text. If the block raises or a signal ends it, print the text for a failure."""
    output = ShellOutput()
    previous = {
        number: signal.signal(number, _exit)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) == signal.SIG_DFL
    }
    try:
        yield output
    except SystemExit as error:  # 0 or None: the text of --help was printed
        if error.code:
            output.fail()
        raise
    except BaseException:
        output.fail()
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit(number: int, _frame: object) -> None:
    sys.exit(128 + number)
