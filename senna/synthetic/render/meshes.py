"""Meshes of convex solids with flat panels on them, from which vehicles, people and roadside objects are built.

A mesh is in its own frame: metres, x forward, y left, z up, standing on z = 0. Colours are RGB from 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

Rgb = tuple[int, int, int]
Glowing = Literal["never", "night", "always"]


@dataclass(frozen=True)
class Face:
    """A flat polygon.

    Attributes:
        points: (N, 3) corners.
        normal: (3,) unit vector that points outwards.
        glowing: when the face shines in the colour `glow` instead of showing the shaded `colour`.
    """

    points: np.ndarray
    normal: np.ndarray
    colour: Rgb
    glowing: Glowing
    glow: Rgb


@dataclass(frozen=True)
class Ball:
    """A sphere, drawn as a disc."""

    centre: np.ndarray
    radius: float
    colour: Rgb


@dataclass(frozen=True)
class Halo:
    """A soft glow around `centre`, visible from the side to which `normal` points; zeros make it visible from all sides."""

    centre: np.ndarray
    radius: float
    colour: Rgb
    normal: np.ndarray
    glowing: Glowing = "night"


@dataclass
class Part:
    """A convex piece of a mesh. Parts are drawn in the order of `layer`, and from far to near within a layer."""

    centre: np.ndarray
    layer: int = 0
    faces: list[Face] = field(default_factory=list)
    balls: list[Ball] = field(default_factory=list)

    def add(self, points: np.ndarray, colour: Rgb, glowing: Glowing = "never", glow: Rgb | None = None) -> np.ndarray:
        """Add a face, or a panel on a face, with its normal away from the part's centre. Returns its points (N, 3)."""
        points = np.asarray(points, dtype=float)
        normal = np.cross(points[1] - points[0], points[2] - points[0])
        normal = normal / np.linalg.norm(normal)
        outward = normal if normal @ (points.mean(axis=0) - self.centre) >= 0 else -normal
        self.faces.append(Face(points, outward, colour, glowing, glow or colour))
        return points


@dataclass(frozen=True)
class MeshArrays:
    """The F faces, P parts and B balls of a mesh as arrays. Corners follow each other: face i has ``corners[i]`` of them."""

    points: np.ndarray  # (V, 3)
    corners: np.ndarray  # (F,)
    centres: np.ndarray  # (F, 3)
    normals: np.ndarray  # (F, 3)
    colours: np.ndarray  # (F, 3)
    glows: np.ndarray  # (F, 3)
    glows_by_day: np.ndarray  # (F,) bool
    glows_at_night: np.ndarray  # (F,) bool
    face_parts: np.ndarray  # (F,) index of the part
    part_centres: np.ndarray  # (P, 3)
    part_layers: np.ndarray  # (P,)
    ball_centres: np.ndarray  # (B, 3)
    ball_radii: np.ndarray  # (B,)
    ball_colours: np.ndarray  # (B, 3)
    ball_parts: np.ndarray  # (B,) index of the part


