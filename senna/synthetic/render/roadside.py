"""What stands beside the road: traffic lights, trees, houses and street lamps, as meshes."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

from senna.synthetic.render.camera import planar
from senna.synthetic.render.meshes import Mesh, Part, Rgb, disc, panel, upright
from senna.synthetic.render.scene import LightState, TrafficLight

POST: Rgb = (84, 88, 94)
HEAD: Rgb = (30, 32, 34)
BACKPLATE: Rgb = (18, 19, 20)
LAMPS: dict[LightState, tuple[float, Rgb, Rgb]] = {  # height in the head, colour when lit, colour when dark
    "red": (0.8, (255, 44, 36), (70, 22, 22)),
    "yellow": (0.0, (255, 204, 30), (70, 58, 20)),
    "green": (-0.8, (40, 240, 120), (18, 62, 36)),
}
LEAVES: tuple[Rgb, ...] = ((70, 128, 58), (98, 142, 54), (52, 110, 66))
BARK: Rgb = (96, 72, 52)
WALLS: tuple[Rgb, ...] = ((226, 210, 186), (198, 128, 100), (206, 212, 216), (232, 214, 150), (166, 178, 160))
ROOFS: tuple[Rgb, ...] = ((150, 74, 58), (92, 82, 84), (124, 62, 52), (88, 96, 110), (132, 92, 66))
PANE: Rgb = (92, 116, 138)
LIT_PANE: Rgb = (255, 222, 140)
LAMP_LIGHT: Rgb = (255, 228, 170)


def _shade(colour: Rgb, factor: float) -> Rgb:
    red, green, blue = (max(0, min(255, round(channel * factor))) for channel in colour)
    return red, green, blue


@lru_cache(maxsize=64)
def traffic_light_mesh(state: LightState, reach: float, heads: int = 1, spacing: float = 3.5) -> Mesh:
    """A signal seen by who drives along +x: the post at the origin, the farthest head `reach` metres to its left."""
    mesh = Mesh()
    over_road, height = reach > 0, _head_height(reach)
    mesh.box((-0.11, 0.11), (-0.11, 0.11), (0, height + (0.9 if over_road else -1.2)), POST)
    if over_road:
        mesh.box((-0.08, 0.08), (0, reach + 0.3), (height + 0.7, height + 0.86), POST)
    for head in range(heads):
        _add_head(mesh, state, reach - head * spacing, height)
    return mesh


def _add_head(mesh: Mesh, state: LightState, y: float, height: float) -> None:
    head, _ = mesh.box((-0.4, 0.0), (y - 0.5, y + 0.5), (height - 1.25, height + 1.25), HEAD, layer=1)
    plate = Part(np.array([1.0, y, height]), layer=1)
    plate.add(upright((-0.02, y + 0.72), (-0.02, y - 0.72), (height - 1.45, height + 1.45)), BACKPLATE)
    mesh.parts.insert(0, plate)
    for name, (offset, lit, dark) in LAMPS.items():
        on = name == state
        centre = (-0.41, y, height + offset)
        head.add(disc(centre, 0.36, "x", corners=16), lit if on else dark, "always" if on else "never")
        if on:
            mesh.halo(centre, 1.3, lit, (-1.0, 0.0, 0.0), "always")


def light_head_corners(light: TrafficLight) -> list[np.ndarray]:
    """For each head of a signal the corners (4, 3), in the world, of the side that shows the lamps."""
    height, sides = _head_height(light.reach), [(y, z) for y in (-0.5, 0.5) for z in (-1.25, 1.25)]
    places = [light.reach - head * light.spacing for head in range(light.heads)]
    return [
        planar(np.array([(-0.4, at + y, height + z) for y, z in sides]), light.x, light.y, light.yaw) for at in places
    ]


def _head_height(reach: float) -> float:
    return 6.9 if reach > 0 else 4.4


@lru_cache(maxsize=16)
def tree_mesh(shape: Literal["round", "fir"], tone: int) -> Mesh:
    """A tree of height 1."""
    mesh, leaves = Mesh(), LEAVES[tone % len(LEAVES)]
    mesh.box((-0.03, 0.03), (-0.03, 0.03), (0, 0.4), BARK)
    if shape == "fir":
        for layer, (low, high, radius) in enumerate(((0.16, 0.56, 0.25), (0.36, 0.78, 0.2), (0.58, 1.0, 0.14))):
            part = Part(np.array([0.0, 0.0, low]), layer=1 + layer)
            ring = disc((0, 0, 0), radius, "x", corners=8)[:, [1, 2, 0]] + [0, 0, low]
            for start, end in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                part.add(np.stack([start, end, [0.0, 0.0, high]]), _shade(leaves, 0.72))
            mesh.parts.append(part)
        return mesh
    dark, light = _shade(leaves, 0.74), _shade(leaves, 1.16)
    mesh.balls(
        1,
        ((0.0, 0.02, 0.58), 0.27, dark),
        ((0.0, 0.17, 0.5), 0.17, dark),
        ((0.0, -0.17, 0.52), 0.17, dark),
        ((0.0, 0.04, 0.68), 0.24, leaves),
        ((0.0, -0.12, 0.6), 0.17, leaves),
        ((0.0, 0.16, 0.58), 0.15, leaves),
        ((0.0, 0.07, 0.77), 0.15, light),
        ((0.0, -0.07, 0.7), 0.09, light),
    )
    return mesh


@lru_cache(maxsize=64)
def house_mesh(tone: int, storeys: int) -> Mesh:
    """A house 12 m long and 8 m deep, its front along +x, with lit windows at night."""
    mesh, wall, roof = Mesh(), WALLS[tone % len(WALLS)], ROOFS[tone % len(ROOFS)]
    eaves = 3.0 * storeys
    body, faces = mesh.box((-4, 4), (-6, 6), (0, eaves), wall)
    for name, columns in (("front", 4), ("back", 4), ("left", 3), ("right", 3)):
        for row in range(storeys):
            for column in range(columns):
                if name == "front" and row == 0 and column == 1:
                    body.add(panel(faces[name], (0.28, 0.38), (0, 2.2 / eaves)), _shade(roof, 0.7))
                    continue
                u, v = (column + 0.3) / columns, (row + 0.36) / storeys
                size = (u, u + 0.42 / columns), (v, v + 0.44 / storeys)
                lit = (tone + row * 2 + column * 3) % 5 < 2
                body.add(panel(faces[name], *size), PANE, "night" if lit else "never", LIT_PANE)
    gable = [(-4.5, eaves), (0.0, eaves + 3.2), (4.5, eaves)]
    mesh.prism(gable, 6.4, -6.4, _shade(wall, 0.94), layer=1, rim_colour=roof)
    return mesh


@lru_cache(maxsize=1)
def street_lamp_mesh() -> Mesh:
    """A lamp post 7 m high with an arm along +x."""
    mesh = Mesh()
    mesh.box((-0.08, 0.08), (-0.08, 0.08), (0, 7.0), POST)
    mesh.box((0.0, 1.9), (-0.05, 0.05), (6.9, 7.0), POST)
    mesh.box((1.3, 2.0), (-0.14, 0.14), (6.78, 6.92), LAMP_LIGHT, layer=1)
    mesh.halo((1.65, 0.0, 6.75), 1.5, LAMP_LIGHT)
    return mesh
