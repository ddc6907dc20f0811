"""Convex solids with flat panels on them: the shapes that vehicles and the roadside are built from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

Rgb = tuple[int, int, int]
Glowing = Literal["never", "night", "always"]


@dataclass(frozen=True)
class Face:
    """A flat polygon: `points` (N, 3), its outward `normal` (3,), and when it shines, in the colour `glow`."""

    points: np.ndarray
    normal: np.ndarray
    colour: Rgb
    glowing: Glowing
    glow: Rgb


@dataclass(frozen=True)
class Ball:
    """A sphere that is painted as a disc."""

    centre: np.ndarray
    radius: float
    colour: Rgb


@dataclass(frozen=True)
class Halo:
    """A soft light around `centre`, seen from the side that `normal` points to (zeros: from everywhere)."""

    centre: np.ndarray
    radius: float
    colour: Rgb
    normal: np.ndarray
    glowing: Glowing = "night"


@dataclass
class Part:
    """A convex piece of a mesh. Parts are painted by `layer`, and within a layer the farther ones first."""

    centre: np.ndarray
    layer: int = 0
    faces: list[Face] = field(default_factory=list)
    balls: list[Ball] = field(default_factory=list)

    def add(self, points: np.ndarray, colour: Rgb, glowing: Glowing = "never", glow: Rgb | None = None) -> np.ndarray:
        """Add a face or a panel on one; turns it so that it looks away from the part's centre. Returns its points."""
        points = np.asarray(points, dtype=float)
        normal = np.cross(points[1] - points[0], points[2] - points[0])
        normal = normal / np.linalg.norm(normal)
        outward = normal if normal @ (points.mean(axis=0) - self.centre) >= 0 else -normal
        self.faces.append(Face(points, outward, colour, glowing, glow or colour))
        return points


@dataclass(frozen=True)
class FaceArrays:
    """The F faces of a mesh as arrays: face i is points[spans[i][0]:spans[i][1]]."""

    points: np.ndarray  # (V, 3)
    spans: list[tuple[int, int]]
    centres: np.ndarray  # (F, 3)
    normals: np.ndarray  # (F, 3)
    colours: np.ndarray  # (F, 3)
    glows: np.ndarray  # (F, 3)
    always: np.ndarray  # (F,) bool: shines by day too
    at_night: np.ndarray  # (F,) bool


