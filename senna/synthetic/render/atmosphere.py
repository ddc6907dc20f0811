"""Light and air: the shading of surfaces, and the background of sky, clouds, stars, hills and bare ground.

Positions and normals are in the world frame of `senna.synthetic.render.camera`; colours are RGB from 0 to 255, as floats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from senna.synthetic.render.camera import Camera
from senna.synthetic.render.scene import Scene, Sky

FIELD = (112, 142, 74)
HILLS = (84, 112, 92)
CLOUD_SCALE = 4  # clouds are blurred, so they are drawn at a quarter of the resolution
HEADLAMP_LIGHT = np.array([1.0, 0.94, 0.8])


@dataclass(frozen=True)
class Atmosphere:
    """The colours and the light of a sky.

    Attributes:
        zenith, horizon: colours of the sky.
        ambient, sun: factors on the colour of a surface, per channel.
        sun_elevation: degrees above the horizon.
        haze_distance: metres after which haze replaces 1 - 1/e of a colour.
        cloud_colour, cloud_count: the clouds.
    """

    zenith: tuple[int, int, int]
    horizon: tuple[int, int, int]
    ambient: tuple[float, float, float]
    sun: tuple[float, float, float]
    sun_elevation: float
    haze_distance: float
    cloud_colour: tuple[int, int, int]
    cloud_count: int
    is_night: bool = False


ATMOSPHERES: dict[Sky, Atmosphere] = {
    "clear": Atmosphere(
        (58, 124, 214), (196, 224, 244), (0.66, 0.68, 0.72), (0.44, 0.42, 0.36), 48, 420, (255, 255, 255), 12
    ),
    "overcast": Atmosphere(
        (142, 150, 160), (202, 206, 210), (0.76, 0.78, 0.8), (0.1, 0.1, 0.1), 70, 200, (118, 126, 136), 34
    ),
    "dusk": Atmosphere(
        (84, 66, 134), (255, 164, 84), (0.62, 0.55, 0.6), (0.4, 0.26, 0.12), 12, 360, (246, 118, 104), 14
    ),
    "night": Atmosphere(
        (8, 12, 30), (30, 38, 66), (0.3, 0.32, 0.42), (0.04, 0.04, 0.07), 40, 300, (24, 30, 52), 8, is_night=True
    ),
}


class Lighting:
    """Computes the colour of a surface in the image from its own colour."""

    def __init__(self, scene: Scene, camera: Camera):
        self.atmosphere = ATMOSPHERES[scene.sky]
        self.eye = camera.position
        self.headlamps = scene.headlamps if self.atmosphere.is_night else None
        azimuth = np.random.default_rng(scene.seed).uniform(0, 2 * math.pi)
        elevation = math.radians(self.atmosphere.sun_elevation)
        horizontal = math.cos(elevation)
        self.to_sun = np.array([horizontal * math.cos(azimuth), horizontal * math.sin(azimuth), math.sin(elevation)])

    def shade(self, colours: np.ndarray, normals: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """Return the lit and hazy colours (N, 3) of surfaces with `colours`, unit `normals` and `centres`, each (N, 3)."""
        facing_sun = np.clip(normals @ self.to_sun, 0, 1)[:, None]
        light = np.asarray(self.atmosphere.ambient) + facing_sun * np.asarray(self.atmosphere.sun)
        light = light * (0.94 + 0.06 * normals[:, 2:])  # upper faces are brighter, so that edges show without sun
        if self.headlamps is not None:
            light = light + self._headlamp_light(centres)[:, None] * HEADLAMP_LIGHT
        return self.haze(colours * light, centres)

    def haze(self, colours: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """Return colours (N, 3) as seen through the air between the camera and `centres` (N, 3)."""
        distances = np.linalg.norm(centres - self.eye, axis=1, keepdims=True)
        fraction = 1 - np.exp(-distances / self.atmosphere.haze_distance)
        return colours + fraction * (np.asarray(self.atmosphere.horizon) - colours)

    def _headlamp_light(self, centres: np.ndarray) -> np.ndarray:
        """Return the brightness (N,) of the headlamps at `centres` (N, 3)."""
        x, y, yaw = self.headlamps
        east, north = centres[:, 0] - x, centres[:, 1] - y
        ahead = east * math.cos(yaw) + north * math.sin(yaw)
        left = north * math.cos(yaw) - east * math.sin(yaw)
        falloff = np.exp(-np.clip(ahead, 0, None) / 45)
        near = np.clip(ahead / 12, 0, 1)  # the beam reaches the road some metres ahead
        return 0.62 * near * falloff * np.exp(-((left / (2.5 + 0.22 * np.abs(ahead))) ** 2))


def paint_backdrop(scene: Scene, camera: Camera, lighting: Lighting) -> Image.Image:
    """Return an image of `camera.size` with sky, clouds or stars, hills and bare ground.

    The camera must be nearly level: with a few degrees of roll or pitch.
    """
    atmosphere = lighting.atmosphere
    column = Image.fromarray(_backdrop_column(camera, lighting)[:, None, :])
    canvas = column.resize(camera.size, Image.Resampling.NEAREST)
    rng = np.random.default_rng(scene.seed)
    draw = ImageDraw.Draw(canvas)
    if atmosphere.is_night:
        _paint_stars(draw, camera, rng)
    _paint_clouds(canvas, camera, atmosphere, rng)
    for elevation, variation, opacity in ((2.6, 1.5, 0.35), (1.1, 0.8, 0.6)):
        _paint_hills(draw, camera, atmosphere, rng, elevation, variation, opacity)
    return canvas


def _backdrop_column(camera: Camera, lighting: Lighting) -> np.ndarray:
    """Return the colours of a column of the image, uint8 (H, 3): a gradient of the sky above, the field below."""
    atmosphere = lighting.atmosphere
    rows = (np.arange(camera.size[1]) - camera.intrinsic[1, 2]) / camera.focal
    rays = np.stack([np.zeros_like(rows), rows, np.ones_like(rows)], axis=1) @ camera.rotation.T
    slope = rays[:, 2] / np.linalg.norm(rays[:, :2], axis=1)
    horizon, zenith = np.asarray(atmosphere.horizon, dtype=float), np.asarray(atmosphere.zenith, dtype=float)
    height = np.clip(np.arctan(np.clip(slope, 0, None)) / math.radians(42), 0, 1)[:, None] ** 0.7
    sky = horizon + height * (zenith - horizon)
    distance = camera.position[2] / np.clip(-slope, 1e-4, None)
    centres = camera.position + np.array([1.0, 0, 0]) * np.minimum(distance, 5000)[:, None]
    up = np.broadcast_to([0.0, 0.0, 1.0], centres.shape)
    light = np.asarray(atmosphere.ambient) + up @ lighting.to_sun[:, None] * np.asarray(atmosphere.sun)
    ground = lighting.haze(np.asarray(FIELD) * light, centres)
    return np.where(slope[:, None] >= 0, sky, ground).clip(0, 255).astype(np.uint8)


def _directions(azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """Return unit vectors (..., 3) for angles (...) in radians."""
    horizontal = np.cos(elevation)
    return np.stack([horizontal * np.cos(azimuth), horizontal * np.sin(azimuth), np.sin(elevation)], axis=-1)


def _project_directions(camera: Camera, directions: np.ndarray) -> np.ndarray:
    """Return the pixels (..., 2) of infinitely far points in `directions` (..., 3); NaN for points behind the camera."""
    in_camera = directions @ camera.rotation
    return camera.to_pixels(np.where(in_camera[..., 2:] > 0.05, in_camera, np.nan))


def _paint_stars(draw: ImageDraw.ImageDraw, camera: Camera, rng: np.random.Generator) -> None:
    """Draw stars and a moon."""
    azimuth, elevation = rng.uniform(0, 2 * math.pi, 420), np.radians(rng.uniform(5, 75, 420))
    brightness = rng.integers(110, 255, 420)
    radius = camera.focal / 420
    pixels = _project_directions(camera, _directions(azimuth, elevation))
    for (u, v), level in zip(pixels, brightness, strict=True):
        if 0 <= u < camera.size[0] and 0 <= v < camera.size[1]:
            size = radius * level / 255
            draw.ellipse((u - size, v - size, u + size, v + size), fill=(int(level), int(level), min(255, level + 20)))
    u, v = _project_directions(camera, _directions(rng.uniform(0, 2 * math.pi), np.radians(24)))
    if not math.isnan(u):
        size = camera.focal * 0.028
        draw.ellipse((u - size, v - size, u + size, v + size), fill=(244, 240, 216))


def _paint_clouds(canvas: Image.Image, camera: Camera, atmosphere: Atmosphere, rng: np.random.Generator) -> None:
    """Draw clouds, each of five blurred ellipses. The mask ends at the horizon, because no cloud is below it."""
    height = min(camera.size[1], math.ceil(camera.intrinsic[1, 2] / CLOUD_SCALE) * CLOUD_SCALE)
    mask = Image.new("L", (camera.size[0] // CLOUD_SCALE, height // CLOUD_SCALE))
    draw, count = ImageDraw.Draw(mask), atmosphere.cloud_count
    azimuth, elevation = rng.uniform(0, 2 * math.pi, count), np.radians(rng.uniform(7, 34, count))
    offsets = rng.uniform(-1, 1, (count, 5, 2)) * [0.13, 0.018]
    sizes = rng.uniform(0.05, 0.11, (count, 5))
    directions = _directions(azimuth[:, None] + offsets[..., 0], elevation[:, None] + offsets[..., 1])
    centres = _project_directions(camera, directions)
    for (u, v), size in zip(centres.reshape(-1, 2) / CLOUD_SCALE, sizes.ravel(), strict=True):
        if not math.isnan(u):
            radius = size * camera.focal / CLOUD_SCALE
            draw.ellipse((u - radius, v - radius * 0.3, u + radius, v + radius * 0.3), fill=185)
    blurred = mask.filter(ImageFilter.GaussianBlur(camera.focal * 0.012 / CLOUD_SCALE))
    blurred = blurred.resize((camera.size[0], height), Image.Resampling.BILINEAR)
    if (covered := blurred.getbbox()) is not None:
        canvas.paste(atmosphere.cloud_colour, covered[:2], blurred.crop(covered))


def _paint_hills(
    draw: ImageDraw.ImageDraw,
    camera: Camera,
    atmosphere: Atmosphere,
    rng: np.random.Generator,
    elevation: float,
    variation: float,
    opacity: float,
) -> None:
    """Draw a ridge whose elevation in degrees is `elevation` +- `variation`. It is the same for all cameras of a scene."""
    heading = math.atan2(camera.forward[1], camera.forward[0])
    half = math.atan(camera.size[0] / 2 / camera.intrinsic[0, 0]) + 0.1
    azimuth = np.linspace(heading + half, heading - half, 48)
    frequencies, phases = np.array([3, 7, 13, 29]), rng.uniform(0, 2 * math.pi, 4)
    ridge = (np.sin(azimuth[:, None] * frequencies + phases) * [0.5, 0.28, 0.14, 0.08]).sum(axis=1)
    top = _project_directions(camera, _directions(azimuth, np.radians(elevation + variation * ridge)))
    bottom = _project_directions(camera, _directions(azimuth[[-1, 0]], np.radians([-0.2, -0.2])))
    outline = np.concatenate([top, bottom])
    outline = outline[~np.isnan(outline[:, 0])]
    lit = np.asarray(HILLS) * np.asarray(atmosphere.ambient)
    colour = np.asarray(atmosphere.horizon) + opacity * (lit - np.asarray(atmosphere.horizon))
    if len(outline) > 2:
        draw.polygon(outline.ravel().tolist(), fill=tuple(colour.astype(int).tolist()))
