"""Benchmark of image files to the vision tower's input: the published method (Pillow, transformers) against ours.

It also times batches of pixels on their way from a data loader worker: normalized, as published, and as uint8 levels.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPImageProcessorPil

from senna.data.images import DECODERS, PixelRules, load_image, load_pixels
from senna.data.shared_memory import SharedCollate
from senna.errors import UsageError
from senna.model.pixels import PixelScaling, normalize

from .common import BASELINE, Bar, Chart, print_table, summarize, time_methods

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
TOWER_SIZE = 336
BATCH, BATCHES = 48, 24  # images of eight frames; batches of a timed round


def draw_images(folder: Path, count: int) -> None:
    """Draw 1600x900 JPEGs with soft shading, hard edges and some noise, about as large as those of a camera."""
    for number in range(count):
        generator = np.random.default_rng(number)
        coarse = generator.integers(60, 200, (9, 16, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((1600, 900), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(image)
        for _ in range(60):
            x, y, width, height = (int(v) for v in generator.integers((0, 0, 8, 8), (1600, 900, 240, 160)))
            shape = draw.rectangle if generator.random() < 0.6 else draw.ellipse
            shape((x, y, x + width, y + height), fill=tuple(int(v) for v in generator.integers(0, 256, 3)))
        noise = generator.normal(0, 1.5, (900, 1600, 1))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"drawn_{number:02d}.jpg", quality=85)


def find_images(folder: Path, count: int) -> list[Path]:
    """Return at most `count` images, evenly spaced in the sorted list of all images in the folder and its subfolders.

    Raises:
        UsageError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UsageError(
            f"--images {folder}: no such folder", remedy="give a folder that holds JPEGs, or leave the flag out"
        )
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not found:
        raise UsageError(f"--images {folder} holds no image", remedy="give a folder that holds JPEGs")
    count = min(count, len(found))
    return [found[number * len(found) // count] for number in range(count)]


def original_pixels(path: Path, processor: Any, **options: Any) -> Any:
    """Prepare an image as published: Pillow decodes and pads it to a square of the mean colour, transformers does the rest."""
    image = Image.open(path).convert("RGB")
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(level * 255) for level in processor.image_mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return processor.preprocess(square, return_tensors="pt", **options)["pixel_values"][0]


def compare_pixels(paths: Sequence[Path], processor: Any, decode: str) -> dict[str, float | bool]:
    """Compare the pixels of a decoder to the original ones.

    Returns:
        The largest difference in levels, the shares of pixels (in any channel) and of values that differ, and whether the
        normalized floats are equal.
    """
    rules = PixelRules.from_processor(processor)
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


class _Pixels(Dataset):
    """The same image again and again, decoded already."""

    def __init__(self, image: torch.Tensor) -> None:
        self.image = image

    def __len__(self) -> int:
        return BATCH * BATCHES

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.image


def time_batches(path: Path, processor: Any, repeats: int) -> dict[str, dict[str, float]]:
    """Time batches from a data loader worker to normalized pixels in this process, on one thread each."""
    scaling = PixelScaling.from_processor(processor)

    def receive(dtype: torch.dtype) -> None:
        pixels = _Pixels(load_image(path, processor, dtype=dtype))
        for batch in DataLoader(pixels, BATCH, num_workers=1, collate_fn=SharedCollate(torch.stack)):
            batch.view(torch.int32).sum()  # reads all bytes, as a copy to a device does

    methods = {"float32": lambda _: receive(torch.float32), "uint8": lambda _: receive(torch.uint8)}
    summary = summarize(time_methods(methods, ["batches"], repeats), "float32")
    for name, figures in summary.items():
        figures["ms"] /= BATCHES
        figures["per_second"] *= BATCHES
        figures["bytes"] = BATCH * 3 * TOWER_SIZE**2 * (4 if name == "float32" else 1)
    levels = load_image(path, processor, dtype=torch.uint8).expand(BATCH, -1, -1, -1).contiguous()
    seconds = time_methods({"normalize": lambda _: normalize(levels, scaling)}, ["batch"], repeats)
    summary["uint8"]["normalize_ms"] = statistics.median(seconds["normalize"]["batch"]) * 1e3
    return summary


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time and compare the methods, with padding, on one thread."""
    torch.set_num_threads(1)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": TOWER_SIZE}, crop_size={"height": TOWER_SIZE, "width": TOWER_SIZE}
    )
    with tempfile.TemporaryDirectory() as drawn:
        if arguments.images is None:
            print("No --images given: drawing twelve 1600x900 JPEGs. Camera images may give slightly other figures.")
            draw_images(Path(drawn), 12)
        paths = find_images(arguments.images or Path(drawn), arguments.count)
        methods = {"original": lambda path: original_pixels(path, processor)}
        methods |= {
            method: lambda path, method=method: load_image(path, processor, decode=method) for method in DECODERS
        }
        summary = summarize(time_methods(methods, paths, arguments.repeats), "original")
        for method in DECODERS:
            summary[method] |= compare_pixels(paths, processor, method)
        batches = time_batches(paths[0], processor, arguments.repeats)
    print(
        f"{len(paths)} images x {arguments.repeats}, one thread, padded to {TOWER_SIZE}; original: Pillow, transformers"
    )
    rows = []
    for method, figures in summary.items():
        row = [method, f"{figures['ms']:.2f}", f"{figures['per_second']:.0f}", f"{figures['ratio']:.2f}x"]
        if method != "original":
            shares = (f"{figures[f'{kind}_share_of_pixels']:.3%}" for kind in ("mean", "worst"))
            row += [str(figures["max_levels"]), *shares, "yes" if figures["floats_equal"] else "no"]
        rows.append(row + [""] * (8 - len(row)))
    header = (
        "method",
        "ms/image",
        "images/s",
        "speed",
        "max level off",
        "pixels off, mean",
        "worst image",
        "same floats",
    )
    print_table(header, rows)
    print(f"\nbatches of {BATCH} images from a data loader worker")
    print_table(
        ("pixels", "MB/batch", "ms/batch", "batches/s", "speed"),
        [
            [name, f"{f['bytes'] / 1e6:.1f}", f"{f['ms']:.1f}", f"{f['per_second']:.0f}", f"{f['ratio']:.2f}x"]
            for name, f in batches.items()
        ],
    )
    print(f"normalizing a batch of uint8 takes {batches['uint8']['normalize_ms']:.1f} ms on one thread of this CPU")
    return {
        "benchmark": "images",
        "source": str(arguments.images or "drawn"),
        "images": len(paths),
        "repeats": arguments.repeats,
        "threads": 1,
        "ways": summary,
        "batches": batches,
    }


def chart_of(figures: dict[str, Any]) -> Chart:
    names = {"original": "original", "exact": "exact, the same bits", "fast": "fast, some pixels differ by a level"}
    return Chart(
        f"Camera image to vision tower input, {TOWER_SIZE} pixels, padded, one thread",
        "Pillow and transformers' processor",
        [
            Bar(
                names.get(method, method),
                f["ratio"],
                f"{f['ms']:.1f} ms an image",
                BASELINE if method == "original" else "",
            )
            for method, f in figures["ways"].items()
        ],
    )
