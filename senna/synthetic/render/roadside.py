"""Meshes of traffic lights, trees, houses and street lamps."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

from senna.synthetic.render.camera import object_to_world
from senna.synthetic.render.meshes import Mesh, Part, Rgb, disc, panel, scale_colour, vertical_quad
from senna.synthetic.render.scene import LightState, TrafficLight

POST: Rgb = (84, 88, 94)
HEAD: Rgb = (30, 32, 34)
BACKPLATE: Rgb = (18, 19, 20)
LAMPS: dict[
    LightState, tuple[float, Rgb, Rgb]
] = {  # height above the centre of the head, colour when on, colour when off
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


@lru_cache(maxsize=64)
def traffic_light_mesh(state: LightState, reach: float, heads: int = 1, spacing: float = 3.5) -> Mesh:
    """Return a traffic light for traffic towards +x, with the post at the origin and the farthest head `reach` metres left."""
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
    plate.add(vertical_quad((-0.02, y + 0.72), (-0.02, y - 0.72), (height - 1.45, height + 1.45)), BACKPLATE)
    mesh.parts.insert(0, plate)
    for name, (offset, colour_on, colour_off) in LAMPS.items():
        is_on = name == state
        centre = (-0.41, y, height + offset)
        lamp = disc(centre, 0.36, "x", corners=16)
        head.add(lamp, colour_on if is_on else colour_off, "always" if is_on else "never")
        if is_on:
            mesh.halo(centre, 1.3, colour_on, (-1.0, 0.0, 0.0), "always")


def light_head_corners(light: TrafficLight) -> list[np.ndarray]:
    """Return for each head of a traffic light the corners (4, 3), in the world, of the face with the lamps."""
    height, corners = _head_height(light.reach), [(y, z) for y in (-0.5, 0.5) for z in (-1.25, 1.25)]
    faces = []
    for head in range(light.heads):
        centre = light.reach - head * light.spacing
        face = np.array([(-0.4, centre + y, height + z) for y, z in corners])
        faces.append(object_to_world(face, light.x, light.y, light.yaw))
    return faces


def _head_height(reach: float) -> float:
    return 6.9 if reach > 0 else 4.4


@lru_cache(maxsize=16)
def tree_mesh(shape: Literal["round", "fir"], tone: int) -> Mesh:
    """Return a tree of height 1."""
    mesh, leaves = Mesh(), LEAVES[tone % len(LEAVES)]
    mesh.box((-0.03, 0.03), (-0.03, 0.03), (0, 0.4), BARK)
    if shape == "fir":
        for layer, (low, high, radius) in enumerate(((0.16, 0.56, 0.25), (0.36, 0.78, 0.2), (0.58, 1.0, 0.14))):
            part = Part(np.array([0.0, 0.0, low]), layer=1 + layer)
            ring = disc((0, 0, 0), radius, "x", corners=8)[:, [1, 2, 0]] + [0, 0, low]
            for start, end in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                part.add(np.stack([start, end, [0.0, 0.0, high]]), scale_colour(leaves, 0.72))
            mesh.parts.append(part)
        return mesh
    dark, light = scale_colour(leaves, 0.74), scale_colour(leaves, 1.16)
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
    """Return a house 12 m wide and 8 m deep with its front towards +x. Some windows are lit at night."""
    mesh, wall, roof = Mesh(), WALLS[tone % len(WALLS)], ROOFS[tone % len(ROOFS)]
    eaves = 3.0 * storeys
    body, faces = mesh.box((-4, 4), (-6, 6), (0, eaves), wall)
    for name, columns in (("front", 4), ("back", 4), ("left", 3), ("right", 3)):
        for row in range(storeys):
            for column in range(columns):
                if name == "front" and row == 0 and column == 1:
                    body.add(panel(faces[name], (0.28, 0.38), (0, 2.2 / eaves)), scale_colour(roof, 0.7))
                    continue
                u, v = (column + 0.3) / columns, (row + 0.36) / storeys
                size = (u, u + 0.42 / columns), (v, v + 0.44 / storeys)
                lit = (tone + row * 2 + column * 3) % 5 < 2
                body.add(panel(faces[name], *size), PANE, "night" if lit else "never", LIT_PANE)
    gable = [(-4.5, eaves), (0.0, eaves + 3.2), (4.5, eaves)]
    mesh.prism(gable, 6.4, -6.4, scale_colour(wall, 0.94), layer=1, rim_colour=roof)
    return mesh


@lru_cache(maxsize=1)
def street_lamp_mesh() -> Mesh:
    """Return a lamp post 7 m high with an arm towards +x."""
    mesh = Mesh()
    mesh.box((-0.08, 0.08), (-0.08, 0.08), (0, 7.0), POST)
    mesh.box((0.0, 1.9), (-0.05, 0.05), (6.9, 7.0), POST)
    mesh.box((1.3, 2.0), (-0.14, 0.14), (6.78, 6.92), LAMP_LIGHT, layer=1)
    mesh.halo((1.65, 0.0, 6.75), 1.5, LAMP_LIGHT)
    return mesh
