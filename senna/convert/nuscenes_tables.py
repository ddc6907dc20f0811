"""nuScenes' tables through its devkit, which is loaded when it is first needed: it takes two seconds to import."""

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senna.errors import DataError, UsageError

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

_SPLITS = {
    "v1.0-trainval": {"train": "train", "val": "val"},
    "v1.0-mini": {"train": "mini_train", "val": "mini_val"},
    "v1.0-test": {"test": "test"},
}
VERSIONS = tuple(_SPLITS)
LIGHTS = ("red", "yellow", "green", "none")
_INSTALL = "nuscenes-devkit is missing; install it with: pip install -c constraints.txt -e '.[nuscenes]'"


def load_tables(dataroot: str | Path, version: str) -> "NuScenes":
    """The devkit's tables. Raises ``UsageError`` where they are not there, ``DataError`` where they cannot be read."""
    folder = _table_folder(dataroot, version)
    try:
        from nuscenes.nuscenes import NuScenes
    except ImportError as error:
        raise UsageError(f"{_INSTALL} ({error})") from error
    try:
        with _kept_from_the_collector():
            return NuScenes(version=version, dataroot=str(dataroot), verbose=False)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise DataError(
            f"the tables in {folder} cannot be read ({type(error).__name__}: {error}); is the data set whole?"
        ) from error


def scenes_of(dataroot: str | Path, version: str) -> dict[str, list[str]]:
    """The data set's scenes by nuScenes' own split of this version, in the order of the table.

    Returns:
        {"train": [names], "val": [names], "test": [names]}; "test" of v1.0-test alone, the others empty there.

    Raises:
        UsageError: no such data set, or scenes that are in no split of this version.
    """
    folder = _table_folder(dataroot, version)
    try:
        names = [scene["name"] for scene in json.loads((folder / "scene.json").read_bytes())]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / 'scene.json'} is not a table of scenes ({type(error).__name__}: {error})"
        ) from error
    try:
        from nuscenes.utils import splits
    except ImportError as error:
        raise UsageError(f"{_INSTALL} ({error})") from error
    lists = {split: set(getattr(splits, name)) for split, name in _SPLITS[version].items()}
    if strangers := [name for name in names if not any(name in known for known in lists.values())]:
        raise UsageError(
            f"{folder / 'scene.json'}: {_named(strangers)} in no split of {version}; nuScenes' own lists decide "
            f"what is for training and what for validation. Is --version right ({', '.join(VERSIONS)})?"
        )
    return {split: [name for name in names if name in lists.get(split, ())] for split in ("train", "val", "test")}


def chosen_scenes(tables: "NuScenes", scenes: Sequence[str] | None) -> list[dict[str, Any]]:
    """The records of the scenes of these names, in their order; of all without. ``UsageError`` for unknown names."""
    if scenes is None:
        return list(tables.scene)
    by_name = {scene["name"]: scene for scene in tables.scene}
    if unknown := [name for name in scenes if name not in by_name]:
        raise UsageError(f"{tables.dataroot} ({tables.version}): {_named(unknown)} not among the data set's scenes")
    return [by_name[name] for name in scenes]


def traffic_lights(tables: "NuScenes") -> dict[str, str]:
    """sample token -> "red", "yellow", "green" or "none": what the light ahead shows, from traffic_light.json.

    nuScenes has no such table, and without one nothing is known; the embedded world has, since it draws the lights.
    """
    path = Path(tables.table_root) / "traffic_light.json"
    if not path.is_file():
        return {}
    try:
        lights = {row["sample_token"]: row["state"] for row in json.loads(path.read_bytes())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a table of traffic lights ({type(error).__name__}: {error})") from error
    if unknown := set(lights.values()) - set(LIGHTS):
        raise DataError(f"{path}: state {unknown.pop()!r} is none of {', '.join(LIGHTS)}")
    return lights


@contextmanager
def _kept_from_the_collector() -> Iterator[None]:
    """Python's cycle collector would walk through the millions of rows again and again, while loading and ever after."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if collects:
            gc.enable()


def _table_folder(dataroot: str | Path, version: str) -> Path:
    if version not in _SPLITS:
        raise UsageError(f"there is no nuScenes {version}; --version is one of {', '.join(VERSIONS)}")
    folder = Path(dataroot) / version
    if not (folder / "scene.json").is_file():
        found = [name for name in VERSIONS if (Path(dataroot) / name / "scene.json").is_file()]
        there = (
            f"it holds {', '.join(found)}: choose with --version" if found else "is this where nuScenes is unpacked?"
        )
        raise UsageError(f"{folder} holds no nuScenes tables (scene.json); {there}")
    return folder


def _named(scenes: Sequence[str]) -> str:
    shown = ", ".join(scenes[:5]) + (f" and {len(scenes) - 5} more" if len(scenes) > 5 else "")
    return f"{shown} {'is' if len(scenes) == 1 else 'are'}"
