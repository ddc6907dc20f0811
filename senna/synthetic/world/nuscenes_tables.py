"""A journey as rows of nuScenes' tables, and as CAN bus messages.

The scheme is nuScenes' (https://www.nuscenes.org/nuscenes#data-format). One table is ours and optional: `traffic_light` says
what the signal in the front camera's picture shows, which nuScenes' own tables do not tell.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field

import numpy as np

from senna.synthetic.world.scenarios import Journey
from senna.synthetic.world.sensors import IMAGE_SIZE, REAR_AXLE, SENSORS, Sensor, yaw_quaternion
from senna.synthetic.world.snapshot import Box, boxes_at, ego_pose, light_ahead
from senna.synthetic.world.traffic import TICK

Row = dict[str, object]

STEP = 5  # ticks from one key frame to the next: half a second
LOCATION = "senna-town"
MAP = "maps/senna-town.png"
EPOCH = 1_790_000_000_000_000  # microseconds; scene i begins i minutes later
CAN_INTERVAL = 0.02  # seconds between pose messages
GRAVITY = 9.81
STEERING_RATIO = 16.0  # turns of the wheel in the hand for one of the wheels on the road
CATEGORIES = {
    "car": "vehicle.car",
    "van": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "pedestrian": "human.pedestrian.adult",
}
ATTRIBUTES = ("vehicle.moving", "vehicle.stopped", "cycle.with_rider", "pedestrian.moving", "pedestrian.standing")
VISIBILITIES = (("1", "v0-40", 0.4), ("2", "v40-60", 0.6), ("3", "v60-80", 0.8), ("4", "v80-100", 1.0))
SCENE_TABLES = ("log", "scene", "sample", "sample_data", "ego_pose", "instance", "sample_annotation", "traffic_light")
MOVING = 0.2  # m/s


def token(*parts: object) -> str:
    """A nuScenes token: 32 hexadecimal digits, the same for the same parts."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def timestamp(index: int, tick: int) -> int:
    """Microseconds of a tick of scene `index`."""
    return EPOCH + index * 60_000_000 + round(tick * TICK * 1e6)


def file_name(name: str, channel: str, time: int) -> str:
    """A key frame's file, relative to the data set's root."""
    ending = "pcd.bin" if channel.startswith("LIDAR") else "jpg"
    return f"samples/{channel}/{name}__{channel}__{time}.{ending}"


def fixed_tables(log_tokens: list[str]) -> dict[str, list[Row]]:
    """The tables that are the same for every scene; the map names all logs."""
    return {
        "category": [
            {"token": token("category", name), "name": name, "description": "", "index": index}
            for index, name in enumerate(dict.fromkeys(CATEGORIES.values()))
        ],
        "attribute": [{"token": token("attribute", name), "name": name, "description": ""} for name in ATTRIBUTES],
        "visibility": [
            {"token": number, "level": level, "description": "the share of the object that nothing hides"}
            for number, level, _ in VISIBILITIES
        ],
        "sensor": [
            {
                "token": token("sensor", s.channel),
                "channel": s.channel,
                "modality": "camera" if s.is_camera else "lidar",
            }
            for s in SENSORS
        ],
        "calibrated_sensor": [
            {
                "token": token("calibrated", s.channel),
                "sensor_token": token("sensor", s.channel),
                "translation": list(s.translation),
                "rotation": (np.array(s.rotation) / np.linalg.norm(s.rotation)).tolist(),
                "camera_intrinsic": s.intrinsic,
            }
            for s in SENSORS
        ],
        "map": [{"token": token("map"), "log_tokens": log_tokens, "category": "semantic_prior", "filename": MAP}],
    }


def log_token(name: str, seed: int) -> str:
    """The token of a scene's log."""
    return token("log", name, seed)


