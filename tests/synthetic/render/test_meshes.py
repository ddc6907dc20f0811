"""Meshes: vehicles and people have the size of their annotation boxes."""

import numpy as np
import pytest

from senna.synthetic.render.people import CYCLIST_SIZE, WALKER_SIZE, cyclist_mesh, walker_mesh
from senna.synthetic.render.scene import VEHICLE_KINDS, VEHICLE_SIZES
from senna.synthetic.render.vehicles import vehicle_mesh


@pytest.mark.parametrize("kind", VEHICLE_KINDS)
def test_a_vehicle_extends_at_most_ten_centimetres_beyond_its_box(kind: str):
    length, width, height = VEHICLE_SIZES[kind]
    points = vehicle_mesh(kind, "red").arrays.points
    assert (np.abs(points) <= np.array([length / 2, width / 2, height]) + 0.1).all()
    assert points[:, 2].min() >= -1e-9


@pytest.mark.parametrize(
    ("mesh", "size"),
    [
        (cyclist_mesh(1), CYCLIST_SIZE),
        *((walker_mesh(tone, stride), WALKER_SIZE) for tone in (0, 3) for stride in (0, 1, 2)),
    ],
)
def test_people_fill_their_boxes_and_stay_inside(mesh, size):
    tops = [ball.centre[None] + np.array([[0, 0, ball.radius]]) for part in mesh.parts for ball in part.balls]
    points = np.concatenate([mesh.arrays.points, *tops])
    low, high = points.min(axis=0), points.max(axis=0)
    assert low[2] >= -0.01
    assert size[2] * 0.95 < high[2] <= size[2] + 0.03
    assert (np.maximum(-low, high)[:2] <= np.array(size[:2]) / 2 + 0.06).all()
