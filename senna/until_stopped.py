"""Commands that run until somebody stops them."""

import signal
from collections.abc import Callable


def run_until_stopped(run: Callable[[], int]) -> int:
    """Call ``run`` and return its exit code. Ctrl-C and SIGTERM end it as a KeyboardInterrupt, after which the exit code is 0.

    It must be called in the main thread.
    """
    previous = signal.signal(signal.SIGTERM, _stop)  # so that ``run`` removes its temporary files in this case too
    try:
        return run()
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
