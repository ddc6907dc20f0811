"""The process of a part: `python -m prove.worker MODULE PART ROWS [--tiny]`. Each case appends a line to the file ROWS."""

import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prove.cases import Cases, Scale, run_case


def run_part(cases: Callable[[Scale], Cases], scale: Scale, rows: Path) -> None:
    """Run the cases of a part. An error outside of the cases ends the part."""
    with rows.open("a", encoding="utf-8") as file:

        def write(name: str, result: dict[str, Any]) -> None:
            file.write(json.dumps({"case": name, **result}) + "\n")
            file.flush()

        remaining = cases(scale)

        def find_next() -> dict[str, Any]:
            return {"next": next(remaining, None)}

        while True:
            found = run_case(find_next)
            if found["result"] != "passed":
                write("preparation", found)
                return
            if found["next"] is None:
                return
            name, function = found["next"]
            write(name, run_case(function))


def die_with_parent() -> None:
    """End this process and those that it has started, which form a group, soon after the parent process has ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    module, part, rows, *flags = sys.argv[1:]
    if os.getpgid(0) == os.getpid():
        die_with_parent()
    function = getattr(importlib.import_module(f"prove.{module}"), part)
    run_part(function, Scale(tiny="--tiny" in flags), Path(rows))


if __name__ == "__main__":
    main()
