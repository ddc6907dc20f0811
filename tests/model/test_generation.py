"""No generation config of a checkpoint keeps a model from being opened or saved, in any supported version of transformers."""

import json

import pytest
import torch
from transformers import GenerationConfig

from senna.model import load_model
from tests.helpers.checkpoints import write_checkpoint

VICUNA = {"bos_token_id": 1, "eos_token_id": 2, "max_length": 4096, "pad_token_id": 0, "temperature": 0.9, "top_p": 0.6}


@pytest.fixture(autouse=True)
def _strict_saving(monkeypatch):
    """Refuse to save what transformers 5.17 to 5.20 refuse; later versions only warn about unchanged settings."""
    save = GenerationConfig.save_pretrained

    def save_strictly(self, *args, **kwargs):
        self.validate(strict=True)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(GenerationConfig, "save_pretrained", save_strictly)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(VICUNA),
        json.dumps({"_from_model_config": True, "pad_token_id": -1, "eos_token_id": 2}),  # the first Llama
        json.dumps({"temperature": None, "top_k": 3, "min_p": 0.1, "typical_p": 0.2, "do_sample": None}),
        json.dumps({"do_sample": True, "temperature": "hot", "top_p": 7}),
        json.dumps({"early_stopping": "soon", "num_beams": "four", "length_penalty": 2.0}),
        json.dumps({"max_new_tokens": -5, "max_length": "long"}),
        json.dumps({"num_return_sequences": 4, "output_scores": True, "output_attentions": True}),
        json.dumps({"use_cache": False, "cache_implementation": "hybrid", "cache_config": {"bits": 4}}),
        json.dumps({"eos_token_id": ["</s>"], "bos_token_id": True, "pad_token_id": 0.5}),
        json.dumps({"compile_config": {"mode": 3}, "watermarking_config": {"greenlist_ratio": 9}, "stop": {"a": [1]}}),
        json.dumps({"suppress_tokens": [2], "forced_eos_token_id": 2}),
        "[1, 2]", "null", '"greedy"', '{"temperature": NaN}', "{", "", "[" * 100_000,
    ],
)  # fmt: skip
def test_a_model_with_any_generation_config_is_opened_and_saved_and_decodes_greedily(tmp_path, text):
    folder = write_checkpoint(tmp_path, "senna")
    (folder / "generation_config.json").write_text(text)
    model, *_ = load_model(folder)
    model.save_pretrained(tmp_path / "saved")
    images = torch.zeros(1, 1, 3, 336, 336)
    ids = model.generate(torch.tensor([[1, -200, 7]]), images=images, max_new_tokens=1, do_sample=False, eos_token_id=2)
    assert len(ids) == 1


def test_usable_generation_settings_are_kept(tmp_path):
    folder = write_checkpoint(tmp_path, "senna")
    (folder / "generation_config.json").write_text(json.dumps({**VICUNA, "do_sample": True, "repetition_penalty": 1.5}))
    model, *_ = load_model(folder)
    found = model.generation_config
    assert (found.temperature, found.top_p, found.repetition_penalty, found.max_length) == (0.9, 0.6, 1.5, 4096)
    (folder / "generation_config.json").write_text(json.dumps({**VICUNA, "repetition_penalty": 1.5}))
    found = load_model(folder)[0].generation_config
    assert (found.temperature, found.repetition_penalty, found.eos_token_id, found.pad_token_id) == (None, 1.5, 2, 0)


@pytest.mark.parametrize("value", [{"temperature": 0.9}, {"pad_token_id": -1}])
def test_generation_settings_in_config_json_do_not_prevent_saving(tmp_path, value):
    folder = write_checkpoint(tmp_path, "senna")
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **value}))
    load_model(folder)[0].save_pretrained(tmp_path / "saved")
