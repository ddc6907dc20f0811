"""nuScenes' tables, loaded with its devkit. The devkit takes two seconds to import and is imported on first use."""

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senna.errors import DataError, UsageError
from senna.kinds import TRAFFIC_LIGHTS

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

_SPLITS = {
    "v1.0-trainval": {"train": "train", "val": "val"},
    "v1.0-mini": {"train": "mini_train", "val": "mini_val"},
    "v1.0-test": {"test": "test"},
}
VERSIONS = tuple(_SPLITS)
_ANNOTATIONS = ("category", "instance", "sample_annotation")
_NEEDED = (*_ANNOTATIONS, "sensor", "calibrated_sensor", "ego_pose", "scene", "sample", "sample_data")
_LIGHT_STATES = tuple(light.lower() for light in TRAFFIC_LIGHTS)
_MOST_FOLDERS = 300  # subfolders in which a data set is looked for
_INSTALL = "install it with: pip install -c constraints.txt -e '.[nuscenes]'"


def load_tables(dataroot: str | Path, version: str) -> "NuScenes":
    """Load the tables of a data set: only those that are needed, so that no other table or map must exist or be valid.

    Raises:
        UsageError: there are no such tables, or the devkit is not installed.
        DataError: a table that is needed cannot be read.
    """
    folder = _table_folder(dataroot, version)
    try:
        from nuscenes.nuscenes import NuScenes
    except ImportError as error:
        raise UsageError(f"nuscenes-devkit is missing ({error})", remedy=_INSTALL) from error
    try:
        with _garbage_collection_paused():
            tables = NuScenes.__new__(NuScenes)  # its __init__ reads everything, with label files and maps
            tables.version, tables.dataroot, tables.verbose = version, str(dataroot), False
            tables.table_names = list(_NEEDED)
            for name in _NEEDED:
                setattr(tables, name, _read_table(folder / f"{name}.json", is_needed=_is_needed(name, version)))
            tables.log, tables.map = [], [{"token": "", "log_tokens": []}]
            tables.__make_reverse_index__(False)
            return tables
    except (KeyError, TypeError, AssertionError, AttributeError) as error:
        raise DataError(
            f"the tables are inconsistent ({type(error).__name__}: {error})",
            remedy="check that the data set is complete and unpack it again",
            file=folder,
        ) from error


def _is_needed(name: str, version: str) -> bool:
    return version != "v1.0-test" or name not in _ANNOTATIONS


def _read_table(path: Path, is_needed: bool) -> list[dict[str, Any]]:
    if not is_needed and not path.is_file():
        return []
    try:
        with path.open("rb") as file:
            rows = json.load(file)
        if not isinstance(rows, list):
            raise TypeError("it is not a list of rows")
        return rows
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"the table {path.name} cannot be read ({type(error).__name__}: {error})",
            remedy="check that the data set is complete and unpack it again",
            file=path.parent,
        ) from error


def scenes_of(dataroot: str | Path, version: str) -> dict[str, list[str]]:
    """Return the data set's scenes by nuScenes' official split of this version, in the order of the table.

    Returns:
        {"train": [names], "val": [names], "test": [names]}. Only v1.0-test has "test" scenes, and it has no others.

    Raises:
        UsageError: there is no such data set, or a scene is in no split of this version.
        DataError: the table of scenes cannot be read.
    """
    folder = _table_folder(dataroot, version)
    try:
        names = [scene["name"] for scene in json.loads((folder / "scene.json").read_bytes())]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"not a table of scenes ({type(error).__name__}: {error})",
            remedy="unpack the tables again",
            file=folder / "scene.json",
        ) from error
    try:
        from nuscenes.utils import splits
    except ImportError as error:
        raise UsageError(f"nuscenes-devkit is missing ({error})", remedy=_INSTALL) from error
    lists = {split: set(getattr(splits, name)) for split, name in _SPLITS[version].items()}
    if unknown := [name for name in names if not any(name in known for known in lists.values())]:
        raise UsageError(
            f"{folder / 'scene.json'}: {_subject(unknown)} in no split of {version}, and nuScenes' official lists decide "
            "between training and validation",
            remedy=f"check --version ({', '.join(VERSIONS)})",
        )
    return {split: [name for name in names if name in lists.get(split, ())] for split in ("train", "val", "test")}


