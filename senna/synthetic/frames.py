"""Frames for stages 2 and 3: a scene seen by six cameras, with questions and answers, in the form of Senna's records."""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from senna.records import Record, write_records
from senna.synthetic.captions import DISTANCES, caption, facts_of, instruction, named
from senna.synthetic.crew import lines_of_crew
from senna.synthetic.folders import make_whole, needs_making
from senna.synthetic.geometry import Camera
from senna.synthetic.painter import paint
from senna.synthetic.pictures import IMAGES, PICTURE_SIZE
from senna.synthetic.plans import DECISIONS, decision_of, sample_trajectory
from senna.synthetic.sampling import EYE_HEIGHT, distance_word, front_camera, place_word, sample_surroundings
from senna.synthetic.scene import Scene
from senna.views import VIEWS, image_block

VERSION = 1  # of the frames: a change to what is drawn or said for a seed raises it
RECORDS = "records.jsonl"
YAWS = dict(zip(VIEWS, (0, 55, -55, 110, -110, 180), strict=True))  # degrees, positive to the left
SIDE_FIELD_OF_VIEW = 70.0  # degrees: with the narrower front camera the six leave no gap

LIGHT_QUESTION = "What does the traffic light show?"
AROUND_QUESTION = "Which vehicle is on the left, on the right and behind?"
REASON_QUESTION = "The plan is {plan}. Why does the car act so?"
PLAN_QUESTION = "Based on the images, choose a plan for speed and path for the next seconds."


def write_frames(folder: str | os.PathLike[str], count: int = 240, seed: int = 0) -> Path:
    """Draw `count` frames into `folder`/images and write `folder`/records.jsonl; returns the latter's path.

    The same seed gives the same bytes. A folder completed before with the same count and seed is left as it is.
    UsageError when the folder holds something else.
    """
    folder = Path(folder)
    recipe = {"what": "six-view frames", "version": VERSION, "count": count, "seed": seed, "size": PICTURE_SIZE}
    if needs_making(folder, recipe):
        make_whole(folder, recipe, partial(_write_frames_into, count=count, seed=seed))
    return folder / RECORDS


def channel(view: str) -> str:
    """nuScenes' name of the camera that gives a view of VIEWS: CAM_FRONT_LEFT."""
    return f"CAM_{view.upper().replace(' ', '_')}"


def camera_of(view: str, size: int = PICTURE_SIZE) -> Camera:
    """The square camera of a view of VIEWS; the front one is that of stage 1."""
    if view == "front":
        return front_camera(size)
    return Camera.looking((0.0, 0.0, EYE_HEIGHT), math.radians(YAWS[view]), 0.0, SIDE_FIELD_OF_VIEW, (size, size))


def sample_frame(seed: int, index: int) -> tuple[Scene, np.random.Generator]:
    """What frame `index` of a seed shows, every one of DECISIONS as often, and the generator that goes on from there."""
    rng = np.random.default_rng((seed, index, len(VIEWS)))
    wanted = DECISIONS[rng.integers(len(DECISIONS))]
    while True:
        scene = sample_surroundings(rng)
        if decision_of(scene) == wanted:
            return scene, rng


def frame_records(scene: Scene, seed: int, index: int, rng: np.random.Generator) -> list[Record]:
    """The five records of a frame: traffic light, what is ahead, what is around, the reason of the plan, the plan."""
    action, reason = decision_of(scene)
    token = f"frame-{seed}-{index:05d}"
    images = [f"{token}/{channel(view)}.jpg" for view in VIEWS]
    about = {
        "token": token,
        "image": images[0],
        "images": images,
        "prev": "",  # as nuScenes has it at a scene's ends: each frame is a scene of its own
        "next": "",
        "scene_token": f"scene-{seed}-{index:05d}",
        "fut_valid_flag": True,
        "ego_fut_trajs": sample_trajectory(action, rng),
    }
    facts = facts_of(scene)
    asked = (
        ("traffic_light", "light", LIGHT_QUESTION, facts.light.capitalize()),
        ("description", "ahead", instruction(rng), caption(facts, rng)),
        ("description", "around", AROUND_QUESTION, around_sentence(scene)),
        ("explanation", "reason", REASON_QUESTION.format(plan=action), reason),
        ("plan", "plan", PLAN_QUESTION, f"{action}\n"),
    )
    return [
        {**about, "id": f"{token}-{name}", "kind": kind, "conversations": _turns(question, answer)}
        for kind, name, question, answer in asked
    ]


def around_sentence(scene: Scene) -> str:
    """Names the vehicle on the left, on the right and behind, or says that there is none."""
    clauses = []
    for place, where in (("left", "on the left"), ("right", "on the right"), ("behind", "behind")):
        vehicle = next((v for v in scene.vehicles if place_word(v) == place), None)
        if vehicle is not None and place == "behind":
            where = f"{DISTANCES[distance_word(vehicle)]} {where}"
        clauses.append(f"{named(vehicle.colour, vehicle.kind) if vehicle else 'no vehicle'} is {where}")
    text = f"{clauses[0]}, {clauses[1]} and {clauses[2]}."
    return text[0].upper() + text[1:]


def draw_frame(images: Path, seed: int, index: int) -> list[Record]:
    """Draw frame `index` into the folder `images`; returns its records."""
    scene, rng = sample_frame(seed, index)
    records = frame_records(scene, seed, index, rng)
    (images / records[0]["token"]).mkdir()
    for view, path in zip(VIEWS, records[0]["images"], strict=True):
        paint(scene, camera_of(view)).save(images / path, quality=90)
    return records


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": image_block() + question}, {"from": "gpt", "value": answer}]


def _write_frames_into(folder: Path, count: int, seed: int) -> None:
    (folder / IMAGES).mkdir()
    lines = lines_of_crew("senna.synthetic.frames", [str(folder / IMAGES), str(seed)], count)
    frames = (json.loads(line) for line in tqdm(lines, total=count, desc="drawing six-view frames", unit="frame"))
    write_records(folder / RECORDS, itertools.chain.from_iterable(frames))


def _work(images: str, seed: str, count: str, start: str, step: str) -> None:
    """One worker's share, the records of a frame a line."""
    for index in range(int(start), int(count), int(step)):
        print(json.dumps(draw_frame(Path(images), int(seed), index), ensure_ascii=False), flush=True)


if __name__ == "__main__":
    _work(*sys.argv[1:])
