"""The six camera views: their directions, the image block of a prompt, and the assignment of a record's images to it."""

import math
import re
from collections.abc import Sequence

from senna.errors import DataError

IMAGE_TOKEN = "<image>"

VIEWS = ("front", "front left", "front right", "back left", "back right", "back")
"""View names in the order of the prompt. Records written by this project list their ``images`` in the same order."""

_CHANNELS = {view.upper().replace(" ", "_"): view for view in VIEWS}
_CAMERA = re.compile(r"(?<![A-Za-z0-9])CAM_([A-Z]+(?:_[A-Z]+)*)(?![A-Za-z0-9])")
_PLACEHOLDER = re.compile(rf"(?:(?i:<([a-z _-]+?)[ _-]view>)\s*:\s*)?{re.escape(IMAGE_TOKEN)}")


def image_block(views: tuple[str, ...] = VIEWS) -> str:
    r"""Return the start of a question, with a tag and a placeholder for each view: ``<FRONT VIEW>:\n<image>\n``."""
    return "".join(f"<{view.upper()} VIEW>:\n{IMAGE_TOKEN}\n" for view in views)


def camera_of(path: str) -> str | None:
    """Return the view of the nuScenes camera that a path names (``CAM_FRONT_LEFT``), None if it names none of the six.

    The file name has priority, then the innermost folder that names a camera. The result is None if that part of the path
    names another camera (``CAM_FRONT_WIDE``) or two cameras.
    """
    for part in reversed(re.split(r"[/\\]", path)):
        if channels := set(_CAMERA.findall(part)):
            return _CHANNELS.get(channels.pop()) if len(channels) == 1 else None
    return None


def prompt_views(text: str) -> tuple[str | None, ...]:
    r"""Return, for each ``<image>``, the view in the tag before it (``<FRONT LEFT VIEW>:\n<image>``), None without a tag.

    Tags may be in any case. ``<Image>`` is text, as it is for the tokenizer.
    """
    tags = (found[1] for found in _PLACEHOLDER.finditer(text))
    names = (" ".join(re.split(r"[ _-]+", tag.lower())) if tag else None for tag in tags)
    return tuple(name if name in VIEWS else None for name in names)


def view_of(x: float, y: float) -> str:
    """Return the view that shows a point, by its bearing, with the sector limits of the published converter.

    Args:
        x: metres to the right of the lidar.
        y: metres ahead of the lidar. The origin has the bearing that ``math.atan2`` gives it.

    Raises:
        ValueError: x or y is NaN.
    """
    angle = math.degrees(math.atan2(y, x))  # 0 is right, 90 is ahead; in [-180, 180]
    if angle >= 0:
        return "front right" if angle < 55 else "front" if angle < 125 else "front left" if angle < 180 else "back left"
    if angle + 360 < 235:
        return "back left"
    if angle < -55:
        return "back"
    if angle < 0:
        return "back right"
    raise ValueError(f"a point with a coordinate that is NaN is in no view: ({x}, {y})")


def paths_by_camera(paths: Sequence[str]) -> dict[str, str]:
    """Return view -> path in the order of ``VIEWS``; empty unless every path names a camera and no two name the same."""
    found = {camera_of(path): path for path in paths}
    if None in found or len(found) < len(paths):
        return {}
    return {view: found[view] for view in VIEWS if view in found}


def order_paths(paths: Sequence[str], views: Sequence[str | None]) -> list[str]:
    """Return the paths in the order of the placeholders of a prompt.

    If every path names a camera, and no two the same one, a placeholder with a tag gets the path of its view, whatever the
    order of ``paths``. Placeholders without a tag get the remaining paths, in the order of ``VIEWS``. If all placeholders
    have tags, other paths are left out. In all other cases, and if the counts differ, the paths are returned unchanged.

    Args:
        paths: the image paths of a record.
        views: the view of each placeholder, from ``prompt_views``.

    Raises:
        DataError: a tag asks for a view that no path belongs to.
    """
    by_view = paths_by_camera(paths)
    tagged = {view for view in views if view}
    if not by_view:
        return list(paths)
    if missing := next((view for view in views if view and view not in by_view), None):
        raise DataError(
            f"the prompt asks for the {missing} view, and the record has images of: {', '.join(by_view)}",
            remedy="add the image of that camera to the record's 'images'",
        )
    rest = [path for view, path in by_view.items() if view not in tagged]
    untagged = sum(view is None for view in views)
    if not views or (untagged and untagged != len(rest)):
        return list(paths)
    remaining = iter(rest)
    return [by_view[view] if view else next(remaining) for view in views]
