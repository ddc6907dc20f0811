"""The ego's speed from nuScenes' CAN bus: a scene's ``pose`` messages, read once."""

import json
import re
from pathlib import Path

import numpy as np

from senna.convert.geometry import Array
from senna.errors import DataError, UsageError

# Scenes whose messages the devkit refuses, since they do not go with the rest of the scene.
_REFUSED = {*range(161, 169), *range(170, 177), *range(309, 315)}
_MOST_AGE = 0.25  # seconds: a message is due every 0.02; behind an older one is a hole
_LATE_START = 0.1  # seconds that the first message may come after the first key frame


def can_bus_folder(canbus: Path | None, dataroot: Path) -> Path | None:
    """Where the messages are: ``canbus`` or its can_bus/, else the data set's own can_bus/, None without.

    Raises ``UsageError`` for a folder that was asked for and is not there or holds no poses.
    """
    if canbus is None:
        own = dataroot / "can_bus"
        return own if own.is_dir() else None
    folder = canbus / "can_bus" if (canbus / "can_bus").is_dir() else canbus
    if next(folder.glob("scene-*_pose.json"), None) is None:
        raise UsageError(
            f"{canbus} has no CAN bus messages (can_bus/scene-0001_pose.json and so on): unpack nuScenes' CAN bus "
            "expansion there, or leave the folder out and the speed comes from the poses"
        )
    return folder


def can_bus_speeds(folder: Path, scene: str, times: Array) -> Array:
    """Speeds at (N,) times in microseconds -> (N,) m/s, NaN where no message tells.

    Each is of the last message until then, so that nothing is known early; at a scene's start, where the bus wakes up
    a little late, of the first. Raises ``DataError`` for a file that is not a list of pose messages.
    """
    unknown = np.full(len(times), np.nan)
    number = re.fullmatch(r"scene-(\d+)", scene)
    path = folder / f"{scene}_pose.json"
    if (number and int(number[1]) in _REFUSED) or not path.is_file():
        return unknown
    try:
        messages = json.loads(path.read_bytes())
        sent = np.array([message["utime"] for message in messages], dtype=np.float64)
        speeds = np.hypot(*np.array([message["vel"][:2] for message in messages], dtype=np.float64).reshape(-1, 2).T)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a list of CAN bus poses with utime and vel ({type(error).__name__}: {error}); "
            "unpack it anew, or leave the CAN bus out"
        ) from error
    if not len(sent):
        return unknown
    order = np.argsort(sent, kind="stable")
    sent, speeds = sent[order], speeds[order]
    last = np.searchsorted(sent, times, side="right") - 1
    age = (times - sent[np.maximum(last, 0)]) / 1e6
    fresh = (age <= _MOST_AGE) & (age >= -_LATE_START)
    return np.where(fresh, speeds[np.maximum(last, 0)], unknown)
