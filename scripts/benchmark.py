#!/usr/bin/env python3
"""Measure the speed of Senna against the original methods on this machine: `python scripts/benchmark.py SUBCOMMAND`.

Each subcommand runs its methods in one process, interleaved in shuffled order, so that a busy minute or a cold cache affects
all of them alike. It prints a table; --json adds one line of JSON at the end; --chart FILE draws the ratios.
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from senna.cgroup import available_cores
from senna.errors import SennaError, UsageError


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def add_threads(parser: argparse.ArgumentParser) -> None:
    threads = min(2, available_cores())
    parser.add_argument(
        "--threads", type=positive, default=threads, help="number of torch threads (default %(default)s)"
    )


def add_geometry(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the model's size, hidden because they serve tests (other sizes give other figures), and --threads."""
    add_threads(parser)
    for flag, default in {
        "hidden": 512,
        "layers": 8,
        "vocabulary": 32000,
        "image-size": 336,
        "view-tokens": 128,
    }.items():
        parser.add_argument(f"--{flag}", type=positive, default=default, help=argparse.SUPPRESS)


def add_world(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--nuscenes", type=Path, help="folder of nuScenes (default: the synthetic driving world, drawn if necessary)"
    )
    parser.add_argument("--version", default="v1.0-mini", help="version of the tables (default %(default)s)")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark.py", description=__doc__.split("\n\n")[0])
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="end with one line of JSON")
    common.add_argument("--chart", type=Path, metavar="FILE", help="draw the ratios as a bar chart, a PNG")
    common.add_argument("--repeats", type=positive, default=3, help="number of timed rounds (default %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)

    images = commands.add_parser("images", parents=[common], help="image file to vision tower input")
    images.add_argument("--images", type=Path, help="folder that is searched recursively (default: draw some)")
    images.add_argument("--count", type=positive, default=24, help="maximum number of images (default %(default)s)")

    convert = commands.add_parser("convert", parents=[common], help="nuScenes to records")
    add_world(convert)
    convert.set_defaults(repeats=2)

    packing = commands.add_parser("packing", parents=[common], help="the questions of a frame packed, against unpacked")
    add_geometry(packing)
    packing.set_defaults(repeats=3)

    padding = commands.add_parser("padding", parents=[common], help="padded batches without a mask, against a mask")
    add_geometry(padding)
    padding.set_defaults(repeats=5)

    evaluate = commands.add_parser(
        "evaluate", parents=[common], help="scores of all twenty plans in one forward pass, against greedy decoding"
    )
    add_geometry(evaluate)
    evaluate.add_argument("--batch", type=positive, default=4, help="frames in a batch (default %(default)s)")

    memory = commands.add_parser("memory", help="memory of a training step, predicted against measured")
    memory.add_argument("--json", action="store_true", help="end with one line of JSON")
    memory.set_defaults(chart=None, threads=1)

    ray = commands.add_parser("ray", help="senna convert --ray: facts against one process, captioners against one")
    add_world(ray)
    ray.add_argument("--part", choices=("facts", "captions"), help="measure only this part")
    ray.add_argument("--copies", type=positive, default=1, help="facts: use the scenes so many times (synthetic world)")
    ray.add_argument("--workers", type=positive, nargs="+", default=[1, 2], help="facts: numbers of processes")
    ray.add_argument("--captioners", type=positive, nargs="+", default=[1, 2, 4, 8], help="numbers of captioners")
    ray.add_argument("--seconds", type=positive, default=30, help="captioners: length of a run (default %(default)s)")
    ray.add_argument("--repeats", type=positive, default=3, help="number of timed rounds (default %(default)s)")
    ray.add_argument("--json", action="store_true", help="end with one line of JSON")
    ray.set_defaults(chart=None)

    serve = commands.add_parser(
        "serve", help="a frame's questions to senna serve, with and without prefix caching, against generate"
    )
    serve.add_argument("--model", required=True, help="model folder")
    serve.add_argument("--data", type=Path, required=True, help="file of records")
    serve.add_argument(
        "--image-folder", type=Path, help="where the image paths of the records start (default: beside the records)"
    )
    serve.add_argument("--frames", type=positive, default=5, help="number of timed frames (default %(default)s)")
    serve.add_argument("--questions", type=positive, default=13, help="questions per frame (default %(default)s)")
    serve.add_argument("--json", action="store_true", help="end with one line of JSON")
    add_threads(serve)
    serve.set_defaults(chart=None)

    train = commands.add_parser(
        "train", parents=[common], help="complete training steps, including images and optimizer"
    )
    add_world(train)
    add_geometry(train)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = build_parser().parse_args(arguments)
    try:
        if parsed.chart is not None and parsed.chart.suffix.lower() != ".png":
            raise UsageError(f"--chart {parsed.chart} is no PNG", remedy="give a name that ends in .png")
        # As in PRESET=tiny: threads that spin while they wait slow everything down on a busy machine.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        # Imported late: --help must not wait for torch, and torch reads OMP_WAIT_POLICY on import.
        benchmark = importlib.import_module(f"benchmarks.{parsed.command}")
        figures = benchmark.run(parsed)
        if parsed.chart is not None:
            importlib.import_module("benchmarks.common").draw(benchmark.chart_of(figures), parsed.chart)
    except SennaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if parsed.json:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
