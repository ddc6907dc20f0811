"""Pictures of held-out frames for trackers: six views, the predicted plan and the true one."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from senna.errors import SennaError
from senna.evaluate.metrics.meta_actions import codes
from senna.meta_actions import ALL_META_ACTIONS
from senna.train.held_out import HeldOut, HeldOutPlan

MOST_IMAGES = 10
_LAYOUT = (("front left", "front", "front right"), ("back left", "back", "back right"))
_WIDTH, _HEIGHT, _CAPTION = 224, 126, 50  # pixels
_RIGHT, _WRONG = (40, 170, 80), (210, 60, 50)


class PlanImage(NamedTuple):
    """A picture, RGB of 672 x 302 pixels, and its caption."""

    picture: Image.Image
    caption: str


def choose_plans(plans: Sequence[HeldOutPlan], most: int = MOST_IMAGES) -> list[int]:
    """Return the numbers of at most ``most`` plans: the first one of each scene, then the second ones, and so on."""
    scenes: dict[str, list[int]] = {}
    for number, plan in enumerate(plans):
        scenes.setdefault(plan.scene, []).append(number)
    ranked = [(rank, number) for numbers in scenes.values() for rank, number in enumerate(numbers)]
    return sorted(number for _, number in sorted(ranked)[:most])


class PlanImages:
    """Draws the same few plans after each validation. The views are read once."""

    def __init__(self, data: HeldOut) -> None:
        self._data = data
        self._views: dict[int, Image.Image] = {}

    def draw(self, log_probs: NDArray[np.float64], is_scored: NDArray[np.float64]) -> Iterator[PlanImage]:
        """Yield the pictures of the plans that were scored.

        Args:
            log_probs: (P, 20). is_scored: (P,), see `senna.train.validation.Measured`.
        """
        for number in choose_plans(self._data.plans):
            if is_scored[number]:
                yield self._draw(number, log_probs[number])

    def _draw(self, number: int, scores: NDArray[np.float64]) -> PlanImage:
        plan = self._data.plans[number]
        if number not in self._views:
            self._views[number] = self._read(number)
        probabilities = np.exp(scores - np.logaddexp.reduce(scores))  # (20,), of the twenty alone
        best = np.argsort(-probabilities, kind="stable")[:3]
        predicted = "   ".join(f"{ALL_META_ACTIONS[code]} {probabilities[code]:.2f}" for code in best)
        picture = Image.new("RGB", (3 * _WIDTH, 2 * _HEIGHT + _CAPTION), "white")
        picture.paste(self._views[number], (0, 0))
        draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
        is_right = codes([plan.truth])[0] == best[0]
        draw.rectangle((0, 2 * _HEIGHT, 7, picture.height), fill=_RIGHT if is_right else _WRONG)
        lines = [f"predicted: {predicted}", f"true: {plan.truth}"]
        for line, text in enumerate(lines):
            draw.text((14, 2 * _HEIGHT + 6 + 21 * line), text, fill="black", font=font)
        name = self._data.records.name(plan.record)
        return PlanImage(picture, "; ".join([name, *lines]))

    def _read(self, number: int) -> Image.Image:
        """Return the six views in two rows. A view that the record lacks, or that cannot be read, stays gray."""
        grid = Image.new("RGB", (3 * _WIDTH, 2 * _HEIGHT), "lightgray")
        paths = self._data.view_paths(number)
        for row, views in enumerate(_LAYOUT):
            for column, view in enumerate(views):
                try:
                    image = Image.open(paths[view])
                    image.draft("RGB", (2 * _WIDTH, 2 * _HEIGHT))  # a JPEG is decoded at a fraction of its size
                    grid.paste(image.convert("RGB").resize((_WIDTH, _HEIGHT)), (column * _WIDTH, row * _HEIGHT))
                except (KeyError, OSError, SennaError):
                    continue
        return grid
