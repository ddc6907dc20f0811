"""The driving world as a nuScenes data set on disk: tables, map, CAN bus, a lidar sweep and six pictures a key frame."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache, partial
from pathlib import Path

from PIL import Image, ImageDraw
from tqdm import tqdm

from senna.errors import UsageError
from senna.synthetic.folders import make_whole, needs_making
from senna.synthetic.render.painter import paint
from senna.synthetic.workers import worker_lines
from senna.synthetic.world.nuscenes_tables import (
    MAP,
    SCENE_TABLES,
    STEP,
    SceneRows,
    file_name,
    fixed_tables,
    log_token,
    pose_messages,
    steering_messages,
    timestamp,
)
from senna.synthetic.world.scenarios import Journey, retrace, travel
from senna.synthetic.world.sensors import CAMERAS, LIDAR, SENSORS, camera_at
from senna.synthetic.world.snapshot import boxes_at, ego_pose, lidar_sweep, scene_at
from senna.synthetic.world.town import BLOCK, EXTENT, HALF, MARGIN
from senna.synthetic.world.traffic import TICK

VERSION = 2  # of the world: a change to what a seed gives raises it
FRAMES = 40  # key frames a scene: 20 s, as in nuScenes
SECONDS = (FRAMES - 1) * STEP * TICK
MINI = "v1.0-mini"
TRAINVAL = "v1.0-trainval"
MINI_SCENES = tuple(  # in this order one of the first five is of mini_val, so that fewer scenes still give both
    f"scene-{number}" for number in "0061 0553 0655 0757 0103 0796 1077 1094 1100 0916".split()
)
WITHOUT_CAN_BUS = frozenset((*range(161, 169), *range(170, 177), *range(309, 315)))  # in nuScenes' own data
QUALITY = 85  # of the JPEG files
PIXEL = 0.1  # metres, as the devkit expects of a map


def write_world(
    folder: str | os.PathLike[str], scenes: int = 10, seed: int = 0, mini: bool = False, frames: int = FRAMES
) -> Path:
    """Make `folder`, a nuScenes data set (v1.0-mini or v1.0-trainval, CAN bus in it), on all cores; returns `folder`.

    `frames` keeps the first key frames of each scene. The same seed gives the same bytes. A folder completed before in the
    same way is left as it is. UsageError when it holds something else, or when there are not so many scene names.
    """
    folder, version = Path(folder), MINI if mini else TRAINVAL
    names = scene_names(scenes, mini)
    if not 2 <= frames <= FRAMES:
        raise UsageError(f"{frames} key frames a scene: between 2 and {FRAMES}")
    recipe = {"what": version, "version": VERSION, "scenes": scenes, "frames": frames, "seed": seed}
    if needs_making(folder, recipe):
        make_whole(folder, recipe, partial(_write_into, names=names, version=version, seed=seed, frames=frames))
    return folder


def scene_names(count: int, mini: bool) -> list[str]:
    """Names of nuScenes' own lists, every fifth of val. UsageError where there are not so many."""
    if mini:
        names = list(MINI_SCENES)
    else:
        try:
            from nuscenes.utils import splits
        except ImportError as error:
            raise UsageError(
                "the names of nuScenes' train and val scenes come from nuscenes-devkit, which is not installed: "
                "pip install nuscenes-devkit, or --mini for at most ten scenes"
            ) from error
        train, val = (
            [name for name in names if int(name[-4:]) not in WITHOUT_CAN_BUS] for names in (splits.train, splits.val)
        )
        names = _every_fifth(train, val)
    if not 1 <= count <= len(names):
        raise UsageError(f"--scenes {count}: between 1 and {len(names)}, as many as nuScenes has names for")
    return names[:count]


def _every_fifth(train: list[str], val: list[str]) -> list[str]:
    names = []
    for start in range(len(val)):
        names += [*train[4 * start : 4 * start + 4], val[start]]
    return names + train[4 * len(val) :]


def _write_into(folder: Path, names: list[str], version: str, seed: int, frames: int) -> None:
    for sensor in SENSORS:
        (folder / "samples" / sensor.channel).mkdir(parents=True)
    for name in (version, "can_bus", "maps"):
        (folder / name).mkdir()
    _draw_map(folder / MAP)
    tries = _write_tables(folder, names, version, seed, frames)
    shared = [str(folder), str(seed), str(frames)]
    lines = worker_lines(__name__, ["draw", *shared, ",".join(names), ",".join(map(str, tries))], len(names) * frames)
    for _ in tqdm(lines, total=len(names) * frames, desc="drawing key frames (six pictures)", unit="frame"):
        pass


