"""The part of a run on one machine of HOSTFILE: torchrun, started by `senna.launch.hosts` through ssh or pdsh.

With ``--stdin``, the first line of standard input holds secret variables as JSON. Every further line stops torchrun as SIGTERM
does, and so does the end of standard input, which comes when the first machine stops or ssh is cut off.
"""

import json
import os
import signal
import subprocess
import sys
import threading


def main(argv: list[str]) -> int:
    """Run torchrun with the flags ``argv`` and return its exit code."""
    reads_secrets = argv[:1] == ["--stdin"]
    line = sys.stdin.readline() if reads_secrets else ""
    environment = {**os.environ, **(json.loads(line) if line else {})}
    command = [sys.executable, "-m", "senna.launch.torchrun", *argv[reads_secrets:]]
    torchrun = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: torchrun.terminate())
    if line:
        threading.Thread(target=_stop_at_end, args=(torchrun,), daemon=True).start()
    return abs(torchrun.wait())


def _stop_at_end(torchrun: subprocess.Popen) -> None:
    for _ in sys.stdin:
        torchrun.terminate()
    torchrun.terminate()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
