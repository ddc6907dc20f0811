"""The embedded default: a small world that the project draws itself, and small models that learn from it.

What prepares stages and makes models needs torch and lives in `senna.synthetic.tiny.make`; what else is named here does not.
"""

from senna.synthetic.render.camera import Camera
from senna.synthetic.render.painter import paint
from senna.synthetic.render.scene import House, Road, Scene, StreetLamp, TrafficLight, Tree, Vehicle
from senna.synthetic.tiny.road_images import write_road_pictures
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
    "paint",
    "prepare_tiny_stage1",
    "scene_names",
    "write_road_pictures",
    "write_world",
]


def prepare_tiny_stage1(folder: str, seed: int = 0, count: int = 1536) -> dict:
    """See `senna.synthetic.tiny.make.prepare_tiny_stage1`; torch is imported only when this is called."""
    from senna.synthetic.tiny.make import make

    return make.prepare_tiny_stage1(folder, seed, count)
