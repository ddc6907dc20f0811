"""The text of a trajectory: what is written is read back, and nothing but six waypoints is read."""

import numpy as np
import pytest

from senna.trajectory import format_trajectory, parse_trajectory

POINTS = [[0.0, 2.5], [0.004, 5.006], [-0.004, 7.5], [-1.25, 10.0], [-2.5, 123.456], [-3.0, -0.1]]
TEXT = "0.00,2.50 0.00,5.01 0.00,7.50 -1.25,10.00 -2.50,123.46 -3.00,-0.10"


def test_text_has_six_waypoints_with_two_decimals():
    assert format_trajectory(POINTS) == TEXT


def test_text_is_read_back_to_the_centimetre():
    read = parse_trajectory(f"{TEXT}\n")
    assert read.shape == (6, 2)
    assert np.abs(read - POINTS).max() <= 0.005 + 1e-9
    assert format_trajectory(read) == TEXT


def test_whole_numbers_and_one_decimal_are_read():
    assert parse_trajectory("0,1 0,2.5 -0,3 0,4 0,5 1,6").tolist() == [[0, 1], [0, 2.5], [0, 3], [0, 4], [0, 5], [1, 6]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "KEEP, STRAIGHT",
        TEXT.rpartition(" ")[0],
        f"{TEXT} 0.00,1.00",
        f"Sure: {TEXT}",
        f"{TEXT}.",
        TEXT.replace("2.50 ", "2.500 ", 1),
        TEXT.replace("2.50 ", "nan ", 1),
        TEXT.replace("2.50 ", "inf ", 1),
        TEXT.replace("2.50 ", "2e0 ", 1),
        TEXT.replace("2.50 ", "+2.5 ", 1),
        TEXT.replace("2.50 ", ".5 ", 1),
        TEXT.replace("2.50 ", "2. ", 1),
        TEXT.replace("2.50 ", "2_5 ", 1),
        TEXT.replace("2.50 ", "2 ", 1).replace(" ", "  "),
        TEXT.replace("2.50 ", "\u0662 ", 1),
        TEXT.replace("2.50 ", f"{'9' * 400} ", 1),
        TEXT.replace(",", ", "),
        TEXT.replace(" ", "\n"),
    ],
)
def test_anything_else_is_no_trajectory(text):
    assert parse_trajectory(text) is None


@pytest.mark.parametrize("points", [POINTS[:5], [*POINTS, [0, 0]], np.zeros((6, 3)), np.zeros(12)])
def test_other_shapes_have_no_text(points):
    with pytest.raises(ValueError, match=r"\(6, 2\)"):
        format_trajectory(points)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e6])
def test_points_that_are_not_finite_or_too_far_have_no_text(value):
    points = np.array(POINTS)
    points[3, 1] = value
    with pytest.raises(ValueError, match="finite"):
        format_trajectory(points)
