"""Benchmark of the conversion of nuScenes: `senna convert` against calls of the devkit, sample by sample and box by box."""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes.can_bus.can_bus_api import NuScenesCanBus
from nuscenes.nuscenes import NuScenes
from pyquaternion import Quaternion

from senna.convert.can_bus import can_bus_folder
from senna.convert.captioners import make_captioner
from senna.convert.categories import category_of
from senna.convert.frames import Source, load_tables, read_frames, scenes_of
from senna.convert.images import Images
from senna.convert.output import write_files
from senna.convert.pipeline import LocalEngine, Preparer, convert_frames
from senna.convert.scenes import select_scenes
from senna.meta_actions import COMMAND_STEPS, FUTURE_STEPS, PEDESTRIAN_STOP_SPEED, STOP_SPEED, label_trajectory
from senna.navigation import command_to
from senna.templates import load_templates
from senna.views import VIEWS, view_of

from .common import BASELINE, Bar, Chart, embedded_world, print_table, summarize, time_methods

DEVKIT = "devkit, sample by sample"


def devkit_facts(
    tables: Any, messages: Any, scene: str, sample: dict[str, Any]
) -> tuple[str, str, float, dict[str, Any]]:
    """Compute the facts of a key frame with calls of the devkit alone.

    Like other converters, it goes sample by sample and box by box, and reads the CAN bus file for each sample.

    Args:
        messages: a NuScenesCanBus; None for a data set without a CAN bus.

    Returns:
        The plan, the command, the speed of the CAN bus in m/s (NaN if unknown) and {annotation token: (view, meta-action)}.
    """

    def lidar_pose(sample: dict[str, Any]) -> tuple[Any, Any]:
        data = tables.get("sample_data", sample["data"]["LIDAR_TOP"])
        ego = tables.get("ego_pose", data["ego_pose_token"])
        mount = tables.get("calibrated_sensor", data["calibrated_sensor_token"])
        rotation = Quaternion(ego["rotation"])
        translation = np.array(ego["translation"]) + rotation.rotate(mount["translation"])
        return translation, rotation * Quaternion(mount["rotation"])

    origin, rotation = lidar_pose(sample)
    future, later = [], sample
    for _ in range(COMMAND_STEPS):
        if later["next"]:
            later = tables.get("sample", later["next"])
            future.append(rotation.inverse.rotate(lidar_pose(later)[0] - origin)[:2])
    last = future[-1] if future else np.zeros(2)
    plan = _label(future[:FUTURE_STEPS]) if len(future) >= FUTURE_STEPS else ""
    _, boxes, _ = tables.get_sample_data(sample["data"]["LIDAR_TOP"])
    for view in VIEWS:
        tables.get_sample_data(sample["data"][f"CAM_{view.upper().replace(' ', '_')}"])  # the boxes in each camera
    speed = float("nan")
    if messages is not None:
        with contextlib.suppress(FileNotFoundError):  # some scenes have no CAN bus data
            poses = [pose for pose in messages.get_messages(scene, "pose") if pose["utime"] <= sample["timestamp"]]
            speed = float(np.hypot(*poses[-1]["vel"][:2])) if poses else speed
    agents = [agent for box in boxes if (agent := _devkit_agent(tables, box))]
    return plan, command_to(*last), speed, dict(agents)


def _devkit_agent(tables: Any, box: Any) -> tuple[str, tuple[str, str]] | None:
    """Return (token, (view, meta-action)) of a box in lidar coordinates; None if no sensor point hit the object."""
    annotation = tables.get("sample_annotation", box.token)
    if not annotation["num_lidar_pts"] + annotation["num_radar_pts"]:
        return None
    tables.box_velocity(box.token)
    is_pedestrian = category_of(annotation["category_name"]).group == "pedestrian"
    future, later = [], annotation
    for _ in range(FUTURE_STEPS):
        if later["next"]:
            later = tables.get("sample_annotation", later["next"])
            then = tables.get_box(later["token"])
            then.translate([-value for value in annotation["translation"]])
            then.rotate(Quaternion(annotation["rotation"]).inverse)
            future.append((-then.center[1], then.center[0]))  # x right, y forward
    is_complete = len(future) == FUTURE_STEPS
    plan = _label(future, PEDESTRIAN_STOP_SPEED if is_pedestrian else STOP_SPEED) if is_complete else ""
    return box.token, (view_of(*box.center[:2].tolist()), plan)


