"""A scenario as rows of the nuScenes tables and as CAN bus messages.

The schema is that of https://www.nuscenes.org/nuscenes#data-format. One optional table is our own: `traffic_light` holds,
for each sample, the state of the traffic light in the front camera image, which the nuScenes tables do not have.
Translations are in metres in the world frame, rotations are quaternions (w, x, y, z), timestamps are in microseconds.
"""

from __future__ import annotations

import hashlib
import itertools

import numpy as np

from senna.meta_actions import STEP
from senna.synthetic.world.scenarios import Scenario
from senna.synthetic.world.sensors import REAR_AXLE, SENSORS, Sensor, image_size, yaw_quaternion
from senna.synthetic.world.snapshot import Box, boxes_at, ego_pose, light_ahead
from senna.synthetic.world.traffic import TICK

Row = dict[str, object]

TICKS_PER_FRAME = round(STEP / TICK)
LOCATION = "senna-town"
MAP = "maps/senna-town.png"
EPOCH = 1_790_000_000_000_000  # microseconds; scene i begins i minutes later
CAN_INTERVAL = 0.02  # seconds between pose messages
GRAVITY = 9.81
STEERING_RATIO = 16.0  # angle of the steering wheel divided by that of the road wheels
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
    """Return a nuScenes token: 32 hexadecimal digits, a hash of the parts."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def timestamp(index: int, tick: int) -> int:
    """Return the time in microseconds of a tick of scene `index`."""
    return EPOCH + index * 60_000_000 + round(tick * TICK * 1e6)


def file_name(name: str, channel: str, time: int) -> str:
    """Return the path of a key frame's sensor file, relative to the root of the data set."""
    ending = "pcd.bin" if channel.startswith("LIDAR") else "jpg"
    return f"samples/{channel}/{name}__{channel}__{time}.{ending}"


def log_token(name: str, seed: int) -> str:
    """Return the token of a scene's log."""
    return token("log", name, seed)


def fixed_tables(log_tokens: list[str], image_width: int) -> dict[str, list[Row]]:
    """Return the tables that do not depend on the scenes, except that the map lists the logs."""
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
                "token": token("sensor", sensor.channel),
                "channel": sensor.channel,
                "modality": "camera" if sensor.is_camera else "lidar",
            }
            for sensor in SENSORS
        ],
        "calibrated_sensor": [
            {
                "token": token("calibrated", sensor.channel),
                "sensor_token": token("sensor", sensor.channel),
                "translation": list(sensor.translation),
                "rotation": (np.array(sensor.rotation) / np.linalg.norm(sensor.rotation)).tolist(),
                "camera_intrinsic": sensor.intrinsic(image_width),
            }
            for sensor in SENSORS
        ],
        "map": [{"token": token("map"), "log_tokens": log_tokens, "category": "semantic_prior", "filename": MAP}],
    }


def scene_tables(
    name: str, seed: int, index: int, scenario: Scenario, frames: int, image_width: int
) -> dict[str, list[Row]]:
    """Return the rows of a scene, by table.

    Args:
        name: the nuScenes name of the scene.
        seed: the seed of the world; it makes the tokens of two worlds differ.
        index: the number of the scene, which determines its timestamps.
        frames: the number of key frames.
        image_width: the width of the images in pixels.
    """
    return _SceneTables(name, seed, index, scenario, frames, image_width).build()


