"""nuScenes -> facts: what every key frame is, in numbers. Scene by scene, each scene's tables and CAN file read once.

Letters: S key frames of a scene, A annotations of a scene, T steps of 0.5 s.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from senna.convert.can_bus import can_bus_folder, can_bus_speeds
from senna.convert.categories import category_of
from senna.convert.facts import Agent, Frame
from senna.convert.geometry import Array, headings, into_frames, into_own_frames, rotations
from senna.convert.nuscenes_tables import chosen_scenes, load_tables, scenes_of, traffic_lights
from senna.errors import DataError, UsageError
from senna.meta_actions import COMMAND_STEPS, FUTURE_STEPS, PEDESTRIAN_STOP_SPEED, STOP_SPEED, label_trajectories
from senna.navigation import command_to, published_command_to
from senna.views import VIEWS, view_of

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

__all__ = ["COMPATS", "frames_of", "load_tables", "read_frames", "scenes_of"]

COMPATS = ("original",)
_CHANNELS = tuple(f"CAM_{view.upper().replace(' ', '_')}" for view in VIEWS)
_LIDAR = "LIDAR_TOP"
_PAST_STEPS, _MOST_PAST = 3, 1.6  # steps and seconds that an object's speed may look back over a gap
_LEAST_BASE = 0.02  # seconds between two poses of one key frame that tell a speed

Indices = NDArray[np.int64]


def read_frames(
    dataroot: str | Path,
    version: str,
    canbus: str | Path | None = None,
    scenes: Iterable[str] | None = None,
    compat: str | None = None,
) -> Iterator[Frame]:
    """The key frames of a data set, scene by scene, in time.

    Args:
        canbus: the folder that holds can_bus/ (or is it); without it the data set's own can_bus/ where there is one.
        scenes: names, read in this order; all without.
        compat: "original" for the published navigation command, order of images and one STOP speed.

    Raises:
        UsageError: at once, for a data set, scene, folder or compat that is not there.
        DataError: while reading, for tables that do not hold together.
    """
    if compat is not None and compat not in COMPATS:
        raise UsageError(f"there is no --compat {compat}; it is one of {', '.join(COMPATS)}")
    folder = can_bus_folder(Path(canbus) if canbus else None, Path(dataroot))
    return frames_of(load_tables(dataroot, version), folder, scenes, compat)


def frames_of(
    tables: "NuScenes", can_bus: Path | None = None, scenes: Iterable[str] | None = None, compat: str | None = None
) -> Iterator[Frame]:
    """``read_frames`` of tables that are loaded already; ``can_bus`` is the folder of the ``scene-0001_pose.json``."""
    chosen = chosen_scenes(tables, None if scenes is None else list(scenes))
    return _frames_of(tables, can_bus, chosen, compat)


def _frames_of(
    tables: "NuScenes", can_bus: Path | None, scenes: Sequence[dict[str, Any]], compat: str | None
) -> Iterator[Frame]:
    by_sample: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for annotation in tables.sample_annotation:
        by_sample[annotation["sample_token"]].append(annotation)
    annotated = tables.version != "v1.0-test"
    lights = traffic_lights(tables)
    for scene in scenes:
        try:
            drive = _read_drive(tables, scene)
            boxes = _read_boxes([by_sample.get(sample["token"], []) for sample in drive.samples])
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"{tables.table_root}: {scene['name']} ({scene['token']}) cannot be read: {type(error).__name__}: "
                f"{error}; the tables do not hold together, unpack them anew"
            ) from error
        for frame in _frames_of_scene(scene, drive, boxes, can_bus, annotated, compat):
            yield replace(frame, light=lights[frame.token]) if frame.token in lights else frame


@dataclass(frozen=True)
class _Drive:
    """The ego's way through a scene."""

    samples: list[dict[str, Any]]  # S
    images: list[tuple[str, ...]]  # S of six
    times: Array  # (S,) microseconds
    origins: Array  # (S, 3) of the lidar, global
    turns: Array  # (S, 3, 3) lidar to global
    speeds: Array  # (S,) m/s from the past poses, NaN where there are none


@dataclass(frozen=True)
class _Boxes:
    """The annotations of a scene, in the order of its key frames."""

    tokens: list[str]
    categories: list[str]
    sample: Indices  # (A,) which of the S
    instance: Indices  # (A,)
    positions: Array  # (A, 3) global
    directions: Array  # (A, 2) global, of length 1
    seen: NDArray[np.bool_]  # (A,) it has a lidar or radar point