@dataclass
class SceneRows:
    """All rows of one scene, by table."""

    name: str
    seed: int
    index: int
    journey: Journey
    frames: int
    rows: dict[str, list[Row]] = field(default_factory=lambda: {table: [] for table in SCENE_TABLES})

    def fill(self) -> dict[str, list[Row]]:
        """Make the rows."""
        samples = [self.of("sample", frame) for frame in range(self.frames)]
        self.rows["log"].append(
            {
                "token": log_token(self.name, self.seed),
                "logfile": f"senna-{self.name}",
                "vehicle": "senna",
                "date_captured": "2026-09-21",
                "location": LOCATION,
            }
        )
        self.rows["scene"].append(
            {
                "token": self.of("scene"),
                "log_token": log_token(self.name, self.seed),
                "nbr_samples": self.frames,
                "first_sample_token": samples[0],
                "last_sample_token": samples[-1],
                "name": self.name,
                "description": self.journey.description,
            }
        )
        boxes: dict[int, list[tuple[int, Box]]] = {}
        for frame in range(self.frames):
            self._add_frame(frame)
            for box in boxes_at(self.journey, frame * STEP):
                boxes.setdefault(box.number, []).append((frame, box))
        for number, seen in boxes.items():
            self._add_object(number, seen)
        return self.rows

    def of(self, *parts: object) -> str:
        """A token that no other scene has."""
        return token(self.name, self.seed, *parts)

    def around(self, what: str, frame: int, *parts: object) -> dict[str, str]:
        """`prev` and `next` of what exists once in every frame."""
        return {
            "prev": self.of(what, frame - 1, *parts) if frame > 0 else "",
            "next": self.of(what, frame + 1, *parts) if frame + 1 < self.frames else "",
        }

    def _add_frame(self, frame: int) -> None:
        time, sample = timestamp(self.index, frame * STEP), self.of("sample", frame)
        self.rows["sample"].append(
            {"token": sample, "timestamp": time, "scene_token": self.of("scene"), **self.around("sample", frame)}
        )
        self.rows["traffic_light"].append(
            {
                "token": self.of("traffic_light", frame),
                "sample_token": sample,
                "state": light_ahead(self.journey, frame * STEP),
            }
        )
        x, y, yaw = ego_pose(self.journey, frame * STEP)
        for sensor in SENSORS:
            data = self.of("data", frame, sensor.channel)
            pose = {"token": data, "timestamp": time, "translation": [x, y, 0.0], "rotation": yaw_quaternion(yaw)}
            self.rows["ego_pose"].append(pose)
            self.rows["sample_data"].append(self._data(frame, sensor, data, sample, time))

    def _data(self, frame: int, sensor: Sensor, data: str, sample: str, time: int) -> Row:
        width, height = IMAGE_SIZE if sensor.is_camera else (0, 0)
        return {
            "token": data,
            "sample_token": sample,
            "ego_pose_token": data,
            "calibrated_sensor_token": token("calibrated", sensor.channel),
            "timestamp": time,
            "fileformat": "jpg" if sensor.is_camera else "pcd",
            "is_key_frame": True,
            "height": height,
            "width": width,
            "filename": file_name(self.name, sensor.channel, time),
            **self.around("data", frame, sensor.channel),
        }

    def _add_object(self, number: int, seen: list[tuple[int, Box]]) -> None:
        """One instance for each unbroken time in which an object is near."""
        starts = [at for at in range(len(seen)) if at == 0 or seen[at][0] != seen[at - 1][0] + 1]
        for start, end in itertools.pairwise([*starts, len(seen)]):
            part = seen[start:end]
            tokens = [self.of("annotation", number, frame) for frame, _ in part]
            instance = self.of("instance", number, part[0][0])
            self.rows["instance"].append(
                {
                    "token": instance,
                    "category_token": token("category", CATEGORIES[part[0][1].mover.kind]),
                    "nbr_annotations": len(part),
                    "first_annotation_token": tokens[0],
                    "last_annotation_token": tokens[-1],
                }
            )
            for (frame, box), before, own, after in zip(
                part, ["", *tokens[:-1]], tokens, [*tokens[1:], ""], strict=True
            ):
                self.rows["sample_annotation"].append(
                    {
                        "token": own,
                        "sample_token": self.of("sample", frame),
                        "instance_token": instance,
                        **_annotation(box),
                        "prev": before,
                        "next": after,
                    }
                )


def _annotation(box: Box) -> Row:
    length, width, height = box.mover.size
    return {
        "visibility_token": next(number for number, _, most in VISIBILITIES if box.seen <= most),
        "attribute_tokens": [token("attribute", _attribute(box))],
        "translation": [box.x, box.y, height / 2],
        "size": [width, length, height],
        "rotation": yaw_quaternion(box.yaw),
        "num_lidar_pts": box.points,
        "num_radar_pts": 0,
    }


def _attribute(box: Box) -> str:
    if box.mover.kind in ("bicycle", "motorcycle"):
        return "cycle.with_rider"
    if box.mover.kind == "pedestrian":
        return "pedestrian.moving" if box.speed > MOVING else "pedestrian.standing"
    return "vehicle.moving" if box.speed > MOVING else "vehicle.stopped"


def pose_messages(journey: Journey, index: int) -> list[Row]:
    """The CAN bus' pose messages of a scene, fifty a second: speed and acceleration in the ego's frame."""
    ticks = len(journey.tracks.states)
    poses = np.array([ego_pose(journey, tick) for tick in range(ticks)])
    speeds, accelerations = journey.tracks.states[:, 0, 3], journey.tracks.states[:, 0, 4]
    times = np.arange(0, (ticks - 1) * TICK + 1e-9, CAN_INTERVAL)
    grid = np.arange(ticks) * TICK
    x, y, yaw = (np.interp(times, grid, column) for column in poses.T)
    turning = np.gradient(yaw, CAN_INTERVAL)
    speed, acceleration = np.interp(times, grid, speeds), np.interp(times, grid, accelerations)
    return [
        {
            "utime": timestamp(index, 0) + round(float(times[i]) * 1e6),
            "pos": [float(x[i]), float(y[i]), 0.0],
            "orientation": yaw_quaternion(float(yaw[i])),
            "vel": [float(speed[i]), 0.0, 0.0],
            "accel": [float(acceleration[i]), float(speed[i] * turning[i]), GRAVITY],
            "rotation_rate": [0.0, 0.0, float(turning[i])],
        }
        for i in range(len(times))
    ]


def steering_messages(journey: Journey, index: int) -> list[Row]:
    """The CAN bus' steering angles (radians, of the wheel in the hand, to the left) at the simulation's own pace."""
    yaws, speeds = journey.tracks.states[:, 0, 2], journey.tracks.states[:, 0, 3]
    curvature = np.gradient(yaws, TICK) / np.maximum(speeds, 1.0)
    angles = np.arctan(2 * REAR_AXLE * curvature) * STEERING_RATIO
    return [{"utime": timestamp(index, tick), "value": float(angle)} for tick, angle in enumerate(angles)]
