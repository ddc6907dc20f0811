"""The times of the parts of training steps: waiting for data, forward pass, backward pass and so on.

A mark says that from now on time belongs to a phase. On a CPU a mark is a reading of the clock. A GPU works through a queue,
so a mark is a CUDA event there, and the time of a phase is that from when the GPU has finished all that was queued before it
to when it has finished the phase itself. Waiting for data then counts only where the GPU runs out of work. Events are read when
a log entry is written, so that no step waits for the GPU.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

PHASES = {
    "data": "waiting for data",
    "copy": "copies to the device",
    "forward": "forward",
    "backward": "backward",
    "communication": "communication",
    "optimizer": "optimizer",
    "other": "other",
}
"""Phase of a step -> its name in texts."""

TIME_KEYS = {phase: f"time_{phase}" for phase in PHASES}
"""Phase of a step -> the key of its share in a log entry."""

PAUSES = ("validation", "saving")
"""Parts of a run between its steps, which do not count as time of the steps."""

MOST_MARKS = 2**16
"""The number of marks from which on the older half is read before a log entry: log entries may be far apart."""


class Clock(Protocol):
    """A source of marks: readings that are compared later."""

    def mark(self) -> Any:
        """Return a mark of this moment."""

    def wait(self, mark: Any) -> None:
        """Wait until a mark is reached."""

    def seconds(self, first: Any, last: Any) -> float:
        """Return the time between two marks that are reached."""
        ...

    def free(self, marks: list[Any]) -> None:
        """Take back marks that are not needed any more."""


class HostClock:
    """The clock of the host, for devices that compute while the host waits."""

    mark = staticmethod(time.perf_counter)

    def wait(self, mark: float) -> None:
        pass

    def seconds(self, first: float, last: float) -> float:
        return last - first

    def free(self, marks: list[float]) -> None:
        pass


class CudaClock:
    """Events on the stream that computes. They are used again, since creating one takes longer than recording it.

    Args:
        stream: default: the current stream.
        new_event: for tests.
    """

    def __init__(self, stream: Any = None, new_event: Callable[[], Any] | None = None):
        self.stream = stream or torch.cuda.current_stream()
        self.new_event = new_event or (lambda: torch.cuda.Event(enable_timing=True))
        self.unused: list[Any] = []

    def mark(self) -> Any:
        event = self.unused.pop() if self.unused else self.new_event()
        event.record(self.stream)
        return event

    def wait(self, mark: Any) -> None:
        mark.synchronize()

    def seconds(self, first: Any, last: Any) -> float:
        return first.elapsed_time(last) / 1e3

    def free(self, marks: list[Any]) -> None:
        self.unused += marks


class StepTimes:
    """Sums of the time in each of `PHASES` and `PAUSES`."""

    def __init__(self, clock: Clock):
        self.clock = clock
        self.phase: str | None = None  # None until the first step begins
        self._marks: list[tuple[str, Any]] = []
        self._seconds = dict.fromkeys((*PHASES, *PAUSES), 0.0)

    def begin(self, phase: str) -> None:
        """Let the time from now on belong to a phase."""
        self._marks.append((phase, self.clock.mark()))
        self.phase = phase
        if len(self._marks) >= MOST_MARKS:
            self._read(MOST_MARKS // 2)

    @contextmanager
    def inside(self, phase: str) -> Iterator[None]:
        """Let the time inside belong to a phase, and the time afterwards to the earlier phase again.

        A pause counts as a whole.
        """
        before = self.phase
        if before in PAUSES:
            yield
            return
        self.begin(phase)
        try:
            yield
        finally:
            self.begin(before or "other")

    def take(self) -> dict[str, float]:
        """Return the seconds of each phase and pause since the last call. Waits until the device reaches this moment."""
        if self.phase is not None:
            self.begin(self.phase)
            self._read(len(self._marks) - 1)
        taken = self._seconds
        self._seconds = dict.fromkeys(taken, 0.0)
        return taken

    def _read(self, number: int) -> None:
        """Read the times of the first ``number`` marks, which is fewer than all."""
        self.clock.wait(self._marks[number][1])
        for (phase, first), (_, last) in zip(self._marks[:number], self._marks[1 : number + 1], strict=True):
            self._seconds[phase] += self.clock.seconds(first, last)
        self.clock.free([mark for _, mark in self._marks[:number]])
        del self._marks[:number]


def shares(seconds: dict[str, float]) -> dict[str, float]:
    """Return the share of each of `PHASES` in the time of the steps; 0 for all of them where that is 0."""
    total = sum(seconds[phase] for phase in PHASES)
    return {phase: seconds[phase] / total if total else 0.0 for phase in PHASES}
