"""Write the driving world as a nuScenes data set: tables, map, CAN bus, and a lidar sweep and six images per key frame.

Worker processes simulate a scene each and draw its key frames; this process writes the rows of the tables.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw
from tqdm import tqdm

from senna.errors import UsageError
from senna.synthetic.folders import make_folder, needs_making
from senna.synthetic.render.painter import paint
from senna.synthetic.render.scene import Scene
from senna.synthetic.workers import worker_lines
from senna.synthetic.world.nuscenes_tables import (
    MAP,
    SCENE_TABLES,
    TICKS_PER_FRAME,
    file_name,
    fixed_tables,
    log_token,
    pose_messages,
    scene_tables,
    steering_messages,
    timestamp,
)
from senna.synthetic.world.scenarios import Scenario, find_scenario
from senna.synthetic.world.sensors import CAMERAS, IMAGE_SIZE, LIDAR, SENSORS, camera_at, image_size
from senna.synthetic.world.snapshot import boxes_at, ego_pose, lidar_sweep, scene_at
from senna.synthetic.world.town import BLOCK, EXTENT, MARGIN, ROAD_HALF_WIDTH
from senna.synthetic.world.traffic import TICK

VERSION = 3  # raise it when a change alters what a seed gives
FRAMES = 40  # key frames per scene: 20 s, as in nuScenes
SECONDS = (FRAMES - 1) * TICKS_PER_FRAME * TICK
MINI = "v1.0-mini"
TRAINVAL = "v1.0-trainval"
# One of the first five scenes is in mini_val, so that a world of few scenes has both splits.
MINI_SCENES = tuple(f"scene-{number}" for number in "0061 0553 0655 0757 0103 0796 1077 1094 1100 0916".split())
WITHOUT_CAN_BUS = frozenset((*range(161, 169), *range(170, 177), *range(309, 315)))  # scene numbers in nuScenes
JPEG_QUALITY = 85
GIVE_WAY = 5  # niceness of the workers: a model that is trained at the same time needs its core, and takes longer
METRES_PER_PIXEL = 0.1  # of the map, as nuscenes-devkit expects


def write_world(
    folder: str | os.PathLike[str],
    scenes: int = 10,
    seed: int = 0,
    mini: bool = False,
    frames: int = FRAMES,
    image_width: int = IMAGE_SIZE[0],
) -> Path:
    """Write the nuScenes data set `folder` with its CAN bus, on all cores, and return `folder`.

    The same seed gives the same bytes. A folder that was completed with the same arguments is left unchanged.

    Args:
        mini: write v1.0-mini (at most ten scenes) instead of v1.0-trainval.
        frames: the number of key frames to keep of each scene.
        image_width: the width of the images in pixels; the calibration fits it. Smaller images are drawn and read faster.

    Raises:
        UsageError: `folder` holds something else, nuScenes has fewer scene names than `scenes`, or images cannot have the
            width.
    """
    folder, version = Path(folder), MINI if mini else TRAINVAL
    names = scene_names(scenes, mini)
    if not 2 <= frames <= FRAMES:
        raise UsageError(f"a scene cannot have {frames} key frames", remedy=f"choose between 2 and {FRAMES}")
    recipe = {"what": version, "version": VERSION, "scenes": scenes, "frames": frames, "seed": seed}
    recipe["image_size"] = list(image_size(image_width))
    if needs_making(folder, recipe):
        job = _Job("", seed, frames, names, image_width)
        make_folder(folder, recipe, lambda folder: _write_into(folder, version, replace(job, folder=str(folder))))
    return folder


def scene_names(count: int, mini: bool) -> list[str]:
    """Return `count` scene names of nuScenes. Of the trainval names, every fifth is in the val split.

    Raises:
        UsageError: nuScenes has fewer names, or nuscenes-devkit, which lists them, is not installed.
    """
    if mini:
        names = list(MINI_SCENES)
    else:
        try:
            from nuscenes.utils import splits
        except ImportError as error:
            raise UsageError(
                "nuscenes-devkit, which lists the scene names of nuScenes, is not installed",
                remedy="pip install -c constraints.txt -e '.[nuscenes]', or use --mini for at most ten scenes",
            ) from error
        train, val = (
            [name for name in names if int(name[-4:]) not in WITHOUT_CAN_BUS] for names in (splits.train, splits.val)
        )
        names = _interleave(train, val)
    if not 1 <= count <= len(names):
        raise UsageError(
            f"--scenes {count} is not possible: nuScenes has names for {len(names)} scenes",
            remedy=f"choose between 1 and {len(names)}",
        )
    return names[:count]


def _interleave(train: list[str], val: list[str]) -> list[str]:
    """Return the names with one of `val` after every four of `train`."""
    names = []
    for i in range(len(val)):
        names += [*train[4 * i : 4 * i + 4], val[i]]
    return names + train[4 * len(val) :]


@dataclass(frozen=True)
class _Job:
    """Settings that all worker processes share."""

    folder: str
    seed: int
    frames: int
    names: list[str]
    image_width: int


def _write_into(folder: Path, version: str, job: _Job) -> None:
    for sensor in SENSORS:
        (folder / "samples" / sensor.channel).mkdir(parents=True)
    for name in (version, "can_bus", "maps"):
        (folder / name).mkdir()
    _draw_map(folder / MAP)
    lines = worker_lines(__name__, [json.dumps(asdict(job))], len(job.names))
    with ExitStack() as stack:
        writers = {
            table: stack.enter_context(_TableWriter(folder / version / f"{table}.json")) for table in SCENE_TABLES
        }
        for line in tqdm(lines, total=len(job.names), desc=f"drawing scenes of {job.frames} key frames", unit="scene"):
            for table, rows in json.loads(line).items():
                writers[table].add(rows)
    for table, rows in fixed_tables([log_token(name, job.seed) for name in job.names], job.image_width).items():
        (folder / version / f"{table}.json").write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")


class _TableWriter:
    """Writes a JSON list row by row, so that memory does not grow with the number of rows."""

    def __init__(self, path: Path):
        self.path, self.is_empty = path, True

    def __enter__(self) -> _TableWriter:
        self.file = self.path.open("w", encoding="utf-8")
        self.file.write("[\n")
        return self

    def add(self, rows: list[dict]) -> None:
        for row in rows:
            self.file.write(("" if self.is_empty else ",\n") + json.dumps(row))
            self.is_empty = False

    def __exit__(self, *_: object) -> None:
        self.file.write("\n]\n")
        self.file.close()


def _draw_map(path: Path) -> None:
    """Write the drivable area as the semantic prior of nuScenes: a grey PNG, north up."""
    side = round(EXTENT / METRES_PER_PIXEL)
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    for line in (MARGIN, MARGIN + BLOCK):
        low, high = (
            round((line - ROAD_HALF_WIDTH) / METRES_PER_PIXEL),
            round((line + ROAD_HALF_WIDTH) / METRES_PER_PIXEL),
        )
        draw.rectangle((low, 0, high, side), fill=255)
        draw.rectangle((0, side - high, side, side - low), fill=255)
    image.save(path, compress_level=3)


def _write_scene(job: _Job, index: int) -> str:
    """Simulate a scene, write its CAN bus and sensor files, and return its rows as JSON."""
    scenario, _ = find_scenario(job.seed, index, SECONDS)
    folder, name = Path(job.folder), job.names[index]
    for message, rows in (("pose", pose_messages), ("steeranglefeedback", steering_messages)):
        text = json.dumps(rows(scenario, index))
        (folder / "can_bus" / f"{name}_{message}.json").write_text(text, encoding="utf-8")
    for frame in range(job.frames):
        draw_key_frame(folder, name, index, frame, scenario, job.image_width)
    return json.dumps(scene_tables(name, job.seed, index, scenario, job.frames, job.image_width))


def draw_views(
    scene: Scene, pose: tuple[float, float, float], image_width: int = IMAGE_SIZE[0]
) -> Iterator[Image.Image]:
    """Yield the images of CAMERAS, in that order, for an ego frame at `pose` (x, y, yaw)."""
    for camera in CAMERAS:
        yield paint(scene, camera_at(camera, *pose, image_width), supersampling=1)


def draw_key_frame(folder: Path, name: str, index: int, frame: int, scenario: Scenario, image_width: int) -> None:
    """Write the six images and the lidar sweep of a key frame of scene `index`."""
    tick = frame * TICKS_PER_FRAME
    time = timestamp(index, tick)
    views = draw_views(scene_at(scenario, tick), ego_pose(scenario, tick), image_width)
    for camera, image in zip(CAMERAS, views, strict=True):
        image.save(folder / file_name(name, camera.channel, time), quality=JPEG_QUALITY)
    sweep = lidar_sweep(scenario, tick, boxes_at(scenario, tick))
    (folder / file_name(name, LIDAR.channel, time)).write_bytes(sweep.tobytes())


def _work(settings: Mapping, scenes: range) -> None:
    """Write a worker's scenes and print a line for each. This is the main function of a worker process."""
    os.nice(GIVE_WAY)
    job = _Job(**settings)
    for scene in scenes:
        print(_write_scene(job, scene), flush=True)


if __name__ == "__main__":
    _settings, _count, _start, _step = sys.argv[1:]
    _work(json.loads(_settings), range(int(_start), int(_count), int(_step)))
