"""The synthetic default data: a small driving world that the project draws, and small models for it.

Everything exported here works without torch, except `preparing_tiny_stage1`, which imports torch where a model is to be made.
"""

from contextlib import AbstractContextManager
from pathlib import Path

from senna.synthetic.render.camera import Camera
from senna.synthetic.render.painter import paint
from senna.synthetic.render.scene import House, Road, Scene, StreetLamp, TrafficLight, Tree, Vehicle
from senna.synthetic.tiny.road_images import write_road_images
from senna.synthetic.world.sensors import image_size
from senna.synthetic.world.write import scene_names, write_world

__all__ = [
    "Camera",
    "House",
    "Road",
    "Scene",
    "StreetLamp",
    "TrafficLight",
    "Tree",
    "Vehicle",
    "image_size",
    "paint",
    "preparing_tiny_stage1",
    "scene_names",
    "write_road_images",
    "write_world",
]


def preparing_tiny_stage1(
    folder: str, seed: int = 0, count: int = 1536, pretrain: bool = False
) -> AbstractContextManager[dict[str, Path]]:
    """Make the data and models of stage 1 while the context lasts; see `senna.synthetic.tiny.make.preparing_tiny_stage1`."""
    from senna.synthetic.tiny import make

    return make.preparing_tiny_stage1(folder, seed, count, pretrain)
