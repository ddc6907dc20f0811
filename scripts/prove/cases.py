"""Cases of a part, and the device that they run on."""

import gc
import math
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Case = tuple[str, Callable[[], dict[str, Any]]]
Cases = Iterator[Case]
"""The cases of a part: a name and a function that returns the figures."""


class Skipped(Exception):
    """Raised by a case that cannot run on this machine; the message says why."""


class Failed(Exception):
    """Raised by a case whose result is wrong; the message says what differs."""


@dataclass(frozen=True)
class Scale:
    """The size of the models, and the device."""

    tiny: bool

    @cached_property
    def device(self) -> str:
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def free_memory(self) -> float:
        """Bytes that this process may use, as doctor counts them, with those that it already uses. Infinite on a CPU."""
        import torch

        from senna.train.memory.estimate import CUDA_CONTEXT

        if self.device == "cpu":
            return math.inf  # models are small there
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() + CUDA_CONTEXT

    def check_memory(self, needed: float) -> None:
        """Raise Skipped for a case that needs more memory than the device has."""
        if needed > self.free_memory:
            raise Skipped(f"needs about {needed / 2**30:.1f} GiB; {self.free_memory / 2**30:.1f} GiB can be used")

    def seconds(self, function: Callable[[], Any]) -> float:
        """Return the time that a function takes, until the device has done its work."""
        self.synchronize()
        started = time.perf_counter()
        function()
        self.synchronize()
        return time.perf_counter() - started

    def synchronize(self) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def reset_peak(self) -> None:
        """Begin a new measurement of `peak_memory`."""
        import torch

        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak_memory(self) -> float | None:
        """Return the peak of the allocated memory in GiB; None on a CPU."""
        import torch

        return torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else None

    def free(self) -> None:
        """Return unused memory to the device."""
        import torch

        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def run_case(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a case and return its result, figures and note."""
    try:
        return {"result": "passed", **function()}
    except Skipped as reason:
        return {"result": "skipped", "note": str(reason)}
    except Failed as reason:
        return {"result": "failed", "note": str(reason)}
    except Exception as error:  # whatever a library raises is the result of the case
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        return {"result": "failed", "note": f"{type(error).__name__}: {lines[0][:200]}"}
