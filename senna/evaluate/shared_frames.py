"""The images of records by content, so that frames are recognized under other names, scenes and folders."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from senna.data import Mixture
from senna.data.dataset import find_image
from senna.errors import DataError
from senna.files import sha256
from senna.record_file import RecordFile
from senna.records import Record, asked_views, prompt_images
from senna.views import camera_of

_FRONT = "front"


@dataclass(frozen=True)
class FrameSet:
    """Some of the records of one or several files.

    Attributes:
        indices: these records.
        image_folders: folders that image paths are relative to, besides the folder of each file.
    """

    records: Mixture
    indices: Sequence[int]
    image_folders: Sequence[str]

    @classmethod
    def of_file(cls, file: RecordFile, indices: Sequence[int], image_folder: str | None) -> "FrameSet":
        """Return records of a single file."""
        return cls(Mixture([(file, 1.0)]), indices, [image_folder] if image_folder else [])

    def scenes(self) -> list[str]:
        """Return their scenes, sorted; "" if there is a record without one."""
        return sorted({self.records.scene(index) for index in self.indices})

    def fingerprints(self) -> list[str]:
        """Return a fingerprint of the front image of each record, or of the first image where no view is named."""
        fronts = dict.fromkeys(front for index in self.indices if (front := self._front(index)) is not None)
        return list(dict.fromkeys(filter(None, map(fingerprint, fronts))))

    def find(self, fingerprints: Collection[str]) -> Path | None:
        """Return the first of all images, of any view, whose fingerprint is among the given ones; None if there is none."""
        known = set(fingerprints)
        sizes = {name.partition("-")[0] for name in known}  # most files need not be read: their size is another one
        files = (path for index in self.indices for path in self._files(index)) if known else ()
        for path in dict.fromkeys(files):
            if _size(path) in sizes and fingerprint(path) in known:
                return path
        return None

    def _front(self, index: int) -> Path | None:
        files = self._files(index)
        views = asked_views(self.records[index]) if files else []
        is_front = [view == _FRONT or camera_of(str(file)) == _FRONT for view, file in zip(views, files, strict=False)]
        return next((file for file, front in zip(files, is_front, strict=False) if front), files[0] if files else None)

    def _files(self, index: int) -> list[Path]:
        """Return the image files of a record; none if it cannot be used."""
        folders = [*map(Path, self.image_folders), self.records.folder(index)]
        try:
            record: Record = self.records[index]
            return [find_image(path, folders) for path in prompt_images(record)]
        except DataError:
            return []


def fingerprint(path: Path) -> str:
    """Return size and hash of a file's content, which are the same under every name; "" if it cannot be read."""
    try:
        return f"{path.stat().st_size}-{sha256(path)[:16]}"
    except OSError:
        return ""


def _size(path: Path) -> str:
    try:
        return str(path.stat().st_size)
    except OSError:
        return ""