def chosen_scenes(tables: "NuScenes", scenes: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return the rows of the named scenes in the given order; all scenes where ``scenes`` is None.

    Raises:
        UsageError: an unknown name.
    """
    if scenes is None:
        return list(tables.scene)
    by_name = {scene["name"]: scene for scene in tables.scene}
    if unknown := [name for name in scenes if name not in by_name]:
        raise UsageError(
            f"{tables.dataroot} ({tables.version}): {_subject(unknown)} not among the data set's scenes",
            remedy="name scenes of its scene.json",
        )
    return [by_name[name] for name in scenes]


def traffic_lights(tables: "NuScenes") -> dict[str, str]:
    """Return sample token -> "red", "yellow", "green" or "none", the traffic light ahead, from traffic_light.json.

    The result is empty where there is no such table. nuScenes has none; the synthetic world, which draws the lights, has.

    Raises:
        DataError: the table cannot be read or has an unknown state.
    """
    path = Path(tables.table_root) / "traffic_light.json"
    if not path.is_file():
        return {}
    try:
        lights = {row["sample_token"]: row["state"] for row in json.loads(path.read_bytes())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"not a table of traffic lights ({type(error).__name__}: {error})",
            remedy="write rows of sample_token and state, or remove the file",
            file=path,
        ) from error
    if unknown := set(lights.values()) - set(_LIGHT_STATES):
        raise DataError(
            f"state {unknown.pop()!r} is unknown", remedy=f"use one of {', '.join(_LIGHT_STATES)}", file=path
        )
    return lights


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Keep the millions of rows out of Python's cyclic garbage collection, which would traverse them repeatedly."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


def _table_folder(dataroot: str | Path, version: str) -> Path:
    if version not in _SPLITS:
        raise UsageError(f"there is no nuScenes {version}", remedy=f"give --version one of {', '.join(VERSIONS)}")
    folder = Path(dataroot) / version
    if not (folder / "scene.json").is_file():
        found = _versions_in(Path(dataroot))
        if found:
            message = f"{folder} has no nuScenes tables (scene.json), but {dataroot} has {', '.join(found)}"
            raise UsageError(message, remedy=f"choose it with --version {found[0]}")
        message = f"{folder} has no nuScenes tables (scene.json)"
        if not Path(dataroot).is_dir():
            message = f"{dataroot} is not a folder"
        raise UsageError(message, remedy=_right_folder(Path(dataroot), version))
    return folder


def _versions_in(folder: Path) -> list[str]:
    return [name for name in VERSIONS if (folder / name / "scene.json").is_file()]


def _right_folder(given: Path, version: str) -> str:
    """Return a remedy that names the folder of the data set where it is above or below the given folder."""
    try:
        given = given.resolve()
        below = sorted(child for child in given.glob("*") if child.is_dir())
    except OSError:
        below = []
    near = [*list(given.parents)[:3], *below[:_MOST_FOLDERS]]
    candidates = [(folder, name) for folder in near for name in _versions_in(folder)]
    if not candidates:
        return "give --nuscenes the folder where nuScenes is unpacked, the one that holds samples/ and v1.0-trainval/"
    preferred = (given.name if given.name in VERSIONS else version, version)
    folder, name = min(candidates, key=lambda found: preferred.index(found[1]) if found[1] in preferred else 2)
    return f"give the folder of the data set: --nuscenes {folder} --version {name}"


def _subject(scenes: Sequence[str]) -> str:
    """Return the scenes as the beginning of a sentence, with its verb."""
    shown = ", ".join(scenes[:5]) + (f" and {len(scenes) - 5} more" if len(scenes) > 5 else "")
    return f"{shown} {'is' if len(scenes) == 1 else 'are'}"
