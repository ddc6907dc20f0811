"""A minimal data set in nuScenes' format, without image files: one scene whose tracks a test defines."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from senna.views import VIEWS

CHANNELS = ("LIDAR_TOP", *(f"CAM_{view.upper().replace(' ', '_')}" for view in VIEWS))
UPRIGHT = [1.0, 0.0, 0.0, 0.0]
LIDAR_ROTATION = [2**-0.5, 0.0, 0.0, -(2**-0.5)]  # the lidar's y axis is the ego vehicle's x axis
START = 1_500_000_000_000_000  # microseconds
STEP = 500_000

Track = Callable[[int], tuple[float, float]]  # key frame -> global x, y


def write_world(
    root: Path,
    ego: Track,
    objects: dict[str, Sequence[tuple[float, float] | None]] | None = None,
    frames: int = 20,
    *,
    scene: str = "scene-0061",
    camera_lead: int = 0,
    points: int = 5,
    heading: float = 0.0,
    version: str = "v1.0-mini",
) -> Path:
    """Write the tables of a scene; returns ``root``.

    Args:
        objects: "vehicle.car" or "vehicle.car#2" -> its position in each key frame, None where it is not annotated. All
            objects have the heading of the ego vehicle.
        camera_lead: microseconds by which the cameras are triggered before the lidar; their ego poses differ accordingly.
        heading: radians from the global x axis, of the ego vehicle and all objects.
    """
    rotation = [float(np.cos(heading / 2)), 0.0, 0.0, float(np.sin(heading / 2))]
    tables = _empty(scene)
    for index in range(frames):
        token = f"sample-{index}"
        tables["sample"].append(
            {"token": token, "timestamp": START + index * STEP, "scene_token": "scene",
             **_links("sample-{}", index, frames)}
        )  # fmt: skip
        now, before = np.array(ego(index)), np.array(ego(index - 1))
        for channel in CHANNELS:
            lead = 0 if channel == "LIDAR_TOP" else camera_lead
            position = now + (before - now) * lead / STEP
            name = f"{channel}-{index}"
            tables["ego_pose"].append(
                {"token": name, "timestamp": START + index * STEP - lead, "rotation": rotation,
                 "translation": [*position.tolist(), 0.0]}
            )  # fmt: skip
            tables["sample_data"].append(
                {"token": name, "sample_token": token, "ego_pose_token": name, "calibrated_sensor_token": channel,
                 "timestamp": START + index * STEP - lead, "fileformat": "jpg", "is_key_frame": True, "height": 900,
                 "width": 1600, "filename": f"samples/{channel}/{index}__{channel}.jpg",
                 **_links(f"{channel}-{{}}", index, frames)}
            )  # fmt: skip
    tables["scene"][0] |= {"nbr_samples": frames, "last_sample_token": f"sample-{frames - 1}"}
    for name, positions in (objects or {}).items():
        _annotate(tables, name, positions, rotation, points)
    folder = root / version
    folder.mkdir(parents=True)
    (root / "maps").mkdir()
    Image.new("L", (1, 1)).save(root / "maps" / "one.png")  # the devkit requires a map
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return root


def _annotate(tables: dict, name: str, positions: Sequence, rotation: list[float], points: int) -> None:
    category = name.partition("#")[0]
    if all(row["name"] != category for row in tables["category"]):
        tables["category"].append(
            {"token": category, "name": category, "description": "", "index": len(tables["category"])}
        )
    annotated = [index for index, position in enumerate(positions) if position is not None]
    tokens = [f"{name}-{index}" for index in annotated]
    tables["instance"].append(
        {"token": name, "category_token": category, "nbr_annotations": len(annotated),
         "first_annotation_token": tokens[0], "last_annotation_token": tokens[-1]}
    )  # fmt: skip
    for order, (index, token) in enumerate(zip(annotated, tokens, strict=True)):
        tables["sample_annotation"].append(
            {"token": token, "sample_token": f"sample-{index}", "instance_token": name, "visibility_token": "4",
             "attribute_tokens": [], "translation": [*positions[index], 1.0], "size": [2, 4, 2], "rotation": rotation,
             "prev": tokens[order - 1] if order else "", "next": (*tokens, "")[order + 1],
             "num_lidar_pts": points, "num_radar_pts": 0}
        )  # fmt: skip


def _links(form: str, index: int, count: int) -> dict[str, str]:
    return {
        "prev": form.format(index - 1) if index else "",
        "next": form.format(index + 1) if index + 1 < count else "",
    }


def _empty(scene: str) -> dict[str, list]:
    return {
        "scene": [
            {"token": "scene", "log_token": "log", "name": scene, "description": "", "first_sample_token": "sample-0"}
        ],
        "log": [{"token": "log", "logfile": "log", "vehicle": "n015", "date_captured": "2018-07-24",
                 "location": "singapore-onenorth"}],
        "map": [{"token": "map", "log_tokens": ["log"], "category": "semantic_prior", "filename": "maps/one.png"}],
        "sensor": [{"token": channel, "channel": channel,
                    "modality": "lidar" if channel == "LIDAR_TOP" else "camera"} for channel in CHANNELS],
        "calibrated_sensor": [{"token": channel, "sensor_token": channel, "translation": [0.0, 0.0, 1.5],
                               "rotation": LIDAR_ROTATION if channel == "LIDAR_TOP" else UPRIGHT,
                               "camera_intrinsic": []} for channel in CHANNELS],
        "sample": [], "sample_data": [], "ego_pose": [], "sample_annotation": [], "instance": [], "category": [],
        "attribute": [], "visibility": [],
    }  # fmt: skip
