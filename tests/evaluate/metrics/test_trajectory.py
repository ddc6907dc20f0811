"""Open-loop metrics: hand-worked cases, other formulations of the same figures, and the real tables."""

import numpy as np
import pytest

from senna.convert.frames import read_frames
from senna.convert.questions import questions_of, records_of
from senna.evaluate.metrics import trajectory_baselines as known
from senna.evaluate.metrics.bootstrap import Scenes
from senna.evaluate.metrics.collisions import EGO_SIZE, boxes_overlap, collisions, motion_headings
from senna.evaluate.metrics.trajectory import distances, trajectory_metrics
from senna.evaluate.predict import facts_of
from senna.futures import Futures
from senna.templates import load_templates
from senna.trajectory import format_trajectory, parse_trajectory
from tests.helpers.paths import SHARED

AHEAD = np.array([[0.0, 4.0 * step] for step in range(1, 7)])  # 8 m/s
NOTHING = (np.zeros((0, 2)), np.zeros((0, 6, 3)))


def around(token, sizes, poses, xy=AHEAD):
    ego = np.column_stack([xy, motion_headings(xy[None])[0]])
    names = ("car",) * len(sizes)
    return Futures(
        token, ego, np.zeros((0, 3)), names, np.array(sizes).reshape(-1, 2), np.array(poses).reshape(-1, 6, 3)
    )


def parked(x, y, heading=0.0):
    return [[x, y, heading]] * 6


def row(index, text, truth=AHEAD, **more):
    facts = {"index": index, "kind": "trajectory", "scene": f"scene {index}", "token": f"t{index}", "question": "?"}
    facts |= {"truth": format_trajectory(truth), "command": "go straight", "speed": 8.0, "plan": "KEEP, STRAIGHT"}
    return {**facts, "text": text, **more}


def values(figures):
    return {name: [figures[name][second]["value"] for second in "123"] for name in ("at", "mean")}


def test_l2_of_a_worked_case_in_both_conventions():
    """The answer is off by 0, 1, 2, 3, 4 and 5 m to the right in its six steps; the second one is right."""
    off = AHEAD + np.array([[step, 0.0] for step in range(6)])
    found = trajectory_metrics([row(0, format_trajectory(off)), row(1, format_trajectory(AHEAD))], {})
    assert found is not None
    assert values(found["l2"]) == {"at": [0.5, 1.5, 2.5], "mean": pytest.approx([0.25, 0.75, 1.25])}
    assert (found["ade"]["value"], found["fde"]["value"]) == pytest.approx((1.25, 2.5))
    assert found["collisions"] is None, "there are no futures"
    assert found["without_futures"] == 2


def test_l2_equals_the_modulus_of_complex_numbers():
    rng = np.random.default_rng(0)
    xy, truth = rng.normal(size=(2, 50, 6, 2)) * 10
    error = np.abs((xy[..., 0] + 1j * xy[..., 1]) - (truth[..., 0] + 1j * truth[..., 1]))
    assert distances(xy, truth) == pytest.approx(error)
    rows = [row(index, format_trajectory(a), b) for index, (a, b) in enumerate(zip(xy, truth, strict=True))]
    figures = values(trajectory_metrics(rows, {})["l2"])
    assert figures["at"] == pytest.approx([error[:, at].mean() for at in (1, 3, 5)], abs=0.01)
    assert figures["mean"] == pytest.approx([np.mean(error[:, :count]) for count in (2, 4, 6)], abs=0.01)


def test_collisions_of_a_worked_case_in_both_conventions():
    """A parked car at 16 m: the ego vehicle's box, 4.084 m long with its centre 0.5 m ahead, is over it in step 4 only.

    The recorded drive stops before it, so that its own box touches nothing.
    """
    stopped = np.array([[0.0, 2.0 * step] for step in range(1, 7)])  # ends at 12 m, its front at 14.542 m
    car = around("t0", [(2.0, 2.0)], [parked(0.0, 16.6)], stopped)  # from 15.6 to 17.6 m
    free = around("t1", *NOTHING, stopped)
    rows = [row(0, format_trajectory(AHEAD), stopped), row(1, format_trajectory(AHEAD), stopped)]
    found = trajectory_metrics(rows, {"t0": car, "t1": free})
    # The ego vehicle is at 4, 8, 12, 16, 20 and 24 m; its box reaches from y - 1.542 to y + 2.542.
    assert values(found["collisions"]) == {"at": [0.0, 0.5, 0.0], "mean": pytest.approx([0.0, 0.125, 1 / 12])}
    assert found["recorded_collisions"] == 0.0


