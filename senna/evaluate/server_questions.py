"""Records as questions to a server: the text, and the images as data URLs."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from senna.data.dataset import find_image
from senna.data.images import decode_image
from senna.errors import DataError
from senna.evaluate.predict import Fields, facts_of, state_predicted_plan
from senna.record_file import RecordFile
from senna.records import prompt_images
from senna.views import IMAGE_TOKEN

_SENT_UNCHANGED = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"))


@dataclass(frozen=True)
class Question:
    """The single question of a record.

    Attributes:
        facts: the fields of its prediction that come from the record.
        text: the question with its view tags and ``<image>``.
        urls: a data URL for each ``<image>``.
    """

    facts: Fields
    text: str
    urls: list[str]

    def senna_content(self) -> list[dict[str, Any]]:
        """Return the parts of a chat message to a Senna, which takes a text with ``<image>`` as it is."""
        return [_text(self.text), *map(_image, self.urls)]

    def content(self, instruction: str) -> list[dict[str, Any]]:
        """Return the parts of a chat message: the instruction, then text and images in the order of the question."""
        first, *others = self.text.split(IMAGE_TOKEN)
        parts = [_text(f"{instruction}\n"), _text(first)] if instruction else [_text(first)]
        for url, text in zip(self.urls, others, strict=True):
            parts += [_image(url), _text(text)]
        return [part for part in parts if part.get("text") != ""]


@dataclass(frozen=True)
class QuestionReader:
    """Reads the questions of a file of records.

    Attributes:
        image_folder: where image paths start; by default in the folder of the records.
        black: None reads the images. "image" replaces each by a black image of the same size, and "square" by a black
            square, which is black everywhere after Senna's padding as well.
        plans: frame token -> predicted plan, which the question about a trajectory states.
    """

    records: RecordFile
    image_folder: str | None = None
    black: str | None = None
    plans: Mapping[str, str] = field(default_factory=dict)

    def read(self, index: int) -> Question:
        """Return the question of a record. Raises DataError, which names the record, if it cannot be used."""
        try:
            record = state_predicted_plan(self.records[index], self.plans)
            paths, turns = prompt_images(record), record["conversations"]
            placeholders = sum(turn["value"].count(IMAGE_TOKEN) for turn in turns)
            if placeholders != len(paths):
                raise DataError(
                    f"the text has {placeholders} {IMAGE_TOKEN}, the record names {len(paths)} images",
                    remedy=f"write one {IMAGE_TOKEN} for each image",
                )
            facts = {"index": index, **facts_of(record, paths)}
            if len(turns) != 2 or IMAGE_TOKEN in turns[1]["value"]:
                raise DataError(
                    f"there are {len(turns) - 1} turns before the last answer",
                    remedy="use records with a single question; a server is asked those only",
                )
            return Question(facts, turns[0]["value"], [self._url(path) for path in paths])
        except DataError as error:
            raise error.located(self.records.path, self.records.label(index)) from error

    def _url(self, path: str) -> str:
        if self.black == "square":
            return black_url((336, 336))
        folders = [Path(folder) for folder in (self.image_folder, self.records.path.parent) if folder]
        file = find_image(path, folders)
        return image_url(file) if self.black is None else black_url(decode_image(file).size)


def image_url(path: Path) -> str:
    """Return an image as a data URL: the bytes of a JPEG or PNG file, and a PNG of the pixels of any other format.

    Raises:
        DataError: the image is missing or damaged, so that a server would refuse it.
    """
    image = decode_image(path)
    content = path.read_bytes()
    for head, kind in _SENT_UNCHANGED:
        if content.startswith(head):
            return _data_url(content, kind)
    return pixels_url(image)


def black_url(size: tuple[int, int]) -> str:
    """Return a black image of a (width, height) as a data URL."""
    return pixels_url(Image.new("RGB", size))


def pixels_url(image: Image.Image) -> str:
    """Return the pixels of an image as the data URL of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return _data_url(buffer.getvalue(), "png")


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
