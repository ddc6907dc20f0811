#!/usr/bin/env python3
"""Senna's speed against the original way, measured on this machine: `python scripts/benchmark.py SUBCOMMAND`.

Each subcommand runs its ways interleaved, in shuffled order, within one process, so that a busy minute or a cold cache
strikes all of them alike; prints a table; and with --json ends with one line of JSON.
"""

import argparse
import contextlib
import io
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from senna.errors import SennaError, UsageError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
TOWER_SIZE = 336


def time_ways(
    ways: dict[str, Callable[[Any], Any]], items: Sequence[Any], repeats: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds that each way took on each item: {way: {str(item): [seconds] * repeats}}, after one round of warm-up."""
    seconds = {name: {str(item): [] for item in items} for name in ways}
    # A fixed rotation would let one way always follow the same other, and inherit the state it leaves the memory in.
    order = random.Random(0)
    for round_number in range(repeats + 1):
        for item in items:
            for name in order.sample(list(ways), len(ways)):
                start = time.perf_counter()
                ways[name](item)
                took = time.perf_counter() - start
                if round_number:
                    seconds[name][str(item)].append(took)
    return seconds


def summarise(seconds: dict[str, dict[str, list[float]]], original: str) -> dict[str, dict[str, float]]:
    """{way: {"ms": ..., "per_second": ..., "ratio": ...}}: the median over items of each item's median, and how many
    times the original's speed (the median over items of the ratio of the two medians)."""
    medians = {way: {item: statistics.median(took) for item, took in items.items()} for way, items in seconds.items()}
    summary = {}
    for way, by_item in medians.items():
        typical = statistics.median(by_item.values())
        ratio = statistics.median(medians[original][item] / took for item, took in by_item.items())
        summary[way] = {"ms": typical * 1e3, "per_second": 1 / typical, "ratio": ratio}
    return summary


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        print(
            "  ".join(
                cell.ljust(w) if not n else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
        )


def draw_pictures(folder: Path, count: int) -> None:
    """Road-like 1600x900 JPEGs of a camera's usual size in bytes: soft shading, hard edges, a little grain."""
    import numpy as np
    from PIL import Image, ImageDraw

    for number in range(count):
        generator = np.random.default_rng(number)
        coarse = generator.integers(60, 200, (9, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((1600, 900), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(picture)
        for _ in range(60):
            x, y, width, height = (int(v) for v in generator.integers((0, 0, 8, 8), (1600, 900, 240, 160)))
            shape = draw.rectangle if generator.random() < 0.6 else draw.ellipse
            shape((x, y, x + width, y + height), fill=tuple(int(v) for v in generator.integers(0, 256, 3)))
        grain = generator.normal(0, 1.5, (900, 1600, 1))
        pixels = np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"drawn_{number:02d}.jpg", quality=85)


def find_pictures(folder: Path, count: int) -> list[Path]:
    """At most `count` pictures, spread evenly over the folder and those below it, in order of their paths."""
    if not folder.is_dir():
        raise UsageError(f"--images {folder}: no such folder; give one that holds JPEGs, or leave the flag out")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not found:
        raise UsageError(f"--images {folder}: no picture in it or below it; give a folder that holds JPEGs")
    count = min(count, len(found))
    return [found[number * len(found) // count] for number in range(count)]


def original_pixels(path: Path, processor: Any, **options: Any) -> Any:
    """The published way: Pillow opens and pads to a square of the mean colour, transformers does the rest."""
    from PIL import Image

    picture = Image.open(path).convert("RGB")
    side = max(picture.size)
    square = Image.new("RGB", (side, side), tuple(int(level * 255) for level in processor.image_mean))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return processor.preprocess(square, return_tensors="pt", **options)["pixel_values"][0]


def compare_pixels(paths: Sequence[Path], processor: Any, decode: str) -> dict[str, float | bool]:
    """How far `decode` strays from the original: in levels, shares of pixels (any channel) and values, and floats."""
    import numpy as np
    import torch

    from senna.data.images import PixelRules, load_image, load_pixels

    rules = PixelRules.of(processor)
    levels, pixels, values, equal = 0, [], [], True
    for path in paths:
        raw = original_pixels(path, processor, do_rescale=False, do_normalize=False)
        reference = raw.permute(1, 2, 0).numpy().astype(np.int16)
        difference = np.abs(load_pixels(path, rules, decode=decode) - reference)
        levels = max(levels, int(difference.max()))
        pixels.append(float((difference.max(axis=2) > 0).mean()))
        values.append(float((difference > 0).mean()))
        equal &= torch.equal(load_image(path, processor, decode=decode), original_pixels(path, processor))
    return {
        "max_levels": levels,
        "worst_share_of_pixels": max(pixels),
        "mean_share_of_pixels": statistics.fmean(pixels),
        "mean_share_of_values": statistics.fmean(values),
        "floats_equal": equal,
    }


def run_images(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time and compare the ways from a file to the vision tower's input, padded, on one thread."""
    import torch
    from transformers import CLIPImageProcessorPil

    from senna.data.images import DECODERS, load_image

    torch.set_num_threads(1)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": TOWER_SIZE}, crop_size={"height": TOWER_SIZE, "width": TOWER_SIZE}
    )
    with tempfile.TemporaryDirectory() as drawn:
        if arguments.images is None:
            print("No --images given: drawing twelve 1600x900 JPEGs. Real camera images may differ by some per cent.")
            draw_pictures(Path(drawn), 12)
        paths = find_pictures(arguments.images or Path(drawn), arguments.count)
        ways = {"original": lambda path: original_pixels(path, processor)}
        ways |= {way: lambda path, way=way: load_image(path, processor, decode=way) for way in DECODERS}
        summary = summarise(time_ways(ways, paths, arguments.repeats), "original")
        for way in DECODERS:
            summary[way] |= compare_pixels(paths, processor, way)
    print(
        f"{len(paths)} images x {arguments.repeats}, one thread, padded to {TOWER_SIZE}; original: Pillow, transformers"
    )
    rows = []
    for way, figures in summary.items():
        row = [way, f"{figures['ms']:.2f}", f"{figures['per_second']:.0f}", f"{figures['ratio']:.2f}x"]
        if way != "original":
            shares = (f"{figures[f'{kind}_share_of_pixels']:.3%}" for kind in ("mean", "worst"))
            row += [str(figures["max_levels"]), *shares, "yes" if figures["floats_equal"] else "no"]
        rows.append(row + [""] * (8 - len(row)))
    header = ("way", "ms/image", "images/s", "speed", "max level off", "pixels off, mean", "worst image", "same floats")
    print_table(header, rows)
    return {
        "benchmark": "images",
        "source": str(arguments.images or "drawn"),
        "images": len(paths),
        "repeats": arguments.repeats,
        "threads": 1,
        "ways": summary,
    }


def devkit_facts(
    tables: Any, messages: Any, scene: str, sample: dict[str, Any]
) -> tuple[str, str, float, dict[str, Any]]:
    """A key frame's plan, command, speed by the CAN bus, and {object: (view, what it does)}, by the devkit's own calls alone:
    sample by sample and box by box, the CAN bus file read for each sample, as converters of this field do.

    `messages`: a NuScenesCanBus, None where the data set has none.
    """
    import numpy as np
    from pyquaternion import Quaternion

    from senna.convert.facts import COMMAND_STEPS, FUTURE_STEPS
    from senna.convert.navigation import command_to
    from senna.views import VIEWS

    def lidar_pose(sample: dict[str, Any]) -> tuple[Any, Any]:
        data = tables.get("sample_data", sample["data"]["LIDAR_TOP"])
        ego = tables.get("ego_pose", data["ego_pose_token"])
        mount = tables.get("calibrated_sensor", data["calibrated_sensor_token"])
        turn = Quaternion(ego["rotation"])
        return np.array(ego["translation"]) + turn.rotate(mount["translation"]), turn * Quaternion(mount["rotation"])

    origin, turn = lidar_pose(sample)
    future, later = [], sample
    for _ in range(COMMAND_STEPS):
        if later["next"]:
            later = tables.get("sample", later["next"])
            future.append(turn.inverse.rotate(lidar_pose(later)[0] - origin)[:2])
    last = future[-1] if future else np.zeros(2)
    plan = _label(future[:FUTURE_STEPS]) if len(future) >= FUTURE_STEPS else ""
    _, boxes, _ = tables.get_sample_data(sample["data"]["LIDAR_TOP"])
    for view in VIEWS:
        tables.get_sample_data(
            sample["data"][f"CAM_{view.upper().replace(' ', '_')}"]
        )  # the boxes that each camera sees
    speed = float("nan")
    if messages is not None:
        with contextlib.suppress(FileNotFoundError):  # of a scene that the CAN bus has nothing of
            poses = [pose for pose in messages.get_messages(scene, "pose") if pose["utime"] <= sample["timestamp"]]
            speed = float(np.hypot(*poses[-1]["vel"][:2])) if poses else speed
    agents = [agent for box in boxes if (agent := _devkit_agent(tables, box))]
    return plan, command_to(*last), speed, dict(agents)


def _devkit_agent(tables: Any, box: Any) -> tuple[str, tuple[str, str]] | None:
    """(its token, (view, what it does)), of a box in the lidar's frame; None of an object that nobody saw."""
    from pyquaternion import Quaternion

    from senna.convert.categories import category_of
    from senna.convert.facts import FUTURE_STEPS
    from senna.meta_actions import PEDESTRIAN_STOP_SPEED, STOP_SPEED
    from senna.views import view_of

    annotation = tables.get("sample_annotation", box.token)
    if not annotation["num_lidar_pts"] + annotation["num_radar_pts"]:
        return None
    tables.box_velocity(box.token)
    walks = category_of(annotation["category_name"]).group == "pedestrian"
    future, later = [], annotation
    for _ in range(FUTURE_STEPS):
        if later["next"]:
            later = tables.get("sample_annotation", later["next"])
            then = tables.get_box(later["token"])
            then.translate([-value for value in annotation["translation"]])
            then.rotate(Quaternion(annotation["rotation"]).inverse)
            future.append((-then.center[1], then.center[0]))  # x right, y forward
    wholly = len(future) == FUTURE_STEPS
    plan = _label(future, PEDESTRIAN_STOP_SPEED if walks else STOP_SPEED) if wholly else ""
    return box.token, (view_of(*box.center[:2].tolist()), plan)


def _label(future: Sequence[Any], stop: float = 2.0) -> str:
    import numpy as np

    from senna.meta_actions import label_trajectory

    return str(label_trajectory(np.array(future), stop))


def convert_here(root: Path, version: str, folder: Path) -> int:
    """All that `senna convert` does up to its files, tables read and records written; returns how many frames."""
    from senna.convert.can_bus import can_bus_folder
    from senna.convert.captioners import make_captioner
    from senna.convert.finish import join
    from senna.convert.frames import load_tables, scenes_of
    from senna.convert.pipeline import Images, Source, convert_part
    from senna.convert.plan import plan_scenes
    from senna.convert.templates import load_templates

    source = Source(load_tables(root, version), can_bus_folder(None, root))
    scenes = plan_scenes(source.tables, scenes_of(root, version))
    with contextlib.redirect_stdout(io.StringIO()):
        part = convert_part(source, scenes, folder, make_captioner("annotations"), load_templates(), Images(root))
    join([folder], folder, "senna_nusc", "jsonl")
    return part.frames


def convert_by_devkit(root: Path, version: str) -> dict[str, tuple[str, str, float, dict[str, Any]]]:
    """{sample token: devkit_facts} of a whole data set, its tables read."""
    from nuscenes.can_bus.can_bus_api import NuScenesCanBus
    from nuscenes.nuscenes import NuScenes

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
    """How many plans, commands and objects' views and labels differ between both ways, and of how many."""
    from senna.convert.frames import read_frames

    theirs, counts = convert_by_devkit(root, version), {"frames": 0, "objects": 0, "differ": 0}
    for frame in read_frames(root, version):
        plan, command, _, agents = theirs[frame.token]
        ours = {agent.token: (agent.view, str(agent.plan or "")) for agent in frame.agents}
        counts["frames"] += 1
        counts["objects"] += len(agents)
        counts["differ"] += (str(frame.plan or ""), frame.command) != (plan, command)
        counts["differ"] += sum(ours.get(token) != agents.get(token) for token in {*ours, *agents})
    return counts


def embedded_world() -> Path:
    """The driving world of the embedded default, drawn where it is not there yet: a minute on two cores."""
    from senna.synthetic import write_world

    root = Path(__file__).resolve().parent.parent / "outputs" / "embedded" / "nuscenes"
    write_world(str(root), 10, 0, True)
    return root


def run_convert(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the converter, end to end, and the same facts by the devkit's own calls; compare what they say."""
    root, version = arguments.nuscenes or embedded_world(), arguments.version
    compared = compare_facts(root, version)
    with tempfile.TemporaryDirectory() as folder:
        count = iter(range(1000))
        ways = {
            "devkit, sample by sample": lambda _: convert_by_devkit(root, version),
            "senna convert": lambda _: convert_here(root, version, Path(folder) / str(next(count))),
        }
        summary = summarise(time_ways(ways, [root], arguments.repeats), "devkit, sample by sample")
    frames = compared["frames"]
    for figures in summary.values():
        figures |= {"ms": figures["ms"] / frames, "per_second": figures["per_second"] * frames}
    print(
        f"{root}, {version}: {frames} frames x {arguments.repeats}, one process, tables read in each; senna convert also "
        "captions from the annotations and writes the records; the devkit's way stops at the facts"
    )
    rows = [(way, f"{f['ms']:.2f}", f"{f['per_second']:.0f}", f"{f['ratio']:.1f}x") for way, f in summary.items()]
    print_table(("way", "ms/frame", "frames/s", "speed"), rows)
    print(
        f"plans, commands, views and labels that differ: {compared['differ']} of {frames} frames, {compared['objects']} objects"
    )
    return {"benchmark": "convert", "source": str(root), "repeats": arguments.repeats, **compared, "ways": summary}


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark.py", description=__doc__.split("\n\n")[0])
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="end with one line of JSON")
    common.add_argument("--repeats", type=positive, default=5, help="timed rounds (default %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)

    images = commands.add_parser("images", parents=[common], help="image file to vision tower input")
    images.add_argument("--images", type=Path, help="folder searched recursively (default: draws some)")
    images.add_argument("--count", type=positive, default=24, help="images at most (default %(default)s)")
    images.set_defaults(run=run_images)

    convert = commands.add_parser("convert", parents=[common], help="nuScenes to records")
    convert.add_argument(
        "--nuscenes", type=Path, help="nuScenes' folder (default: the embedded driving world, drawn if need be)"
    )
    convert.add_argument("--version", default="v1.0-mini", help="the tables' version (default %(default)s)")
    convert.set_defaults(run=run_convert, repeats=2)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = build_parser().parse_args(arguments)
    try:
        figures = parsed.run(parsed)
    except SennaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if parsed.json:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
