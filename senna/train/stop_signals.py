"""SIGTERM and SIGUSR1 during training: finish the step, write a checkpoint, and exit. A second signal stops at once.

The processes of a run agree on the step after which they stop, whichever of them got the signal.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from senna.ranks import is_launched, read_ranks

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_END = b"\0"


class StopSignals(TrainerCallback):
    """Stops the Trainer, with a checkpoint, after the step in which a process of the run gets one of `SIGNALS`.

    Attributes:
        agreed: the number of the signal that all processes stop for; 0 until then.
    """

    def __init__(self) -> None:
        self.agreed = 0
        self._received, self._time = 0, 0.0
        # A launcher passes on the signal that its whole process group may have got already.
        self._same = 1.0 if is_launched() else 0.2

    @property
    def name(self) -> str:
        """The name of the signal: "SIGTERM"."""
        return signal.Signals(self.agreed).name

    @property
    def exit_code(self) -> int:
        """The exit code of a stopped run: 128 and the number of the signal, 143 for SIGTERM and 138 for SIGUSR1."""
        return 128 + self.agreed

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive the signals in this block, in a thread, since the main thread may wait for the device or other processes."""
        if threading.current_thread() is not threading.main_thread():  # Python allows no handlers there
            yield
            return
        read, write = os.pipe()
        os.set_blocking(write, False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        descriptor = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._listen, args=(read,), name="signals", daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in handlers.items():
                signal.signal(number, signal.SIG_IGN if self.agreed else handler)  # all is saved: only the exit is left
            os.write(write, _END)  # a data loader worker may hold the pipe open
            thread.join()
            os.close(write)
            os.close(read)

    def _listen(self, read: int) -> None:
        while (number := os.read(read, 1)) != _END:
            if number[0] in SIGNALS:
                self._receive(number[0])

    def _receive(self, number: int) -> None:
        now = time.monotonic()
        if not self._received:
            self._received, self._time = number, now
            if read_ranks().rank == 0:
                what = "finishing the step and writing a checkpoint; a second signal stops at once"
                print(f"senna train: {signal.Signals(number).name}: {what}", file=sys.stderr, flush=True)
        elif now - self._time > self._same:
            os._exit(128 + number)

    def on_step_end(self, args, state, control, **kwargs):
        self._agree(args)
        if self.agreed:
            control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        if not self.agreed:
            self._agree(args)  # a signal while the checkpoint was written needs no further step
        if self.agreed:
            control.should_training_stop = True

    def _agree(self, args) -> None:
        if args.world_size == 1:
            self.agreed = self._received
            return
        number = torch.tensor([self._received], device=args.device)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        self.agreed = int(number)


def _forget_wakeup() -> None:
    signal.set_wakeup_fd(-1)  # the pipe is the parent's


os.register_at_fork(after_in_child=_forget_wakeup)


@dataclass(frozen=True)
class WorkerStart:
    """The first call in a data loader worker. The worker survives a signal that all processes of a run get, and serves the
    step that the run finishes.

    Attributes:
        initialize: a function to call with the number of the worker.
    """

    initialize: Callable[[int], None] | None

    def __call__(self, worker: int) -> None:
        if self.initialize is not None:
            self.initialize(worker)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        if hasattr(signal, "sigwaitinfo"):  # macOS has none
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_end_for_parent, args=(os.getppid(),), name="signals", daemon=True).start()


def _end_for_parent(parent: int) -> None:
    """End this worker when its parent, which is about to exit, sends it SIGTERM."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
