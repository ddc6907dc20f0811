"""A frame's six pictures, small, with the annotated boxes drawn into them: for the quality page. N counts boxes."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from senna.convert.facts import Frame
from senna.convert.geometry import Array, rotations
from senna.views import VIEWS

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes
    from PIL.Image import Image

SIZE = (480, 270)  # pixels of a picture
COLOURS = {"vehicle": "#ff9f1c", "cyclist": "#e83f6f", "pedestrian": "#3dc2ff", "static": "#b0b8c4"}  # by group
_NEAR = 0.2  # metres before the camera: nothing nearer is drawn
_CORNERS = (
    np.array([[x, y, z] for x in (1, -1) for y, z in ((1, 1), (-1, 1), (-1, -1), (1, -1))]) / 2
)  # front face first
_EDGES = (
    [(i, (i + 1) % 4) for i in range(4)] + [(4 + i, 4 + (i + 1) % 4) for i in range(4)] + [(i, i + 4) for i in range(4)]
)


def draw_frame(tables: "NuScenes", frame: Frame) -> dict[str, bytes]:
    """A JPEG for each of ``VIEWS``, with the boxes of ``frame.agents`` in the colour of their group.

    The picture is grey where the image file is not there.
    """
    corners = _corners(tables, [agent.token for agent in frame.agents])  # (N, 8, 3)
    colours = [COLOURS.get(agent.group, "#ffffff") for agent in frame.agents]
    sample, drawn = tables.get("sample", frame.token), {}
    for view in VIEWS:
        data = tables.get("sample_data", sample["data"][f"CAM_{view.upper().replace(' ', '_')}"])
        seen, intrinsic = _into_camera(tables, data, corners)
        image = _open(Path(tables.dataroot) / data["filename"])
        scale = np.array(SIZE) / (data["width"] or 1600, data["height"] or 900)
        for number in np.argsort(-seen.mean(axis=1)[:, 2]):  # the nearest last, over the others
            _draw_box(image, seen[number], intrinsic, scale, colours[number])
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=72)
        drawn[view] = buffer.getvalue()
    return drawn


def _corners(tables: "NuScenes", tokens: list[str]) -> Array:
    """(N, 8, 3) global corners of annotations."""
    boxes = [tables.get("sample_annotation", token) for token in tokens]
    sizes = np.array([box["size"] for box in boxes], dtype=np.float64).reshape(-1, 1, 3)[..., [1, 0, 2]]  # length first
    centres = np.array([box["translation"] for box in boxes], dtype=np.float64).reshape(-1, 1, 3)
    turns = rotations([box["rotation"] for box in boxes])  # (N, 3, 3)
    return centres + (_CORNERS * sizes) @ turns.transpose(0, 2, 1)


def _into_camera(tables: "NuScenes", data: dict[str, Any], points: Array) -> tuple[Array, Array]:
    """Global (N, 8, 3) points in the frame of a picture's camera (z ahead), and its (3, 3) intrinsic matrix."""
    mount = tables.get("calibrated_sensor", data["calibrated_sensor_token"])
    for pose in (tables.get("ego_pose", data["ego_pose_token"]), mount):
        points = (points - np.array(pose["translation"])) @ rotations([pose["rotation"]])[0]
    return points, np.array(mount["camera_intrinsic"], dtype=np.float64)


def _open(path: Path) -> "Image":
    from PIL import Image

    if not path.is_file():
        return Image.new("RGB", SIZE, "#3a414c")
    with Image.open(path) as image:
        image.draft("RGB", SIZE)  # decodes at a half or a quarter of the size: several times faster
        return image.convert("RGB").resize(SIZE)


def _draw_box(image: "Image", corners: Array, intrinsic: Array, scale: Array, colour: str) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(image)
    for number, (start, end) in enumerate(project_edges(corners, intrinsic)):
        draw.line([*(start * scale), *(end * scale)], fill=colour, width=2 if number < 4 else 1)


def project_edges(corners: Array, intrinsic: Array) -> Iterator[tuple[Array, Array]]:
    """The edges of a box as pairs of pixels, those of its front face first; cut at a plane just before the camera.

    Args:
        corners: (8, 3) in the camera's frame, z ahead, those of the front face first.
    """
    for one, other in _EDGES:
        start, end = corners[one], corners[other]
        if start[2] < _NEAR and end[2] < _NEAR:
            continue
        if start[2] < _NEAR:
            start = _cut(end, start)
        elif end[2] < _NEAR:
            end = _cut(start, end)
        yield _pixel(start, intrinsic), _pixel(end, intrinsic)


def _cut(seen: Array, hidden: Array) -> Array:
    return seen + (seen[2] - _NEAR) / (seen[2] - hidden[2]) * (hidden - seen)


def _pixel(point: Array, intrinsic: Array) -> Array:
    projected = intrinsic @ point
    return projected[:2] / projected[2]
