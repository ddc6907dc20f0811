"""The progress of a conversion: a bar on a terminal, a line every few seconds elsewhere."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

_LINE_SECONDS = 10.0  # between two lines of progress where there is no terminal


class Progress:
    """Shows finished frames, their rate, the time left, the rate of answers, and the state of the captioners.

    Args:
        total: number of frames of the run.
        done: number of frames that an earlier call has finished.
        state: returns a few words about the captioners, "" for nothing.
    """

    def __init__(self, total: int, done: int, state: Callable[[], str] = str) -> None:
        self._total, self._done, self._state = total, done, state
        self._made = self._answers = 0
        self._start = self._last = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, unit="frame", dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, answers: int = 0) -> None:
        """Count a finished frame with the number of answers that a captioner gave for it."""
        self._made += 1
        self._answers += answers
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(self._details(now)), refresh=False)
            self._bar.update()
        elif now - self._last >= _LINE_SECONDS or self._done + self._made == self._total:
            self._last = now
            rate = self._made / max(now - self._start, 1e-9)
            left = (self._total - self._done - self._made) / rate
            details = [f"{rate:.1f} frames/s", *self._details(now), f"{left / 60:.1f} min left"]
            print(f"frame {self._done + self._made}/{self._total}: {', '.join(details)}", flush=True)

    def _details(self, now: float) -> list[str]:
        answers = f"{self._answers / max(now - self._start, 1e-9):.1f} answers/s" if self._answers else ""
        return [text for text in (answers, self._state()) if text]
