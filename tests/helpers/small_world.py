"""A small synthetic data set in nuScenes' format for tests: two simulated scenes with small plain images."""

import contextlib
import io
import json
import runpy
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from PIL import Image

from senna.synthetic import write_world

TRAIN_SCENE, VAL_SCENE = "scene-0061", "scene-0103"  # in mini_train and in mini_val
FRAMES = 24  # in each scene


def write_small_world(root: Path, frames: int = FRAMES) -> Path:
    """Write two scenes with plain 64 x 36 images instead of rendered ones; returns ``root``.

    The simulation runs in this process, because starting its workers takes longer than two scenes.
    """
    with mock.patch("senna.synthetic.world.write.worker_lines", _simulate_here):
        write_world(root, scenes=2, seed=0, mini=True, frames=frames)
    tables = root / "v1.0-mini"
    _rename_second_scene(root, tables)
    for number, row in enumerate(json.loads((tables / "sample_data.json").read_text())):
        if row["filename"].endswith(".jpg"):
            colour = (number * 37 % 256, number * 91 % 256, number * 151 % 256)
            Image.new("RGB", (64, 36), colour).save(root / row["filename"])
    return root


def _simulate_here(module: str, arguments: list[str], count: int) -> Iterator[str]:
    """Replace ``worker_lines``: simulate the two scenes in this process, and render nothing."""
    if count > 2:  # one job for each key frame: rendering
        yield from map(str, range(count))
        return
    output = io.StringIO()
    argv = [module, *arguments, str(count), "0", "1"]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(output), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the module is imported already
        runpy.run_module(module, run_name="__main__")
    yield from output.getvalue().splitlines()


def _rename_second_scene(root: Path, tables: Path) -> None:
    """Give the second scene, which belongs to mini_train too, the name of a scene of mini_val."""
    scenes = json.loads((tables / "scene.json").read_text())
    old, scenes[1]["name"] = scenes[1]["name"], VAL_SCENE
    (tables / "scene.json").write_text(json.dumps(scenes))
    for path in (root / "can_bus").glob(f"{old}_*"):
        path.rename(path.with_name(path.name.replace(old, VAL_SCENE)))
