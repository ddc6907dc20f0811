"""Paints a scene through a camera, far things first."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from senna.synthetic.render.atmosphere import Lighting, paint_backdrop
from senna.synthetic.render.camera import NEAR, Camera, cut_near, planar
from senna.synthetic.render.meshes import Mesh
from senna.synthetic.render.people import cyclist_mesh, walker_mesh
from senna.synthetic.render.road import SIGHT, ground_quads
from senna.synthetic.render.roadside import house_mesh, street_lamp_mesh, traffic_light_mesh, tree_mesh
from senna.synthetic.render.scene import Scene
from senna.synthetic.render.vehicles import vehicle_mesh

SHADED = 0.35  # cosine of the angle to a lamp's front from which its glow is no longer seen
Placed = tuple[Mesh, float, float, float, float]  # mesh, x, y, yaw, scale


def paint(scene: Scene, camera: Camera, supersampling: int = 2) -> Image.Image:
    """The scene as an RGB picture of `camera.size`, painted `supersampling` times as large and averaged down."""
    view = camera.scaled(supersampling)
    brush = _Brush(scene, view)
    brush.paint_ground(scene)
    for placed in sorted(_things(scene, view), key=lambda thing: -_distance(thing, view)):
        brush.paint_mesh(*placed)
    return brush.canvas if supersampling == 1 else brush.canvas.reduce(supersampling)


def _things(scene: Scene, camera: Camera) -> list[Placed]:
    """Everything that stands up and may be in sight."""
    things: list[Placed] = [(vehicle_mesh(v.kind, v.colour, v.braking), v.x, v.y, v.yaw, 1.0) for v in scene.vehicles]
    things += [(traffic_light_mesh(t.state, t.reach, t.heads, t.spacing), t.x, t.y, t.yaw, 1.0) for t in scene.lights]
    things += [(tree_mesh(t.shape, t.tone), t.x, t.y, 0.0, t.height) for t in scene.trees]
    things += [(walker_mesh(w.tone, w.stride), w.x, w.y, w.yaw, 1.0) for w in scene.walkers]
    things += [(cyclist_mesh(c.tone), c.x, c.y, c.yaw, 1.0) for c in scene.cyclists]
    things += [(house_mesh(h.tone, h.storeys), h.x, h.y, h.yaw, 1.0) for h in scene.houses]
    things += [(street_lamp_mesh(), p.x, p.y, p.yaw, 1.0) for p in scene.lamps]
    kept = [thing for thing in things if _distance(thing, camera) < SIGHT and _ahead(thing, camera) > -12]
    places = np.array([(x, y, 0.0) for _, x, y, _, _ in kept]).reshape(-1, 3)
    return [thing for thing, shown in zip(kept, camera.may_show(places, 16.0), strict=True) if shown]


def _distance(thing: Placed, camera: Camera) -> float:
    return math.hypot(thing[1] - camera.position[0], thing[2] - camera.position[1])


def _ahead(thing: Placed, camera: Camera) -> float:
    offset = np.array([thing[1], thing[2], 0.0]) - camera.position
    return float(offset @ camera.forward)


class _Brush:
    """A canvas with its camera and light."""

    def __init__(self, scene: Scene, camera: Camera):
        self.camera = camera
        self.lighting = Lighting(scene, camera)
        self.is_night = self.lighting.air.is_night
        self.canvas = paint_backdrop(scene, camera, self.lighting)
        self.draw = ImageDraw.Draw(self.canvas)

    def paint_ground(self, scene: Scene) -> None:
        quads, colours = ground_quads(scene, self.camera, self.is_night)
        if not len(quads):
            return
        centres = quads.mean(axis=1)
        shaded = self.lighting.shade(colours, np.broadcast_to([0.0, 0.0, 1.0], centres.shape), centres)
        points = self.camera.to_camera(quads)
        self.polygons(points.reshape(-1, 3), np.arange(0, 4 * len(quads) + 1, 4), _fills(shaded))

    def paint_mesh(self, mesh: Mesh, x: float, y: float, yaw: float, scale: float) -> None:
        faces = mesh.arrays
        centres = planar(faces.centres, x, y, yaw, scale)
        normals = planar(faces.normals, 0.0, 0.0, yaw)
        facing = ((self.camera.position - centres) * normals).sum(axis=1) > 0
        shining = faces.at_night if self.is_night else faces.always
        shaded = self.lighting.shade(faces.colours, normals, centres)
        fills = _fills(np.where(shining[:, None], faces.glows, shaded))
        points = self.camera.to_camera(planar(faces.points, x, y, yaw, scale))
        bounds = np.array([0, *(end for _, end in faces.spans)])
        first = np.cumsum([0, *(len(part.faces) for part in mesh.parts)])
        part_centres = planar(np.stack([part.centre for part in mesh.parts]), x, y, yaw, scale)
        distances = np.linalg.norm(part_centres - self.camera.position, axis=1)
        for index in sorted(range(len(mesh.parts)), key=lambda i: (mesh.parts[i].layer, -distances[i])):
            shown = [face for face in range(first[index], first[index + 1]) if facing[face]]
            self.polygons(points, bounds, fills, shown)
            if mesh.parts[index].balls:
                self.paint_balls(mesh, index, x, y, yaw, scale)
        self.paint_halos(mesh, x, y, yaw, scale)

    def polygons(
        self, points: np.ndarray, bounds: np.ndarray, fills: list[tuple[int, int, int]], shown: list[int] | None = None
    ) -> None:
        """Fill polygons given in camera axes: polygon i is points[bounds[i] : bounds[i + 1]]. `shown` picks some, in order."""
        whole = np.minimum.reduceat(points[:, 2], bounds[:-1]) >= NEAR
        ahead = np.where(points[:, 2:] >= NEAR, points, [0.0, 0.0, NEAR])
        pixels, ends = self.camera.to_pixels(ahead).ravel().tolist(), (2 * bounds).tolist()
        for i in range(len(fills)) if shown is None else shown:
            if whole[i]:
                self.draw.polygon(pixels[ends[i] : ends[i + 1]], fill=fills[i])
            elif len(cut := cut_near(points[bounds[i] : bounds[i + 1]])) > 2:
                self.draw.polygon(self.camera.to_pixels(cut).ravel().tolist(), fill=fills[i])

    def paint_balls(self, mesh: Mesh, index: int, x: float, y: float, yaw: float, scale: float) -> None:
        balls = mesh.parts[index].balls
        centres = planar(np.stack([ball.centre for ball in balls]), x, y, yaw, scale)
        towards_eye = self.camera.position - centres
        towards_eye /= np.linalg.norm(towards_eye, axis=1, keepdims=True)
        own = np.array([ball.colour for ball in balls], dtype=float)
        fills = _fills(self.lighting.shade(own, towards_eye * 0.6 + [0, 0, 0.4], centres))
        for ball, centre, fill in zip(balls, self.camera.to_camera(centres), fills, strict=True):
            if centre[2] > NEAR + ball.radius * scale:
                u, v = self.camera.to_pixels(centre)
                size = ball.radius * scale / centre[2] * self.camera.focal
                self.draw.ellipse((u - size, v - size, u + size, v + size), fill=fill)

    def paint_halos(self, mesh: Mesh, x: float, y: float, yaw: float, scale: float) -> None:
        for halo in mesh.halos:
            if halo.glowing == "night" and not self.is_night:
                continue
            centre = planar(halo.centre[None], x, y, yaw, scale)[0]
            normal = planar(halo.normal[None], 0.0, 0.0, yaw)[0]
            in_camera = self.camera.to_camera(centre)
            towards = self.camera.position - centre
            if in_camera[2] < 1.0 or (normal.any() and normal @ towards <= SHADED * np.linalg.norm(towards)):
                continue
            u, v = self.camera.to_pixels(in_camera)
            size = math.ceil(halo.radius * scale / in_camera[2] * self.camera.focal)
            if size > 1 and -size < u < self.camera.size[0] + size and -size < v < self.camera.size[1] + size:
                self.canvas.paste(halo.colour, (round(u) - size, round(v) - size), _glow(size, self.is_night))


@lru_cache(maxsize=256)
def _glow(radius: int, is_night: bool) -> Image.Image:
    """A round soft mask of side 2 * radius + 1."""
    offsets = np.arange(-radius, radius + 1) / radius
    distance = np.sqrt(offsets[:, None] ** 2 + offsets**2)
    peak = 170 if is_night else 140
    return Image.fromarray((peak * np.clip(1 - distance, 0, 1) ** 1.6).astype(np.uint8))


def _fills(colours: np.ndarray) -> list[tuple[int, int, int]]:
    return list(map(tuple, colours.clip(0, 255).astype(int).tolist()))
