"""A frame's six images for the quality page: small, with the annotated boxes drawn. N counts boxes."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from senna.convert.facts import Frame
from senna.convert.geometry import Array, rotations
from senna.errors import DataError
from senna.image_file import check_image_file
from senna.views import VIEWS

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes
    from PIL.Image import Image

SIZE = (480, 270)  # pixels
COLOURS = {"vehicle": "#ff9f1c", "cyclist": "#e83f6f", "pedestrian": "#3dc2ff", "static": "#b0b8c4"}  # by group
_NEAR = 0.2  # metres in front of the camera; nothing nearer is drawn
_CORNERS = (
    np.array([[x, y, z] for x in (1, -1) for y, z in ((1, 1), (-1, 1), (-1, -1), (1, -1))]) / 2
)  # front face first
_EDGES = (
    [(i, (i + 1) % 4) for i in range(4)] + [(4 + i, 4 + (i + 1) % 4) for i in range(4)] + [(i, i + 4) for i in range(4)]
)


def draw_frame(tables: "NuScenes", frame: Frame) -> dict[str, bytes]:
    """Return a JPEG for each view, with the boxes of ``frame.agents`` in the colours of their groups.

    The image is grey where its file does not exist or cannot be read.
    """
    corners = _corners(tables, [agent.token for agent in frame.agents])  # (N, 8, 3)
    colours = [COLOURS.get(agent.group, "#ffffff") for agent in frame.agents]
    sample, drawn = tables.get("sample", frame.token), {}
    for view in VIEWS:
        data = tables.get("sample_data", sample["data"][f"CAM_{view.upper().replace(' ', '_')}"])
        local, intrinsic = _into_camera(tables, data, corners)
        image = _open(Path(tables.dataroot) / data["filename"])
        scale = np.array(SIZE) / (data["width"] or 1600, data["height"] or 900)
        for number in np.argsort(-local.mean(axis=1)[:, 2]):  # the nearest last, on top of the others
            _draw_box(image, local[number], intrinsic, scale, colours[number])
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=72)
        drawn[view] = buffer.getvalue()
    return drawn


def _corners(tables: "NuScenes", tokens: list[str]) -> Array:
    """Return the global corners (N, 8, 3) of annotations."""
    boxes = [tables.get("sample_annotation", token) for token in tokens]
    sizes = np.array([box["size"] for box in boxes], dtype=np.float64).reshape(-1, 1, 3)[
        ..., [1, 0, 2]
    ]  # nuScenes gives (width, length, height)
    centers = np.array([box["translation"] for box in boxes], dtype=np.float64).reshape(-1, 1, 3)
    to_global = rotations([box["rotation"] for box in boxes])  # (N, 3, 3)
    return centers + (_CORNERS * sizes) @ to_global.transpose(0, 2, 1)


def _into_camera(tables: "NuScenes", data: dict[str, Any], points: Array) -> tuple[Array, Array]:
    """Transform global points (N, 8, 3) into a camera's coordinates, z forward; also return its (3, 3) intrinsic matrix."""
    mount = tables.get("calibrated_sensor", data["calibrated_sensor_token"])
    for pose in (tables.get("ego_pose", data["ego_pose_token"]), mount):
        points = (points - np.array(pose["translation"])) @ rotations([pose["rotation"]])[0]
    return points, np.array(mount["camera_intrinsic"], dtype=np.float64)


def _open(path: Path) -> "Image":
    from PIL import Image

    try:
        check_image_file(path)
        with Image.open(path) as image:
            image.draft("RGB", SIZE)  # decode at a half or a quarter of the size, several times faster
            return image.convert("RGB").resize(SIZE)
    except (DataError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return Image.new("RGB", SIZE, "#3a414c")


def _draw_box(image: "Image", corners: Array, intrinsic: Array, scale: Array, colour: str) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(image)
    for number, (start, end) in enumerate(project_edges(corners, intrinsic)):
        draw.line([*(start * scale), *(end * scale)], fill=colour, width=2 if number < 4 else 1)


def project_edges(corners: Array, intrinsic: Array) -> Iterator[tuple[Array, Array]]:
    """Yield the edges of a box as pairs of pixels, the front face first, clipped at a plane just in front of the camera.

    Args:
        corners: (8, 3) corners in camera coordinates, z forward, those of the front face first.
    """
    for first, second in _EDGES:
        start, end = corners[first], corners[second]
        if start[2] < _NEAR and end[2] < _NEAR:
            continue
        if start[2] < _NEAR:
            start = _clip(end, start)
        elif end[2] < _NEAR:
            end = _clip(start, end)
        yield _pixel(start, intrinsic), _pixel(end, intrinsic)


def _clip(visible: Array, hidden: Array) -> Array:
    """Return the point where the line from a visible to a hidden point crosses the near plane."""
    return visible + (visible[2] - _NEAR) / (visible[2] - hidden[2]) * (hidden - visible)


def _pixel(point: Array, intrinsic: Array) -> Array:
    projected = intrinsic @ point
    return projected[:2] / projected[2]