def _write_tables(folder: Path, names: list[str], version: str, seed: int, frames: int) -> list[int]:
    """Simulate all scenes and write their rows as they come; returns the number of the try that made each."""
    place, tries = folder / version, []
    lines = worker_lines(__name__, ["drive", str(folder), str(seed), str(frames), ",".join(names), ""], len(names))
    with ExitStack() as stack:
        writers = {table: stack.enter_context(TableWriter(place / f"{table}.json")) for table in SCENE_TABLES}
        for line in tqdm(lines, total=len(names), desc="driving", unit="scene"):
            made = json.loads(line)
            tries.append(made["attempt"])
            for table, rows in made["rows"].items():
                writers[table].add(rows)
    for table, rows in fixed_tables([log_token(name, seed) for name in names]).items():
        (place / f"{table}.json").write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")
    return tries


class TableWriter:
    """A JSON list that grows a few rows at a time, so that memory does not grow with it."""

    def __init__(self, path: Path):
        self.path, self.first = path, True

    def __enter__(self) -> TableWriter:
        self.file = self.path.open("w", encoding="utf-8")
        self.file.write("[\n")
        return self

    def add(self, rows: list[dict]) -> None:
        """Append rows."""
        for row in rows:
            self.file.write(("" if self.first else ",\n") + json.dumps(row))
            self.first = False

    def __exit__(self, *_: object) -> None:
        self.file.write("\n]\n")
        self.file.close()


def _draw_map(path: Path) -> None:
    """Where one can drive, as nuScenes' semantic prior: a grey PNG of ten centimetres a pixel, north up."""
    side = round(EXTENT / PIXEL)
    picture = Image.new("L", (side, side))
    draw = ImageDraw.Draw(picture)
    for line in (MARGIN, MARGIN + BLOCK):
        low, high = round((line - HALF) / PIXEL), round((line + HALF) / PIXEL)
        draw.rectangle((low, 0, high, side), fill=255)
        draw.rectangle((0, side - high, side, side - low), fill=255)
    picture.save(path, compress_level=3)


def _drive(folder: Path, names: list[str], seed: int, frames: int, index: int) -> str:
    """Simulate scene `index`, write its CAN bus; its rows and its try as JSON."""
    journey, attempt = travel(seed, index, SECONDS)
    name = names[index]
    for message, rows in (("pose", pose_messages), ("steeranglefeedback", steering_messages)):
        text = json.dumps(rows(journey, index))
        (folder / "can_bus" / f"{name}_{message}.json").write_text(text, encoding="utf-8")
    return json.dumps({"attempt": attempt, "rows": SceneRows(name, seed, index, journey, frames).fill()})


@lru_cache(maxsize=2)
def _journey(seed: int, index: int, attempt: int) -> Journey:
    return retrace(seed, index, attempt, SECONDS)


def draw_key_frame(folder: Path, name: str, index: int, frame: int, journey: Journey) -> None:
    """The six pictures and the lidar sweep of a key frame."""
    tick = frame * STEP
    scene, pose, time = scene_at(journey, tick), ego_pose(journey, tick), timestamp(index, tick)
    for camera in CAMERAS:
        picture = paint(scene, camera_at(camera, *pose), supersampling=1)
        picture.save(folder / file_name(name, camera.channel, time), quality=QUALITY)
    sweep = lidar_sweep(journey, tick, boxes_at(journey, tick))
    (folder / file_name(name, LIDAR.channel, time)).write_bytes(sweep.tobytes())


def _work(
    job: str, place: str, seed: str, frames: str, names: str, tries: str, count: str, start: str, step: str
) -> None:
    """One worker's share: scenes to drive, or key frames to draw; a line each."""
    folder, scene_list, per_scene = Path(place), names.split(","), int(frames)
    for turn in _turns(count, start, step):
        if job == "drive":
            print(_drive(folder, scene_list, int(seed), per_scene, turn), flush=True)
        else:
            index, frame = divmod(turn, per_scene)
            journey = _journey(int(seed), index, int(tries.split(",")[index]))
            draw_key_frame(folder, scene_list[index], index, frame, journey)
            print(turn, flush=True)


def _turns(count: str, start: str, step: str) -> Iterator[int]:
    yield from range(int(start), int(count), int(step))


if __name__ == "__main__":
    _work(*sys.argv[1:])