@dataclass
class Mesh:
    """An object in its own frame."""

    parts: list[Part] = field(default_factory=list)
    halos: list[Halo] = field(default_factory=list)

    @cached_property
    def arrays(self) -> MeshArrays:
        """The faces and balls of all parts, in order. They are computed once, so add nothing to the mesh after reading them."""
        faces = [face for part in self.parts for face in part.faces]
        balls = [ball for part in self.parts for ball in part.balls]
        return MeshArrays(
            points=np.concatenate([face.points for face in faces]),
            corners=np.array([len(face.points) for face in faces]),
            centres=np.stack([face.points.mean(axis=0) for face in faces]),
            normals=np.stack([face.normal for face in faces]),
            colours=np.array([face.colour for face in faces], dtype=float),
            glows=np.array([face.glow for face in faces], dtype=float),
            glows_by_day=np.array([face.glowing == "always" for face in faces]),
            glows_at_night=np.array([face.glowing != "never" for face in faces]),
            face_parts=np.repeat(np.arange(len(self.parts)), [len(part.faces) for part in self.parts]),
            part_centres=np.stack([part.centre for part in self.parts]),
            part_layers=np.array([part.layer for part in self.parts]),
            ball_centres=np.array([ball.centre for ball in balls]).reshape(-1, 3),
            ball_radii=np.array([ball.radius for ball in balls]),
            ball_colours=np.array([ball.colour for ball in balls], dtype=float).reshape(-1, 3),
            ball_parts=np.repeat(np.arange(len(self.parts)), [len(part.balls) for part in self.parts]),
        )

    def halo(
        self,
        centre: tuple[float, float, float] | np.ndarray,
        radius: float,
        colour: Rgb,
        normal: tuple[float, float, float] = (0.0, 0.0, 0.0),
        glowing: Glowing = "night",
    ) -> None:
        """Add a soft glow."""
        self.halos.append(Halo(np.asarray(centre, dtype=float), radius, colour, np.asarray(normal), glowing))

    def balls(self, layer: int, *balls: tuple[tuple[float, float, float], float, Rgb]) -> None:
        """Add a part of spheres (centre, radius, colour), which are drawn in this order."""
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
        """Add a prism: a convex profile in the x-z plane, extruded along y.

        Args:
            profile: N points (x, z).
            left, right: the y of the two sides.
            colour: the colour of the sides.
            top_inset: metres by which the highest points of the sides are moved inwards, as in the cabin of a car.
            rim_colour: the colour of the faces between the sides; default: `colour`.

        Returns:
            the part, its left side (N, 3), its right side (N, 3), and the N quads (4, 3) of the rim. Quad i joins the
            profile points i and i + 1 with corners in the order right, left, left, right.
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
        """Add a box that spans the ranges `x`, `y` and `z`.

        Returns:
            the part and its four vertical faces (4, 3) under "back", "front", "left" and "right", with corners in the
            order bottom left, bottom right, top right, top left, as seen from outside.
        """
        part = Part(np.array([np.mean(x), np.mean(y), np.mean(z)]), layer)
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        faces = {
            "back": vertical_quad((x0, y1), (x0, y0), z),
            "front": vertical_quad((x1, y0), (x1, y1), z),
            "left": vertical_quad((x1, y1), (x0, y1), z),
            "right": vertical_quad((x0, y0), (x1, y0), z),
        }
        for points in faces.values():
            part.add(points, colour)
        for height in (z0, z1):
            part.add(np.array([[x0, y0, height], [x1, y0, height], [x1, y1, height], [x0, y1, height]]), colour)
        self.parts.append(part)
        return part, faces


def vertical_quad(left: tuple[float, float], right: tuple[float, float], z: tuple[float, float]) -> np.ndarray:
    """Return a vertical quad (4, 3) above the line from the ground point `left` to `right`, between two heights `z`.

    The corners are bottom left, bottom right, top right, top left.
    """
    return np.array([[*left, z[0]], [*right, z[0]], [*right, z[1]], [*left, z[1]]], dtype=float)


def panel(quad: np.ndarray, u: tuple[float, float], v: tuple[float, float]) -> np.ndarray:
    """Return the part (4, 3) of a quad (4, 3) between two fractions `u` of its width and two fractions `v` of its height."""

    def at(across: float, up: float) -> np.ndarray:
        low = quad[0] + across * (quad[1] - quad[0])
        high = quad[3] + across * (quad[2] - quad[3])
        return low + up * (high - low)

    return np.stack([at(u[0], v[0]), at(u[1], v[0]), at(u[1], v[1]), at(u[0], v[1])])


def scale_colour(colour: Rgb, factor: float) -> Rgb:
    """Return a colour multiplied by a factor; a factor above 1 makes it lighter."""
    red, green, blue = (max(0, min(255, round(channel * factor))) for channel in colour)
    return red, green, blue


def disc(centre: tuple[float, float, float], radius: float, axis: Literal["x", "y"], corners: int = 14) -> np.ndarray:
    """Return a vertical regular polygon (corners, 3) whose normal is along `axis`."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    across, up, flat = radius * np.cos(angles), radius * np.sin(angles), np.zeros(corners)
    offsets = (flat, across, up) if axis == "x" else (across, flat, up)
    return np.stack(offsets, axis=1) + np.asarray(centre, dtype=float)
