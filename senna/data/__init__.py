"""Data: from records and images to batches."""

from senna.data.batch import BatchCounts, PackedBatch, PaddedBatch, Sample
from senna.data.collate import Collator, PackCollator
from senna.data.conversation import prompt_for
from senna.data.dataset import ConversationDataset
from senna.data.frames import FrameDataset
from senna.data.images import load_image
from senna.data.mixture import Mixture, open_mixture
from senna.data.sampler import PADDING, LengthGroupedSampler
from senna.data.tokenize import encode_conversation, encode_prompt
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.model.tokenizer import load_tokenizer

__all__ = [
    "IGNORE_INDEX",
    "IMAGE_TOKEN_INDEX",
    "PADDING",
    "BatchCounts",
    "Collator",
    "ConversationDataset",
    "FrameDataset",
    "LengthGroupedSampler",
    "Mixture",
    "PackCollator",
    "PackedBatch",
    "PaddedBatch",
    "Sample",
    "encode_conversation",
    "encode_prompt",
    "load_image",
    "load_tokenizer",
    "open_mixture",
    "prompt_for",
]
