"""The six cameras, where they look, the image block of a prompt, and which image of a record stands where in it."""

import math
import re
from collections.abc import Sequence

from senna.errors import DataError

IMAGE_TOKEN = "<image>"

VIEWS = ("front", "front left", "front right", "back left", "back right", "back")
"""View names in the order of the prompt; the records we write list their ``images`` in it too."""

_CHANNELS = {view.upper().replace(" ", "_"): view for view in VIEWS}
_CAMERA = re.compile(r"(?<![A-Za-z0-9])CAM_([A-Z]+(?:_[A-Z]+)*)(?![A-Za-z0-9])")
_PLACEHOLDER = re.compile(rf"(?:<([A-Za-z _-]+?)[ _-]VIEW>\s*:\s*)?{re.escape(IMAGE_TOKEN)}", re.IGNORECASE)


def image_block(views: tuple[str, ...] = VIEWS) -> str:
    r"""The head of a question: ``<FRONT VIEW>:\n<image>\n`` and so on, one placeholder a view."""
    return "".join(f"<{view.upper()} VIEW>:\n{IMAGE_TOKEN}\n" for view in views)


def camera_of(path: str) -> str | None:
    """The view of the nuScenes camera (``CAM_FRONT_LEFT``) that a path names, None where it names none of the six.

    The file name decides, else the innermost folder that names a camera. A part that names another camera
    (``CAM_FRONT_WIDE``), or two, is of none.
    """
    for part in reversed(re.split(r"[/\\]", path)):
        if channels := set(_CAMERA.findall(part)):
            return _CHANNELS.get(channels.pop()) if len(channels) == 1 else None
    return None


def prompt_views(text: str) -> tuple[str | None, ...]:
    r"""For each ``<image>``, the view that the tag before it names (``<FRONT LEFT VIEW>:\n<image>``), None without."""
    tags = (found[1] for found in _PLACEHOLDER.finditer(text))
    named = (" ".join(re.split(r"[ _-]+", tag.lower())) if tag else None for tag in tags)
    return tuple(view if view in VIEWS else None for view in named)


def view_of(x: float, y: float) -> str:
    """The view that a point is seen in, by its bearing; where the fields of two cameras overlap, the published choice.

    Args:
        x: metres to the right of the lidar.
        y: metres ahead of it. The origin has a bearing too, that of ``math.atan2``.

    Raises:
        ValueError: x or y is NaN.
    """
    angle = math.degrees(math.atan2(y, x))  # 0 to the right, 90 ahead, in [-180, 180]
    if angle >= 0:
        return "front right" if angle < 55 else "front" if angle < 125 else "front left" if angle < 180 else "back left"
    if angle + 360 < 235:
        return "back left"
    if angle < -55:
        return "back"
    if angle < 0:
        return "back right"
    raise ValueError(f"a point that is not a number is in no view: ({x}, {y})")


def paths_by_camera(paths: Sequence[str]) -> dict[str, str]:
    """The path of each view, in the order of ``VIEWS``; empty unless every path names a camera, and each another."""
    found = {camera_of(path): path for path in paths}
    if None in found or len(found) < len(paths):
        return {}
    return {view: found[view] for view in VIEWS if view in found}


def order_paths(paths: Sequence[str], views: Sequence[str | None]) -> list[str]:
    """The paths in the order of the placeholders of a prompt.

    Where every path names a camera, and each another, a placeholder with a tag gets the path of its view, whatever the
    order of ``paths``, and those without get the paths that are left, in the order of ``VIEWS``; paths that no tag asks
    for are left out when all placeholders have tags. Else, and where the counts do not go together, the paths as they are.

    Args:
        views: what the prompt asks for, from ``prompt_views``.

    Raises:
        DataError: a tag asks for a view that is not among the named cameras.
    """
    by_view = paths_by_camera(paths)
    tagged = {view for view in views if view}
    if not by_view:
        return list(paths)
    if missing := next((view for view in views if view and view not in by_view), None):
        raise DataError(
            f"the prompt asks for the {missing} view, and no image of the record is of that camera "
            f"(they are of: {', '.join(by_view)})"
        )
    rest = [path for view, path in by_view.items() if view not in tagged]
    untagged = sum(view is None for view in views)
    if not views or (untagged and untagged != len(rest)):
        return list(paths)
    remaining = iter(rest)
    return [by_view[view] if view else next(remaining) for view in views]
