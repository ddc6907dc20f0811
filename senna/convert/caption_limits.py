"""When a run with a captioner stops: too many images are refused, or no answer has text."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from senna.convert.caption_checks import Caption
from senna.convert.captioners import EMPTY_REMEDY, Request
from senna.errors import SennaError, UsageError

DEFAULT_MAX_REFUSED = "1%"
_MOST_EMPTY = 16  # if so many answers, the first ones, have no text, the run stops


def allowed_refusals(text: str, images: int) -> int:
    """Return how many of ``images`` may be refused: a number, or a percentage, which allows one at least.

    Raises:
        UsageError: the text is neither.
    """
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)\s*%", text.strip(), re.ASCII)
    if match is None or (match[2] and float(match[2]) > 100):
        raise UsageError(
            f"--max-refused {text} is neither a number nor a percentage",
            remedy="give for example 20 or 1%; 0 allows none",
        )
    if match[1]:
        return int(match[1])
    return max(1, math.ceil(images * float(match[2]) / 100)) if float(match[2]) else 0


class CaptionLimits:
    """Counts what a captioner does not answer, over all frames of a run."""

    def __init__(self, max_refused: str, images: int, has_text: bool = False) -> None:
        """Initialize the counts.

        Args:
            max_refused: see ``allowed_refusals``.
            images: number of images of the run.
            has_text: whether an earlier, interrupted call got text.
        """
        self._text, self._images, self._has_text = max_refused, images, has_text
        self._allowed = allowed_refusals(max_refused, images)
        self._refused: dict[Path, str] = {}  # image -> reason
        self._empty: list[Caption] = []  # all captions, until one has text

    def check(self, requests: Sequence[Request], captions: Sequence[Caption]) -> None:
        """Count the captions of a frame.

        Raises:
            SennaError: more images are refused than allowed, or the first ``_MOST_EMPTY`` captions are empty.
        """
        for request, caption in zip(requests, captions, strict=True):
            if caption.missing is not None and caption.is_refused:
                self._refused.setdefault(request.image, caption.missing.reason)
        if len(self._refused) > self._allowed:
            image, reason = next(iter(self._refused.items()))
            raise SennaError(
                f"{len(self._refused)} of {self._images} images were refused, and --max-refused {self._text} allows "
                f"{self._allowed}; the first is {image} ({reason}); the answers so far are saved",
                remedy="mend the images or the server, or give a higher --max-refused, and run the same command again",
            )
        self._has_text = self._has_text or any(caption.text for caption in captions)
        if not self._has_text:
            self._empty += captions
        if len(self._empty) >= _MOST_EMPTY:
            self.fail()

    @property
    def are_all_empty(self) -> bool:
        """True where there are captions, and none so far has text."""
        return bool(self._empty) and not self._has_text

    def fail(self) -> NoReturn:
        """Raise SennaError: all captions so far are empty."""
        reasons = (caption.missing.reason for caption in self._empty if caption.missing is not None)
        reason = next(reasons, "none of them has usable text")
        raise SennaError(f"all {len(self._empty)} answers of the captioner are empty: {reason}", remedy=EMPTY_REMEDY)
