"""The split of a global batch over the processes of a run, their forward passes and their accumulation steps."""

from dataclasses import dataclass

from senna.errors import UsageError

_LARGEST = 100_000
"""The largest batch of a forward pass that a message recommends."""


@dataclass(frozen=True)
class BatchSettings:
    """The batch sizes that flags and YAML files give, in samples, or in frames with ``pack_frames``.

    Attributes:
        rows: the batch of a forward pass of a process (``per_device_train_batch_size``).
        accumulation: the forward passes per optimizer step; None if not given.
        global_batch: the batch of an optimizer step of all processes; None if not given.
        source: the file and line, or the flag, that gives ``global_batch``; "" if unknown.
    """

    rows: int
    accumulation: int | None = None
    global_batch: int | None = None
    source: str = ""

    def check(self) -> None:
        """Raise UsageError for a number below 1."""
        for name, value in {
            "per_device_train_batch_size": self.rows,
            "gradient_accumulation_steps": self.accumulation,
            "global_batch_size": self.global_batch,
        }.items():
            if value is not None and value < 1:
                raise UsageError(f"--{name} {value} is below 1", remedy=f"use 1 or more for --{name}, or omit it")

    def accumulation_on(self, processes: int) -> int:
        """Return the forward passes per optimizer step on a number of processes.

        Raises:
            UsageError: the global batch is no multiple of the batch of one forward pass of all processes, or contradicts the
                given accumulation.
        """
        if self.global_batch is None:
            return self.accumulation or 1
        each = self.rows * processes
        if self.global_batch % each:
            raise self._does_not_divide(processes)
        steps = self.global_batch // each
        if self.accumulation not in (None, steps):
            product = each * self.accumulation
            raise UsageError(
                f"{self._asked()} contradicts --gradient_accumulation_steps {self.accumulation}: "
                f"{self.rows} x {self.accumulation} x {_count(processes)} is {product}",
                remedy=f"omit --gradient_accumulation_steps (it follows: {steps}), or use --global_batch_size {product}",
            )
        return steps

    def _asked(self) -> str:
        return f"--global_batch_size {self.global_batch}" + (f" ({self.source})" if self.source else "")

    def _does_not_divide(self, processes: int) -> UsageError:
        assert self.global_batch is not None
        each = self.rows * processes
        below = self.global_batch // each * each
        batches = [str(batch) for batch in (below, below + each) if batch]
        remedy = f"use --global_batch_size {' or '.join(batches)}"
        if fitting := nearest_divisors(self.global_batch, processes, self.rows):
            remedy += f", or --per_device_train_batch_size {' or '.join(map(str, fitting))}"
        return UsageError(
            f"{self._asked()} is no multiple of {self.rows} on {_count(processes)} (--per_device_train_batch_size {self.rows})",
            remedy=remedy,
        )


def nearest_divisors(global_batch: int, processes: int, rows: int) -> list[int]:
    """Return the largest batch per process below ``rows`` and the smallest above it that divide a global batch."""
    if global_batch % processes:
        return []
    share = global_batch // processes
    below = (size for size in range(min(rows - 1, share, _LARGEST), 0, -1) if share % size == 0)
    above = (size for size in range(rows + 1, min(share, _LARGEST) + 1) if share % size == 0)
    return [size for size in (next(below, None), next(above, None)) if size is not None]


def _count(processes: int) -> str:
    return f"{processes} process{'es' * (processes > 1)}"
