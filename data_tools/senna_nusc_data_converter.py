#!/usr/bin/env python3
"""Run `senna convert` under the name and with the arguments of the published script:

    senna_nusc_data_converter.py nuscenes --root-path DIR [--canbus DIR] [--out-dir DIR] [--version v1.0] [--extra-tag TAG]

All other arguments are passed to `senna convert`. TAG replaces the prefix senna_nusc of the files' names.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from senna.cli import main as senna

VERSIONS = {"v1.0": "v1.0-trainval"}  # the name that the published commands use


def translate(argv: Sequence[str]) -> list[str]:
    """Return the arguments of `senna` for the published arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=["nuscenes"])
    parser.add_argument("--root-path", required=True, help="nuScenes' folder")
    parser.add_argument("--canbus", help="the folder that contains can_bus/")
    parser.add_argument("--version", default="v1.0", help="v1.0 (trainval), v1.0-mini, v1.0-trainval or v1.0-test")
    parser.add_argument("--out-dir", default="./data/nuscenes", help="the output folder (default: %(default)s)")
    parser.add_argument("--extra-tag", help="prefix of the files' names (default: senna_nusc)")
    known, further = parser.parse_known_args(argv)
    flags = ["convert", "--nuscenes", known.root_path, "--version", VERSIONS.get(known.version, known.version)]
    flags += ["--out", known.out_dir]
    flags += ["--canbus", known.canbus] if known.canbus else []
    return [*flags, *(["--name", known.extra_tag] if known.extra_tag else []), *further]


if __name__ == "__main__":
    sys.exit(senna(translate(sys.argv[1:])))
