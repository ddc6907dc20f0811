"""Records to training samples: ids, labels and pixels of one conversation at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from senna.data.conversation import template_for
from senna.data.images import ASPECT_RATIOS, DECODERS, PixelRules, load_image
from senna.data.sampler import PADDING
from senna.data.tokenize import encode_conversation
from senna.errors import DataError, UsageError
from senna.model.config import IMAGE_TOKEN_INDEX
from senna.records import Record, RecordFile, image_paths
from senna.views import IMAGE_TOKEN

Sample = dict[str, Any]


class ConversationDataset(Dataset):
    """Map-style: sample ``i`` is record ``i``, encoded when it is asked for.

    A sample is ``{"input_ids", "labels": LongTensor (T,), "images": float32 (V, 3, H, W), "sample": str}``; V may be 0
    and nothing is truncated. A record that cannot be used does not raise, since that would end a worker: its sample is
    ``{"sample": str, "error": message}``, and the trainer decides. The index ``PADDING`` gives an empty sample.

    Attributes:
        lengths: int64 (N,), each sample's length in tokens, estimated: words, and ``tokens_per_image`` an image.
        multimodal: bool (N,), whether it has images.
    """

    def __init__(
        self,
        records: RecordFile,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Any,
        image_folder: str | Path | None = None,
        version: str = "v1",
        aspect_ratio: str = "pad",
        decode: str = "exact",
        tokens_per_image: int = 128,
    ) -> None:
        """Relative image paths start at ``image_folder``, else beside the records. ``UsageError``: an unknown option."""
        template_for(version)
        for name, value, known in (("aspect_ratio", aspect_ratio, ASPECT_RATIOS), ("decode", decode, DECODERS)):
            if value not in known:
                raise UsageError(f"{name}={value!r} is not known; use one of {', '.join(known)}")
        self.records = records
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.image_folder = Path(image_folder) if image_folder else records.path.parent
        self.version, self.aspect_ratio, self.decode = version, aspect_ratio, decode
        self.lengths = records.words.astype(np.int64) + tokens_per_image * records.images.astype(np.int64)
        self.multimodal = records.images > 0
        rules = PixelRules.of(image_processor)
        self._image_size = rules.crop or rules.resized(1, 1)[::-1]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        if index == PADDING:
            nothing = torch.empty(0, dtype=torch.long)
            return {"input_ids": nothing, "labels": nothing, "images": self._no_images(), "sample": ""}
        record, name = self.records[index], self.records.name(index)
        try:
            return {**self._encode(record), "sample": name}
        except DataError as error:
            return {"sample": name, "error": f"{name}: {error}"}

    def _encode(self, record: Record) -> Sample:
        encoded = encode_conversation(record["conversations"], self.tokenizer, self.version)
        paths = image_paths(record)
        in_record = sum(turn["value"].count(IMAGE_TOKEN) for turn in record["conversations"])
        in_prompt = int((encoded["input_ids"] == IMAGE_TOKEN_INDEX).sum())
        if in_record != len(paths):
            raise DataError(f"the text has {in_record} {IMAGE_TOKEN}, the record names {len(paths)} images")
        if in_prompt != in_record:
            raise DataError(f"{in_record - in_prompt} {IMAGE_TOKEN} stand in an answer before the first question")
        return {**encoded, "images": self._load(paths)}

    def _load(self, paths: list[str]) -> torch.Tensor:
        """float32 (V, 3, H, W)."""
        if not paths:
            return self._no_images()
        views = (
            load_image(self.image_folder / path, self.image_processor, self.aspect_ratio, self.decode) for path in paths
        )
        return torch.stack(list(views))

    def _no_images(self) -> torch.Tensor:
        return torch.empty(0, 3, *self._image_size)
