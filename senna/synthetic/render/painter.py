"""The renderer: draw a scene through a camera with the painter's algorithm, from far to near.

The background is drawn first, then the flat ground, then all objects in the order of their distance. Frames and units are
those of `senna.synthetic.render.camera`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from senna.synthetic.render.atmosphere import Lighting, paint_backdrop
from senna.synthetic.render.camera import NEAR, Camera, clip_near, object_to_world
from senna.synthetic.render.meshes import Halo, Mesh
from senna.synthetic.render.people import cyclist_mesh, walker_mesh
from senna.synthetic.render.road import VIEW_DISTANCE, ground_quads
from senna.synthetic.render.roadside import house_mesh, street_lamp_mesh, traffic_light_mesh, tree_mesh
from senna.synthetic.render.scene import Scene
from senna.synthetic.render.vehicles import vehicle_mesh

HALO_COSINE = 0.35  # a halo is visible where the cosine of the angle to its normal is larger
OBJECT_RADIUS = 16.0  # metres; no object extends further from its origin


_Shape = tuple[list[float], int]  # pixels (u, v, u, v, ...) and colour, see `_to_fills`


class _Object(NamedTuple):
    """A mesh with its pose in the world."""

    mesh: Mesh
    x: float
    y: float
    yaw: float
    scale: float = 1.0

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """Transform points (N, 3) of the mesh to the world."""
        return object_to_world(points, self.x, self.y, self.yaw, self.scale)

    def rotate(self, normals: np.ndarray) -> np.ndarray:
        """Transform normals (N, 3) of the mesh to the world."""
        return object_to_world(normals, 0.0, 0.0, self.yaw)


class _Objects:
    """The arrays of several objects, one after the other, in the world."""

    def __init__(self, objects: Sequence[_Object]):
        self.meshes = [thing.mesh.arrays for thing in objects]
        yaws = np.array([thing.yaw for thing in objects])
        self.position = np.array([(thing.x, thing.y, 0.0) for thing in objects])
        self.scale = np.array([thing.scale for thing in objects])
        self.cos, self.sin = np.cos(yaws), np.sin(yaws)

    def owners(self, name: str) -> np.ndarray:
        """Return for each row of an array of the meshes the index of its object."""
        return np.repeat(np.arange(len(self.meshes)), [len(getattr(mesh, name)) for mesh in self.meshes])

    def all(self, name: str) -> np.ndarray:
        """Return an array of all meshes."""
        return np.concatenate([getattr(mesh, name) for mesh in self.meshes])

    def parts(self, name: str) -> np.ndarray:
        """Return an array of part indices, counted over all objects."""
        counts = [len(mesh.part_layers) for mesh in self.meshes]
        return self.all(name) + (np.cumsum(counts) - counts)[self.owners(name)]

    def directions(self, name: str) -> np.ndarray:
        """Return an array of vectors (N, 3) as directions in the world."""
        owner, vectors = self.owners(name), self.all(name)
        cos, sin = self.cos[owner], self.sin[owner]
        x, y = vectors[:, 0], vectors[:, 1]
        return np.stack([x * cos - y * sin, x * sin + y * cos, vectors[:, 2]], axis=1)

    def points(self, name: str) -> np.ndarray:
        """Return an array of vectors (N, 3) as points in the world."""
        owner = self.owners(name)
        return self.directions(name) * self.scale[owner, None] + self.position[owner]


def paint(scene: Scene, camera: Camera, supersampling: int = 2) -> Image.Image:
    """Render a scene as an RGB image of `camera.size`.

    Args:
        supersampling: the image is drawn this many times as large and averaged down.
    """
    view = camera.scaled(supersampling)
    renderer = _Renderer(scene, view)
    renderer.draw_ground(scene)
    if objects := _visible_objects(scene, view):
        renderer.draw_objects(objects)
    return renderer.canvas if supersampling == 1 else renderer.canvas.reduce(supersampling)


def _visible_objects(scene: Scene, camera: Camera) -> list[_Object]:
    """Return the objects that may be in the image, the farthest first."""
    objects = _all_objects(scene)
    positions = np.array([(thing.x, thing.y, 0.0) for thing in objects]).reshape(-1, 3)
    offsets = positions - camera.position
    distances = np.hypot(offsets[:, 0], offsets[:, 1])
    shown = (distances < VIEW_DISTANCE) & (offsets @ camera.forward > -12) & camera.may_show(positions, OBJECT_RADIUS)
    order = np.argsort(-distances, kind="stable")
    return [objects[index] for index in order[shown[order]].tolist()]


@lru_cache(maxsize=2)
def _all_objects(scene: Scene) -> list[_Object]:
    """Return the objects of a scene. Cached for the other cameras."""
    objects = [_Object(vehicle_mesh(v.kind, v.colour, v.braking), v.x, v.y, v.yaw) for v in scene.vehicles]
    objects += [
        _Object(traffic_light_mesh(t.state, t.reach, t.heads, t.spacing), t.x, t.y, t.yaw) for t in scene.lights
    ]
    objects += [_Object(tree_mesh(t.shape, t.tone), t.x, t.y, 0.0, t.height) for t in scene.trees]
    objects += [_Object(walker_mesh(w.tone, w.stride), w.x, w.y, w.yaw) for w in scene.walkers]
    objects += [_Object(cyclist_mesh(c.tone), c.x, c.y, c.yaw) for c in scene.cyclists]
    objects += [_Object(house_mesh(h.tone, h.storeys), h.x, h.y, h.yaw) for h in scene.houses]
    objects += [_Object(street_lamp_mesh(), lamp.x, lamp.y, lamp.yaw) for lamp in scene.lamps]
    return objects


class _Renderer:
    """A canvas with its camera and its light. The background is drawn when it is created."""

    def __init__(self, scene: Scene, camera: Camera):
        self.camera = camera
        self.lighting = Lighting(scene, camera)
        self.is_night = self.lighting.atmosphere.is_night
        self.canvas = paint_backdrop(scene, camera, self.lighting)
        self.draw = ImageDraw.Draw(self.canvas)

    def draw_ground(self, scene: Scene) -> None:
        quads, centres, colours = ground_quads(scene, self.camera, self.is_night)
        shaded = self.lighting.shade(colours, np.broadcast_to([0.0, 0.0, 1.0], centres.shape), centres)
        points = self.camera.to_camera(quads).reshape(-1, 3)
        polygon = self.draw.polygon
        for outline, fill in zip(self.outlines(points, np.full(len(quads), 4)), _to_fills(shaded), strict=True):
            if outline:
                polygon(outline, fill)

    def draw_objects(self, objects: Sequence[_Object]) -> None:
        """Draw objects in this order, each with its parts by layer and from far to near, and then its halos."""
        arrays = _Objects(objects)
        owners = arrays.owners("part_layers")
        distances = np.linalg.norm(arrays.points("part_centres") - self.camera.position, axis=1)
        order = np.lexsort((-distances, arrays.all("part_layers"), owners))
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        faces, face_bounds = self.faces(arrays, rank)
        balls, ball_bounds = self.balls(arrays, rank)
        last = {int(part): thing for part, thing in zip(np.cumsum(np.bincount(owners)) - 1, objects, strict=True)}
        for part in range(len(order)):
            for outline, fill in faces[face_bounds[part] : face_bounds[part + 1]]:
                if outline:
                    self.draw.polygon(outline, fill)
            for outline, fill in balls[ball_bounds[part] : ball_bounds[part + 1]]:
                self.draw.ellipse(outline, fill=fill)
            if part in last:
                for halo in last[part].mesh.halos:
                    if self.is_night or halo.glowing == "always":
                        self.draw_halo(last[part], halo)

    def faces(self, objects: _Objects, rank: np.ndarray) -> tuple[list[_Shape], list[int]]:
        """Return the outlines and colours of the faces towards the camera, ordered by the rank of their part.

        Args:
            rank: the place of each part in the drawing order.

        Returns:
            The faces, and bounds: those of the part at place i are from ``bounds[i]`` to ``bounds[i + 1]``.
        """
        centres, normals = objects.points("centres"), objects.directions("normals")
        facing = np.flatnonzero(((self.camera.position - centres) * normals).sum(axis=1) > 0)
        ranks = rank[objects.parts("face_parts")[facing]]
        order = np.argsort(ranks, kind="stable")
        shown = facing[order]
        glows = objects.all("glows_at_night" if self.is_night else "glows_by_day")[shown]
        shaded = self.lighting.shade(objects.all("colours")[shown], normals[shown], centres[shown])
        fills = _to_fills(np.where(glows[:, None], objects.all("glows")[shown], shaded))
        corners = objects.all("corners")
        first, count = (np.cumsum(corners) - corners)[shown], corners[shown]
        rows = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
        outlines = self.outlines(self.camera.to_camera(objects.points("points")[rows]), count)
        return list(zip(outlines, fills, strict=True)), _bounds(ranks[order], len(rank))

    def balls(self, objects: _Objects, rank: np.ndarray) -> tuple[list[_Shape], list[int]]:
        """Return the bounding boxes and colours of the balls before the camera, ordered as in `faces`."""
        centres, parts = objects.points("ball_centres"), objects.parts("ball_parts")
        radii = objects.all("ball_radii") * objects.scale[objects.owners("ball_radii")]
        to_eye = self.camera.position - centres
        to_eye /= np.linalg.norm(to_eye, axis=1, keepdims=True)
        shaded = self.lighting.shade(objects.all("ball_colours"), to_eye * 0.6 + [0, 0, 0.4], centres)
        in_camera = self.camera.to_camera(centres)
        ahead = np.flatnonzero(in_camera[:, 2] > NEAR + radii)
        order = ahead[np.argsort(rank[parts[ahead]], kind="stable")]
        pixels, depth = self.camera.to_pixels(in_camera[order]), in_camera[order, 2]
        radius = (radii[order] / depth * self.camera.focal)[:, None]
        boxes = np.concatenate([pixels - radius, pixels + radius], axis=1).tolist()
        return list(zip(boxes, _to_fills(shaded[order]), strict=True)), _bounds(rank[parts[order]], len(rank))

    def outlines(self, points: np.ndarray, corners: np.ndarray) -> list[list[float]]:
        """Project polygons, and return their pixels as (u, v, u, v, ...); an empty list for one that is behind the camera.

        Args:
            points: (V, 3) in camera axes, the corners of one polygon after those of another.
            corners: (N,), the number of corners of each polygon.
        """
        if not len(corners):
            return []
        ends = np.cumsum(corners)
        starts = ends - corners
        is_ahead = np.minimum.reduceat(points[:, 2], starts) >= NEAR
        is_behind = np.maximum.reduceat(points[:, 2], starts) < NEAR
        pixels = self.camera.to_pixels(np.where(points[:, 2:] >= NEAR, points, [0.0, 0.0, NEAR])).ravel().tolist()
        spans = zip(is_ahead.tolist(), (2 * starts).tolist(), (2 * ends).tolist(), strict=True)
        outlines = [pixels[start:end] if ahead else [] for ahead, start, end in spans]
        for index in np.flatnonzero(~is_ahead & ~is_behind).tolist():
            clipped = clip_near(points[starts[index] : ends[index]])
            if len(clipped) > 2:
                outlines[index] = self.camera.to_pixels(clipped).ravel().tolist()
        return outlines

    def draw_halo(self, thing: _Object, halo: Halo) -> None:
        centre, normal = thing.to_world(halo.centre[None])[0], thing.rotate(halo.normal[None])[0]
        in_camera, to_eye = self.camera.to_camera(centre), self.camera.position - centre
        if in_camera[2] < 1.0 or (normal.any() and normal @ to_eye <= HALO_COSINE * np.linalg.norm(to_eye)):
            return
        u, v = self.camera.to_pixels(in_camera)
        radius = math.ceil(halo.radius * thing.scale / in_camera[2] * self.camera.focal)
        width, height = self.camera.size
        if radius > 1 and -radius < u < width + radius and -radius < v < height + radius:
            self.canvas.paste(halo.colour, (round(u) - radius, round(v) - radius), _halo_mask(radius, self.is_night))


@lru_cache(maxsize=256)
def _halo_mask(radius: int, is_night: bool) -> Image.Image:
    """Return a round mask with soft edges and sides of 2 * radius + 1 pixels."""
    offsets = np.arange(-radius, radius + 1) / radius
    distance = np.sqrt(offsets[:, None] ** 2 + offsets**2)
    peak = 170 if is_night else 140
    return Image.fromarray((peak * np.clip(1 - distance, 0, 1) ** 1.6).astype(np.uint8))


def _bounds(ranks: np.ndarray, count: int) -> list[int]:
    """Return for sorted `ranks` below `count` where each of them starts, and the end: `count` + 1 indices."""
    return np.searchsorted(ranks, np.arange(count + 1)).tolist()


def _to_fills(colours: np.ndarray) -> list[int]:
    """Return colours (N, 3) as the integers that Pillow takes for RGB: red in the lowest eight bits."""
    red, green, blue = colours.clip(0, 255).astype(int).T
    return (red | green << 8 | blue << 16).tolist()