@dataclass
class Mesh:
    """A thing in its own frame (x forward, y left, z up, standing on z = 0)."""

    parts: list[Part] = field(default_factory=list)
    halos: list[Halo] = field(default_factory=list)

    @cached_property
    def arrays(self) -> FaceArrays:
        """All faces of all parts, in order. Reading it ends the building: what is added later is not in it."""
        faces = [face for part in self.parts for face in part.faces]
        ends = np.cumsum([len(face.points) for face in faces]).tolist()
        return FaceArrays(
            points=np.concatenate([face.points for face in faces]),
            spans=list(zip([0, *ends[:-1]], ends, strict=True)),
            centres=np.stack([face.points.mean(axis=0) for face in faces]),
            normals=np.stack([face.normal for face in faces]),
            colours=np.array([face.colour for face in faces], dtype=float),
            glows=np.array([face.glow for face in faces], dtype=float),
            always=np.array([face.glowing == "always" for face in faces]),
            at_night=np.array([face.glowing != "never" for face in faces]),
        )

    def halo(
        self,
        centre: tuple[float, float, float] | np.ndarray,
        radius: float,
        colour: Rgb,
        normal: tuple[float, float, float] = (0.0, 0.0, 0.0),
        glowing: Glowing = "night",
    ) -> None:
        """Add a soft light."""
        self.halos.append(Halo(np.asarray(centre, dtype=float), radius, colour, np.asarray(normal), glowing))

    def balls(self, layer: int, *balls: tuple[tuple[float, float, float], float, Rgb]) -> None:
        """Add a part of spheres, each (centre, radius, colour), painted in this order."""
        centres = np.array([centre for centre, _, _ in balls], dtype=float)
        part = Part(centres.mean(axis=0), layer)
        part.balls = [Ball(c, radius, colour) for c, (_, radius, colour) in zip(centres, balls, strict=True)]
        self.parts.append(part)

    def prism(
        self,
        profile: list[tuple[float, float]],
        left: float,
        right: float,
        colour: Rgb,
        layer: int = 0,
        top_inset: float = 0.0,
        rim_colour: Rgb | None = None,
    ) -> tuple[Part, np.ndarray, np.ndarray, list[np.ndarray]]:
        """Add a convex side profile of (x, z) pulled from y = `right` to y = `left`.

        `top_inset` metres draw the highest points of the sides in, as a car's cabin does. `rim_colour` paints the
        faces between the sides. Returns the part, its left and right side (N, 3) and the rim's quads; quad i joins
        profile points i and i + 1 and runs right, left, left, right.
        """
        outline = np.array(profile, dtype=float)
        rise = (outline[:, 1] - outline[:, 1].min()) / np.ptp(outline[:, 1]) * top_inset
        sides = [np.stack([outline[:, 0], y, outline[:, 1]], axis=1) for y in (left - rise, right + rise)]
        part = Part(np.concatenate(sides).mean(axis=0), layer)
        rim = []
        for i in range(len(outline)):
            j = (i + 1) % len(outline)
            rim.append(part.add(np.stack([sides[1][i], sides[0][i], sides[0][j], sides[1][j]]), rim_colour or colour))
        for side in sides:
            part.add(side, colour)
        self.parts.append(part)
        return part, sides[0], sides[1], rim

    def box(
        self, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], colour: Rgb, layer: int = 0
    ) -> tuple[Part, dict[str, np.ndarray]]:
        """Add a box. Returns the part and its upright faces by name (back, front, left, right).

        Each face runs bottom left, bottom right, top right, top left, as seen by who looks at it from outside.
        """
        part = Part(np.array([np.mean(x), np.mean(y), np.mean(z)]), layer)
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        faces = {
            "back": upright((x0, y1), (x0, y0), z),
            "front": upright((x1, y0), (x1, y1), z),
            "left": upright((x1, y1), (x0, y1), z),
            "right": upright((x0, y0), (x1, y0), z),
        }
        for points in faces.values():
            part.add(points, colour)
        for height in (z0, z1):
            part.add(np.array([[x0, y0, height], [x1, y0, height], [x1, y1, height], [x0, y1, height]]), colour)
        self.parts.append(part)
        return part, faces


def upright(left: tuple[float, float], right: tuple[float, float], z: tuple[float, float]) -> np.ndarray:
    """A vertical quad (4, 3) from the ground point `left` to `right`: bottom left, bottom right, top right, top left."""
    return np.array([[*left, z[0]], [*right, z[0]], [*right, z[1]], [*left, z[1]]], dtype=float)


def panel(quad: np.ndarray, u: tuple[float, float], v: tuple[float, float]) -> np.ndarray:
    """The part of a quad (4, 3) between shares `u` of its width and `v` of its height, as a quad (4, 3)."""

    def at(u_share: float, v_share: float) -> np.ndarray:
        low = quad[0] + u_share * (quad[1] - quad[0])
        high = quad[3] + u_share * (quad[2] - quad[3])
        return low + v_share * (high - low)

    return np.stack([at(u[0], v[0]), at(u[1], v[0]), at(u[1], v[1]), at(u[0], v[1])])


def disc(centre: tuple[float, float, float], radius: float, axis: Literal["x", "y"], corners: int = 14) -> np.ndarray:
    """A regular polygon (corners, 3) that stands upright, facing along `axis`."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    across, up, flat = radius * np.cos(angles), radius * np.sin(angles), np.zeros(corners)
    offsets = (flat, across, up) if axis == "x" else (across, flat, up)
    return np.stack(offsets, axis=1) + np.asarray(centre, dtype=float)
