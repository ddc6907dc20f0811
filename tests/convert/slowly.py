"""`senna` that writes each frame's records and journal line in two halves, with pauses in which a test can kill it."""

import time

from senna.cli import main
from senna.convert import journal

PAUSE = 0.005  # seconds


def run(arguments: list[str]) -> int:
    """Run `senna` with slow writes and return its exit code."""
    write = journal._write

    def write_halves(descriptor: int, data: bytes) -> None:
        write(descriptor, data[: len(data) // 2])
        time.sleep(PAUSE)
        write(descriptor, data[len(data) // 2 :])
        time.sleep(PAUSE)

    journal._write = write_halves
    return main(arguments)
