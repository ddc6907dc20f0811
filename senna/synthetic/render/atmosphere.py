"""Light and air: what a sky does to colours, and the sky, hills and bare ground behind everything else."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from senna.synthetic.render.camera import Camera
from senna.synthetic.render.scene import Scene, Sky

FIELD = (112, 142, 74)
HILLS = (84, 112, 92)
CLOUD_SCALE = 4  # clouds are soft: a quarter of the resolution is enough for them
HEADLAMP_LIGHT = np.array([1.0, 0.94, 0.8])


@dataclass(frozen=True)
class Air:
    """How a sky looks and lights: colours are RGB, `ambient` and `sun` are factors on a surface's colour."""

    zenith: tuple[int, int, int]
    horizon: tuple[int, int, int]
    ambient: tuple[float, float, float]
    sun: tuple[float, float, float]
    sun_height: float  # degrees
    haze: float  # metres after which 1 - 1/e of a colour is haze
    cloud: tuple[int, int, int]
    clouds: int
    is_night: bool = False


AIR: dict[Sky, Air] = {
    "clear": Air((58, 124, 214), (196, 224, 244), (0.66, 0.68, 0.72), (0.44, 0.42, 0.36), 48, 420, (255, 255, 255), 12),
    "overcast": Air((142, 150, 160), (202, 206, 210), (0.76, 0.78, 0.8), (0.1, 0.1, 0.1), 70, 200, (118, 126, 136), 34),
    "dusk": Air((84, 66, 134), (255, 164, 84), (0.62, 0.55, 0.6), (0.4, 0.26, 0.12), 12, 360, (246, 118, 104), 14),
    "night": Air((8, 12, 30), (30, 38, 66), (0.3, 0.32, 0.42), (0.04, 0.04, 0.07), 40, 300, (24, 30, 52), 8, True),
}


