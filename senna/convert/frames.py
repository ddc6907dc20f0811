"""Compute the facts of every key frame from nuScenes' tables, scene by scene; each scene's CAN bus file is read once.

Letters: S key frames of a scene, A annotations of a scene, T steps of 0.5 s.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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
from senna.convert.surroundings import RoadUsers, futures_of_scene
from senna.convert.timing import half_seconds, interpolate, retimed_labels
from senna.errors import DataError, UsageError
from senna.futures import Futures
from senna.meta_actions import COMMAND_STEPS, FUTURE_STEPS, PEDESTRIAN_STOP_SPEED, STOP_SPEED, label_trajectories
from senna.navigation import command_to, published_command_to
from senna.views import VIEWS, view_of

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

__all__ = ["COMPATS", "Source", "load_tables", "read_frames", "scenes_of"]

COMPATS = ("original",)
_CHANNELS = tuple(f"CAM_{view.upper().replace(' ', '_')}" for view in VIEWS)
_LIDAR = "LIDAR_TOP"
_PAST_STEPS, _MAX_PAST = 3, 1.6  # steps and seconds that an object's speed may look back over missing annotations
_MIN_ELAPSED = 0.02  # seconds between two poses of one key frame from which a speed can be computed

Indices = NDArray[np.int64]


def read_frames(
    dataroot: str | Path,
    version: str,
    canbus: str | Path | None = None,
    scenes: Iterable[str] | None = None,
    compat: str | None = None,
) -> Iterator[Frame]:
    """Yield the key frames of a data set, scene by scene, ordered by time.

    Args:
        canbus: the folder that contains can_bus/, or can_bus/ itself; default: can_bus/ of the data set, where it exists.
        scenes: names of scenes, read in this order; default: all scenes.
        compat: "original" for the published navigation command, order of images and single STOP speed.

    Raises:
        UsageError: immediately, for an unknown data set, scene, folder or compat.
        DataError: while reading, for inconsistent tables.
    """
    if compat is not None and compat not in COMPATS:
        raise UsageError(f"--compat {compat} is unknown", remedy=f"use one of {', '.join(COMPATS)}")
    folder = can_bus_folder(Path(canbus) if canbus else None, Path(dataroot))
    return Source(load_tables(dataroot, version), folder, compat).frames(scenes)


@dataclass(frozen=True)
class Source:
    """The data set that is converted.

    Attributes:
        tables: its tables (``load_tables``).
        can_bus: the folder of ``scene-0001_pose.json``, None where there is none.
        compat: see ``read_frames``.
    """

    tables: "NuScenes"
    can_bus: Path | None = None
    compat: str | None = None

    def frames(self, scenes: Iterable[str] | None = None) -> Iterator[Frame]:
        """Yield the key frames of the named scenes in the given order, of all scenes by default.

        Raises:
            UsageError: immediately, for an unknown name.
            DataError: while reading, for inconsistent tables.
        """
        return self._read(chosen_scenes(self.tables, None if scenes is None else list(scenes)))

    def _read(self, scenes: Sequence[dict[str, Any]]) -> Iterator[Frame]:
        for scene in scenes:
            try:
                poses = _read_poses(self.tables, scene)
                boxes = _read_boxes([self._annotations.get(sample["token"], []) for sample in poses.samples])
            except (KeyError, ValueError, TypeError) as error:
                raise DataError(
                    f"{scene['name']} ({scene['token']}) cannot be read, the tables are inconsistent: {type(error).__name__}: "
                    f"{error}",
                    remedy="unpack the tables again",
                    file=self.tables.table_root,
                ) from error
            annotated = self.tables.version != "v1.0-test"
            for frame in _frames_of_scene(scene, poses, boxes, self.can_bus, annotated, self.compat):
                light = self._lights.get(frame.token)
                yield replace(frame, light=light) if light else frame

    @cached_property
    def _annotations(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of sample_annotation of each sample."""
        by_sample: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for annotation in self.tables.sample_annotation:
            by_sample[annotation["sample_token"]].append(annotation)
        return by_sample

    @cached_property
    def _lights(self) -> dict[str, str]:
        return traffic_lights(self.tables)


@dataclass(frozen=True)
class _Poses:
    """The key frames of a scene and the poses of the ego vehicle's lidar."""

    samples: list[dict[str, Any]]  # S
    images: list[tuple[str, ...]]  # S tuples of six paths
    times: Array  # (S,) microseconds
    origins: Array  # (S, 3) of the lidar, global
    to_global: Array  # (S, 3, 3) rotations from lidar to global
    speeds: Array  # (S,) m/s from past poses, NaN where there are none


@dataclass(frozen=True)
class _Boxes:
    """The annotations of a scene, in the order of its key frames."""

    tokens: list[str]
    categories: list[str]
    sample: Indices  # (A,) index of the key frame, below S
    instance: Indices  # (A,) numbers of the objects, from 0
    positions: Array  # (A, 3) global
    directions: Array  # (A, 2) global, of length 1
    sizes: Array  # (A, 2) length and width in metres
    seen: NDArray[np.bool_]  # (A,) whether it has a lidar or radar point


