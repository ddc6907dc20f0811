"""Losses, logits, embeddings, gradients, training curves and text equal the published code's.

Tolerances: 1e-4 on logits, 1e-5 relative on losses and gradient norms. The published code's own noise is 2e-5 and 1e-6.
"""

import json
import math

import numpy as np
import pytest
import torch

from senna.model.senna_llava_llama import flatten_images
from tests.helpers.paths import GOLDEN

CASES = [
    "plain_1img", "six_right", "six_truncated", "six_truncated_all_labels_lost", "six_truncated_midimage", "six_left",
    "six_rightinput_leftside", "six_nolabels_nomask", "text_only_no_images",
]  # fmt: skip
TRAINED = {"stage1": ("model.mm_projector.", "model.img_adapter."), "stage2": ("model.", "lm_head.")}


def case_inputs(model, case, pixels):
    model.config.tokenizer_padding_side = case["padding_side"]
    model.config.tokenizer_model_max_length = case["tokenizer_model_max_length"]
    as_tensor = {key: None if case[key] is None else torch.tensor(case[key]) for key in ("input_ids", "labels")}
    mask = None if case["attention_mask"] is None else torch.tensor(case["attention_mask"])
    images = None if case["images"] is None else pixels[case["images"]]
    return {**as_tensor, "attention_mask": mask, "images": images}


def train_only(model, stage):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED[stage]) and "vision_tower" not in name)
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def valid_rows(values, case, row):
    length = case["valid_lengths"][row]
    return values[row, -length:] if case["padding_side"] == "left" else values[row, :length]


@pytest.mark.parametrize(
    "name", [name for name in CASES if name != "text_only_no_images"]
)  # the published code does not splice it
def test_spliced_embeddings_equal_the_published_ones(model, forward_cases, forward_arrays, pixels, name):
    case = forward_cases[name]
    inputs = case_inputs(model, case, pixels)
    flat, counts = flatten_images(inputs["images"], len(inputs["input_ids"]))
    splice = model.compute_splice(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], counts)
    embeds = model.embed(inputs["input_ids"], flat, splice.source).detach()
    assert list(embeds.shape) == case["embeds_shape"]
    np.testing.assert_allclose(embeds.sum(-1), forward_arrays[f"{name}.embeds_rowsum"], atol=2e-4)
    if inputs["labels"] is not None:
        np.testing.assert_array_equal(splice.labels, forward_arrays[f"{name}.labels"])
    real = forward_arrays[f"{name}.attention_mask"].astype(bool)
    np.testing.assert_array_equal(splice.attention_mask, real)
    np.testing.assert_array_equal(splice.position_ids[real], forward_arrays[f"{name}.position_ids_computed"][real])


@pytest.mark.parametrize("name", CASES)
def test_loss_and_logits_equal_the_published_ones(model, forward_cases, forward_arrays, pixels, name):
    case = forward_cases[name]
    with torch.no_grad():
        out = model(**case_inputs(model, case, pixels))
    assert list(out.logits.shape) == case["logits_shape"]
    for row in range(len(case["input_ids"])):
        logits = valid_rows(out.logits, case, row)
        np.testing.assert_allclose(logits.logsumexp(-1), forward_arrays[f"{name}.logsumexp_{row}"], atol=1e-4)
        np.testing.assert_array_equal(logits.argmax(-1), forward_arrays[f"{name}.argmax_{row}"])
        np.testing.assert_allclose(logits[:8, :64], forward_arrays[f"{name}.logits_valid_head"][row], atol=1e-4)
        np.testing.assert_allclose(logits[-8:, :64], forward_arrays[f"{name}.logits_valid_tail"][row], atol=1e-4)
    if case["loss"] == "nan":  # every target was cut off: 0/0 in the published code, 0 here, so that a run continues
        assert float(out.loss) == 0.0
    elif case["loss"] is not None:
        assert float(out.loss) == pytest.approx(case["loss"], rel=1e-5)


def test_all_logits_of_one_image_equal_the_published_ones(model, forward_cases, forward_arrays, pixels):
    with torch.no_grad():
        out = model(**case_inputs(model, forward_cases["plain_1img"], pixels))
    np.testing.assert_allclose(out.logits.squeeze(), forward_arrays["plain_1img.logits_full"].squeeze(), atol=1e-4)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
@pytest.mark.parametrize("name", ["plain_1img", "six_right", "six_truncated", "six_left"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gradient_norms_equal_the_published_ones(model, forward_cases, pixels, name, stage, training):
    case = forward_cases[name]
    trained = train_only(model, stage)
    model.train(training)
    model(**case_inputs(model, case, pixels)).loss.backward()
    norms = {key: float(parameter.grad.norm()) for key, parameter in trained.items()}
    assert norms == pytest.approx(case[stage]["grad_norms"], rel=1e-5)
    assert math.hypot(*norms.values()) == pytest.approx(case[stage]["total_norm"], rel=1e-5)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_eight_adamw_steps_follow_the_published_curve(model, forward_cases, pixels, stage):
    curve = forward_cases[f"train_{stage}"]
    trained = train_only(model, stage)
    optimizer = torch.optim.AdamW(trained.values(), lr=curve["lr"], betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    inputs = case_inputs(model, forward_cases[curve["batch"]], pixels)
    losses, norms = [], []
    for _ in curve["losses"]:
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), curve["clip_grad_norm"])))
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses == pytest.approx(curve["losses"], rel=1e-5)
    assert norms == pytest.approx(curve["grad_norms_before_clip"], rel=1e-4)
    finals = {key: float(parameter.detach().norm()) for key, parameter in trained.items()}
    assert finals == pytest.approx(curve["final_param_norms"], rel=1e-5)


@pytest.mark.parametrize("name", ["A", "B"])
@pytest.mark.parametrize("padded", [None, "left", "right"])
def test_greedy_text_equals_the_published_text(model, pixels, name, padded):
    golden = json.loads((GOLDEN / "generation_v320.json").read_text())
    prompt = torch.tensor([golden["prompt_input_ids"]])
    mask = torch.ones_like(prompt)
    if padded:
        pad = [5, 0] if padded == "left" else [0, 5]
        prompt, mask = torch.nn.functional.pad(prompt, pad), torch.nn.functional.pad(mask, pad)
    ids = model.generate(prompt, images=pixels[f"images_{name}[None]"], attention_mask=mask, max_new_tokens=12)
    assert ids[0].tolist() == golden[name]["generated"][1:]  # the published code put a BOS before the new tokens
