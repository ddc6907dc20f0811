"""The cameras of other simulators: found by name or direction; a missing, doubtful or wrong one is named."""

import math

import pytest

from senna.drive.cameras import DIRECTIONS, Camera, assign_views, direction_of, parse_cameras
from senna.errors import UsageError
from senna.views import VIEWS

AHEAD = dict(zip(VIEWS, (0, 55, -55, 110, -110, 180), strict=True))
ROUND = [Camera(f"cam{number}", angle) for number, angle in enumerate(AHEAD.values())]


def test_the_directions_are_those_of_nuscenes():
    assert {view: math.remainder(DIRECTIONS[view] - angle, 360) for view, angle in AHEAD.items()} == pytest.approx(
        dict.fromkeys(VIEWS, 0), abs=3
    )
    assert direction_of((0.0, 1.0, 0.0)) == 90
    assert math.isnan(direction_of((0.0, 0.0, 1.0)))


def test_cameras_without_known_names_are_found_by_their_directions():
    turned = [Camera(name, angle + 20) for name, angle in ROUND]
    expected = {view: f"cam{number}" for number, view in enumerate(VIEWS)}
    assert assign_views(ROUND[::-1]) == assign_views(turned) == expected
    assert list(assign_views(ROUND[::-1])) == list(VIEWS)
    assert assign_views([*ROUND, Camera("roof", math.nan), Camera("side", 85)]) == expected


def test_cameras_of_nuscenes_and_alpasim_are_found_by_their_names():
    channels = [Camera(f"CAM_{view.upper().replace(' ', '_')}", AHEAD[view]) for view in VIEWS]
    assert assign_views(channels) == {view: camera.name for view, camera in zip(VIEWS, channels, strict=True)}
    rig = {
        "camera_front_tele_30fov": 0, "camera_front_wide_120fov": 0, "camera_cross_left_120fov": 60,
        "camera_cross_right_120fov": -60, "camera_rear_left_70fov": 152, "camera_rear_right_70fov": -152,
        "camera_rear_tele_30fov": 180,
    }  # fmt: skip
    assert assign_views([Camera(*item) for item in rig.items()]) == {
        "front": "camera_front_wide_120fov", "front left": "camera_cross_left_120fov",
        "front right": "camera_cross_right_120fov", "back left": "camera_rear_left_70fov",
        "back right": "camera_rear_right_70fov", "back": "camera_rear_tele_30fov",
    }  # fmt: skip


def test_chosen_cameras_come_first():
    chosen = parse_cameras(" back_left=cam5, front = side ")
    assert chosen == {"back left": "cam5", "front": "side"}
    cameras = [*ROUND, Camera("behind", 175), Camera("side", 90)]
    found = assign_views(cameras, chosen)
    assert (found["back left"], found["front"], found["back"]) == ("cam5", "side", "behind")
    with pytest.raises(UsageError, match="no camera 'cam9'; it has 'cam0'"):
        assign_views(ROUND, {"front": "cam9"})


@pytest.mark.parametrize("view", VIEWS)
def test_a_missing_camera_is_named_with_its_direction_and_those_that_are_there(view):
    rest = [camera for camera, name in zip(ROUND, VIEWS, strict=True) if name != view]
    with pytest.raises(UsageError, match=rf"no camera for the {view} view .*{rest[0].name}.*--cameras '{view}=NAME'"):
        assign_views(rest)


def test_two_cameras_in_one_direction_and_a_wrong_direction_are_refused():
    for cameras in ([*ROUND, Camera("other", 5)], [Camera("other", 5), *ROUND]):
        with pytest.raises(UsageError, match="'cam0' and 'other' both look in the direction of the front view"):
            assign_views(cameras)
    wrong = [Camera("CAM_FRONT", math.nan), *ROUND[1:]]
    with pytest.raises(UsageError, match=r"'CAM_FRONT' looks up or down, and its name says front.*--simulator"):
        assign_views(wrong)
    with pytest.raises(UsageError, match="no camera for the front view"):
        assign_views([])


@pytest.mark.parametrize("words", ["front", "roof=cam1", "front=", "front=a,front=b", "front=a,back=a"])
def test_wrong_choices_are_refused(words):
    with pytest.raises(UsageError, match="--cameras"):
        parse_cameras(words)
