"""The same records packed and one by one: batches of both, and the loss and gradients of a step over each."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import send_to_device
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig

from senna.data import Collator, ConversationDataset, FrameDataset, PackCollator, open_mixture
from senna.model import SennaConfig, SennaLlavaLlamaForCausalLM
from senna.records import write_records
from senna.views import VIEWS, image_block

MAX_LENGTH = 1200
PACK = 2400


def draw_images(records: Sequence[dict], folder: Path) -> None:
    """A small picture of noise for every image that the records name and that is not there."""
    noise = np.random.default_rng(0)
    for path in {path for record in records for path in record.get("images", [])}:
        if not (folder / path).exists():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.integers(0, 256, (18, 32, 3), dtype=np.uint8)).save(folder / path)


def odd_records(frames: Sequence[int]) -> list[dict]:
    """Frames of so many questions, answers of all lengths (one longer than a sample may be), and text without a picture."""
    chance, records = np.random.default_rng(1), []
    words = "the white car ahead of me leads a parked vehicle keep straight stop".split()

    def text(count: int) -> str:
        return " ".join(chance.choice(words, count))

    for number, questions in enumerate(frames):
        names = [f"CAM_{view.upper().replace(' ', '_')}/{number}.png" for view in VIEWS]
        for question in range(questions):
            long = number == 0 and question == 0
            turns = [{"from": "human", "value": image_block() + text(int(chance.integers(1, 20)))},
                     {"from": "gpt", "value": text(2 * MAX_LENGTH if long else int(chance.integers(1, 40)))}]  # fmt: skip
            records.append({"id": f"{number}-{question}", "kind": "description", "token": f"frame-{number}",
                            "image": names[0], "images": names, "conversations": turns})  # fmt: skip
        turns = [{"from": "human", "value": text(4)}, {"from": "gpt", "value": text(9)}]
        records.append({"id": f"{number}-text", "kind": "text", "conversations": turns})
    return records


def tiny_model(vocabulary: int, **changes) -> SennaLlavaLlamaForCausalLM:
    """The architecture of the tiny preset, smaller still: grouped heads, 4 patches, 3 tokens a view."""
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )
    llama = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2 * MAX_LENGTH,
    )  # fmt: skip
    torch.manual_seed(0)
    config = {**llama.to_dict(), "vision_config": vision, "mm_adapter_tokens": 3, **changes}
    config.pop("model_type")
    return SennaLlavaLlamaForCausalLM(SennaConfig(**config, tokenizer_model_max_length=MAX_LENGTH))


class BothWays:
    """The records of a file, as batches of each way."""

    def __init__(self, records: Sequence[dict], folder: Path, tokenizer, image_processor, config: SennaConfig):
        write_records(folder / "records.jsonl", records)
        self.samples = ConversationDataset(
            open_mixture(str(folder / "records.jsonl")), tokenizer, image_processor, folder, decode="fast",
            tokens_per_image=config.mm_adapter_tokens,
        )  # fmt: skip
        self.frames = FrameDataset(self.samples)
        self.how = (tokenizer.pad_token_id or 0, config.tokenizer_model_max_length, config.mm_adapter_tokens)

    def unpacked(self, size: int = 8) -> Iterator[dict]:
        yield from batches(self.samples, Collator(*self.how), size)

    def packed(self, size: int = 2, pack_max_tokens: int = PACK) -> Iterator[dict]:
        yield from batches(self.frames, PackCollator(*self.how, pack_max_tokens), size)


def batches(dataset, collate, size: int) -> Iterator[dict]:
    for start in range(0, len(dataset), size):
        batch = collate([dataset[index] for index in range(start, min(start + size, len(dataset)))])
        assert not batch.pop("counts").bad_samples
        batch.pop("kinds")
        yield batch


def step(
    model: SennaLlavaLlamaForCausalLM, batches: Sequence[dict], **options
) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a step over all batches, and the gradient of every parameter that is trained."""
    model.zero_grad()
    total = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    loss = 0.0
    for batch in batches:
        batch = send_to_device(batch, model.device)
        part = model(**batch, num_items_in_batch=total, **options).loss
        part.backward()
        loss += float(part.detach())
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def worst_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest relative L2 difference of any parameter's gradient; where one is zero the other must be."""
    assert ours.keys() == theirs.keys()
    zero = [name for name, gradient in theirs.items() if not gradient.any()]
    assert not any(ours[name].any() for name in zero)
    norms = {name: (ours[name] - gradient).norm() / gradient.norm() for name, gradient in theirs.items()}
    return max(float(norm) for name, norm in norms.items() if name not in zero)