def _label(future: Sequence[Any], stop: float = 2.0) -> str:
    return str(label_trajectory(np.array(future), stop))


def convert_here(root: Path, version: str, folder: Path) -> int:
    """Convert like `senna convert`, from reading the tables to writing the records, and return the number of frames."""
    source = Source(load_tables(root, version), can_bus_folder(None, root))
    scenes = select_scenes(source.tables, scenes_of(root, version))
    with contextlib.redirect_stdout(io.StringIO()):
        preparer = Preparer(source, load_templates(), Images(root), needs_images=False)
        journal = convert_frames(source.tables, scenes, folder, LocalEngine(preparer, make_captioner("annotations")))
    write_files(folder, folder, "senna_nusc", "jsonl")
    return journal.frames


def convert_by_devkit(root: Path, version: str) -> dict[str, tuple[str, str, float, dict[str, Any]]]:
    """Return {sample token: devkit_facts} of a data set, including the time to read its tables."""
    tables = NuScenes(version, str(root), verbose=False)
    messages = NuScenesCanBus(str(root)) if (root / "can_bus").is_dir() else None
    found = {}
    for scene in tables.scene:
        token = scene["first_sample_token"]
        while token:
            sample = tables.get("sample", token)
            found[token] = devkit_facts(tables, messages, scene["name"], sample)
            token = sample["next"]
    return found


def compare_facts(root: Path, version: str) -> dict[str, int]:
    """Return the numbers of frames, of objects, and of facts (plans and commands, views and labels) that differ."""
    theirs, counts = convert_by_devkit(root, version), {"frames": 0, "objects": 0, "differ": 0}
    for frame in read_frames(root, version):
        plan, command, _, agents = theirs[frame.token]
        ours = {agent.token: (agent.view, str(agent.plan or "")) for agent in frame.agents}
        counts["frames"] += 1
        counts["objects"] += len(agents)
        counts["differ"] += (str(frame.plan or ""), frame.command) != (plan, command)
        counts["differ"] += sum(ours.get(token) != agents.get(token) for token in {*ours, *agents})
    return counts


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the converter from end to end and the devkit's calls for the same facts, and compare the facts."""
    root, version = arguments.nuscenes or embedded_world(), arguments.version
    scenes_of(root, version)  # raises UsageError where there are no tables
    compared = compare_facts(root, version)
    with tempfile.TemporaryDirectory() as folder:
        count = iter(range(1000))
        methods = {
            DEVKIT: lambda _: convert_by_devkit(root, version),
            "senna convert": lambda _: convert_here(root, version, Path(folder) / str(next(count))),
        }
        summary = summarize(time_methods(methods, [root], arguments.repeats), DEVKIT)
    frames = compared["frames"]
    for figures in summary.values():
        figures |= {"ms": figures["ms"] / frames, "per_second": figures["per_second"] * frames}
    print(
        f"{root}, {version}: {frames} frames x {arguments.repeats}, one process, including reading the tables; senna convert "
        "also writes the records with captions from the annotations, the devkit's calls end with the facts"
    )
    rows = [(method, f"{f['ms']:.2f}", f"{f['per_second']:.0f}", f"{f['ratio']:.1f}x") for method, f in summary.items()]
    print_table(("method", "ms/frame", "frames/s", "speed"), rows)
    print(
        f"plans, commands, views and labels that differ: {compared['differ']} of {frames} frames, {compared['objects']} objects"
    )
    return {"benchmark": "convert", "source": str(root), "repeats": arguments.repeats, **compared, "ways": summary}


def chart_of(figures: dict[str, Any]) -> Chart:
    return Chart(
        f"nuScenes to planning QA, {figures['frames']} frames, one process, including reading the tables",
        "calls of nuscenes-devkit for the same facts",
        [
            Bar(method, f["ratio"], f"{f['ms']:.1f} ms a frame", BASELINE if method == DEVKIT else "")
            for method, f in figures["ways"].items()
        ],
    )
