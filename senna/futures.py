"""The file of futures beside the records, for metrics of trajectories: the recorded future of the ego and of other road users.

`senna convert` writes a line of JSON for each frame into the file beside the records (`futures_path`)::

    {"token": "...", "ego": [[x, y, heading], ...], "past": [[x, y, heading], ...],
     "others": [{"name": "car", "size": [length, width], "poses": [[x, y, heading], ...]}, ...]}

Positions are in metres in the ego frame of the record (x right, y forward), to the centimetre. A heading is in degrees,
counterclockwise from straight ahead. ``ego`` and ``poses`` have the six steps of the next 3 s, null where nothing is recorded;
the one pose of a parked car, which moves by less than 3 cm and 1 degree, stands for all six. ``past`` has the poses 0.5 and
1 s ago, as far as the scene has them.
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from senna.errors import DataError
from senna.meta_actions import FUTURE_STEPS

PAST_STEPS = 2
_PARKED = (0.03, 0.03, 1.0)  # metres and degrees; less is the noise of annotations and of the ego vehicle's pose

_TOKEN = re.compile(rb'\{"token": "([^"]*)"')
_AGAIN = "convert the data again"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Futures:
    """The recorded future around a frame. A pose is (x, y, heading); NaN where nothing is recorded. K other road users.

    Attributes:
        token: of the key frame.
        ego: (6, 3).
        past: (P, 3) the poses 0.5 and 1 s ago, P at most 2.
        names: K words for the road users: car, pedestrian, ...
        sizes: (K, 2) length and width in metres.
        poses: (K, 6, 3) of the centres of the road users.
    """

    token: str
    ego: Array
    past: Array
    names: tuple[str, ...]
    sizes: Array
    poses: Array

    def as_json(self) -> dict[str, Any]:
        """Return the line of this frame."""
        with np.errstate(invalid="ignore"):
            is_parked = (np.abs(self.poses - self.poses[:, :1]) < _PARKED).all(axis=(1, 2)).tolist()
        poses = [_pose_list(user[:1] if parked else user) for user, parked in zip(self.poses, is_parked, strict=True)]
        others = zip(self.names, self.sizes.round(2).tolist(), poses, strict=True)
        return {
            "token": self.token,
            "ego": _pose_list(self.ego),
            "past": _pose_list(self.past),
            "others": [{"name": name, "size": size, "poses": poses} for name, size, poses in others],
        }


def _pose_list(poses: Array) -> list[list[float] | None]:
    """Return rounded poses, None for an unknown one."""
    known = np.isfinite(poses).all(axis=1).tolist()
    return [
        [round(x, 2) + 0.0, round(y, 2) + 0.0, round(heading, 1) + 0.0] if is_known else None
        for is_known, (x, y, heading) in zip(known, poses.tolist(), strict=True)
    ]


def futures_path(records: str | Path) -> Path:
    """Return the path of the futures beside a file of records: ``x.jsonl`` or ``x.json`` -> ``x.futures.jsonl``."""
    return Path(records).with_suffix(".futures.jsonl")


def read_futures(path: Path, tokens: Collection[str]) -> dict[str, Futures]:
    """Return token -> futures of the frames with these tokens, as far as the file has them; {} if there is no such file.

    Raises:
        DataError: the file cannot be read, or a line is not valid.
    """
    wanted, found = set(tokens), {}
    if not path.is_file():
        return found
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                token = _TOKEN.match(line)
                if token is None or token[1].decode(errors="replace") in wanted:
                    futures = _parse(path, number, line)
                    found[futures.token] = futures
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", remedy=_AGAIN, file=path) from error
    return found


def _parse(path: Path, number: int, line: bytes) -> Futures:
    try:
        values = json.loads(line)
        others = values["others"]
        return Futures(
            str(values["token"]),
            _poses(values["ego"], FUTURE_STEPS),
            _poses(values["past"], len(values["past"])),
            tuple(str(user["name"]) for user in others),
            np.array([user["size"] for user in others], dtype=np.float64).reshape(len(others), 2),
            np.array([_poses(user["poses"], FUTURE_STEPS) for user in others]).reshape(len(others), FUTURE_STEPS, 3),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"line {number} does not describe the future of a frame ({type(error).__name__}: {error})",
            remedy=_AGAIN,
            file=path,
        ) from None


def _poses(rows: list[list[float] | None], count: int) -> Array:
    """Return (count, 3) from a list of poses, or from a single one that stands for all."""
    poses = np.array([[np.nan] * 3 if row is None else row for row in rows], dtype=np.float64).reshape(len(rows), 3)
    return np.repeat(poses, count, axis=0) if len(rows) == 1 and count > 1 else _checked(poses, count)


def _checked(poses: Array, count: int) -> Array:
    if len(poses) != count:
        raise ValueError(f"{len(poses)} poses instead of {count}")
    return poses