def _read_poses(tables: "NuScenes", scene: dict[str, Any]) -> _Poses:
    samples, token = [], scene["first_sample_token"]
    while token:
        samples.append(tables.get("sample", token))
        token = samples[-1]["next"]
    sensors = []  # for each key frame: the lidar, then six cameras
    for sample in samples:
        if missing := [channel for channel in (_LIDAR, *_CHANNELS) if channel not in sample["data"]]:
            raise ValueError(f"key frame {sample['token']} has no {', '.join(missing)}")
        sensors.append([tables.get("sample_data", sample["data"][channel]) for channel in (_LIDAR, *_CHANNELS)])
    poses = [[tables.get("ego_pose", sensor["ego_pose_token"]) for sensor in row] for row in sensors]
    mounts = [tables.get("calibrated_sensor", row[0]["calibrated_sensor_token"]) for row in sensors]
    ego_to_global = rotations([row[0]["rotation"] for row in poses])  # (S, 3, 3)
    positions = np.array([[pose["translation"] for pose in row] for row in poses], dtype=np.float64)  # (S, 7, 3)
    times = np.array([[sensor["timestamp"] for sensor in row] for row in sensors], dtype=np.float64)  # (S, 7)
    offsets = np.array([mount["translation"] for mount in mounts], dtype=np.float64)  # (S, 3)
    return _Poses(
        samples,
        [tuple(sensor["filename"] for sensor in row[1:]) for row in sensors],
        np.array([sample["timestamp"] for sample in samples], dtype=np.float64),
        positions[:, 0] + np.einsum("sij,sj->si", ego_to_global, offsets),
        ego_to_global @ rotations([mount["rotation"] for mount in mounts]),
        _past_speeds(positions[..., :2], times),
    )


def _past_speeds(positions: Array, times: Array) -> Array:
    """Return the ego vehicle's speed (S,) at each lidar sweep, computed from earlier poses only.

    The speed is the distance from the previous key frame over the elapsed time. The first key frame has no previous one;
    its cameras are triggered up to 50 ms before its lidar, and the distance from the earliest camera's pose is used.

    Args:
        positions: (S, 7, 2) global positions at the times of the lidar and the six cameras.
        times: (S, 7) microseconds.
    """
    now, then = positions[:, 0], np.concatenate([positions[:1, 0], positions[:-1, 0]])
    elapsed = np.diff(times[:, 0], prepend=np.nan) / 1e6
    first_camera = int(times[0].argmin())
    then[0], elapsed[0] = positions[0, first_camera], (times[0, 0] - times[0, first_camera]) / 1e6
    known = elapsed >= _MIN_ELAPSED
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
        column("size", 3)[:, 1::-1],  # the tables have width, length, height
        np.array([box["num_lidar_pts"] + box["num_radar_pts"] > 0 for box in boxes], dtype=bool),
    )


def _frames_of_scene(
    scene: dict[str, Any], poses: _Poses, boxes: _Boxes, can_bus: Path | None, annotated: bool, compat: str | None
) -> Iterator[Frame]:
    speeds = poses.speeds
    if can_bus is not None:
        measured = can_bus_speeds(can_bus, scene["name"], poses.times)
        speeds = np.where(np.isnan(measured), speeds, measured)
    future, ends = _future_positions(poses)
    if not annotated:
        future[:] = np.nan
    command = published_command_to if compat else command_to
    commands = [command(x, y) for x, y in ends.tolist()]
    plans = label_trajectories(future)
    between = half_seconds(poses.times)
    exact = interpolate(poses.origins[between.lower], poses.origins[between.upper], between.weight)  # (S, 6, 3)
    retimed = retimed_labels(plans, future, into_frames(exact, poses.origins, poses.to_global))
    agents = _agents_of_scene(poses, boxes, compat)
    futures = _futures_of_scene(poses, boxes) if annotated else [None] * len(poses.samples)
    for step, (sample, speed) in enumerate(zip(poses.samples, speeds.tolist(), strict=True)):
        yield Frame(
            token=sample["token"], prev=sample["prev"], next=sample["next"], scene=scene["name"],
            scene_token=scene["token"], timestamp=sample["timestamp"], images=poses.images[step],
            description=scene["description"], speed=speed, command=commands[step], future=future[step],
            plan=plans[step], agents=agents[step], annotated=annotated, retimed=retimed[step], compat=compat,
            futures=futures[step],
        )  # fmt: skip


def _future_positions(poses: _Poses) -> tuple[Array, Array]:
    """Return the lidar's future, (S, 6, 2), NaN past the scene's end, and its position after 6 s or at the end, (S, 2)."""
    count = len(poses.samples)
    steps = np.arange(count)[:, None] + np.arange(1, COMMAND_STEPS + 1)  # (S, 12)
    ahead = into_frames(poses.origins[np.minimum(steps, count - 1)], poses.origins, poses.to_global)  # (S, 12, 2)
    future = np.where((steps < count)[:, :FUTURE_STEPS, None], ahead[:, :FUTURE_STEPS], np.nan)
    return future, ahead[:, -1]


