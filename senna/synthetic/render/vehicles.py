"""Meshes of the five kinds of vehicle. Each one fits into the box of its size in VEHICLE_SIZES."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from senna.synthetic.render.meshes import Mesh, Part, Rgb, disc, panel, scale_colour
from senna.synthetic.render.scene import BODY_COLOURS, VEHICLE_SIZES, VehicleKind

GLASS: Rgb = (52, 66, 82)
TYRE: Rgb = (26, 26, 28)
HUB: Rgb = (150, 152, 156)
CHASSIS: Rgb = (46, 47, 50)
CHROME: Rgb = (176, 179, 183)
PLATE: Rgb = (232, 232, 222)
TAIL_OFF: Rgb = (150, 22, 24)
TAIL_ON: Rgb = (255, 40, 32)
HEADLAMP: Rgb = (255, 246, 214)
SIGN: Rgb = (255, 176, 40)
LIT_PANE: Rgb = (236, 208, 140)


@lru_cache(maxsize=256)
def vehicle_mesh(kind: VehicleKind, colour: str, braking: bool = False) -> Mesh:
    """Return a vehicle with its centre at the origin and its front towards +x."""
    build = {"car": _car, "van": _van, "truck": _truck, "bus": _bus, "motorcycle": _motorcycle}[kind]
    mesh = Mesh()
    build(mesh, BODY_COLOURS[colour], braking)
    return mesh


def _wheels(mesh: Mesh, axles: tuple[float, ...], half_width: float, radius: float, tyre_width: float = 0.24) -> None:
    """Add wheels at both ends of each axle. The tyres are drawn before the body, their outer faces after it."""
    for x in axles:
        for side in (-1, 1):
            outer = side * (half_width + 0.01)
            inner = side * (half_width - tyre_width)
            ring = [(float(px), float(pz)) for px, _, pz in disc((x, 0, radius), radius, "y")]
            mesh.prism(ring, max(inner, outer), min(inner, outer), TYRE, layer=0)
            cover = Part(np.array([x, 0.0, radius]), layer=3)
            cover.add(disc((x, outer, radius), radius, "y"), TYRE)
            cover.add(disc((x, outer, radius), radius * 0.55, "y"), HUB)
            mesh.parts.append(cover)


def _lamps(
    mesh: Mesh,
    part: Part,
    back: np.ndarray,
    front: np.ndarray,
    height: tuple[float, float],
    width: float,
    braking: bool,
) -> None:
    """Add tail lamps at both ends of the quad `back` and headlamps at both ends of the quad `front`.

    `height` is the range of a tail lamp as fractions of the quad's height, `width` the fraction of its width.
    """
    glowing = "always" if braking else "night"
    for u in ((0.03, 0.03 + width), (0.97 - width, 0.97)):
        tail = part.add(panel(back, u, height), TAIL_ON if braking else TAIL_OFF, glowing)
        mesh.halo(tail.mean(axis=0), 0.55 if braking else 0.4, TAIL_ON, (-1.0, 0.0, 0.0), glowing)
        head = part.add(panel(front, u, (0.5, 0.85)), HEADLAMP, "night")
        mesh.halo(head.mean(axis=0), 0.7, HEADLAMP, (1.0, 0.0, 0.0))


def _car(mesh: Mesh, colour: Rgb, braking: bool) -> None:
    low = [(-2.2, 0.32), (-2.2, 0.9), (-2.1, 0.98), (1.2, 0.94), (2.12, 0.78), (2.2, 0.66), (2.2, 0.32)]
    body, left, right, rim = mesh.prism(low, 0.94, -0.94, colour, layer=1)
    back, front = rim[0], np.roll(rim[5], 2, axis=0)
    body.add(panel(back, (0, 1), (0, 0.26)), CHASSIS)
    body.add(panel(front, (0, 1), (0, 0.3)), CHASSIS)
    body.add(panel(back, (0.36, 0.64), (0.36, 0.58)), PLATE)
    _lamps(mesh, body, back, front, (0.62, 0.98), 0.22, braking)
    for side in (left, right):
        lower = np.stack([side[0], side[6], side[6] + [0, 0, 0.1], side[0] + [0, 0, 0.1]])
        body.add(lower, CHASSIS)
    cabin = [(-1.95, 0.94), (-1.45, 1.55), (0.1, 1.55), (1.05, 0.94)]
    top, left, right, rim = mesh.prism(cabin, 0.9, -0.9, colour, layer=2, top_inset=0.2)
    top.add(panel(rim[0], (0.06, 0.94), (0.1, 0.88)), GLASS)
    top.add(panel(rim[2], (0.05, 0.95), (0.1, 0.95)), GLASS)
    for side in (left, right):
        quad = side[[0, 3, 2, 1]]
        top.add(panel(quad, (0.1, 0.5), (0.14, 0.86)), GLASS)
        top.add(panel(quad, (0.54, 0.9), (0.14, 0.86)), GLASS)
    _wheels(mesh, (-1.35, 1.35), 0.94, 0.33)


def _van(mesh: Mesh, colour: Rgb, braking: bool) -> None:
    outline = [(-2.65, 0.35), (-2.6, 2.28), (-2.4, 2.35), (0.9, 2.35), (1.85, 1.3), (2.6, 1.1), (2.65, 0.35)]
    body, left, right, rim = mesh.prism(outline, 1.0, -1.0, colour, layer=1, top_inset=0.09)
    back, front = rim[0], np.roll(rim[5], 2, axis=0)
    for u in ((0.1, 0.47), (0.53, 0.9)):
        body.add(panel(back, u, (0.55, 0.88)), GLASS)
    body.add(panel(back, (0.49, 0.51), (0.12, 0.95)), scale_colour(colour, 0.6))
    body.add(panel(back, (0, 1), (0, 0.1)), CHASSIS)
    body.add(panel(back, (0.6, 0.82), (0.2, 0.28)), PLATE)
    body.add(panel(np.roll(rim[3], 2, axis=0), (0.06, 0.94), (0.08, 0.92)), GLASS)
    body.add(panel(front, (0.25, 0.75), (0.2, 0.5)), CHASSIS)
    _lamps(mesh, body, back, front, (0.2, 0.5), 0.09, braking)
    for side in (left, right):
        body.add(_on_side(side, (0.35, 1.5), (1.42, 2.02)), GLASS)
        body.add(_on_side(side, (0.2, 0.24), (0.55, 2.1)), scale_colour(colour, 0.65))
        body.add(_on_side(side, (-2.55, 2.55), (0.35, 0.5)), CHASSIS)
    _wheels(mesh, (-1.6, 1.7), 1.0, 0.36)


def _on_side(side: np.ndarray, x: tuple[float, float], z: tuple[float, float]) -> np.ndarray:
    """Return a window (4, 3) on the side (N, 3) of a prism, whose y follows the inclination of the side.

    Where the window reaches the windscreen, its upper front corner is moved back.
    """
    low, high = side[:, 2].min(), side[:, 2].max()
    y_low = side[np.argmin(side[:, 2]), 1]
    y_high = side[np.argmax(side[:, 2]), 1]

    def at(px: float, pz: float) -> list[float]:
        return [px, y_low + (pz - low) / (high - low) * (y_high - y_low), pz]

    slope = max(0.0, x[1] - 0.9) * 0.9
    return np.array([at(x[0], z[0]), at(x[1], z[0]), at(x[1] - slope, z[1]), at(x[0], z[1])])


def _truck(mesh: Mesh, colour: Rgb, braking: bool) -> None:
    mesh.box((-4.3, 4.1), (-0.7, 0.7), (0.6, 1.0), CHASSIS, layer=1)
    cargo, faces = mesh.box((-4.3, 2.0), (-1.24, 1.24), (1.05, 3.5), colour, layer=2)
    back, dark = faces["back"], scale_colour(colour, 0.62)
    cargo.add(panel(back, (0.485, 0.515), (0.03, 0.97)), dark)
    for u in ((0.2, 0.22), (0.36, 0.38), (0.62, 0.64), (0.78, 0.8)):
        cargo.add(panel(back, u, (0.06, 0.94)), CHROME)
    for edge in ((0, 0.035), (0.965, 1)):
        cargo.add(panel(back, edge, (0, 1)), dark)
    cargo.add(panel(back, (0, 1), (0.965, 1)), dark)
    for name in ("left", "right"):
        cargo.add(panel(faces[name], (0, 1), (0, 0.05)), dark)
        cargo.add(panel(faces[name], (0, 1), (0.95, 1)), dark)
        cargo.add(panel(faces[name], (0.12, 0.88), (0.4, 0.62)), scale_colour(colour, 1.25))
    cab_outline = [(2.15, 0.55), (2.15, 2.85), (3.9, 2.85), (4.25, 1.7), (4.3, 0.55)]
    cab, left, right, rim = mesh.prism(cab_outline, 1.2, -1.2, colour, layer=2)
    cab.add(panel(np.roll(rim[2], 2, axis=0), (0.06, 0.94), (0.1, 0.9)), GLASS)
    front = np.roll(rim[3], 2, axis=0)
    cab.add(panel(front, (0.2, 0.8), (0.35, 0.75)), CHASSIS)
    for side in (left, right):
        y = side[0, 1]
        cab.add(np.array([[2.6, y, 1.7], [4.1, y, 1.7], [3.8, y, 2.5], [2.6, y, 2.5]]), GLASS)
    bumper, faces = mesh.box((-4.3, -4.2), (-1.2, 1.2), (0.55, 0.85), (222, 222, 218), layer=2)
    for i in range(4):
        bumper.add(panel(faces["back"], (0.14 + i * 0.2, 0.24 + i * 0.2), (0, 1)), (214, 48, 40))
    _lamps(mesh, bumper, faces["back"], front, (0.05, 0.95), 0.1, braking)
    _wheels(mesh, (-3.2, -2.1, 3.1), 1.22, 0.5, tyre_width=0.5)


def _bus(mesh: Mesh, colour: Rgb, braking: bool) -> None:
    body, faces = mesh.box((-5.5, 5.5), (-1.28, 1.28), (0.35, 3.2), colour, layer=1)
    back, front, dark = faces["back"], faces["front"], scale_colour(colour, 0.62)
    body.add(panel(back, (0.07, 0.93), (0.47, 0.84)), GLASS, "night", (150, 136, 100))
    body.add(panel(back, (0.12, 0.3), (0.5, 0.82)), scale_colour(GLASS, 1.5))
    body.add(panel(back, (0.3, 0.7), (0.88, 0.96)), SIGN, "always")
    body.add(panel(back, (0.18, 0.82), (0.16, 0.38)), dark)
    body.add(panel(back, (0, 1), (0, 0.07)), CHASSIS)
    body.add(panel(front, (0.05, 0.95), (0.36, 0.84)), GLASS)
    body.add(panel(front, (0.2, 0.8), (0.87, 0.97)), SIGN, "always")
    _lamps(mesh, body, back, np.stack(panel(front, (0, 1), (0, 0.28))), (0.14, 0.42), 0.11, braking)
    for name in ("left", "right"):
        for i in range(7):
            window = panel(faces[name], (0.04 + i * 0.132, 0.155 + i * 0.132), (0.45, 0.84))
            body.add(window, GLASS)
            body.add(panel(window, (0.06, 0.94), (0.3, 0.95)), GLASS, "night", LIT_PANE)
        body.add(panel(faces[name], (0, 1), (0.24, 0.3)), scale_colour(colour, 1.3))
        body.add(panel(faces[name], (0, 1), (0, 0.06)), CHASSIS)
    _wheels(mesh, (-3.2, 3.4), 1.28, 0.48, tyre_width=0.4)


def _motorcycle(mesh: Mesh, colour: Rgb, braking: bool) -> None:
    for x in (-0.72, 0.72):
        ring = [(float(px), float(pz)) for px, _, pz in disc((x, 0, 0.34), 0.34, "y")]
        wheel, *_ = mesh.prism(ring, 0.09, -0.09, TYRE, layer=0)
        for y in (-0.095, 0.095):
            wheel.add(disc((x, y, 0.34), 0.2, "y"), HUB)
    mesh.prism([(-0.5, 0.35), (-0.5, 0.7), (0.5, 0.75), (0.55, 0.4)], 0.14, -0.14, CHASSIS, layer=1)
    tail, _, _, rim = mesh.prism(
        [(-0.95, 0.72), (-0.98, 0.98), (0.6, 0.98), (0.75, 0.72)], 0.25, -0.25, colour, layer=2
    )
    glowing = "always" if braking else "night"
    lamp = tail.add(panel(rim[0], (0.2, 0.8), (0.25, 0.75)), TAIL_ON if braking else TAIL_OFF, glowing)
    mesh.halo(lamp.mean(axis=0), 0.4, TAIL_ON, (-1.0, 0.0, 0.0), glowing)
    for y in (-0.3, 0.3):
        mesh.box((-0.25, 0.35), (y - 0.1, y + 0.1), (0.42, 0.9), (52, 56, 70), layer=2)
    torso = [(-0.42, 0.9), (-0.3, 1.48), (0.0, 1.5), (0.02, 0.9)]
    mesh.prism(torso, 0.27, -0.27, colour, layer=3, top_inset=0.03)
    for y in (-0.36, 0.36):
        mesh.prism(
            [(-0.2, 1.2), (-0.15, 1.42), (0.55, 1.1), (0.55, 0.98)], y + 0.08, y - 0.08, scale_colour(colour, 0.85), 3
        )
    mesh.box((0.55, 0.65), (-0.4, 0.4), (0.98, 1.06), CHROME, layer=3)
    mesh.balls(4, ((-0.1, 0.0, 1.68), 0.17, scale_colour(colour, 0.9)))
    visor = Part(np.array([-0.1, 0.0, 1.68]), layer=5)
    visor.add(disc((0.05, 0.0, 1.68), 0.12, "x"), GLASS)
    mesh.parts.append(visor)
    mesh.halo((0.8, 0.0, 0.85), 0.5, HEADLAMP, (1.0, 0.0, 0.0))


def footprint(kind: VehicleKind) -> tuple[float, float]:
    """Return half the length and half the width, in metres, of a vehicle's shadow."""
    length, width, _ = VEHICLE_SIZES[kind]
    return length / 2 * 0.97, width / 2 * 1.02
