"""A view from above as SVG: the recorded and the predicted path of the ego vehicle, and the boxes of other road users."""

from html import escape

import numpy as np
from numpy.typing import NDArray

from senna.evaluate.metrics.collisions import CENTRE_AHEAD, EGO_SIZE, boxes_overlap, motion_headings
from senna.futures import Futures
from senna.meta_actions import FUTURE_STEPS, STEP

_MARGIN, _LEAST = 8.0, 24.0  # metres around the paths; least side of the view
_PIXELS = 12  # per metre of the view box; the browser scales it
_GRID = 10  # metres

Array = NDArray[np.float64]


def birds_eye_svg(truth: Array, predicted: Array, futures: Futures | None) -> str:
    """Return the view, with straight ahead to the top.

    Args:
        truth, predicted: (6, 2) positions in metres, x right and y forward.
        futures: the recorded future of the other road users; None draws none.
    """
    low, high = _extent(np.concatenate([np.zeros((1, 2)), truth, predicted]))
    others = "" if futures is None else _others(futures, predicted, low, high)
    paths = _path(truth, "driven", "the recorded path") + _path(predicted, "wanted", "the predicted path")
    ends = _ego(truth[-1], motion_headings(truth[None])[0, -1], "driven")
    ends += _ego(predicted[-1], motion_headings(predicted[None])[0, -1], "wanted")
    width, height = (high - low) * _PIXELS
    box = f"{low[0] * _PIXELS:.0f} {-high[1] * _PIXELS:.0f} {width:.0f} {height:.0f}"
    return (
        f'<svg class="above" viewBox="{box}" role="img" aria-label="view from above">{_grid(low, high)}{others}'
        f"{_ego(np.zeros(2), 0.0, 'now')}{ends}{paths}</svg>"
    )


def _extent(points: Array) -> tuple[Array, Array]:
    """Return the lower and the upper corner of a view that is at least ``_LEAST`` metres wide and not too high."""
    low, high = points.min(axis=0) - _MARGIN, points.max(axis=0) + _MARGIN
    missing = np.maximum((_LEAST, _LEAST) - (high - low), 0.0)
    missing[0] = max(missing[0], 0.6 * (high[1] - low[1]) - (high[0] - low[0]))
    return low - missing / 2, high + missing / 2


def _grid(low: Array, high: Array) -> str:
    lines = ""
    for x in range(int(np.ceil(low[0] / _GRID)) * _GRID, int(high[0]) + 1, _GRID):
        lines += f'<path class="net" d="M{x * _PIXELS} {-high[1] * _PIXELS:.0f}V{-low[1] * _PIXELS:.0f}"/>'
    for y in range(int(np.ceil(low[1] / _GRID)) * _GRID, int(high[1]) + 1, _GRID):
        lines += f'<path class="net" d="M{low[0] * _PIXELS:.0f} {-y * _PIXELS}H{high[0] * _PIXELS:.0f}"/>'
        lines += f'<text x="{low[0] * _PIXELS + 4:.0f}" y="{-y * _PIXELS - 4}">{y} m</text>'
    return lines


def _others(futures: Futures, predicted: Array, low: Array, high: Array) -> str:
    """Return the boxes of the road users in the view at the six steps, later ones darker; those that are hit are marked."""
    headings = motion_headings(predicted[None])[0]
    centres = predicted + CENTRE_AHEAD * np.stack(
        [-np.sin(np.radians(headings)), np.cos(np.radians(headings))], axis=-1
    )
    drawn = ""
    for name, size, poses in zip(futures.names, futures.sizes, futures.poses, strict=True):
        known = np.isfinite(poses).all(axis=1)
        inside = known & ((poses[:, :2] > low - 3) & (poses[:, :2] < high + 3)).all(axis=1)
        hits = boxes_overlap(centres, headings, np.array(EGO_SIZE), poses[:, :2], poses[:, 2], size)
        is_parked = bool(known.all()) and bool((poses == poses[0]).all())
        for step in np.flatnonzero(inside):
            if is_parked and step and not hits[step]:
                continue
            kind = "hit" if hits[step] else "other"
            opacity = 1.0 if is_parked or hits[step] else (step + 1) / FUTURE_STEPS
            title = f"{escape(name)}{'' if is_parked else f', {(step + 1) * STEP:g} s'}"
            drawn += _box(poses[step, :2], poses[step, 2], size, kind, title, opacity)
    return drawn


def _ego(position: Array, heading: float, kind: str) -> str:
    """Return the box of the ego vehicle, given the position of its lidar."""
    angle = np.radians(heading)
    centre = position + CENTRE_AHEAD * np.array([-np.sin(angle), np.cos(angle)])
    title = "the car now" if kind == "now" else f"the car after {FUTURE_STEPS * STEP:g} s"
    return _box(centre, heading, np.array(EGO_SIZE), f"ego {kind}", title)


def _box(centre: Array, heading: float, size: Array, kind: str, title: str, opacity: float = 1.0) -> str:
    length, width = size * _PIXELS
    x, y = centre[0] * _PIXELS, -centre[1] * _PIXELS
    shade = "" if opacity == 1.0 else f' opacity="{opacity:.2f}"'
    return (
        f'<rect class="{kind}" x="{x - width / 2:.1f}" y="{y - length / 2:.1f}" width="{width:.1f}" height="{length:.1f}" '
        f'transform="rotate({-heading:.1f} {x:.1f} {y:.1f})"{shade}><title>{title}</title></rect>'
    )


def _path(xy: Array, kind: str, title: str) -> str:
    points = [(x * _PIXELS, -y * _PIXELS) for x, y in xy.tolist()]
    line = "M0 0" + "".join(f"L{x:.1f} {y:.1f}" for x, y in points)
    dots = "".join(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>' for x, y in points)
    return f'<g><title>{title}</title><path class="line {kind}" d="{line}"/>{dots}</g>'
