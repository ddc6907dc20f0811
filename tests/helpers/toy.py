"""A data set and models that train in a second: a random Llama, a random CLIP of 4 patches, 24 images with captions."""

import contextlib
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from senna.cli import main
from senna.views import VIEWS, image_block
from tests.helpers.forks import Run
from tests.helpers.paths import REPOSITORY
from tests.helpers.small_tokenizers import llama_folder

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220), "white": (240, 240, 240)}


class Toy:
    """The paths of the small models and data sets, and runs of `senna train` on them."""

    def __init__(self, folder: Path):
        self.folder, self.llm, self.clip = folder, folder / "llm", folder / "clip"
        self.data, self.images = folder / "captions.json", folder / "images"
        self.driving = folder / "driving.jsonl"

    def flags(self, output_dir: Path, configs=("stage1_pretrain.yaml",), **changes) -> list[str]:
        values = {
            "model_name_or_path": self.llm, "vision_tower": self.clip, "data_path": self.data, "image_folder": self.images,
            "output_dir": output_dir, "mm_adapter_tokens": 3, "global_batch_size": 0,
            "per_device_train_batch_size": 4, "num_train_epochs": 2, "save_steps": 4, "bf16": False,
            "gradient_checkpointing": False, "use_cpu": True, "learning_rate": 1e-2,
            "dataloader_num_workers": 0, "dataloader_pin_memory": False, "model_max_length": 64, **changes,
        }  # fmt: skip
        files = [word for name in configs for word in ("--config", str(REPOSITORY / "configs" / name))]
        return files + [
            word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))
        ]

    def start(self, output_dir: Path, processes: int = 1, **changes) -> Run:
        return Run(main, ["train", *self.flags(output_dir, **changes)], self.folder, processes)

    def driving_options(self, model: Path, stage: int = 2, how: str | None = None, **options) -> dict:
        """Return options of stage 2 or 3 on the driving records; ``how`` is None (full), "lora" or "qlora"."""
        stage_file = {2: "stage2_driving.yaml", 3: "stage3_planning.yaml"}[stage]
        return {
            "configs": [stage_file, *([f"{how}.yaml"] if how else [])], "model_name_or_path": model, "vision_tower": None,
            "data_path": self.driving, "mm_adapter_tokens": None, "gradient_accumulation_steps": 1, "model_max_length": 256,
            "per_device_train_batch_size": 2, "num_train_epochs": 4,
            **({"lora_r": 4, "lora_alpha": 8, "mm_projector_lr": 1e-2} if how else {}), **options,
        }  # fmt: skip

    def driving_flags(self, output_dir: Path, model: Path, **options) -> list[str]:
        return self.flags(output_dir, **self.driving_options(model, **options))

    def drive(self, output_dir: Path, model: Path, **options) -> subprocess.CompletedProcess:
        """Run stage 2 or 3; see `driving_options`."""
        return self.train(output_dir, **self.driving_options(model, **options))

    def train(self, output_dir: Path, processes: int = 1, **options) -> subprocess.CompletedProcess:
        """Run `senna train` to its end. A run of one process without DeepSpeed happens in this process, to save imports."""
        if processes == 1 and "deepspeed" not in options:
            out, err = io.StringIO(), io.StringIO()
            arguments = ["train", *self.flags(output_dir, **options)]
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(arguments)
            return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
        return self.start(output_dir, processes, **options).result()


def driving_records(count: int = 24) -> list[dict]:
    """Return questions about six views whose answers are colors: descriptions (some of the front only, a few without
    images) and plans. Every fourth frame has the same images."""
    records = []
    for number in range(count):
        colours = [list(COLOURS)[(number + index) % 4] for index in range(6)]
        names = [f"CAM_{view.upper().replace(' ', '_')}" for view in VIEWS]
        images = [f"views/{name}/{colour}.png" for name, colour in zip(names, colours, strict=True)]
        common = {"token": f"frame-{number}", "image": images[0], "images": images[::-1], "scene_token": "toy"}
        view = number % 6
        questions = [
            (image_block() + f"the {VIEWS[view]} car?", f"the {colours[view]} car", "description"),
            (image_block() + "your plan?", f"{'STOP' if colours[0] == 'red' else 'KEEP'}, STRAIGHT\n", "plan"),
        ]
        if number % 3 == 0:
            questions.append((image_block(("front",)) + "the front car?", f"the {colours[0]} car", "front_only"))
        if number % 6 == 0:
            questions.append(("Say it.", "the car is parked", "text"))
        for question, answer, kind in questions:
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            shared = {} if kind == "text" else common
            records.append({**shared, "id": f"toy-{number}-{kind}", "kind": kind, "conversations": turns})
    return records


def run_to_end(train: Callable, folder: Path, *arguments, **options) -> None:
    """Call `Toy.train` or `Toy.drive` with output folder FOLDER/out, and write its standard output to FOLDER/printed."""
    result = train(folder / "out", *arguments, **options)
    assert result.returncode == 0, result.stderr
    (folder / "printed").write_text(result.stdout)


def losses(output_dir: Path) -> list[tuple[int, float]]:
    """Return (step, loss) for each line of a run's log."""
    lines = [json.loads(line) for line in (output_dir / "train_log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def make_toy(folder: Path) -> None:
    """Write the models and the data sets of `Toy` to ``folder``."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    toy = Toy(folder)
    torch.manual_seed(0)
    llama_folder(toy.llm)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=420, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=256,
        )
    ).save_pretrained(toy.llm)  # fmt: skip
    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        )
    ).save_pretrained(toy.clip)
    toy.images.mkdir()
    records = []
    noise = np.random.default_rng(0)
    for number in range(24):
        name = list(COLOURS)[number % 4]
        pixels = np.clip(np.array(COLOURS[name]) + noise.integers(-20, 20, (30, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(toy.images / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nSay it."}, {"from": "gpt", "value": f"the {name} car is parked"}]
        records.append({"id": f"toy-{number}", "image": f"{number}.png", "conversations": turns})
    toy.data.write_text(json.dumps(records))
    for view in VIEWS:
        camera = toy.images / "views" / f"CAM_{view.upper().replace(' ', '_')}"
        camera.mkdir(parents=True)
        for name, colour in COLOURS.items():
            Image.new("RGB", (16, 9), colour).save(camera / f"{name}.png")
    toy.driving.write_text("".join(json.dumps(record) + "\n" for record in driving_records()))
