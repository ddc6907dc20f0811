"""Batches with padding on the right are computed without a mask, and have the loss that they have with one."""

import pytest
import torch

from senna.data import Collator
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.model.packed_attention import use_packed_attention
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM, flatten_images
from tests.helpers.packing import MAX_LENGTH, tiny_model

VOCABULARY = 50
VIEWS = {"stage 1": 1, "stage 3": 6}


def padded_batch(views: int, lengths=(40, 9, 21)) -> dict:
    """Return a batch of samples of `views` images, of different lengths, with a target in every second token."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for length in lengths:
        text = torch.randint(1, VOCABULARY, (length,), generator=generator)
        ids = torch.cat([torch.full((views,), IMAGE_TOKEN_INDEX), text])
        labels = ids.where((torch.arange(len(ids)) >= views + 2) & (torch.arange(len(ids)) % 2 == 0), IGNORE_INDEX)
        images = torch.randn(views, 3, 28, 28, generator=generator)
        samples.append({"input_ids": ids, "labels": labels, "images": images, "kind": 0, "sample": "sample"})
    batch = dict(Collator(0, MAX_LENGTH, 3)(samples))
    return {name: batch[name] for name in ("input_ids", "labels", "attention_mask", "images")}


@pytest.fixture
def model() -> SennaLlavaLlamaForCausalLM:
    """Return a model that pads on the right and uses no cache, as `senna train` sets it."""
    model = tiny_model(VOCABULARY)
    model.config.tokenizer_padding_side, model.config.use_cache = "right", False
    return model


def masks_seen(model: SennaLlavaLlamaForCausalLM) -> list:
    """Return a list to which every decoder layer's attention appends the mask that it gets."""
    seen = []
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
        )
    return seen


def with_a_mask(model: SennaLlavaLlamaForCausalLM, batch: dict):
    """Return the output for positions that repeat at padding, for which transformers builds a mask over all pairs."""
    pixels, counts = flatten_images(batch["images"], len(batch["input_ids"]))
    splice = model.compute_splice(batch["input_ids"], batch["attention_mask"], batch["labels"], counts)
    positions = splice.attention_mask.cumsum(1) - 1  # (B, L)
    embeds = model.embed(batch["input_ids"], pixels, splice.source)
    return model(inputs_embeds=embeds, position_ids=positions, labels=splice.labels)


@pytest.mark.parametrize("attention", ["sdpa", "split"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("stage", VIEWS)
def test_padding_on_the_right_needs_no_mask_and_changes_no_digit_of_the_loss(model, stage, training, attention):
    batch = padded_batch(VIEWS[stage])
    if attention == "split":
        use_packed_attention(model, "split")  # of a run that packs, which evaluates unpacked batches too
    model.train(training)
    seen = masks_seen(model)
    plain = model(**batch)
    assert seen == [None] * len(model.model.layers)
    seen.clear()
    masked = with_a_mask(model, batch)
    assert [mask.dim() for mask in seen] == [4] * len(model.model.layers)  # the two do take different paths
    assert torch.equal(plain.loss, masked.loss)
    assert torch.equal(plain.sample_losses, masked.sample_losses)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad and "tower" not in name]
    parameters = [dict(model.named_parameters())[name] for name in names]
    for ours, other in zip(
        torch.autograd.grad(plain.loss, parameters), torch.autograd.grad(masked.loss, parameters), strict=True
    ):
        torch.testing.assert_close(ours, other, atol=1e-7, rtol=1e-5)


def test_padding_on_the_right_does_not_change_the_loss(model):
    batch = padded_batch(1)
    longer = {
        name: torch.nn.functional.pad(batch[name], (0, 5), value=fill)
        for name, fill in (("input_ids", 7), ("labels", IGNORE_INDEX), ("attention_mask", 0))
    }
    longer["images"] = batch["images"]
    model.train()
    assert torch.equal(model(**longer).loss, model(**batch).loss)


def test_eager_attention_has_the_same_loss(model):
    batch = padded_batch(6)
    expected = model(**batch).loss.item()
    model.set_attn_implementation("eager")
    assert model(**batch).loss.item() == pytest.approx(expected, rel=1e-6)


def test_padding_on_the_left_still_gets_a_mask(model):
    batch = padded_batch(1)
    expected = model.eval()(**batch).loss.item()
    model.config.tokenizer_padding_side = "left"
    seen = masks_seen(model)
    assert model(**batch).loss.item() == pytest.approx(expected, rel=1e-6)
    assert [mask.dim() for mask in seen] == [4] * len(model.model.layers)
