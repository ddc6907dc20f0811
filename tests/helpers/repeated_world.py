"""A large data set in nuScenes' format: the two scenes of a small one, again and again under other names and tokens."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

_SHARED = ("attribute", "calibrated_sensor", "category", "map", "sensor", "visibility")  # tables without scenes


def write_repeated_world(root: Path, small: Path, scenes: int, images: bool = False) -> Path:
    """Write v1.0-trainval with repeated scenes; returns ``root``.

    Args:
        small: the root of a v1.0-mini data set of two scenes.
        scenes: an even number, at most 850.
        images: also write image files, each with another content.
    """
    source, target = small / "v1.0-mini", root / "v1.0-trainval"
    target.mkdir(parents=True)
    (root / "maps").mkdir()
    for path in (small / "maps").iterdir():
        (root / "maps" / path.name).write_bytes(path.read_bytes())
    names = _names(scenes)
    for path in source.glob("*.json"):
        rows = json.loads(path.read_text())
        if path.stem in _SHARED:
            repeated = rows
        elif path.stem == "traffic_light":
            continue  # nuScenes has no such table, so a captioner must answer
        else:
            repeated = [_renamed(row, path.stem, number) for number in range(scenes // 2) for row in rows]
        if path.stem == "scene":
            repeated = [row | {"name": name} for row, name in zip(repeated, names, strict=True)]
        (target / path.name).write_text(json.dumps(repeated))
        if path.stem == "sample_data" and images:
            _write_images(root, [row["filename"] for row in repeated if row["filename"].endswith(".jpg")])
    return root


def _names(count: int) -> list[str]:
    """Return names of trainval; every fifth is in the val split."""
    from nuscenes.utils import splits

    train, val = iter(splits.train), iter(splits.val)
    return list(islice(((number % 5 == 4 and next(val, None)) or next(train) for number in range(850)), count))


def _renamed(row: dict, table: str, number: int) -> dict:
    """Return a row whose tokens end with the number of the repetition, except those of the shared tables."""
    new = dict(row)
    for name, value in row.items():
        is_token = name in ("token", "prev", "next") or name.endswith("_token")
        if is_token and value and name.removesuffix("_token") not in _SHARED:
            new[name] = value[:-4] + f"{number:04x}"
    if table == "sample_data":
        folder, _, file = row["filename"].rpartition("/")
        new["filename"] = f"{folder}/{number}-{file}"
    return new


def _write_images(root: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), (number % 256, number // 256, 0), np.uint8)).save(path, "PNG")
