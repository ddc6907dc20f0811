"""PRESET=tiny: the small models and data that the project makes itself, for a run on a CPU."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from senna.cgroup import available_cores

SCENES = 44  # 31 to train on, 5 for `senna calibrate` (senna_nusc_dev.jsonl) and 8 held out (senna_nusc_val.jsonl)
DEV_SCENES = 5  # one of them overtakes: without a lane change, no correction for lane changes can be fitted
STAGE2_SHARE = 0.0625  # share of the frames that stage 2 trains on: all its questions, in little time
ADAPTER_TOKENS = 16  # per view; the tower has 196 patches
IMAGE_WIDTH = 448  # of the drawn world; the tower reads 224 x 224 pixels

ENVIRONMENT = {
    # Threads that spin while they wait make a run several times slower if other programs use the processor.
    "OMP_WAIT_POLICY": "passive",
    # A second thread gains nothing for such a small model; a second process does.
    "OMP_NUM_THREADS": "1",
}
PROCESSES = 2  # at most: with a step of so little work, further processes gain less than they cost


def number_of_processes() -> int:
    """Return the number of processes that train: one for each core, at most `PROCESSES`."""
    return min(PROCESSES, available_cores())


@dataclass(frozen=True)
class Inputs:
    """The inputs of a training run, each None if it is not known.

    Attributes:
        model: folder or hub name of the model to start from.
        data: file of records, with an optional weight (``FILE:0.4``).
        images: folder that image paths are relative to.
        tower: folder or hub name of a vision tower.
        adapter_tokens: tokens per view of a new driving vision adapter.
        held_out: file of records to validate on.
    """

    model: str | None = None
    data: str | None = None
    images: str | None = None
    tower: str | None = None
    adapter_tokens: int | None = None
    held_out: str | None = None


def is_language_model_only(folder: str) -> bool:
    """Return whether a model folder holds a language model without a vision tower."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return "mm_vision_tower" not in config


def fill_inputs(inputs: Inputs, stage: int, root: Path, environment: Mapping[str, str], make: bool = True) -> Inputs:
    """Replace each missing input by the project's own model or data, and make those that do not exist yet.

    Stage 1 trains on drawn images with captions, stages 2 and 3 on the drawn driving world, converted as nuScenes is. The
    default model is the result of an earlier stage if its default folder holds one, else the small Llama.

    Args:
        root: the folder of the repository.
        make: False to make no files, for a command that only prints.
    """
    embedded = Path(environment.get("SENNA_EMBEDDED") or root / "outputs" / "embedded")
    language_model = str(embedded / "llm")
    earlier = {1: (), 2: ("stage1", "quickstart/stage1"),
               3: ("stage2", "stage2_lora", "stage2_qlora", "stage1", "quickstart/stage1")}[stage]  # fmt: skip
    folders = (root / "outputs" / name for name in earlier)
    model = inputs.model or next((str(path) for path in folders if (path / "config.json").is_file()), None)
    needs_tower = inputs.tower is None and (model is None or model == language_model or is_language_model_only(model))
    if make and (model is None or needs_tower or (stage == 1 and inputs.data is None)):
        _run("synthesize", "--stage1", "--out", embedded)
    data, images, held_out = inputs.data, inputs.images, inputs.held_out
    if data is None and stage == 1:
        data, images = str(embedded / "pictures" / "captions.json"), str(embedded / "pictures" / "images")
    elif data is None:
        if make:
            _run("synthesize", "--scenes", SCENES, "--image-width", IMAGE_WIDTH, "--out", embedded)
            version = ("--version", "v1.0-trainval")
            dev = ("--dev-scenes", DEV_SCENES)
            _run("convert", "--nuscenes", embedded / "nuscenes", *version, *dev, "--out", embedded / "qa")
        data = str(embedded / "qa" / "senna_nusc_train.jsonl") + (f":{STAGE2_SHARE}" if stage == 2 else "")
        images = str(embedded / "nuscenes")
        held_out = str(embedded / "qa" / "senna_nusc_val.jsonl") if stage == 3 else None
    inputs = replace(inputs, model=model or language_model, data=data, images=images, held_out=held_out)
    if needs_tower:
        inputs = replace(inputs, tower=str(embedded / "clip"), adapter_tokens=ADAPTER_TOKENS)
    return inputs


def _run(*arguments: object) -> None:
    """Run another command of `senna`; a failure ends this one with the same exit code."""
    code = subprocess.run([sys.executable, "-m", "senna", *map(str, arguments)]).returncode
    if code:
        raise SystemExit(code)