class Lighting:
    """Turns a surface's own colour into what the camera sees of it."""

    def __init__(self, scene: Scene, camera: Camera):
        self.air = AIR[scene.sky]
        self.eye = camera.position
        self.headlamps = scene.headlamps if self.air.is_night else None
        azimuth = np.random.default_rng(scene.seed).uniform(0, 2 * math.pi)
        height = math.radians(self.air.sun_height)
        flat = math.cos(height)
        self.to_sun = np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(height)])

    def shade(self, colours: np.ndarray, normals: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """Colours (N, 3) of surfaces with `normals` (N, 3) at `centres` (N, 3): lit and hazed, float (N, 3)."""
        facing_sun = np.clip(normals @ self.to_sun, 0, 1)[:, None]
        light = np.asarray(self.air.ambient) + facing_sun * np.asarray(self.air.sun)
        light = light * (0.94 + 0.06 * normals[:, 2:])  # tops catch the sky, so that edges show without sun
        if self.headlamps is not None:
            light = light + self._beam(centres)[:, None] * HEADLAMP_LIGHT
        return self.haze(colours * light, centres)

    def haze(self, colours: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """Colours (N, 3) seen through the air between the eye and `centres` (N, 3)."""
        share = 1 - np.exp(-np.linalg.norm(centres - self.eye, axis=1, keepdims=True) / self.air.haze)
        return colours + share * (np.asarray(self.air.horizon) - colours)

    def _beam(self, centres: np.ndarray) -> np.ndarray:
        x, y, yaw = self.headlamps
        east, north = centres[:, 0] - x, centres[:, 1] - y
        ahead = east * math.cos(yaw) + north * math.sin(yaw)
        aside = north * math.cos(yaw) - east * math.sin(yaw)
        reach = np.exp(-np.clip(ahead, 0, None) / 45)
        near = np.clip(ahead / 12, 0, 1)  # they reach the road only some metres ahead
        return 0.62 * near * reach * np.exp(-((aside / (2.5 + 0.22 * np.abs(ahead))) ** 2))


def paint_backdrop(scene: Scene, camera: Camera, lighting: Lighting) -> Image.Image:
    """Sky with clouds or stars, hills and bare ground. The camera is taken to be level (roll and pitch of a few degrees)."""
    air = lighting.air
    canvas = Image.fromarray(_column(camera, lighting)[:, None, :]).resize(camera.size, Image.Resampling.NEAREST)
    rng = np.random.default_rng(scene.seed)
    draw = ImageDraw.Draw(canvas)
    if air.is_night:
        _paint_stars(draw, camera, rng)
    _paint_clouds(canvas, camera, air, rng)
    for height, swing, nearness in ((2.6, 1.5, 0.35), (1.1, 0.8, 0.6)):
        _paint_hills(draw, camera, air, rng, height, swing, nearness)
    return canvas


def _column(camera: Camera, lighting: Lighting) -> np.ndarray:
    """One column of the picture, uint8 (H, 3): the sky's gradient above, the field below."""
    air = lighting.air
    rows = (np.arange(camera.size[1]) - camera.intrinsic[1, 2]) / camera.focal
    rays = np.stack([np.zeros_like(rows), rows, np.ones_like(rows)], axis=1) @ camera.rotation.T
    rise = rays[:, 2] / np.linalg.norm(rays[:, :2], axis=1)
    horizon, zenith = np.asarray(air.horizon, dtype=float), np.asarray(air.zenith, dtype=float)
    climb = np.clip(np.arctan(np.clip(rise, 0, None)) / math.radians(42), 0, 1)[:, None] ** 0.7
    sky = horizon + climb * (zenith - horizon)
    distance = camera.position[2] / np.clip(-rise, 1e-4, None)
    centres = camera.position + np.array([1.0, 0, 0]) * np.minimum(distance, 5000)[:, None]
    up = np.broadcast_to([0.0, 0.0, 1.0], centres.shape)
    light = np.asarray(air.ambient) + up @ lighting.to_sun[:, None] * np.asarray(air.sun)
    ground = lighting.haze(np.asarray(FIELD) * light, centres)
    return np.where(rise[:, None] >= 0, sky, ground).clip(0, 255).astype(np.uint8)


def _directions(azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    flat = np.cos(elevation)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=-1)


def _look(camera: Camera, directions: np.ndarray) -> np.ndarray:
    """Pixels (..., 2) of what is infinitely far in `directions` (..., 3); NaN where that is behind the camera."""
    in_camera = directions @ camera.rotation
    return camera.to_pixels(np.where(in_camera[..., 2:] > 0.05, in_camera, np.nan))


def _paint_stars(draw: ImageDraw.ImageDraw, camera: Camera, rng: np.random.Generator) -> None:
    azimuth, elevation = rng.uniform(0, 2 * math.pi, 420), np.radians(rng.uniform(5, 75, 420))
    brightness = rng.integers(110, 255, 420)
    radius = camera.focal / 420
    for (u, v), level in zip(_look(camera, _directions(azimuth, elevation)), brightness, strict=True):
        if 0 <= u < camera.size[0] and 0 <= v < camera.size[1]:
            size = radius * level / 255
            draw.ellipse((u - size, v - size, u + size, v + size), fill=(int(level), int(level), min(255, level + 20)))
    u, v = _look(camera, _directions(rng.uniform(0, 2 * math.pi), np.radians(24)))
    if not math.isnan(u):
        size = camera.focal * 0.028
        draw.ellipse((u - size, v - size, u + size, v + size), fill=(244, 240, 216))


def _paint_clouds(canvas: Image.Image, camera: Camera, air: Air, rng: np.random.Generator) -> None:
    sky = min(camera.size[1], math.ceil(camera.intrinsic[1, 2] / CLOUD_SCALE) * CLOUD_SCALE)  # rows: no cloud is lower
    mask = Image.new("L", (camera.size[0] // CLOUD_SCALE, sky // CLOUD_SCALE))
    draw = ImageDraw.Draw(mask)
    azimuth, elevation = rng.uniform(0, 2 * math.pi, air.clouds), np.radians(rng.uniform(7, 34, air.clouds))
    puffs = rng.uniform(-1, 1, (air.clouds, 5, 2)) * [0.13, 0.018]
    sizes = rng.uniform(0.05, 0.11, (air.clouds, 5))
    centres = _look(camera, _directions(azimuth[:, None] + puffs[..., 0], elevation[:, None] + puffs[..., 1]))
    for (u, v), size in zip(centres.reshape(-1, 2) / CLOUD_SCALE, sizes.ravel(), strict=True):
        if not math.isnan(u):
            wide = size * camera.focal / CLOUD_SCALE
            draw.ellipse((u - wide, v - wide * 0.3, u + wide, v + wide * 0.3), fill=185)
    soft = mask.filter(ImageFilter.GaussianBlur(camera.focal * 0.012 / CLOUD_SCALE)).resize(
        (camera.size[0], sky), Image.Resampling.BILINEAR
    )
    if (covered := soft.getbbox()) is not None:
        canvas.paste(air.cloud, covered[:2], soft.crop(covered))


def _paint_hills(
    draw: ImageDraw.ImageDraw,
    camera: Camera,
    air: Air,
    rng: np.random.Generator,
    height: float,
    swing: float,
    nearness: float,
) -> None:
    """A ridge `height` +- `swing` degrees high, the same from every camera of the scene."""
    heading = math.atan2(camera.forward[1], camera.forward[0])
    half = math.atan(camera.size[0] / 2 / camera.intrinsic[0, 0]) + 0.1
    azimuth = np.linspace(heading + half, heading - half, 48)
    waves, phases = np.array([3, 7, 13, 29]), rng.uniform(0, 2 * math.pi, 4)
    ridge = (np.sin(azimuth[:, None] * waves + phases) * [0.5, 0.28, 0.14, 0.08]).sum(axis=1)
    top = _look(camera, _directions(azimuth, np.radians(height + swing * ridge)))
    foot = _look(camera, _directions(azimuth[[-1, 0]], np.radians([-0.2, -0.2])))
    outline = np.concatenate([top, foot])
    outline = outline[~np.isnan(outline[:, 0])]
    lit = np.asarray(HILLS) * np.asarray(air.ambient)
    colour = np.asarray(air.horizon) + nearness * (lit - np.asarray(air.horizon))
    if len(outline) > 2:
        draw.polygon(outline.ravel().tolist(), fill=tuple(colour.astype(int).tolist()))
