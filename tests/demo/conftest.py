"""A small model, frames of six images, and `senna demo` as a user starts it."""

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from transformers.models.clip import CLIPImageProcessorPil

from senna.model.loading import open_model
from senna.model.tokenizer import load_tokenizer
from senna.templates import load_templates
from senna.views import VIEWS, image_block
from tests.conftest import REPOSITORY
from tests.data.small_tokenizers import llama_folder

PLANS = [
    ("KEEP, STRAIGHT", "go straight", 3.1),
    ("STOP, STRAIGHT", "turn left", 0.0),
    ("ACCELERATE, LEFT_TURN", "go straight and turn left", 7.5),
]


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


def write_frames(folder: Path, count: int = 3) -> Path:
    """Write plan records of ``count`` frames, with images in a different colour for each view and frame."""
    plan, lines = load_templates()["plan"]["question"], []
    for frame in range(count):
        names = [f"samples/CAM_{view.upper().replace(' ', '_')}/{frame}.jpg" for view in VIEWS]
        for position, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (160, 90), (40 * position, 200 - 30 * position, (90 * frame) % 256)).save(folder / name)
        answer, command, speed = PLANS[frame % len(PLANS)]
        turns = [
            {"from": "human", "value": image_block() + plan.format(command=command, speed=f"{speed:.1f} m/s")},
            {"from": "gpt", "value": f"{answer}\n"},
        ]
        record = {"id": f"{frame}-plan", "kind": "plan", "token": str(frame), "image": names[0], "images": names}
        lines.append(json.dumps({**record, "conversations": turns}))
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "records.jsonl"


@pytest.fixture(scope="session")
def frames(tmp_path_factory) -> Path:
    """Return the file of records of three frames."""
    return write_frames(tmp_path_factory.mktemp("demo_frames"))


class Server:
    """`senna demo` in a process of its own, with its files in ``temporary``; ``log`` is its output."""

    def __init__(self, temporary: Path, *arguments: object) -> None:
        self.temporary = temporary
        own = {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
            "CUDA_VISIBLE_DEVICES": "",
            "TMPDIR": str(temporary),
        }
        environment = {**os.environ, **own}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "senna", "demo", "--port", "0", *map(str, arguments)],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=REPOSITORY,
        )  # fmt: skip
        self.lines: list[str] = []
        addresses: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(addresses,), daemon=True).start()
        try:
            self.url = addresses.get(timeout=120)
        except queue.Empty:
            self.process.kill()
            raise AssertionError(f"no address was printed: {self.log}") from None

    def _read(self, addresses: "queue.Queue[str]") -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("http://"):
                addresses.put(line.split()[0])

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=30)
