"""The images of a request and the views that they show."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from senna.errors import DataError
from senna.views import VIEWS, camera_of


@dataclass(frozen=True)
class ImageSource:
    """An image of a request.

    Attributes:
        url: a data URL, or one that vLLM may fetch.
        name: its name in messages: ``images.front``.
        view: the view that it shows, None if the request does not say it.
    """

    url: str
    name: str
    view: str | None = None


def view_named(name: object) -> str:
    """Return the view of a name: ``front left``, ``FRONT_LEFT``, ``CAM_FRONT_LEFT`` or ``<FRONT LEFT VIEW>``.

    Raises DataError.
    """
    words = re.sub(r"[ _-]+", " ", str(name).strip("<> ")).lower().removeprefix("cam ").removesuffix(" view").strip()
    if words not in VIEWS:
        raise DataError(f"{name!r:.60} is not a view", remedy=f"use {', '.join(VIEWS)}", record="images")
    return words


def view_of_url(url: str) -> str | None:
    """Return the view of the camera that the path of a URL names, None for a data URL and for other paths."""
    return None if url[:5].lower() == "data:" else camera_of(url.partition("?")[0])


def check_views(views: Sequence[str]) -> None:
    """Raise DataError if two images show the same view, or if neither all views nor a single one are there."""
    if repeated := next((view for view in views if views.count(view) > 1), None):
        raise DataError(
            f"there are two images of the {repeated} view", remedy="send one for each view", record="images"
        )
    missing = [view for view in VIEWS if view not in views]
    if missing and len(views) != 1:
        raise DataError(
            f"{len(views)} of the {len(VIEWS)} views are there; missing: {', '.join(missing)}",
            remedy="send all of them, a single one, or none",
            record="images",
        )


def check_count(count: int) -> None:
    """Raise DataError for a number of images that the model was not trained with."""
    if count not in (0, 1, len(VIEWS)):
        raise DataError(
            f"there are {count} images",
            remedy=f"send {len(VIEWS)}, one for each view, or one, or none",
            record="images",
        )
