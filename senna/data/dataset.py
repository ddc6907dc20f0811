"""Records to training samples: ids, labels, pixels and kind of one conversation at a time."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from senna.data.conversation import template_for
from senna.data.images import ASPECT_RATIOS, DECODERS, PixelRules, load_image
from senna.data.mixture import Mixture
from senna.data.sampler import PADDING
from senna.data.tokenize import encode_conversation
from senna.errors import DataError, UsageError
from senna.model.config import IMAGE_TOKEN_INDEX
from senna.record_file import RecordFile
from senna.records import Record, prompt_images
from senna.views import IMAGE_TOKEN

Sample = dict[str, Any]


class ConversationDataset(Dataset):
    """Map-style: sample ``i`` is record ``i``, encoded when it is asked for.

    A sample is ``{"input_ids", "labels": LongTensor (T,), "images": float32 (V, 3, H, W), "kind": int, "sample": str}``; V
    may be 0, the images stand in the order of the prompt's views, and nothing is truncated. A record that cannot be used
    does not raise, since that would end a worker: its sample is ``{"sample": str, "error": message}``, and the trainer
    decides. The index ``PADDING`` gives an empty sample of kind -1.

    Attributes:
        records: where they are from: kinds are places in its ``kind_names``.
        draw: what an epoch takes: the records'.
        lengths: int64 (N,), each sample's length in tokens, estimated: words, and ``tokens_per_image`` an image.
        multimodal: bool (N,), whether it has images.
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
        """Relative image paths start at ``image_folder`` or, where no image is there, beside the record's file.

        Raises ``UsageError`` for an unknown option.
        """
        template_for(version)
        for name, value, known in (("aspect_ratio", aspect_ratio, ASPECT_RATIOS), ("decode", decode, DECODERS)):
            if value not in known:
                raise UsageError(f"{name}={value!r} is not known; use one of {', '.join(known)}")
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

    def __getitem__(self, index: int) -> Sample:
        if index == PADDING:
            nothing = torch.empty(0, dtype=torch.long)
            return {"input_ids": nothing, "labels": nothing, "images": self.no_images(), "kind": -1, "sample": ""}
        sample = self.text(index)
        if "error" in sample:
            return sample
        try:
            return {**sample, "images": self.load(sample.pop("paths"), index)}
        except DataError as error:
            return unusable(sample["sample"], error)

    def encode(self, index: int) -> dict[str, torch.Tensor]:
        """``{"input_ids", "labels"}`` of a record, without its images. Raises ``DataError`` that does not name it."""
        return self._tokens(self.records[index])

    def text(self, index: int) -> Sample:
        """A record's sample before its images are read: instead of them ``paths``, in the prompt's order."""
        record, name = self.records[index], self.records.name(index)
        try:
            encoded = self._tokens(record)
            paths = _image_paths(record, encoded["input_ids"])
        except DataError as error:
            return unusable(name, error)
        return {**encoded, "paths": paths, "kind": int(self.records.kinds[index]), "sample": name}

    def load(self, paths: list[str], index: int) -> torch.Tensor:
        """float32 (V, 3, H, W): the images at ``paths``, which a record names. Raises ``DataError`` that names the image."""
        if not paths:
            return self.no_images()
        beside = self.records.folder(index)
        folders = [self.image_folder, beside] if self.image_folder else [beside]
        files = [find_image(path, folders) for path in paths]
        return torch.stack([load_image(file, self.image_processor, self.aspect_ratio, self.decode) for file in files])

    def no_images(self) -> torch.Tensor:
        """float32 (0, 3, H, W)."""
        return torch.empty(0, 3, *self._image_size)

    def _tokens(self, record: Record) -> Sample:
        return encode_conversation(record["conversations"], self.tokenizer, self.version)


def unusable(name: str, error: DataError) -> Sample:
    """What stands for a record that cannot be used."""
    return {"sample": name, "error": f"{name}: {error}"}


def _image_paths(record: Record, input_ids: torch.Tensor) -> list[str]:
    """A record's images, one for each ``<image>`` of its prompt; ``DataError`` where their numbers differ."""
    paths = prompt_images(record)
    in_record = sum(turn["value"].count(IMAGE_TOKEN) for turn in record["conversations"])
    in_prompt = int((input_ids == IMAGE_TOKEN_INDEX).sum())
    if in_record != len(paths):
        raise DataError(f"the text has {in_record} {IMAGE_TOKEN}, the record names {len(paths)} images")
    if in_prompt != in_record:
        raise DataError(f"{in_record - in_prompt} {IMAGE_TOKEN} stand in an answer before the first question")
    return paths


def find_image(path: str, folders: list[Path]) -> Path:
    """Where an image is: at its absolute path, else in the first of the folders that has it.

    Raises ``DataError`` where none of several has it; a lone place is given back unseen.
    """
    places = list(dict.fromkeys(folder / path for folder in folders))  # one where the path is absolute
    if len(places) == 1:
        return places[0]
    found = next((place for place in places if os.path.exists(place)), None)
    if found is None:
        tried = " nor ".join(str(place) for place in places)
        raise DataError(f"no such image: neither {tried}; check the record's path and the image folder")
    return found