class _SceneTables:
    """Builds the rows of one scene. The arguments are those of `scene_tables`."""

    def __init__(self, name: str, seed: int, index: int, scenario: Scenario, frames: int, image_width: int):
        self.name, self.seed, self.index, self.scenario, self.frames = name, seed, index, scenario, frames
        self.image_size = image_size(image_width)
        self.rows: dict[str, list[Row]] = {table: [] for table in SCENE_TABLES}

    def build(self) -> dict[str, list[Row]]:
        samples = [self._token("sample", frame) for frame in range(self.frames)]
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
                "token": self._token("scene"),
                "log_token": log_token(self.name, self.seed),
                "nbr_samples": self.frames,
                "first_sample_token": samples[0],
                "last_sample_token": samples[-1],
                "name": self.name,
                "description": self.scenario.description,
            }
        )
        tracks: dict[int, list[tuple[int, Box]]] = {}  # road user -> (frame, box)
        for frame in range(self.frames):
            self._add_frame(frame)
            for box in boxes_at(self.scenario, frame * TICKS_PER_FRAME):
                tracks.setdefault(box.index, []).append((frame, box))
        for index, track in tracks.items():
            self._add_road_user(index, track)
        return self.rows

    def _token(self, *parts: object) -> str:
        """Return a token that differs from those of all other scenes."""
        return token(self.name, self.seed, *parts)

    def _links(self, table: str, frame: int, *parts: object) -> dict[str, str]:
        """Return `prev` and `next` for a row that exists once per frame."""
        return {
            "prev": self._token(table, frame - 1, *parts) if frame > 0 else "",
            "next": self._token(table, frame + 1, *parts) if frame + 1 < self.frames else "",
        }

    def _add_frame(self, frame: int) -> None:
        """Add the rows of a sample and its sensor data."""
        tick = frame * TICKS_PER_FRAME
        time, sample = timestamp(self.index, tick), self._token("sample", frame)
        self.rows["sample"].append(
            {"token": sample, "timestamp": time, "scene_token": self._token("scene"), **self._links("sample", frame)}
        )
        self.rows["traffic_light"].append(
            {
                "token": self._token("traffic_light", frame),
                "sample_token": sample,
                "state": light_ahead(self.scenario, tick),
            }
        )
        x, y, yaw = ego_pose(self.scenario, tick)
        for sensor in SENSORS:
            data = self._token("data", frame, sensor.channel)
            pose = {"token": data, "timestamp": time, "translation": [x, y, 0.0], "rotation": yaw_quaternion(yaw)}
            self.rows["ego_pose"].append(pose)
            self.rows["sample_data"].append(self._sample_data(frame, sensor, data, sample, time))

    def _sample_data(self, frame: int, sensor: Sensor, data: str, sample: str, time: int) -> Row:
        width, height = self.image_size if sensor.is_camera else (0, 0)
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
            **self._links("data", frame, sensor.channel),
        }

    def _add_road_user(self, index: int, track: list[tuple[int, Box]]) -> None:
        """Add an instance with its annotations for each run of consecutive frames in which a road user is in range."""
        starts = [i for i in range(len(track)) if i == 0 or track[i][0] != track[i - 1][0] + 1]
        for start, end in itertools.pairwise([*starts, len(track)]):
            run = track[start:end]
            tokens = [self._token("annotation", index, frame) for frame, _ in run]
            instance = self._token("instance", index, run[0][0])
            self.rows["instance"].append(
                {
                    "token": instance,
                    "category_token": token("category", CATEGORIES[run[0][1].mover.kind]),
                    "nbr_annotations": len(run),
                    "first_annotation_token": tokens[0],
                    "last_annotation_token": tokens[-1],
                }
            )
            links = zip(["", *tokens[:-1]], tokens, [*tokens[1:], ""], strict=True)
            for (frame, box), (previous, own, following) in zip(run, links, strict=True):
                self.rows["sample_annotation"].append(
                    {
                        "token": own,
                        "sample_token": self._token("sample", frame),
                        "instance_token": instance,
                        **_box_fields(box),
                        "prev": previous,
                        "next": following,
                    }
                )


def _box_fields(box: Box) -> Row:
    length, width, height = box.mover.size
    return {
        "visibility_token": next(number for number, _, upper in VISIBILITIES if box.visibility <= upper),
        "attribute_tokens": [token("attribute", _attribute(box))],
        "translation": [box.x, box.y, height / 2],
        "size": [width, length, height],
        "rotation": yaw_quaternion(box.yaw),
        "num_lidar_pts": box.lidar_points,
        "num_radar_pts": 0,
    }


def _attribute(box: Box) -> str:
    if box.mover.kind in ("bicycle", "motorcycle"):
        return "cycle.with_rider"
    if box.mover.kind == "pedestrian":
        return "pedestrian.moving" if box.speed > MOVING else "pedestrian.standing"
    return "vehicle.moving" if box.speed > MOVING else "vehicle.stopped"


def pose_messages(scenario: Scenario, index: int) -> list[Row]:
    """Return the CAN bus pose messages of scene `index`, 50 per second. Velocity and acceleration are in the ego frame."""
    ticks = len(scenario.tracks.states)
    poses = np.array([ego_pose(scenario, tick) for tick in range(ticks)])
    speeds, accelerations = scenario.tracks.states[:, 0, 3], scenario.tracks.states[:, 0, 4]
    times = np.arange(0, (ticks - 1) * TICK + 1e-9, CAN_INTERVAL)
    grid = np.arange(ticks) * TICK
    x, y, yaw = (np.interp(times, grid, column) for column in poses.T)
    yaw_rate = np.gradient(yaw, CAN_INTERVAL)
    speed, acceleration = np.interp(times, grid, speeds), np.interp(times, grid, accelerations)
    return [
        {
            "utime": timestamp(index, 0) + round(float(times[i]) * 1e6),
            "pos": [float(x[i]), float(y[i]), 0.0],
            "orientation": yaw_quaternion(float(yaw[i])),
            "vel": [float(speed[i]), 0.0, 0.0],
            "accel": [float(acceleration[i]), float(speed[i] * yaw_rate[i]), GRAVITY],
            "rotation_rate": [0.0, 0.0, float(yaw_rate[i])],
        }
        for i in range(len(times))
    ]


def steering_messages(scenario: Scenario, index: int) -> list[Row]:
    """Return the CAN bus steering messages of scene `index`, one per tick: steering wheel angle in radians, left positive."""
    yaws, speeds = scenario.tracks.states[:, 0, 2], scenario.tracks.states[:, 0, 3]
    curvature = np.gradient(yaws, TICK) / np.maximum(speeds, 1.0)
    angles = np.arctan(2 * REAR_AXLE * curvature) * STEERING_RATIO
    return [{"utime": timestamp(index, tick), "value": float(angle)} for tick, angle in enumerate(angles)]
