"""torchrun for the processes of a run on this machine: ``python -m senna.launch.torchrun FLAGS -m senna ...``.

It differs from torchrun in four points. SIGUSR1 stops a run as SIGTERM does. After a signal, the processes have time to write
a checkpoint. After a failure, the other processes are killed at once, since they wait for the failed one. A run that a signal
stopped, and one with wrong flags, are not started again (--max_restarts), and their exit code is kept.
"""

import os
import signal
import sys
from typing import Any

from senna.launch.variables import SAVE_SECONDS

INTERRUPT_SECONDS = 30
"""Seconds that the processes have after Ctrl-C, as in torchrun."""

FINAL_CODES = (2, 128 + signal.SIGTERM, 128 + signal.SIGUSR1)
"""Exit codes of processes that another start would not help: wrong flags, or a signal that stopped the run."""


class _Ended(Exception):
    """The end of a run whose processes are not started again."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def main(argv: list[str]) -> int:
    """Run torchrun with the flags ``argv`` and return its exit code."""
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SAVE_SECONDS))
    # torchrun's own store still holds the addresses of the processes before a restart, to which gloo would connect.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import api

    _change_close(api.PContext)
    received: list[int] = []

    def stop(number: int, _) -> None:
        received.append(number)
        os.kill(os.getpid(), signal.SIGTERM)  # which torchrun passes on

    signal.signal(signal.SIGUSR1, stop)
    try:
        run.main(argv)
    except _Ended as end:
        return end.exit_code
    except api.SignalException as error:
        return 128 + (received or [error.sigval])[0]
    return 0


def _change_close(context: Any) -> None:
    """Change how torchrun ends processes: PContext.close without a signal, when one of them has failed or all have ended."""
    close = context.close

    def close_at_once(self, death_sig: signal.Signals | None = None, timeout: int = 30) -> None:
        # Ctrl-C writes no checkpoint, so that only processes that wait for each other outlive it.
        seconds = min(timeout, INTERRUPT_SECONDS) if death_sig == signal.SIGINT else timeout
        close(self, death_sig or signal.SIGKILL, seconds)
        if death_sig is None and (code := _final_code(self)):
            raise _Ended(code)

    context.close = close_at_once


def _final_code(context: Any) -> int | None:
    """Return the exit code of a process that `FINAL_CODES` holds; None if there is none."""
    codes = [handler.proc.returncode for handler in context.subprocess_handlers.values()]
    return next((code for code in codes if code in FINAL_CODES), None)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
