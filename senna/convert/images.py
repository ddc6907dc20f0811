"""Find the image files of a data set, and count those that are missing."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from senna.convert.scenes import Scene
from senna.errors import DataError, UsageError
from senna.image_file import check_image_file
from senna.views import VIEWS

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes


class Images:
    """Lookup of existing image files. Each folder is listed once, because single lookups are slow on network disks."""

    def __init__(self, dataroot: Path) -> None:
        self.dataroot = dataroot
        self._folders: dict[str, set[str]] = {}

    def has(self, path: str) -> bool:
        """Return whether the file exists; ``path`` is relative to the data set's root."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            try:
                self._folders[folder] = set(os.listdir(self.dataroot / folder))
            except OSError:
                self._folders[folder] = set()
        return name in self._folders[folder]

    def check(self, path: str) -> None:
        """Raise DataError if a captioner must not get the file, which may send it to a server: it is in no subfolder of the
        data set's root, or no regular file."""
        if os.path.isabs(path) or ".." in Path(path).parts:
            raise DataError(
                f"the image {path} is outside of the data set",
                remedy="correct its filename in sample_data.json, which begins with samples/",
                file=self.dataroot,
            )
        check_image_file(self.dataroot / path)


@dataclass
class MissingImages:
    """The image files of some scenes that do not exist.

    Attributes:
        missing, total: number of missing files, and of all.
        first: the first missing path, "" where none is missing.
        frames, complete: number of frames, and of those whose six images exist.
    """

    missing: int = 0
    total: int = 0
    first: str = ""
    frames: int = 0
    complete: int = 0


def find_missing(tables: "NuScenes", scenes: Sequence[Scene], images: Images) -> MissingImages:
    """Look for the image files of scenes."""
    found = MissingImages()
    first_samples = {scene["name"]: scene["first_sample_token"] for scene in tables.scene}
    for scene in scenes:
        token = first_samples[scene.name]
        for _ in range(scene.frames):
            sample = tables.get("sample", token)
            token = sample["next"]
            data = [sample["data"].get(f"CAM_{view.upper().replace(' ', '_')}") for view in VIEWS]
            paths = [tables.get("sample_data", row)["filename"] for row in data if row]
            missing = [path for path in paths if not images.has(path)]
            found.total += len(VIEWS)
            found.missing += len(missing)
            found.first = found.first or next(iter(missing), "")
            found.frames += 1
            found.complete += not missing
            if not token:
                break
    return found


def check_images(tables: "NuScenes", scenes: Sequence[Scene], images: Images, allow_missing: bool = False) -> bool:
    """Return whether some image files of the scenes exist and others do not; then frames without theirs are left out.

    Where no image file exists at all, the tables alone are converted, for images that are elsewhere.

    Raises:
        UsageError: image files are missing and ``allow_missing`` is not set, or no frame has all of its images. It names
            the first missing file and the number of missing files.
    """
    found = find_missing(tables, scenes, images)
    if not found.missing:
        return False
    message = f"{found.missing} of {found.total} image files are not in {images.dataroot}; the first is {found.first}"
    remedy = "unpack the missing parts of nuScenes there"
    if not allow_missing:
        raise UsageError(message, remedy=f"{remedy}, or continue without their frames: --allow-missing-images")
    if found.missing == found.total:
        print(f"{message}: the records name images that are not there", flush=True)
        return False
    if not found.complete:
        raise UsageError(f"{message}; no frame has all six, so every frame would be left out", remedy=remedy)
    return True
