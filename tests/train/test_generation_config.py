"""Vicuna's generation_config.json, which transformers 5.17 to 5.20 load and refuse to save, costs no training."""

import json
import shutil

from transformers import GenerationConfig

from senna.cli import main

VICUNA = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "temperature": 0.9, "top_p": 0.6}


def test_the_trained_and_the_merged_model_of_vicuna_are_saved(toy, tmp_path, monkeypatch):
    llm, save = tmp_path / "llm", GenerationConfig.save_pretrained
    shutil.copytree(toy.llm, llm)
    (llm / "generation_config.json").write_text(json.dumps(VICUNA))

    def save_as_transformers_5_17(self, *args, **kwargs):
        self.validate(strict=True)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(GenerationConfig, "save_pretrained", save_as_transformers_5_17)
    result = toy.train(tmp_path / "out", model_name_or_path=llm, max_steps=1)
    assert result.returncode == 0, result.stderr
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == 2
    assert "temperature" not in saved
    (tmp_path / "out" / "generation_config.json").write_text(json.dumps(VICUNA))  # as in a folder of the published code
    result = toy.drive(tmp_path / "lora", tmp_path / "out", how="lora", max_steps=1)
    assert result.returncode == 0, result.stderr
    assert main(["merge", "--adapter", str(tmp_path / "lora"), "--out", str(tmp_path / "merged")]) == 0