def _read_drive(tables: "NuScenes", scene: dict[str, Any]) -> _Drive:
    samples, token = [], scene["first_sample_token"]
    while token:
        samples.append(tables.get("sample", token))
        token = samples[-1]["next"]
    sensors = []  # of each key frame: the lidar, then six cameras
    for sample in samples:
        if missing := [channel for channel in (_LIDAR, *_CHANNELS) if channel not in sample["data"]]:
            raise ValueError(f"its key frame {sample['token']} has no {', '.join(missing)}")
        sensors.append([tables.get("sample_data", sample["data"][channel]) for channel in (_LIDAR, *_CHANNELS)])
    poses = [[tables.get("ego_pose", sensor["ego_pose_token"]) for sensor in row] for row in sensors]
    mounts = [tables.get("calibrated_sensor", row[0]["calibrated_sensor_token"]) for row in sensors]
    to_global = rotations([row[0]["rotation"] for row in poses])  # (S, 3, 3)
    places = np.array([[pose["translation"] for pose in row] for row in poses], dtype=np.float64)  # (S, 7, 3)
    clocks = np.array([[sensor["timestamp"] for sensor in row] for row in sensors], dtype=np.float64)  # (S, 7)
    offsets = np.array([mount["translation"] for mount in mounts], dtype=np.float64)  # (S, 3)
    return _Drive(
        samples,
        [tuple(sensor["filename"] for sensor in row[1:]) for row in sensors],
        np.array([sample["timestamp"] for sample in samples], dtype=np.float64),
        places[:, 0] + np.einsum("sij,sj->si", to_global, offsets),
        to_global @ rotations([mount["rotation"] for mount in mounts]),
        _past_speeds(places[..., :2], clocks),
    )


def _past_speeds(places: Array, clocks: Array) -> Array:
    """The ego's speed at each lidar sweep from what came before it alone.

    That is its way since the key frame before. The first has none: there, since the cameras of a key frame fire up to
    50 ms before its lidar, its way since the first of them.

    Args:
        places: (S, 7, 2) global, at the lidar's sweep and the six pictures.
        clocks: (S, 7) microseconds.
    """
    now, then = places[:, 0], np.concatenate([places[:1, 0], places[:-1, 0]])
    elapsed = np.diff(clocks[:, 0], prepend=np.nan) / 1e6
    first_camera = int(clocks[0].argmin())
    then[0], elapsed[0] = places[0, first_camera], (clocks[0, 0] - clocks[0, first_camera]) / 1e6
    known = elapsed >= _LEAST_BASE
    return np.where(known, np.linalg.norm(now - then, axis=1) / np.where(known, elapsed, 1.0), np.nan)


def _read_boxes(by_frame: Sequence[list[dict[str, Any]]]) -> _Boxes:
    boxes = list(chain.from_iterable(by_frame))
    numbers: dict[str, int] = {}

    def column(key: str, width: int) -> Array:
        values = chain.from_iterable([box[key] for box in boxes])
        return np.fromiter(values, np.float64).reshape(len(boxes), width)

    return _Boxes(
        [box["token"] for box in boxes],
        [box["category_name"] for box in boxes],
        np.repeat(np.arange(len(by_frame)), [len(frame) for frame in by_frame]),
        np.array([numbers.setdefault(box["instance_token"], len(numbers)) for box in boxes], dtype=np.int64),
        column("translation", 3),
        headings(column("rotation", 4)),
        np.array([box["num_lidar_pts"] + box["num_radar_pts"] > 0 for box in boxes], dtype=bool),
    )


def _frames_of_scene(
    scene: dict[str, Any], drive: _Drive, boxes: _Boxes, can_bus: Path | None, annotated: bool, compat: str | None
) -> Iterator[Frame]:
    speeds = drive.speeds
    if can_bus is not None:
        measured = can_bus_speeds(can_bus, scene["name"], drive.times)
        speeds = np.where(np.isnan(measured), speeds, measured)
    future, ends = _way_ahead(drive)
    if not annotated:
        future[:] = np.nan
    command = published_command_to if compat else command_to
    commands = [command(x, y) for x, y in ends.tolist()]
    plans = label_trajectories(future)
    agents = _agents_of_scene(drive, boxes, compat)
    for step, (sample, speed) in enumerate(zip(drive.samples, speeds.tolist(), strict=True)):
        yield Frame(
            token=sample["token"], prev=sample["prev"], next=sample["next"], scene=scene["name"],
            scene_token=scene["token"], timestamp=sample["timestamp"], images=drive.images[step],
            description=scene["description"], speed=speed, command=commands[step], future=future[step],
            plan=plans[step], agents=agents[step], annotated=annotated, compat=compat,
        )  # fmt: skip


