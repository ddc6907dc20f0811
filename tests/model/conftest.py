"""The published code's tiny model and the inputs that it was run on (tests/golden; fp32, CPU)."""

import json

import numpy as np
import pytest
import torch

from senna.model import SennaLlavaLlamaForCausalLM
from tests.helpers.paths import GOLDEN


@pytest.fixture(scope="session")
def forward_cases() -> dict:
    return json.loads((GOLDEN / "forward_v320.json").read_text())


@pytest.fixture(scope="session")
def forward_arrays():
    return np.load(GOLDEN / "forward_v320.npz")


@pytest.fixture(scope="session")
def pixels() -> dict[str, torch.Tensor]:
    """Return images by the names that the golden files use for them."""
    arrays = np.load(GOLDEN / "pixels.npz")
    a, b, single = (torch.from_numpy(arrays[name]) for name in ("images_A", "images_B", "image_one"))
    return {"images_A[None]": a[None], "images_B[None]": b[None], "stack(images_A,images_B)": torch.stack([a, b]),
            "image_one[None]": single[None]}  # fmt: skip


@pytest.fixture
def model() -> SennaLlavaLlamaForCausalLM:
    """Return a new copy for each test, since tests train it and change its configuration."""
    return SennaLlavaLlamaForCausalLM.from_pretrained(GOLDEN / "model_v320", dtype=torch.float32).eval()
