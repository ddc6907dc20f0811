"""The futures beside the records: where the ego vehicle and other road users will be, as seen from each frame."""

import json

import numpy as np
import pytest

from senna.convert.frames import read_frames
from senna.errors import DataError
from senna.futures import futures_path, read_futures
from tests.convert.worlds import write_world

pytest.importorskip("nuscenes", reason="needs the extra: pip install -c constraints.txt -e '.[nuscenes]'")

MINI = "v1.0-mini"


def at(along, left, heading):
    """Return global x, y of a point so far along and to the left of a direction."""
    return (
        along * np.cos(heading) - left * np.sin(heading),
        along * np.sin(heading) + left * np.cos(heading),
    )


@pytest.mark.parametrize("heading", [0.0, 2.0, -1.0])
def test_futures_are_in_the_frame_of_the_ego_vehicle(tmp_path, heading):
    """The ego vehicle drives 4 m a step; a car drives 5 m a step, 3 m to its right, and another one is parked to its left."""
    objects = {
        "vehicle.car": [at(10 + 5 * index, -3, heading) for index in range(20)],
        "vehicle.truck": [at(80, 6, heading)] * 20,
        "movable_object.barrier": [at(30, 0, heading)] * 20,
        "human.pedestrian.adult": [None] * 5 + [at(40, 2, heading)] * 3 + [None] * 12,
    }
    root = write_world(tmp_path, lambda index: at(4 * index, 0, heading), objects, heading=heading)
    frames = [frame.futures for frame in read_frames(root, MINI)]
    third = frames[3]
    assert third.names == ("car", "truck", "pedestrian"), "a barrier is no road user"
    assert third.ego == pytest.approx(np.array([[0, 4 * step, 0] for step in range(1, 7)]), abs=1e-9)
    assert third.past == pytest.approx(np.array([[0, -4, 0], [0, -8, 0]]), abs=1e-9)
    car = [[3, 10 + 5 * (3 + step) - 12, 0] for step in range(1, 7)]
    assert third.poses[0] == pytest.approx(np.array(car), abs=1e-9)
    assert third.poses[1] == pytest.approx(np.array([[-6, 68, 0]] * 6), abs=1e-9)
    assert np.isfinite(third.poses[2]).all(axis=1).tolist() == [False, True, True, True, False, False]
    assert third.sizes.tolist() == [[4, 2]] * 3, "length, width"
    assert [len(frame.past) for frame in frames[:4]] == [0, 1, 2, 2]
    assert np.isfinite(frames[-3].ego).all(axis=1).tolist() == [True, True, False, False, False, False]
    assert len(third.as_json()["others"][1]["poses"]) == 1, "a parked car has one pose"


def test_a_turn_to_the_left_has_growing_headings(tmp_path):
    """The tables give all poses one heading, so the heading comes from a rotation of the frame by hand."""
    root = write_world(tmp_path, lambda index: (4.0 * index, 0.0))
    poses = json.loads((root / MINI / "ego_pose.json").read_text())
    for pose in poses:
        angle = np.radians(10 * int(pose["token"].rpartition("-")[2]))
        pose["rotation"] = [float(np.cos(angle / 2)), 0, 0, float(np.sin(angle / 2))]
    (root / MINI / "ego_pose.json").write_text(json.dumps(poses))
    second = list(read_frames(root, MINI))[1].futures
    assert second.ego[:, 2] == pytest.approx([10, 20, 30, 40, 50, 60])
    assert second.past[:, 2] == pytest.approx([-10])
    assert second.ego[0, :2] == pytest.approx([4 * np.sin(np.radians(10)), 4 * np.cos(np.radians(10))])


def test_futures_are_read_back_to_the_centimetre(tmp_path):
    car = [(10 + 4.321 * index, 1.234) if index != 6 else None for index in range(20)]
    objects = {"vehicle.car": car, "vehicle.truck": [(50, 5)] * 20}
    written = [
        frame.futures for frame in read_frames(write_world(tmp_path, lambda index: (3.3 * index, 0), objects), MINI)
    ]
    path = futures_path(tmp_path / "x.json")
    path.write_text("".join(json.dumps(futures.as_json()) + "\n" for futures in written), encoding="utf-8")
    tokens = [futures.token for futures in written]
    read = read_futures(path, tokens[2:])
    assert list(read) == tokens[2:], "only the wanted frames"
    for futures in written[2:]:
        found = read[futures.token]
        assert found.names == futures.names
        for name in ("ego", "past", "sizes", "poses"):
            assert getattr(found, name) == pytest.approx(getattr(futures, name), abs=0.0051, nan_ok=True), name
            assert getattr(found, name).shape == getattr(futures, name).shape


@pytest.mark.parametrize("line", ["{", "[]", '{"token": "a"}', '{"token": "a", "ego": [[1, 2]], "past": [], "others": []}',
                                  '{"token": "a", "ego": [[1, 2, 3], [1, 2, 3]], "past": [], "others": []}'])  # fmt: skip
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "x.futures.jsonl"
    path.write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 1"):
        read_futures(path, ["a"])
    assert read_futures(tmp_path / "none.futures.jsonl", ["a"]) == {}