def _way_ahead(drive: _Drive) -> tuple[Array, Array]:
    """(S, 6, 2) where the lidar will be, NaN past the scene's end, and (S, 2) where it is 6 s on or at the end."""
    count = len(drive.samples)
    steps = np.arange(count)[:, None] + np.arange(1, COMMAND_STEPS + 1)  # (S, 12)
    ahead = into_frames(drive.origins[np.minimum(steps, count - 1)], drive.origins, drive.turns)  # (S, 12, 2)
    future = np.where((steps < count)[:, :FUTURE_STEPS, None], ahead[:, :FUTURE_STEPS], np.nan)
    return future, ahead[:, -1]


def _agents_of_scene(drive: _Drive, boxes: _Boxes, compat: str | None) -> list[tuple[Agent, ...]]:
    """S tuples of the agents that somebody could see."""
    chosen = np.flatnonzero(boxes.seen)  # (K,)
    sample = boxes.sample[chosen]
    positions = boxes.positions[chosen]
    places = into_frames(positions[:, None], drive.origins[sample], drive.turns[sample])[:, 0]  # (K, 2)
    where = _where(boxes, len(drive.samples))
    future = into_own_frames(_positions_ahead(boxes, where, chosen), positions[:, :2], boxes.directions[chosen])
    names = [boxes.categories[index] for index in chosen.tolist()]
    categories = {name: category_of(name) for name in set(names)}
    walks = np.array([categories[name].group == "pedestrian" for name in names], dtype=bool)
    stop = STOP_SPEED if compat else np.where(walks, PEDESTRIAN_STOP_SPEED, STOP_SPEED)
    xs, ys = places[:, 0].tolist(), places[:, 1].tolist()
    columns = (  # in the order of Agent's fields
        [boxes.tokens[index] for index in chosen.tolist()],
        names,
        [categories[name].name for name in names],
        [categories[name].group for name in names],
        xs,
        ys,
        _speeds_now(drive.times, boxes, where, chosen).tolist(),
        list(map(view_of, xs, ys)),
        list(future),
        label_trajectories(future, stop),
    )
    agents = list(map(Agent._make, zip(*columns, strict=True)))
    bounds = np.searchsorted(sample, np.arange(len(drive.samples) + 1)).tolist()
    return [tuple(agents[start:stop]) for start, stop in pairwise(bounds)]


def _where(boxes: _Boxes, count: int) -> Indices:
    """(instances, 3 + S + 6) which annotation is of an instance in a key frame, -1 where it has none; the first and last
    columns are before and after the scene."""
    where = np.full((int(boxes.instance.max(initial=-1)) + 1, _PAST_STEPS + count + FUTURE_STEPS), -1, dtype=np.int64)
    where[boxes.instance, _PAST_STEPS + boxes.sample] = np.arange(len(boxes.instance))
    return where


def _positions_ahead(boxes: _Boxes, where: Indices, chosen: Indices) -> Array:
    """(K, 6, 2) where the chosen will be, global, NaN where they are not annotated."""
    steps = _PAST_STEPS + boxes.sample[chosen][:, None] + np.arange(1, FUTURE_STEPS + 1)
    rows = where[boxes.instance[chosen][:, None], steps]  # (K, 6)
    return np.where((rows >= 0)[..., None], boxes.positions[rows, :2], np.nan)


def _speeds_now(times: Array, boxes: _Boxes, where: Indices, chosen: Indices) -> Array:
    """(K,) m/s: how far each came since it was last annotated; NaN where that is too long ago, or never was."""
    speeds = np.full(len(chosen), np.nan)
    for back in range(_PAST_STEPS, 0, -1):  # the nearest is written last
        rows = where[boxes.instance[chosen], _PAST_STEPS + boxes.sample[chosen] - back]
        elapsed = (times[boxes.sample[chosen]] - times[boxes.sample[rows]]) / 1e6
        known = (rows >= 0) & (elapsed > 0) & (elapsed <= _MOST_PAST)
        way = np.linalg.norm(boxes.positions[chosen, :2] - boxes.positions[rows, :2], axis=1)
        speeds[known] = way[known] / elapsed[known]
    return speeds
