"""The peak of this process's main memory."""

import resource
import sys
from pathlib import Path


def peak_resident(status: Path = Path("/proc/self/status")) -> int:
    """Return the largest resident size of this process so far, in bytes.

    Linux lets a new process inherit the ``ru_maxrss`` of its parent (getrusage(2)), but not VmHWM (proc_pid_status(5)).
    """
    try:
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].removesuffix("kB")) << 10
    except (OSError, KeyError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
