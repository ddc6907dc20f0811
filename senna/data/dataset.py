"""The dataset of records: ids, labels, pixels and kind of one conversation at a time."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from senna.data.batch import BadSample, Sample, TextSample
from senna.data.conversation import template_for
from senna.data.images import PixelRules, check_image_options, load_image
from senna.data.mixture import Mixture
from senna.data.sampler import PADDING
from senna.data.tokenize import Encoded, encode_conversation
from senna.errors import DataError
from senna.model.config import IMAGE_TOKEN_INDEX
from senna.record_file import RecordFile
from senna.records import Record, prompt_images
from senna.views import IMAGE_TOKEN


class ConversationDataset(Dataset):
    """Map-style dataset: sample ``i`` is record ``i``, encoded on access.

    A record that cannot be used gives a ``BadSample`` and not an exception, which would end a worker; the trainer decides
    what to do. The index ``PADDING`` gives an empty sample of kind -1.

    Attributes:
        records: the records; a sample's kind is an index in ``records.kind_names``.
        draw: chooses the samples of an epoch; the same object as ``records``.
        lengths: int64 (N,), estimated tokens of each sample: its words, and ``tokens_per_image`` for each image.
        multimodal: bool (N,), whether a sample has images.
    """

    def __init__(
        self,
        records: Mixture | RecordFile,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Any,
        image_folder: str | Path | None = None,
        version: str = "v1",
        aspect_ratio: str = "pad",
        decode: str = "exact",
        tokens_per_image: int = 128,
    ) -> None:
        """Create the dataset.

        Args:
            records: the records; a file is a mixture of itself with weight 1.
            tokenizer: a fast tokenizer, see ``senna.model.tokenizer.load_tokenizer``.
            image_processor: a CLIP image processor, see ``PixelRules.from_processor``.
            image_folder: the folder that relative image paths start from. An image that it lacks is searched in the folder of
                the record's file.
            tokens_per_image: K, for the estimate of lengths.
            version, aspect_ratio, decode: see ``encode_conversation`` and ``load_image``.

        Raises:
            UsageError: an option has an unknown value.
        """
        template_for(version)
        check_image_options(aspect_ratio, decode)
        self.records = records if isinstance(records, Mixture) else Mixture([(records, 1.0)])
        self.draw = self.records
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.image_folder = Path(image_folder) if image_folder else None
        self.version, self.aspect_ratio, self.decode = version, aspect_ratio, decode
        self.tokens_per_image = tokens_per_image
        self.lengths = self.records.words.astype(np.int64) + tokens_per_image * self.records.images.astype(np.int64)
        self.multimodal = self.records.images > 0
        rules = PixelRules.from_processor(image_processor)
        self._image_size = rules.crop or rules.resized(1, 1)[::-1]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample | BadSample:
        if index == PADDING:
            empty = torch.empty(0, dtype=torch.long)  # (0,)
            return {"input_ids": empty, "labels": empty, "images": self.no_images(), "kind": -1, "sample": ""}
        sample = self.text(index)
        if "error" in sample:
            return sample
        try:
            images = self.load(sample["paths"], index)
        except DataError as error:
            return self.bad_sample(index, error)
        return {
            "input_ids": sample["input_ids"],
            "labels": sample["labels"],
            "images": images,
            "kind": sample["kind"],
            "sample": sample["sample"],
        }

    def encode(self, index: int) -> Encoded:
        """Return the ids and labels of a record. Raises ``DataError``, which does not name the record."""
        return self._encode(self.records[index])

    def text(self, index: int) -> TextSample | BadSample:
        """Return a record's sample before its images are read."""
        try:
            record = self.records[index]
            encoded = self._encode(record)
            paths = _image_paths(record, encoded["input_ids"])
        except DataError as error:
            return self.bad_sample(index, error)
        return {
            "input_ids": encoded["input_ids"],
            "labels": encoded["labels"],
            "paths": paths,
            "kind": int(self.records.kinds[index]),
            "sample": self.records.name(index),
        }

    def load(self, paths: list[str], index: int) -> torch.Tensor:
        """Return the images of record ``index``, uint8 (V, 3, H, W), from its image paths.

        Raises:
            DataError: an image is missing or cannot be used; the error names the image but not the record.
        """
        if not paths:
            return self.no_images()
        beside = self.records.folder(index)
        folders = [self.image_folder, beside] if self.image_folder else [beside]
        files = [find_image(path, folders) for path in paths]
        options = (self.image_processor, self.aspect_ratio, self.decode, torch.uint8)
        return torch.stack([load_image(file, *options) for file in files])

    def no_images(self) -> torch.Tensor:
        """Return an empty uint8 (0, 3, H, W)."""
        return torch.empty(0, 3, *self._image_size, dtype=torch.uint8)

    def bad_sample(self, index: int, error: DataError) -> BadSample:
        """Return the sample of a record that cannot be used."""
        located = error.located(self.records.path(index), self.records.label(index))
        return {"sample": located.location, "error": located}

    def _encode(self, record: Record) -> Encoded:
        return encode_conversation(record["conversations"], self.tokenizer, self.version)


def _image_paths(record: Record, input_ids: torch.Tensor) -> list[str]:
    """Return a record's image paths, one for each ``<image>`` of its prompt; ``DataError`` if the numbers differ."""
    paths = prompt_images(record)
    in_record = sum(turn["value"].count(IMAGE_TOKEN) for turn in record["conversations"])
    in_prompt = int((input_ids == IMAGE_TOKEN_INDEX).sum())
    if in_record != len(paths):
        raise DataError(
            f"the text has {in_record} {IMAGE_TOKEN}, the record names {len(paths)} images",
            remedy=f"write one {IMAGE_TOKEN} for each image",
        )
    if in_prompt != in_record:
        raise DataError(
            f"{in_record - in_prompt} {IMAGE_TOKEN} are in an answer before the first question",
            remedy="move them into a question: that answer is not part of the prompt",
        )
    return paths


def find_image(path: str, folders: list[Path]) -> Path:
    """Return the file of an image: its absolute path, or the path in the first of the folders that has it.

    A single candidate is returned without a check whether it exists.

    Raises:
        DataError: none of several folders has the image; its ``kind`` is ``DataError.MISSING_IMAGE``.
    """
    candidates = list(dict.fromkeys(folder / path for folder in folders))  # only one if the path is absolute
    if len(candidates) == 1:
        return candidates[0]
    found = next((candidate for candidate in candidates if os.path.exists(candidate)), None)
    if found is None:
        tried = " nor ".join(str(candidate) for candidate in candidates)
        raise DataError(
            f"no such image: neither {tried}",
            remedy="check the record's path and the image folder",
            kind=DataError.MISSING_IMAGE,
        )
    return found
