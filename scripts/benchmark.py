#!/usr/bin/env python3
"""Senna's speed against the original way, measured on this machine: `python scripts/benchmark.py SUBCOMMAND`.

Each subcommand runs its ways interleaved, in shuffled order, within one process, so that a busy minute or a cold cache
strikes all of them alike; prints a table; and with --json ends with one line of JSON.
"""

import argparse
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
