"""Labels at exact half seconds where key frames are not 0.5 s apart."""

import json

import numpy as np
import pytest

from senna.convert.frames import read_frames
from senna.convert.quality import label_problems
from senna.convert.timing import half_seconds, interpolate
from tests.convert.worlds import START, STEP, write_world

pytest.importorskip("nuscenes", reason="needs the extra: pip install -c constraints.txt -e '.[nuscenes]'")

MINI = "v1.0-mini"


def write_times(root, gap: float) -> None:
    """Put the key frames of a world ``gap`` seconds apart; its positions stay."""
    for name in ("sample", "sample_data", "ego_pose"):
        path = root / MINI / f"{name}.json"
        rows = json.loads(path.read_text())
        for row in rows:
            row["timestamp"] = START + round((row["timestamp"] - START) / STEP * gap * 1e6)
        path.write_text(json.dumps(rows))


@pytest.mark.parametrize("gap", [0.4, 0.6])
def test_labels_that_change_at_exact_half_seconds_are_flagged(tmp_path, gap):
    speed = 2.1 if gap == 0.6 else 1.9  # m/s by key frame, on either side of the 2 m/s of STOP
    car = [(20.0 + 0.5 * speed * step, 3.0) for step in range(20)]
    root = write_world(tmp_path, lambda step: (0.5 * speed * step, 0.0), {"vehicle.car": car})
    before = list(read_frames(root, MINI))
    assert not [problem for frame in before for problem in label_problems(frame) if "timing" in problem]
    write_times(root, gap)
    frames = list(read_frames(root, MINI))
    assert [str(frame.plan) for frame in frames] == [str(frame.plan) for frame in before], "the records stay the same"
    assert {frame.plan.speed for frame in frames if frame.plan} == {"KEEP" if gap == 0.6 else "STOP"}
    found = [problem.split(":")[0] for problem in label_problems(frames[0]) if "timing" in problem]
    assert found == ["plan depends on timing", "object label depends on timing"]
    assert frames[0].retimed.speed == ("STOP" if gap == 0.6 else "KEEP")


def test_half_seconds_are_interpolated_up_to_the_end_of_the_scene():
    times = np.array([0.0, 0.4, 1.0, 1.5, 2.1]) * 1e6
    between = half_seconds(times)
    positions = np.stack([times, -times], axis=1)
    found = interpolate(positions[between.lower], positions[between.upper], between.weight)
    expected = times[:, None] + np.arange(1, 7) * 0.5e6
    expected[expected > times[-1]] = np.nan
    np.testing.assert_allclose(found[..., 0], expected)
    np.testing.assert_allclose(found[..., 1], -expected)


def test_an_exact_half_second_needs_no_later_key_frame():
    times = np.arange(7) * 0.5e6
    between = half_seconds(times)
    assert (between.weight[0] == 0).all()
    points = np.full((1, 6, 2), 3.0)
    assert (interpolate(points, np.full((1, 6, 2), np.nan), between.weight[:1]) == points).all()
