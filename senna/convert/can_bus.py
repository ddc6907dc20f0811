"""The ego vehicle's speed from the ``pose`` messages of nuScenes' CAN bus expansion. Each scene's file is read once."""

import json
import re
from pathlib import Path

import numpy as np

from senna.convert.geometry import Array
from senna.errors import DataError, UsageError

# The devkit excludes these scenes because their messages do not match the rest of the scene.
_EXCLUDED = {*range(161, 169), *range(170, 177), *range(309, 315)}
_MAX_AGE = 0.25  # seconds; messages are 0.02 s apart, so an older one means a gap
_LATE_START = 0.1  # seconds; the first message may be this much later than the first key frame


def can_bus_folder(canbus: Path | None, dataroot: Path) -> Path | None:
    """Return the folder of the messages: ``canbus`` or its can_bus/, else can_bus/ of the data set, else None.

    Raises:
        UsageError: ``canbus`` is given but does not exist or has no pose messages.
    """
    if canbus is None:
        default = dataroot / "can_bus"
        return default if default.is_dir() else None
    folder = canbus / "can_bus" if (canbus / "can_bus").is_dir() else canbus
    if next(folder.glob("scene-*_pose.json"), None) is None:
        raise UsageError(
            f"{canbus} has no CAN bus messages (can_bus/scene-0001_pose.json and so on)",
            remedy="unpack nuScenes' CAN bus expansion there, or leave out --canbus to compute speeds from the poses",
        )
    return folder


def can_bus_speeds(folder: Path, scene: str, times: Array) -> Array:
    """Return the speeds (N,) in m/s at times (N,) in microseconds; NaN where no message is recent enough.

    Each speed is that of the last message up to its time, so that no speed depends on the future. Only at the start of a
    scene, where messages may begin slightly late, the first message counts.

    Raises:
        DataError: the scene's file is not a list of pose messages.
    """
    unknown = np.full(len(times), np.nan)
    number = re.fullmatch(r"scene-(\d+)", scene)
    path = folder / f"{scene}_pose.json"
    if (number and int(number[1]) in _EXCLUDED) or not path.is_file():
        return unknown
    try:
        messages = json.loads(path.read_bytes())
        sent = np.array([message["utime"] for message in messages], dtype=np.float64)
        speeds = np.hypot(*np.array([message["vel"][:2] for message in messages], dtype=np.float64).reshape(-1, 2).T)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"not a list of CAN bus poses with utime and vel ({type(error).__name__}: {error})",
            remedy="unpack the file again, or run without the CAN bus",
            file=path,
        ) from error
    if not len(sent):
        return unknown
    order = np.argsort(sent, kind="stable")
    sent, speeds = sent[order], speeds[order]
    last = np.searchsorted(sent, times, side="right") - 1
    age = (times - sent[np.maximum(last, 0)]) / 1e6
    fresh = (age <= _MAX_AGE) & (age >= -_LATE_START)
    return np.where(fresh, speeds[np.maximum(last, 0)], unknown)
