"""Frames to training items: all records about the same images at once, and the images once."""

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from senna.data.dataset import ConversationDataset, Sample, unusable
from senna.data.mixture import Frames
from senna.data.sampler import PADDING
from senna.errors import DataError


class FrameDataset(Dataset):
    """Map-style: item ``i`` is frame ``i``, encoded and its images decoded when it is asked for.

    An item is ``{"records": [...], "images": float32 (V, 3, H, W)}``; its records are the samples of ``ConversationDataset``
    without their images, which all have in common. As there, a record that cannot be used is a ``{"sample", "error"}`` in its
    place; where an image cannot be read, all records of the frame are. The index ``PADDING`` gives an item without records.

    Attributes:
        dataset: the records one by one.
        records: where they are from, as of ``dataset``.
        draw: the frames, and which of them an epoch takes.
        lengths: int64 (F,), each frame's length in tokens, estimated: its images once, and the words of its records.
        multimodal: bool (F,), whether it has images.
    """

    def __init__(self, dataset: ConversationDataset, together: bool = True) -> None:
        """``together=False`` makes every record a frame of its own. Raises ``UsageError`` as ``Frames`` does."""
        self.dataset, self.records = dataset, dataset.records
        self.draw = Frames(self.records, together)
        order, starts = self.draw.order, self.draw.starts
        images, words = self.records.images[order[starts]], self.records.words[order]
        self.lengths = np.add.reduceat(words, starts, dtype=np.int64) + dataset.tokens_per_image * images.astype(
            np.int64
        )
        self.multimodal = images > 0

    def __len__(self) -> int:
        return len(self.draw)

    def __getitem__(self, frame: int) -> dict[str, Any]:
        if frame == PADDING:
            return {"records": [], "images": self.dataset.no_images()}
        texts = self.texts(frame)
        paths = [text.pop("paths") for text in texts if "error" not in text]
        images = self.dataset.no_images()
        try:
            # A frame's records name the same images, and are of one file, beside which these may be.
            images = self.dataset.load(paths[0], int(self.draw.members(frame)[0])) if paths else images
        except DataError as error:
            texts = [text if "error" in text else unusable(text["sample"], error) for text in texts]
        return {"records": texts, "images": images}

    def texts(self, frame: int) -> list[Sample]:
        """A frame's records as ``ConversationDataset.text`` gives them: without reading an image."""
        return [self.dataset.text(index) for index in self.draw.members(frame).tolist()]
