"""The dataset of frames: all records about the same images as one item, with the images once."""

import numpy as np
from torch.utils.data import Dataset

from senna.data.batch import BadSample, FrameRecord, FrameSample, TextSample
from senna.data.dataset import ConversationDataset
from senna.data.mixture import Frames
from senna.data.sampler import PADDING
from senna.errors import DataError


class FrameDataset(Dataset):
    """Map-style dataset: item ``i`` is frame ``i``, encoded and decoded on access.

    As in ``ConversationDataset``, a record that cannot be used gives a ``BadSample``; if an image cannot be read, this
    applies to all records of the frame. The index ``PADDING`` gives an item without records.

    Attributes:
        dataset: the dataset of the single records.
        records: the records of ``dataset``.
        draw: the frames; chooses those of an epoch.
        lengths: int64 (F,), estimated tokens of each frame: its images once, and the words of all its records.
        multimodal: bool (F,), whether a frame has images.
    """

    def __init__(self, dataset: ConversationDataset, together: bool = True) -> None:
        """Group the records of a dataset by frame, or make every record its own frame (``together=False``).

        Raises:
            UsageError: a weight is so small that an epoch takes no frame of a file.
        """
        self.dataset, self.records = dataset, dataset.records
        self.draw = Frames(self.records, together)
        order, starts = self.draw.order, self.draw.starts
        images, words = self.records.images[order[starts]], self.records.words[order]
        image_tokens = dataset.tokens_per_image * images.astype(np.int64)
        self.lengths = np.add.reduceat(words, starts, dtype=np.int64) + image_tokens
        self.multimodal = images > 0

    def __len__(self) -> int:
        return len(self.draw)

    def __getitem__(self, frame: int) -> FrameSample:
        if frame == PADDING:
            return {"records": [], "images": self.dataset.no_images()}
        return self.sample(self.draw.members(frame).tolist())

    def sample(self, members: list[int]) -> FrameSample:
        """Return these records of one frame, one or more, as an item."""
        texts = [self.dataset.text(index) for index in members]
        paths = next((text["paths"] for text in texts if "error" not in text), [])
        images = self.dataset.no_images()
        try:
            # The records of a frame name the same images, and are in the same file.
            images = self.dataset.load(paths, members[0]) if paths else images
        except DataError as error:
            texts = [
                text if "error" in text else self.dataset.bad_sample(index, error)
                for index, text in zip(members, texts, strict=True)
            ]
        return {"records": [text if "error" in text else _without_paths(text) for text in texts], "images": images}

    def texts(self, frame: int) -> list[TextSample | BadSample]:
        """Return ``ConversationDataset.text`` of each record of a frame: no image is read."""
        return [self.dataset.text(index) for index in self.draw.members(frame).tolist()]


def _without_paths(text: TextSample) -> FrameRecord:
    return {
        "input_ids": text["input_ids"],
        "labels": text["labels"],
        "kind": text["kind"],
        "sample": text["sample"],
    }