def test_a_step_at_which_the_recorded_drive_collides_is_no_collision_of_a_prediction():
    """The recorded drive is over the parked car in step 4, the prediction in steps 3 and 4."""
    slower = AHEAD.copy()
    slower[2:4] = [[0.0, 15.0], [0.0, 16.0]]
    car = around("t0", [(2.0, 2.0)], [parked(0.0, 16.6)])
    hits = collisions(slower[None], motion_headings(slower[None]), [car])
    assert hits.tolist() == [[0, 0, 1, 1, 0, 0]]
    found = trajectory_metrics([row(0, format_trajectory(slower))], {"t0": car})
    assert values(found["collisions"]) == {"at": [0.0, 0.0, 0.0], "mean": pytest.approx([0.0, 0.25, 1 / 6])}
    assert found["recorded_collisions"] == 1.0


def test_boxes_touch_and_turn():
    def overlap(x, y, heading, size=(4.0, 2.0)):
        return bool(
            boxes_overlap(
                np.zeros(2), np.array(0.0), np.array([4.0, 2.0]), np.array([x, y]), np.array(heading), np.array(size)
            )
        )

    assert overlap(0, 4.0, 0)
    assert not overlap(0, 4.001, 0)
    assert overlap(2.0, 0, 0)
    assert not overlap(2.001, 0, 0)
    assert overlap(2.9, 0, 90), "across, its length is to the side"
    assert not overlap(2.9, 0, 0)
    # A square on its corner: corner to side at 1 + 2 ** 0.5; the bounding boxes of these two would overlap at the corner.
    assert overlap(2.41, 0, 45, (2.0, 2.0))
    assert not overlap(2.42, 0, 45, (2.0, 2.0))
    assert not overlap(2.2, 3.2, 45, (2.0, 2.0))
    assert not overlap(np.nan, 0, 0)


def corners(centre, heading, size):
    """Return the corners of a box as complex numbers, by rotation in the complex plane."""
    turn = np.exp(1j * np.radians(heading))
    half_length, half_width = size[0] / 2, size[1] / 2
    offsets = [half_width + 1j * half_length, -half_width + 1j * half_length]
    offsets += [-offset for offset in offsets]
    return [complex(*centre) + offset * turn for offset in offsets]


def clipped_area(subject, clip):
    """Return the area of the intersection of two convex polygons of complex numbers (Sutherland and Hodgman)."""

    def cross(a, b):
        return (a.conjugate() * b).imag

    for start, end in zip(clip, [*clip[1:], clip[0]], strict=True):
        result = []
        for a, b in zip(subject, [*subject[1:], subject[0]], strict=True):
            side_a, side_b = cross(end - start, a - start), cross(end - start, b - start)
            result += [a] if side_a >= 0 else []
            result += [a + (b - a) * side_a / (side_a - side_b)] if side_a * side_b < 0 else []
        if not (subject := result):
            return 0.0
    return sum(cross(a, b) for a, b in zip(subject, [*subject[1:], *subject[:1]], strict=True)) / 2


def test_overlap_equals_an_intersection_with_an_area():
    """Against polygon clipping, for 500 random pairs of boxes of which about half overlap."""
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(-4, 4, (500, 2)), rng.uniform(-180, 180, 500), rng.uniform(0.5, 6, (500, 2))), (
        rng.uniform(-4, 4, (500, 2)), rng.uniform(-180, 180, 500), rng.uniform(0.5, 6, (500, 2)))  # fmt: skip
    areas = [
        clipped_area(corners(*one), corners(*other))
        for one, other in zip(zip(*a, strict=True), zip(*b, strict=True), strict=True)
    ]
    assert 100 < np.count_nonzero(np.array(areas) > 0) < 400
    assert boxes_overlap(*a, *b).tolist() == [area > 1e-9 for area in areas]