def _agents_of_scene(poses: _Poses, boxes: _Boxes, compat: str | None) -> list[tuple[Agent, ...]]:
    """Return S tuples of the agents with a lidar or radar point."""
    chosen = np.flatnonzero(boxes.seen)  # (K,)
    sample = boxes.sample[chosen]
    positions = boxes.positions[chosen]
    local = into_frames(positions[:, None], poses.origins[sample], poses.to_global[sample])[:, 0]  # (K, 2)
    rows = _annotation_rows(boxes, len(poses.samples))
    future = into_own_frames(_future_annotations(boxes, rows, chosen), positions[:, :2], boxes.directions[chosen])
    names = [boxes.categories[index] for index in chosen.tolist()]
    categories = {name: category_of(name) for name in set(names)}
    is_pedestrian = np.array([categories[name].group == "pedestrian" for name in names], dtype=bool)
    stop = STOP_SPEED if compat else np.where(is_pedestrian, PEDESTRIAN_STOP_SPEED, STOP_SPEED)
    plans = label_trajectories(future, stop)
    exact = into_own_frames(
        _retimed_annotations(poses, boxes, rows, chosen), positions[:, :2], boxes.directions[chosen]
    )
    xs, ys = local[:, 0].tolist(), local[:, 1].tolist()
    columns = (  # in the order of the fields of Agent
        [boxes.tokens[index] for index in chosen.tolist()],
        names,
        [categories[name].name for name in names],
        [categories[name].group for name in names],
        xs,
        ys,
        _agent_speeds(poses.times, boxes, rows, chosen).tolist(),
        list(map(view_of, xs, ys)),
        list(future),
        plans,
        retimed_labels(plans, future, exact, stop),
    )
    agents = list(map(Agent._make, zip(*columns, strict=True)))
    bounds = np.searchsorted(sample, np.arange(len(poses.samples) + 1)).tolist()
    return [tuple(agents[start:stop]) for start, stop in pairwise(bounds)]


def _futures_of_scene(poses: _Poses, boxes: _Boxes) -> list[Futures]:
    is_user = np.array([category_of(name).group != "static" for name in boxes.categories], dtype=bool)
    chosen = np.flatnonzero(is_user)
    users = RoadUsers(
        [category_of(boxes.categories[index]).name for index in chosen.tolist()], boxes.sample[chosen],
        boxes.instance[chosen], boxes.positions[chosen], boxes.directions[chosen], boxes.sizes[chosen],
    )  # fmt: skip
    return futures_of_scene([sample["token"] for sample in poses.samples], poses.origins, poses.to_global, users)


def _annotation_rows(boxes: _Boxes, count: int) -> Indices:
    """Return the annotation index of each instance in each key frame, (instances, 3 + S + 6), -1 where it has none.

    The first 3 and last 6 columns stand for steps before and after the scene, so that lookups need no bounds checks.
    """
    rows = np.full((int(boxes.instance.max(initial=-1)) + 1, _PAST_STEPS + count + FUTURE_STEPS), -1, dtype=np.int64)
    rows[boxes.instance, _PAST_STEPS + boxes.sample] = np.arange(len(boxes.instance))
    return rows


def _future_annotations(boxes: _Boxes, rows: Indices, chosen: Indices) -> Array:
    """Return the global future positions (K, 6, 2) of the chosen annotations' objects, NaN where not annotated."""
    steps = _PAST_STEPS + boxes.sample[chosen][:, None] + np.arange(1, FUTURE_STEPS + 1)
    later = rows[boxes.instance[chosen][:, None], steps]  # (K, 6)
    return np.where((later >= 0)[..., None], boxes.positions[later, :2], np.nan)


def _retimed_annotations(poses: _Poses, boxes: _Boxes, rows: Indices, chosen: Indices) -> Array:
    """Return the same as ``_future_annotations`` at exact half seconds, interpolated between annotations."""
    between = half_seconds(poses.times)
    sample, instance = boxes.sample[chosen], boxes.instance[chosen][:, None]
    ends = []
    for frames in (between.lower, between.upper):
        found = rows[instance, _PAST_STEPS + frames[sample]]  # (K, 6)
        ends.append(np.where((found >= 0)[..., None], boxes.positions[found, :2], np.nan))
    return interpolate(ends[0], ends[1], between.weight[sample])


def _agent_speeds(times: Array, boxes: _Boxes, rows: Indices, chosen: Indices) -> Array:
    """Return speeds (K,) in m/s since each object's previous annotation; NaN without one in the last 1.6 s."""
    speeds = np.full(len(chosen), np.nan)
    for back in range(_PAST_STEPS, 0, -1):  # the most recent annotation overwrites older ones
        earlier = rows[boxes.instance[chosen], _PAST_STEPS + boxes.sample[chosen] - back]
        elapsed = (times[boxes.sample[chosen]] - times[boxes.sample[earlier]]) / 1e6
        known = (earlier >= 0) & (elapsed > 0) & (elapsed <= _MAX_PAST)
        distance = np.linalg.norm(boxes.positions[chosen, :2] - boxes.positions[earlier, :2], axis=1)
        speeds[known] = distance[known] / elapsed[known]
    return speeds
