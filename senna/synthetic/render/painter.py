"""The renderer: draw a scene through a camera with the painter's algorithm, from far to near.

The background is drawn first, then the flat ground, then all objects in the order of their distance. Frames and units are
those of `senna.synthetic.render.camera`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from senna.synthetic.render.atmosphere import Lighting, paint_backdrop
from senna.synthetic.render.camera import NEAR, Camera, clip_near, object_to_world
from senna.synthetic.render.meshes import Halo, Mesh, Part, Rgb
from senna.synthetic.render.people import cyclist_mesh, walker_mesh
from senna.synthetic.render.road import VIEW_DISTANCE, ground_quads
from senna.synthetic.render.roadside import house_mesh, street_lamp_mesh, traffic_light_mesh, tree_mesh
from senna.synthetic.render.scene import Scene
from senna.synthetic.render.vehicles import vehicle_mesh

HALO_COSINE = 0.35  # a halo is visible where the cosine of the angle to its normal is larger
OBJECT_RADIUS = 16.0  # metres; no object extends further from its origin


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

    def distance(self, camera: Camera) -> float:
        """Return the horizontal distance to the camera in metres."""
        return math.hypot(self.x - camera.position[0], self.y - camera.position[1])

    def depth(self, camera: Camera) -> float:
        """Return the distance to the camera along the viewing direction in metres."""
        return float((np.array([self.x, self.y, 0.0]) - camera.position) @ camera.forward)


def paint(scene: Scene, camera: Camera, supersampling: int = 2) -> Image.Image:
    """Render a scene as an RGB image of `camera.size`.

    Args:
        supersampling: the image is drawn this many times as large and averaged down.
    """
    view = camera.scaled(supersampling)
    renderer = _Renderer(scene, view)
    renderer.draw_ground(scene)
    for thing in sorted(_visible_objects(scene, view), key=lambda thing: -thing.distance(view)):
        renderer.draw_object(thing)
    return renderer.canvas if supersampling == 1 else renderer.canvas.reduce(supersampling)


def _visible_objects(scene: Scene, camera: Camera) -> list[_Object]:
    """Return the objects that may be in the image."""
    objects = [_Object(vehicle_mesh(v.kind, v.colour, v.braking), v.x, v.y, v.yaw) for v in scene.vehicles]
    objects += [
        _Object(traffic_light_mesh(t.state, t.reach, t.heads, t.spacing), t.x, t.y, t.yaw) for t in scene.lights
    ]
    objects += [_Object(tree_mesh(t.shape, t.tone), t.x, t.y, 0.0, t.height) for t in scene.trees]
    objects += [_Object(walker_mesh(w.tone, w.stride), w.x, w.y, w.yaw) for w in scene.walkers]
    objects += [_Object(cyclist_mesh(c.tone), c.x, c.y, c.yaw) for c in scene.cyclists]
    objects += [_Object(house_mesh(h.tone, h.storeys), h.x, h.y, h.yaw) for h in scene.houses]
    objects += [_Object(street_lamp_mesh(), lamp.x, lamp.y, lamp.yaw) for lamp in scene.lamps]
    near = [thing for thing in objects if thing.distance(camera) < VIEW_DISTANCE and thing.depth(camera) > -12]
    positions = np.array([(thing.x, thing.y, 0.0) for thing in near]).reshape(-1, 3)
    return [thing for thing, shown in zip(near, camera.may_show(positions, OBJECT_RADIUS), strict=True) if shown]


class _Renderer:
    """A canvas with its camera and its light. The background is drawn when it is created."""

    def __init__(self, scene: Scene, camera: Camera):
        self.camera = camera
        self.lighting = Lighting(scene, camera)
        self.is_night = self.lighting.atmosphere.is_night
        self.canvas = paint_backdrop(scene, camera, self.lighting)
        self.draw = ImageDraw.Draw(self.canvas)

    def draw_ground(self, scene: Scene) -> None:
        quads, colours = ground_quads(scene, self.camera, self.is_night)
        if not len(quads):
            return
        centres = quads.mean(axis=1)
        shaded = self.lighting.shade(colours, np.broadcast_to([0.0, 0.0, 1.0], centres.shape), centres)
        points = self.camera.to_camera(quads).reshape(-1, 3)
        self.draw_polygons(points, np.arange(0, 4 * len(quads) + 1, 4), _to_fills(shaded), range(len(quads)))

    def draw_object(self, thing: _Object) -> None:
        mesh, faces = thing.mesh, thing.mesh.arrays
        centres, normals = thing.to_world(faces.centres), thing.rotate(faces.normals)
        is_facing = ((self.camera.position - centres) * normals).sum(axis=1) > 0
        glows = faces.glows_at_night if self.is_night else faces.glows_by_day
        shaded = self.lighting.shade(faces.colours, normals, centres)
        fills = _to_fills(np.where(glows[:, None], faces.glows, shaded))
        points = self.camera.to_camera(thing.to_world(faces.points))
        first = np.cumsum([0, *(len(part.faces) for part in mesh.parts)])
        part_centres = thing.to_world(np.stack([part.centre for part in mesh.parts]))
        distances = np.linalg.norm(part_centres - self.camera.position, axis=1)
        for index in sorted(range(len(mesh.parts)), key=lambda i: (mesh.parts[i].layer, -distances[i])):
            shown = [face for face in range(first[index], first[index + 1]) if is_facing[face]]
            self.draw_polygons(points, faces.bounds, fills, shown)
            if mesh.parts[index].balls:
                self.draw_balls(thing, mesh.parts[index])
        for halo in mesh.halos:
            if self.is_night or halo.glowing == "always":
                self.draw_halo(thing, halo)

    def draw_polygons(self, points: np.ndarray, bounds: np.ndarray, fills: list[Rgb], indices: Iterable[int]) -> None:
        """Fill polygons in the order of `indices`.

        Args:
            points: (V, 3) in camera axes; polygon i has the corners ``points[bounds[i] : bounds[i + 1]]``.
            fills: the colour of each polygon.
        """
        is_ahead = np.minimum.reduceat(points[:, 2], bounds[:-1]) >= NEAR
        projectable = np.where(points[:, 2:] >= NEAR, points, [0.0, 0.0, NEAR])
        pixels, ends = self.camera.to_pixels(projectable).ravel().tolist(), (2 * bounds).tolist()
        for i in indices:
            if is_ahead[i]:
                self.draw.polygon(pixels[ends[i] : ends[i + 1]], fill=fills[i])
            elif len(clipped := clip_near(points[bounds[i] : bounds[i + 1]])) > 2:
                self.draw.polygon(self.camera.to_pixels(clipped).ravel().tolist(), fill=fills[i])

    def draw_balls(self, thing: _Object, part: Part) -> None:
        centres = thing.to_world(np.stack([ball.centre for ball in part.balls]))
        to_eye = self.camera.position - centres
        to_eye /= np.linalg.norm(to_eye, axis=1, keepdims=True)
        colours = np.array([ball.colour for ball in part.balls], dtype=float)
        fills = _to_fills(self.lighting.shade(colours, to_eye * 0.6 + [0, 0, 0.4], centres))
        for ball, centre, fill in zip(part.balls, self.camera.to_camera(centres), fills, strict=True):
            if centre[2] > NEAR + ball.radius * thing.scale:
                u, v = self.camera.to_pixels(centre)
                radius = ball.radius * thing.scale / centre[2] * self.camera.focal
                self.draw.ellipse((u - radius, v - radius, u + radius, v + radius), fill=fill)

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


def _to_fills(colours: np.ndarray) -> list[Rgb]:
    return list(map(tuple, colours.clip(0, 255).astype(int).tolist()))