def test_collisions_equal_those_of_clipped_polygons_along_curved_paths():
    rng = np.random.default_rng(1)
    angle = rng.uniform(-0.3, 0.3, (40, 1)) * np.arange(1, 7)
    xy = np.cumsum(np.stack([-3 * np.sin(angle), 3 * np.cos(angle)], axis=-1), axis=1)
    headings = motion_headings(xy)
    assert headings == pytest.approx(np.degrees(angle)), "the direction of each step"
    poses = np.concatenate(
        [rng.uniform((-8, 0), (8, 20), (40, 5, 6, 2)), rng.uniform(-180, 180, (40, 5, 6, 1))], axis=-1
    )
    poses[rng.random((40, 5, 6)) < 0.2] = np.nan
    sizes = rng.uniform(0.5, 5, (40, 5, 2))
    scene = [around("t", size, pose) for size, pose in zip(sizes, poses, strict=True)]
    found = collisions(xy, headings, scene)
    for index in range(40):
        for step in range(6):
            turn = np.exp(1j * np.radians(headings[index, step]))
            centre = complex(*xy[index, step]) + 0.5j * turn
            box = corners((centre.real, centre.imag), headings[index, step], EGO_SIZE)
            areas = [
                clipped_area(box, corners(pose[:2], pose[2], size))
                for pose, size in zip(poses[index, :, step], sizes[index], strict=True)
                if np.isfinite(pose).all()
            ]
            assert found[index, step] == any(area > 1e-9 for area in areas)
    assert 20 < found.sum() < 220


def test_a_standing_vehicle_keeps_its_heading():
    xy = np.array([[[-1.0, 1.0], [-2.0, 2.0], [-2.0, 2.0], [-2.1, 2.0], [-2.1, 2.0], [-2.1, 4.0]]])
    assert motion_headings(xy).tolist() == [pytest.approx([45, 45, 45, 45, 45, 0])]
    assert motion_headings(np.zeros((1, 6, 2))).tolist() == [[0.0] * 6]


def test_constant_turn_is_a_circle_and_without_a_turn_a_straight_line():
    states = known.ego_states([8.0, None], ["go straight", None], [None, None])
    assert known.constant_velocity(states)[0] == pytest.approx(AHEAD)
    assert not known.constant_velocity(states)[1].any(), "an unknown speed counts as 0"
    assert known.constant_turn(states) == pytest.approx(known.constant_velocity(states))
    past = np.array([[0.0, -4.0, -10.0], [0.0, -8.0, -20.0]])  # it has turned to the left by 10 degrees per step
    turning = Futures("t", np.full((6, 3), np.nan), past, (), *NOTHING)
    path = known.constant_turn(known.ego_states([8.0], ["turn left"], [turning]))[0]
    rate = np.radians(20.0)
    radius = 8.0 / rate
    z = [radius * (np.exp(1j * rate * t) - 1) for t in np.arange(0.5, 3.1, 0.5)]  # a circle around -radius
    assert path == pytest.approx(np.array([[c.real, c.imag] for c in z]))
    assert path[-1, 0] < -4, "to the left"


def test_ego_status_model_finds_a_linear_rule():
    """The recorded end depends on command and speed; the model is fitted on other records than it is scored on."""
    rng = np.random.default_rng(0)

    def drawn(count):
        speeds, turns = rng.uniform(0, 12, count), rng.integers(2, size=count)
        steps = np.arange(1, 7) * 0.5
        xy = np.stack([turns[:, None] * -0.3 * speeds[:, None] * steps, speeds[:, None] * steps], axis=-1)
        return known.ego_states(
            speeds.tolist(), [("go straight", "turn left")[turn] for turn in turns], [None] * count
        ), xy

    fitted = known.EgoStatusModel(*drawn(200))
    states, truth = drawn(50)
    assert distances(fitted.predict(states), truth).max() < 0.5
    assert distances(known.constant_velocity(states), truth).max() > 5


