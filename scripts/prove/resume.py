"""The part that kills a training run on the device, continues it, and compares it with a run that was not killed."""

import json
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from prove.cases import Cases, Failed, Scale
from prove.commands import REPOSITORY
from prove.small_models import write_small_models

IMAGES, STEPS, SAVE_STEPS = 32, 40, 8
TOLERANCE = {"cpu": 0.0, "cuda": 1e-2}
"""Relative difference of a step's loss. On a CPU the runs are equal to the bit. On a GPU sums may be in another order, and in
bf16 such a difference grows over the steps."""
WORDS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220), "white": (240, 240, 240)}


def resume(scale: Scale) -> Cases:
    """Train a small model on captions; kill -9 after a checkpoint; continue."""
    folder = Path(tempfile.mkdtemp())
    _write_inputs(folder)

    def kill_and_continue() -> dict[str, Any]:
        whole = _start(folder, "whole", scale.device)
        killed = _start(folder, "killed", scale.device)
        step = _kill_after_checkpoint(killed, folder / "killed")
        _finish(_start(folder, "killed", scale.device), "continued")
        _finish(whole, "uninterrupted")
        expected, found = _losses(folder / "whole"), _losses(folder / "killed")
        if expected.keys() != found.keys() or len(expected) != STEPS:
            raise Failed(f"{len(expected)} steps without and {len(found)} with a kill are in the logs, not {STEPS}")
        worst = max(abs(found[key] - loss) / abs(loss) for key, loss in expected.items())
        if not worst <= TOLERANCE[scale.device]:
            raise Failed(f"a loss differs by {worst:.1e}, more than {TOLERANCE[scale.device]}")
        return {
            "killed_after_step": step,
            "steps": STEPS,
            "difference": worst,
            "limit": TOLERANCE[scale.device],
            "first_loss": expected[1],
            "last_loss": expected[STEPS],
        }

    yield "kill -9 and resume", kill_and_continue


def _write_inputs(folder: Path) -> None:
    """Write a small Llama and CLIP with random weights, a tokenizer, and images of one colour with captions."""
    from PIL import Image

    write_small_models(folder)
    (folder / "images").mkdir()
    chance, records = random.Random(0), []
    for number in range(IMAGES):
        word = list(WORDS)[number % len(WORDS)]
        colour = tuple(min(max(value + chance.randint(-20, 20), 0), 255) for value in WORDS[word])
        Image.new("RGB", (40, 30), colour).save(folder / "images" / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nSay it."}, {"from": "gpt", "value": f"the {word} car is parked"}]
        records.append({"id": f"image-{number}", "image": f"{number}.png", "conversations": turns})
    (folder / "captions.json").write_text(json.dumps(records), encoding="utf-8")


def _start(folder: Path, name: str, device: str) -> subprocess.Popen:
    """Start `senna train` with the output folder ``name``; the output goes to this process's."""
    flags = {
        "config": REPOSITORY / "configs" / "stage1_pretrain.yaml",
        "model_name_or_path": folder / "llm",
        "vision_tower": folder / "clip",
        "data_path": folder / "captions.json",
        "image_folder": folder / "images",
        "output_dir": folder / name,
        "mm_adapter_tokens": 4,
        "global_batch_size": 8,
        "per_device_train_batch_size": 8,
        "num_train_epochs": STEPS * 8 // IMAGES,
        "save_steps": SAVE_STEPS,
        "learning_rate": 1e-3,
        "dataloader_num_workers": 0,
        "bf16": device == "cuda",
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device == "cuda",
        "report_to": "none",
        "skip_checks": True,
    }
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    return subprocess.Popen([sys.executable, "-m", "senna", "train", *words], stdin=subprocess.DEVNULL)


def _kill_after_checkpoint(run: subprocess.Popen, out: Path) -> int:
    """Kill a run after its first checkpoint, and return the last step in its log."""
    while not list(out.glob("checkpoint-*/trainer_state.json")):
        if run.poll() is not None:
            raise Failed(f"the run that was to be killed ended with exit code {run.returncode} before a checkpoint")
        time.sleep(0.005)
    run.kill()
    run.wait()
    steps = _losses(out)
    if STEPS in steps:
        raise Failed("the run ended before it was killed")
    return max(steps, default=0)


def _finish(run: subprocess.Popen, name: str) -> None:
    if code := run.wait():
        raise Failed(f"the {name} run ended with exit code {code}")


def _losses(out: Path) -> dict[int, float]:
    """Return the loss of each step in a run's log. The last line of a killed run may be cut off."""
    found = {}
    for line in (out / "train_log.jsonl").read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            entry = json.loads(line)
            if "loss" in entry:
                found[entry["step"]] = entry["loss"]
    return found
