"""LoRA training of a pretrained Llama on real camera images: SmolLM2-135M learns answers of DriveLM."""

import pytest
import torch

from senna.model import load_model
from tests.helpers.paths import GOLDEN
from tests.helpers.toy import losses
from tests.train.drivelm import convert


@pytest.mark.slow
def test_lora_on_a_pretrained_llama_learns_answers_about_nine_real_frames(toy, smollm2, data, tmp_path):
    convert(data / "drivelm" / "train_sample.json", tmp_path / "records.jsonl", questions_a_frame=4)
    settings = {
        "how": "lora", "vision_tower": GOLDEN / "clip_tiny",
        "data_path": tmp_path / "records.jsonl", "image_folder": data / "drivelm",
        "max_steps": 10, "num_train_epochs": 9, "per_device_train_batch_size": 2, "mm_adapter_tokens": 4, "lora_r": 16,
        "lora_alpha": 32, "learning_rate": 2e-3, "mm_projector_lr": 2e-3, "save_steps": 100, "bf16": True,
        "model_max_length": 512, "image_decode": "fast",
    }  # fmt: skip
    result = toy.drive(tmp_path / "out", smollm2, **settings)
    assert result.returncode == 0, result.stderr
    curve = [loss for _, loss in losses(tmp_path / "out")]
    assert len(curve) == 10
    assert sum(curve[-5:]) / 5 < 0.5 * curve[0]
    model, tokenizer, _ = load_model(tmp_path / "out")
    ids = torch.tensor([tokenizer("USER: What is in front? ASSISTANT:").input_ids])
    assert tokenizer.decode(model.generate(ids, max_new_tokens=5)[0])