def test_consistency_is_the_share_of_plans_that_the_rule_gives_back():
    stop = np.zeros((6, 2))
    rows = [
        row(0, format_trajectory(AHEAD)),
        row(1, format_trajectory(stop)),
        row(2, format_trajectory(stop), plan="STOP, STRAIGHT", plan_source="recorded"),
        row(3, "no trajectory"),
    ]
    found = trajectory_metrics(rows, {})
    assert found["consistency"]["accuracy"]["both"]["value"] == 0.5
    assert found["consistency"]["invalid"] == 0.25
    assert (found["invalid"], found["recorded_plans"]) == (0.25, 1)
    assert found["fde"]["value"] == pytest.approx(16.0), "of the three answers that are trajectories"


def test_gains_are_paired_and_black_images_are_scored_on_the_same_records():
    off = AHEAD + np.array([1.0, 0.0])
    rows = [row(index, format_trajectory(AHEAD)) for index in range(3)]
    black = [row(index, format_trajectory(off)) for index in range(3)]
    found = trajectory_metrics(rows, {}, black)
    assert found["blackout"]["fde"]["value"] == 1.0
    assert found["gains"]["all images black"] == {"value": -1.0, "low": -1.0, "high": -1.0}
    assert found["baselines"]["constant velocity"]["fde"]["value"] == 0.0
    assert "favours" in found["baselines_fitted_on"]
    train = [row(index, "", 2 * AHEAD, speed=16.0) for index in range(4)]
    assert (
        trajectory_metrics(rows, {}, train=train, train_name="x.jsonl")["baselines_fitted_on"]
        == "x.jsonl, 4 trajectories"
    )


def test_other_kinds_and_answers_without_a_readable_truth_have_no_figures():
    assert trajectory_metrics([{"kind": "plan", "text": "KEEP, STRAIGHT"}], {}) is None
    assert trajectory_metrics([row(0, "") | {"truth": "KEEP, STRAIGHT"}], {}) is None


TABLES = SHARED / "data" / "nuscenes_mini10_tables"


@pytest.mark.skipif(not TABLES.is_dir(), reason="needs nuScenes' tables")
def test_ground_truth_of_real_tables_scores_zero_and_is_consistent():
    """344 of the 404 frames of v1.0-mini have a future of 3 s."""
    pytest.importorskip("nuscenes", reason="needs the extra: pip install -c constraints.txt -e '.[nuscenes]'")
    templates, rows, futures = load_templates(), [], {}
    for frame in read_frames(TABLES, "v1.0-mini"):
        assert frame.futures is not None
        futures[frame.token] = frame.futures
        asked = [question for question in questions_of(frame, templates) if question.kind == "trajectory"]
        for record in records_of(frame, asked, {}):
            rows.append({"index": len(rows), **facts_of(record, []), "text": record["conversations"][1]["value"]})
    found = trajectory_metrics(rows, futures)
    assert (found["records"], found["scenes"], found["recorded_collisions"]) == (344, 10, 0.0)
    assert found["ade"]["value"] == found["fde"]["value"] == 0.0
    assert values(found["collisions"]) == {"at": [0.0] * 3, "mean": [0.0] * 3}
    assert found["consistency"]["accuracy"]["both"]["value"] == 1.0
    straight = found["baselines"]["constant velocity"]
    assert values(straight["l2"])["at"] == pytest.approx([0.495, 1.401, 2.685], abs=5e-4)
    assert values(straight["l2"])["mean"] == pytest.approx([0.346, 0.748, 1.279], abs=5e-4)
    # The same from the records alone: the stated speed against the recorded end.
    ends = [parse_trajectory(line["truth"])[-1] - [0.0, 3.0 * line.get("speed", 0.0)] for line in rows]
    assert np.linalg.norm(ends, axis=1).mean() == pytest.approx(straight["fde"]["value"])
    by_scene = Scenes([line["scene"] for line in rows])
    assert by_scene.count == 10
