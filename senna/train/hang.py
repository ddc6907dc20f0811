"""``--hang_timeout``: the end of a process that makes no progress, with its stacks, so that a launcher can start it again."""

import faulthandler
import os
import sys
import threading
import time

from transformers import TrainerCallback

from senna.ranks import read_ranks

SLOW = 10
"""Factor of the limit for the first step of an epoch or of a process, for a checkpoint and for a validation."""

_REPORT_SECONDS = 2.0  # for the other processes to show where they stand, before a launcher kills them
_STDERR = 2


class HangWatch(TrainerCallback):
    """Ends this process if neither a step nor an accumulated forward and backward pass ends within ``seconds``.

    Time in which the process was suspended does not count.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._step, self._allowed, self._waited = 0, 0.0, 0.0
        self._ended = threading.Event()

    def on_train_begin(self, args, state, control, **kwargs):
        self._progress(state, SLOW)
        threading.Thread(target=self._watch, name="hang watch", daemon=True).start()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._progress(state, SLOW)

    def on_substep_end(self, args, state, control, **kwargs):
        self._progress(state)

    def on_step_end(self, args, state, control, **kwargs):
        self._progress(state, SLOW if control.should_save or control.should_evaluate else 1)

    def on_evaluate(self, args, state, control, **kwargs):
        self.on_step_end(args, state, control)  # a checkpoint may follow

    def on_save(self, args, state, control, **kwargs):
        self._progress(state)

    def on_epoch_end(self, args, state, control, **kwargs):
        self._progress(state, SLOW)

    def on_train_end(self, args, state, control, **kwargs):
        self._ended.set()

    def _progress(self, state, factor: int = 1) -> None:
        self._step, self._allowed, self._waited = state.global_step, factor * self.seconds, 0.0

    def _watch(self) -> None:
        tick = min(self.seconds / 10, 1.0)
        before = time.monotonic()
        while not self._ended.wait(tick):
            now = time.monotonic()
            self._waited += min(now - before, 2 * tick)  # less than the clock says if the process was suspended
            before = now
            if self._waited > self._allowed:
                self._end()

    def _end(self) -> None:
        ranks = read_ranks()
        print(
            f"senna train: error: rank {ranks.rank} of {ranks.world_size} made no progress for {self._waited:.0f} s, in step "
            f"{self._step + 1}. It stands here:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(_STDERR)
        print(
            f"  -> rank {ranks.rank}: the last lines of its main thread show what it waits for; the same command continues "
            "from the newest checkpoint (MAX_RESTARTS does so by itself); if such steps are normal, raise --hang_timeout",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(_REPORT_SECONDS)
        os._exit(1)
