"""Navigation commands by the position 6 s ahead."""

import itertools

import pytest

from senna.navigation import command_to, published_command_to


@pytest.mark.parametrize(
    ("x", "y", "command"),
    [
        (0, 48, "go straight"),
        (0, 0, "go straight"),
        (9.9, 3, "go straight"),
        (10, 20, "go straight and turn right"),
        (-10, 20, "go straight and turn left"),
        (10, 19.9, "turn right"),
        (-10, 19.9, "turn left"),
        (-15, -5, "turn left"),
    ],
)
def test_the_command_follows_from_the_point_six_seconds_ahead(x, y, command):
    assert command_to(x, y) == command


def test_mirrored_points_have_mirrored_commands():
    for x, y in itertools.product((0, 5, 9, 11, 30), (-5, 5, 19, 21, 60)):
        mirrored = command_to(-x, y).replace("left", "LEFT").replace("right", "left").replace("LEFT", "right")
        assert command_to(x, y) == mirrored


def test_the_published_command_swaps_the_axes():
    assert published_command_to(0, 48) == "turn left"
    assert published_command_to(25, 48) == "go straight and turn left"
    assert published_command_to(25, -12) == "go straight and turn right"
    assert published_command_to(25, 5) == "go straight"
