"""Batches of the same records with and without packing, and the loss and the gradients of a step over each."""

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
    """Write a small image of noise for every image that the records name and that does not exist."""
    noise = np.random.default_rng(0)
    for path in {path for record in records for path in record.get("images", [])}:
        if not (folder / path).exists():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.integers(0, 256, (18, 32, 3), dtype=np.uint8)).save(folder / path)


def odd_records(frames: Sequence[int]) -> list[dict]:
    """Return records of frames with the given numbers of questions and answers of various lengths, one of them longer than a
    sample may be, and a text-only record after each frame."""
    generator, records = np.random.default_rng(1), []
    words = "the white car ahead of me leads a parked vehicle keep straight stop".split()

    def text(count: int) -> str:
        return " ".join(generator.choice(words, count))

    for number, questions in enumerate(frames):
        names = [f"CAM_{view.upper().replace(' ', '_')}/{number}.png" for view in VIEWS]
        for question in range(questions):
            is_long = number == 0 and question == 0
            turns = [{"from": "human", "value": image_block() + text(int(generator.integers(1, 20)))},
                     {"from": "gpt", "value": text(2 * MAX_LENGTH if is_long else int(generator.integers(1, 40)))}]  # fmt: skip
            records.append({"id": f"{number}-{question}", "kind": "description", "token": f"frame-{number}",
                            "image": names[0], "images": names, "conversations": turns})  # fmt: skip
        turns = [{"from": "human", "value": text(4)}, {"from": "gpt", "value": text(9)}]
        records.append({"id": f"{number}-text", "kind": "text", "conversations": turns})
    return records


def tiny_model(vocabulary: int, **changes) -> SennaLlavaLlamaForCausalLM:
    """Return a model of the tiny preset's architecture, but smaller: grouped heads, 4 patches, 3 tokens a view."""
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
    """Records as packed and as unpacked batches."""

    def __init__(self, records: Sequence[dict], folder: Path, tokenizer, image_processor, config: SennaConfig):
        write_records(folder / "records.jsonl", records)
        self.samples = ConversationDataset(
            open_mixture(str(folder / "records.jsonl")), tokenizer, image_processor, folder, decode="fast",
            tokens_per_image=config.mm_adapter_tokens,
        )  # fmt: skip
        self.frames = FrameDataset(self.samples)
        self.lengths = (tokenizer.pad_token_id or 0, config.tokenizer_model_max_length, config.mm_adapter_tokens)

    def unpacked(self, size: int = 8) -> Iterator[dict]:
        yield from batches(self.samples, Collator(*self.lengths), size)

    def packed(self, size: int = 2, pack_max_tokens: int = PACK) -> Iterator[dict]:
        yield from batches(self.frames, PackCollator(*self.lengths, pack_max_tokens), size)


def batches(dataset, collate, size: int) -> Iterator[dict]:
    for start in range(0, len(dataset), size):
        batch = collate([dataset[index] for index in range(start, min(start + size, len(dataset)))])
        assert not batch.pop("counts").bad_samples
        batch.pop("kinds")
        yield batch


def step(
    model: SennaLlavaLlamaForCausalLM, batches: Sequence[dict], **options
) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss of a step over all batches, and the gradient of every trained parameter."""
    model.zero_grad()
    total = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    loss = 0.0
    for batch in batches:
        batch = send_to_device(batch, model.device)
        batch_loss = model(**batch, num_items_in_batch=total, **options).loss
        batch_loss.backward()
        loss += float(batch_loss.detach())
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def worst_difference(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Return the largest relative L2 difference of a parameter's gradient. Zero gradients must be zero in both."""
    assert actual.keys() == expected.keys()
    zero = [name for name, gradient in expected.items() if not gradient.any()]
    assert not any(actual[name].any() for name in zero)
    norms = {name: (actual[name] - gradient).norm() / gradient.norm() for name, gradient in expected.items()}
    return max(float(norm) for name, norm in norms.items() if name not in zero)


def names_and_targets(batch: dict) -> list[tuple[str, list[int]]]:
    """Return name and targets of every usable record of a packed batch, sorted. A bad one's message starts with its name."""
    counts = batch["counts"]
    names = [
        name for name in counts.samples if not any(message.startswith(f"{name}:") for message in counts.bad_samples)
    ]
    targets: list[list[int]] = [[] for _ in names]
    flat = batch["labels"].flatten()
    for position, number in zip(batch["target_positions"].tolist(), batch["target_records"].tolist(), strict=True):
        targets[number].append(int(flat[position + 1]))
    return sorted(zip(names, targets, strict=True))
