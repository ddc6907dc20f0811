"""The inputs of a soak: two files of records with few images, small models, and a nuScenes data set of many scenes."""

import json
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from benchmarks.ray import copy_world
from PIL import Image
from prove.small_models import write_small_models

from senna.errors import UsageError
from senna.meta_actions import ALL_META_ACTIONS
from senna.records import write_records
from senna.synthetic import write_world
from senna.views import VIEWS, image_block

IMAGES = 64  # different images of a camera
QUESTIONS = 8  # of a frame, with the plan
SCENE = 40  # frames of a scene
HELD_OUT = SCENE  # frames, or captions, of a validation
SCENES, FRAMES = 2, 40  # of the drawn world
OWN_SCENES = 100  # of the data set for the server
CAMERAS = [f"CAM_{view.upper().replace(' ', '_')}" for view in VIEWS]
COLOURS = ("red", "green", "blue", "white")
BYTES_PER_RECORD, BYTES_OF_RUNS = 800, 2_000_000_000


def check_disk(folder: Path, records: int) -> None:
    """Raise UsageError if the disk has no room for the records, and for what training and conversion write."""
    needed, free = records * BYTES_PER_RECORD + BYTES_OF_RUNS, shutil.disk_usage(folder).free
    print(f"records and runs need up to {needed / 1e9:.1f} GB in {folder}, of {free / 1e9:.0f} GB that are free")
    if free < needed:
        raise UsageError(f"{folder} has no room for that", remedy="set TMPDIR to a folder of a larger disk")


def write_inputs(folder: Path, records: int, scenes: int) -> None:
    """Write everything that the jobs read: half of the records are questions about frames, half are captions.

    Args:
        scenes: the number of scenes to convert, a multiple of `SCENES`.
    """
    write_small_models(folder, positions=1024)
    for camera, number in product(CAMERAS, range(IMAGES)):
        target = folder / "images" / camera / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        colour = (number * 37 % 256, number * 91 % 256, len(camera) * 13 % 256)
        Image.new("RGB", (64, 36), colour).save(target)
    frames = -(-records // 2 // QUESTIONS // SCENE) * SCENE
    write_records(folder / "frames.jsonl", _frames(0, frames))
    write_records(folder / "frames_held_out.jsonl", _frames(frames, frames + HELD_OUT))
    write_records(folder / "captions.jsonl", _captions(0, records - records // 2))
    write_records(folder / "captions_held_out.jsonl", _captions(records, records + HELD_OUT))
    drawn = write_world(folder / "drawn", SCENES, mini=True, frames=FRAMES)
    for name, count in {"nuscenes": scenes, "nuscenes_own": min(scenes, OWN_SCENES)}.items():
        (folder / name).mkdir()
        copy_world(drawn, "v1.0-mini", folder / name, count // SCENES)
    _give_own_images(folder / "nuscenes_own")


def _give_own_images(root: Path) -> None:
    """Replace the images, which the copies of a scene share, by small ones: a captioner stores answers by their content."""
    table = root / "v1.0-trainval" / "sample_data.json"
    rows = json.loads(table.read_text())
    (root / "samples").unlink()
    for camera in CAMERAS:
        (root / "samples" / camera).mkdir(parents=True)
    for number, row in enumerate(rows):
        if row["filename"].endswith(".jpg"):
            camera = Path(row["filename"]).parent.name
            row["filename"] = f"samples/{camera}/{number}__{camera}.jpg"
            Image.new("RGB", (64, 36)).save(root / row["filename"], comment=str(number).encode())
    table.write_text(json.dumps(rows))


def _paths(number: int) -> list[str]:
    """Return the paths of a frame's images. No two of `IMAGES` ** 3 frames have the same six, since they would be one frame."""
    return [f"{camera}/{number // IMAGES ** (index % 3) % IMAGES}.jpg" for index, camera in enumerate(CAMERAS)]


def _frames(start: int, stop: int) -> Iterator[dict]:
    for number in range(start, stop):
        images = _paths(number)
        common = {"token": f"frame-{number}", "scene_token": f"scene-{number // SCENE}", "images": images}
        for question in range(QUESTIONS):
            is_plan = question == QUESTIONS - 1
            answer = f"the {COLOURS[(number + question) % 4]} car is {number % 97} meters ahead"
            if is_plan:
                answer = f"{ALL_META_ACTIONS[number % len(ALL_META_ACTIONS)]}\n"
            text = "your plan?" if is_plan else f"What is car {question}?"
            turns = [{"from": "human", "value": image_block() + text}, {"from": "gpt", "value": answer}]
            kind = "plan" if is_plan else "description"
            yield {**common, "id": f"{number}-{question}", "image": images[0], "kind": kind, "conversations": turns}


def _captions(start: int, stop: int) -> Iterator[dict]:
    for number in range(start, stop):
        answer = f"the {COLOURS[number % 4]} car is parked, {number % 97} meters ahead"
        turns = [{"from": "human", "value": "<image>\nSay it."}, {"from": "gpt", "value": answer}]
        image = _paths(number // len(VIEWS))[number % len(VIEWS)]
        yield {"id": f"caption-{number}", "image": image, "conversations": turns}
