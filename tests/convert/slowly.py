"""`senna` that writes a frame's records and its line of the journal in two halves each, with a pause in which to be killed."""

import time

from senna.cli import main
from senna.convert import journal


def run(arguments: list[str]) -> int:
    write = journal._write

    def halves(descriptor: int, data: bytes) -> None:
        write(descriptor, data[: len(data) // 2])
        time.sleep(0.004)
        write(descriptor, data[len(data) // 2 :])
        time.sleep(0.004)

    journal._write = halves
    return main(arguments)
