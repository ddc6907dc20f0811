"""The floating-point operations of a step are those that torch counts, and cards have the peaks of their data sheets."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from senna.data import Collator, PackCollator
from senna.errors import UsageError
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.model.layout import Tree
from senna.model.lora import add_lora
from senna.model.packed_attention import PackedAttention, use_packed_attention
from senna.model.parts import is_adapter_weight, is_lora_weight
from senna.train.arguments import parse_arguments
from senna.train.flops import Work, card_peak, training_flops
from senna.train.memory.model_shape import ModelShape
from senna.train.timed_trainer import peak_tflops, trained_parts
from tests.helpers.packing import tiny_model

RANK = 4
TRAINED = {
    "adapters": is_adapter_weight,
    "full": lambda name: "vision_tower" not in name,
    "full without projector": lambda name: "vision_tower" not in name and "mm_projector" not in name,
    "lora": lambda name: is_lora_weight(name) or is_adapter_weight(name),
}


def record(text: int, targets: int) -> dict:
    """Return a sample of two images and ``text`` tokens, the last ``targets`` of which are targets."""
    ids = torch.cat([torch.tensor([1, IMAGE_TOKEN_INDEX, 2, IMAGE_TOKEN_INDEX]), torch.arange(3, 3 + text)])
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[len(ids) - targets :] = ids[len(ids) - targets :]
    images = torch.zeros(2, 3, 28, 28, dtype=torch.uint8)
    return {"input_ids": ids, "labels": labels, "images": images, "kind": 0, "sample": "s"}


def batch_of(packed: bool) -> dict:
    if not packed:
        return Collator(0, 99, 3)([record(20, 5), record(20, 7)])
    records = [record(20, 5), record(20, 7), record(20, 6)]
    return PackCollator(0, 99, 3, 200)([{"records": records, "images": records[0]["images"]}])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("setting", TRAINED)
def test_operations_of_a_step_are_those_that_torch_counts(setting, packed):
    model = tiny_model(60)
    if setting == "lora":
        add_lora(model, RANK, 8, 0.0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(TRAINED[setting](name))
    if packed:
        use_packed_attention(model, "dense")
    batch = batch_of(packed)
    counts = batch.pop("counts")
    batch.pop("kinds")
    # The reference attention that can be counted computes all pairs, hidden ones too.
    rows = len(batch["input_ids"])
    pairs = rows * (counts.positions // rows) ** 2
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.train()(**batch).loss.backward()
    work = Work(counts.tokens, counts.targets, counts.images, pairs)
    found = training_flops(ModelShape.from_config(model.config), trained_parts(model, RANK), work)
    assert found == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_pairs_of_a_packed_batch_are_those_that_its_mask_admits():
    batch = batch_of(packed=True)
    assert batch["layout"][0].branches
    mask = PackedAttention(batch["layout"], "dense", *batch["source"].shape, torch.float32, "cpu").dense_mask
    assert batch["counts"].pairs == int((mask == 0).sum())
    assert Tree(0, 0, 3, (2, 1)).visible_pairs == 6 + (2 * 3 + 3) + (3 + 1)
    assert Tree(0, 0, 3, (2, 1), (-1, 0)).visible_pairs == 6 * 7 // 2


def test_pairs_of_a_padded_batch_leave_padding_out():
    counts = Collator(0, 99, 3)([record(2, 1), record(4, 1)])["counts"]
    short, long = 2 + 2 * 3 + 2, 2 + 2 * 3 + 4
    assert counts.pairs == short * (short + 1) // 2 + long * (long + 1) // 2
    assert counts.images == 4


@pytest.mark.parametrize(
    ("card", "precision", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156),
        ("NVIDIA RTX A6000", "fp16", 154.8),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
        ("Tesla V100-SXM2-16GB", "bf16", None),  # its tensor cores have no bf16
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA A10G", "bf16", None),  # not an A10
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "bf16", None),  # a part of a card
    ],
)
def test_the_peak_of_a_card_is_that_of_its_data_sheet_and_unknown_for_others(card, precision, tflops):
    assert card_peak(card, precision) == tflops


def test_a_cpu_has_no_peak_but_the_given_one(toy, tmp_path):
    assert peak_tflops(parse_arguments(toy.flags(tmp_path))) is None
    assert peak_tflops(parse_arguments(toy.flags(tmp_path, peak_tflops=0.5))) == 0.5


@pytest.mark.parametrize("value", [0, -1, "nan", "inf"])
def test_a_peak_that_is_no_positive_number_is_refused(toy, tmp_path, value):
    with pytest.raises(UsageError, match="--peak_tflops"):
        parse_arguments(toy.flags(tmp_path, peak_tflops=value))
