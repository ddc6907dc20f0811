"""A small model and a file of records for the demo page."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from transformers.models.clip import CLIPImageProcessorPil

from senna.model.loading import open_model
from senna.model.tokenizer import load_tokenizer
from tests.helpers.demo import write_frames
from tests.helpers.small_tokenizers import llama_folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """Return an untrained model whose answers are words (byte tokens and eos never win) and do not end by themselves."""
    root = tmp_path_factory.mktemp("demo_model")
    torch.manual_seed(0)
    llama_folder(root / "llm")
    llm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=420, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=2048, initializer_range=0.5,
        )
    )  # fmt: skip
    llm.lm_head.weight.data[:259] = 0
    llm.save_pretrained(root / "llm")
    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
        )
    ).save_pretrained(root / "clip")  # fmt: skip
    joined, _ = open_model(str(root / "llm"), vision_tower=str(root / "clip"), mm_adapter_tokens=3)
    joined.save_pretrained(root / "model")
    load_tokenizer(root / "llm").save_pretrained(root / "model")
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor.save_pretrained(root / "model")
    return root / "model"


@pytest.fixture(scope="session")
def frames(tmp_path_factory) -> Path:
    """Return the file of records of three frames."""
    return write_frames(tmp_path_factory.mktemp("demo_frames"))
