"""A fixed computation whose CPU time shows how fast the machine is at the moment.

Caches, memory and the two threads of a core are shared. A job beside busy neighbours gets less done in a second of its CPU time
without having become slower itself, and so does this computation.
"""

import json
import statistics
import time
from collections.abc import Callable

import numpy as np

INTERVAL = 10.0  # seconds between two measurements
REPEATS = 3  # of which the median counts
MOST_SHARE = 0.01  # of the CPU time of a core


class Reference:
    """Measures the speed of a computation every `INTERVAL` seconds: matrix products, passes over memory, random reads and
    Python objects, as in training and conversion.

    Args:
        clock: returns the time in seconds.
        cpu_clock: returns the CPU time of this thread in seconds. Other threads of a soak answer requests.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, cpu_clock: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock, self._cpu_clock = clock, cpu_clock
        self._due, self._speed = float("-inf"), 0.0
        random = np.random.default_rng(0)
        self._matrix = random.standard_normal((192, 192), dtype=np.float32)
        self._numbers = random.standard_normal(1 << 22, dtype=np.float32)  # 16 MiB, more than a core's own caches
        self._copy = np.zeros_like(self._numbers)
        self._positions = random.integers(0, self._numbers.size, 1 << 17)
        self._text = json.dumps([{"id": f"{number}", "values": [number / 7] * 8} for number in range(150)])

    def speed(self) -> float:
        """Return the number of computations per CPU second at the last measurement, which is repeated when it is due."""
        if self._clock() >= self._due:
            seconds = [self._measure() for _ in range(REPEATS)]
            self._speed = 1 / max(statistics.median(seconds), 1e-9)
            self._due = self._clock() + max(INTERVAL, sum(seconds) / MOST_SHARE)
        return self._speed

    def _measure(self) -> float:
        start = self._cpu_clock()
        product = self._matrix
        for _ in range(8):
            product = np.tanh(product @ self._matrix)
        for _ in range(2):
            np.multiply(self._numbers, 0.5, out=self._copy)
            self._copy[self._positions].sum()
        for _ in range(6):
            records = json.loads(self._text)
            {record["id"]: json.dumps(record) for record in records}
        return self._cpu_clock() - start
