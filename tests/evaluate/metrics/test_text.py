import math

import pytest

from senna.evaluate.metrics.evaluate_predictions import evaluate_predictions
from senna.evaluate.metrics.road_users import User, match, parse_users
from senna.kinds import QuestionKind, parse_motion, parse_text, parse_traffic_light, register, unregister
from senna.meta_actions import MetaAction
from senna.templates import load_templates

TEXTS = load_templates()


def figures(kind, *pairs):
    """Return the figures of (truth, answer) pairs of a kind, each from another scene."""
    lines = [
        {"index": index, "id": "", "scene": f"s{index}", "kind": kind, "question": "", "truth": truth, "text": text}
        for index, (truth, text) in enumerate(pairs)
    ]
    found = evaluate_predictions(lines)
    assert found["plan"] is None
    assert list(found["text"]) == [kind]
    return found["text"][kind]


def answer_naming(*users):
    """Return an answer from our templates that names these users."""
    words = TEXTS["words"]
    objects = [
        TEXTS["vru"]["object"].format(
            name=user.name,
            ahead=words["ahead" if user.y >= 0 else "behind"].format(metres=round(abs(user.y))),
            aside=words["right" if user.x >= 0 else "left"].format(metres=round(abs(user.x))),
        )
        for user in users
    ]
    return TEXTS["vru"]["some"].format(reach=20, are="is" if len(users) == 1 else "are", objects=", ".join(objects))


NO_ONE = TEXTS["vru"]["none"].format(reach=20)


@pytest.mark.parametrize(
    ("text", "light"),
    [("Red", 0), (" green.\n", 2), ("'None'", 3), ("The light is red.", None), ("Red, Green", None), ("", None)],
)
def test_a_traffic_light_is_a_single_word(text, light):
    assert parse_traffic_light(text) == light


def test_traffic_light_figures_equal_a_count_by_hand():
    found = figures("traffic_light", ("Red", "Red"), ("Red", "green."), ("Green", "Green"), ("None", "It is off"))
    assert (found["records"], found["invalid"]) == (4, 1 / 4)
    assert found["accuracy"]["value"] == 2 / 4
    # Red: 1 of 1 predicted is right, 1 of 2 true is found; Green: 1 of 2, 1 of 1; None: none
    assert found["macro_f1"]["value"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert found["majority_class"]["accuracy"]["value"] == 2 / 4
    assert found["lights"]["confusion"] == [[1, 0, 1, 0, 0], [0] * 5, [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize(
    "users",
    [
        [User("pedestrian", 3.0, 12.0)],
        [User("bicycle", -2.0, 5.0), User("construction worker", 0.0, 19.0), User("pedestrian", 1.0, -3.0)],
        [User("police officer", -11.0, 0.0)],
    ],
)
def test_users_are_read_from_our_answers(users):
    assert parse_users(answer_naming(*users)) == users


def test_users_are_read_from_published_answers():
    text = (
        "Yes, I see a pedestrian located 12 meters ahead of me and 3 meters to the left, and a bicycle located 7 meters "
        "ahead of me."
    )
    assert parse_users(text) == [User("pedestrian", -3.0, 12.0), User("bicycle", 0.0, 7.0)]
    assert parse_users("No, I don't see any vulnerable road users ahead of me, such as pedestrians.") == []
    assert parse_users(NO_ONE) == []
    assert parse_users("The road is wet.") is None


def test_users_are_matched_with_the_least_total_distance():
    near, far = User("pedestrian", 0.0, 5.0), User("pedestrian", 0.0, 9.0)
    predicted = [User("pedestrian", 0.0, 8.0), User("pedestrian", 0.0, 14.0), User("bicycle", 0.0, 5.0)]
    assert sorted(match([far, near], predicted)) == [(near, predicted[0]), (far, predicted[1])]  # 3 + 5 m, not 1 + 9


def test_road_user_figures_equal_a_count_by_hand():
    found = figures(
        "vru",
        (
            answer_naming(User("pedestrian", 3.0, 4.0)),
            answer_naming(User("pedestrian", 6.0, 8.0), User("bicycle", 1.0, 1.0)),
        ),
        (answer_naming(User("bicycle", 0.0, 10.0)), NO_ONE),
        (NO_ONE, NO_ONE),
        (NO_ONE, answer_naming(User("bicycle", 0.0, 10.0))),
        (NO_ONE, "nice weather"),
    )
    assert found["found_accuracy"]["value"] == 2 / 5
    assert found["found_majority_class"] == 3 / 5
    assert found["invalid"] == 1 / 5
    assert [found[f"found_{name}"]["value"] for name in ("precision", "recall", "f1")] == [1 / 2, 1 / 2, 1 / 2]
    assert found["found"]["confusion"] == [[1, 1, 0], [1, 1, 1]]
    users = found["users"]
    assert (users["true"], users["predicted"], users["matched"]) == (2, 3, 1)
    assert (users["precision"], users["recall"], users["f1"]["value"]) == (1 / 3, 1 / 2, pytest.approx(2 * 1 / 5))
    assert found["distance_error"]["value"] == 10 - 5
    assert found["place_error"]["value"] == math.hypot(3, 4)
    assert found["count_error"]["value"] == (1 + 1 + 0 + 1 + 0) / 5


def test_motion_is_parsed_line_by_line():
    text = "Object 1: KEEP, STRAIGHT\nobject 2 : stop, straight.\nObject 3: KEEP\n"
    text += "Object 4: KEEP, STRAIGHT\nObject 4: STOP, STRAIGHT"
    keep, stop = MetaAction("KEEP", "STRAIGHT"), MetaAction("STOP", "STRAIGHT")
    assert parse_motion(text) == {1: keep, 2: stop, 3: None, 4: None}
    assert parse_motion("They will stop.") is None


def test_motion_figures_equal_a_count_by_hand():
    found = figures(
        "motion",
        ("Object 1: KEEP, STRAIGHT\nObject 2: STOP, STRAIGHT\n", "Object 1: KEEP, LEFT_TURN\nObject 2: STOP, STRAIGHT"),
        ("Object 1: KEEP, LEFT_TURN\nObject 2: KEEP, STRAIGHT\n", "Object 2: KEEP, STRAIGHT\nObject 3: STOP, STRAIGHT"),
        ("Object 1: KEEP, STRAIGHT\n", "Object 1: KEEP, STRAIGHT\n"),
        ("Object 1: STOP, STRAIGHT\n", "I do not know"),
    )
    assert (found["objects"], found["missing"], found["surplus"], found["invalid"]) == (6, 2, 1, 1 / 4)
    assert found["all_right"]["value"] == 1 / 4
    assert found["accuracy"]["value"] == 3 / 6
    assert found["decisions"]["accuracy"]["speed"]["value"] == 4 / 6
    # SPEED: KEEP 3 of 3 predicted, 3 of 4 true; STOP 1 of 1, 1 of 2. PATH: STRAIGHT 3 of 3, 3 of 5; LEFT_TURN 0 of 1.
    assert found["speed_macro_f1"]["value"] == pytest.approx((6 / 7 + 2 / 3) / 2)
    assert found["path_macro_f1"]["value"] == pytest.approx((3 / 4 + 0) / 2)
    assert found["decisions"]["invalid"] == 2 / 6
    assert found["majority_class"]["accuracy"]["both"]["value"] == 3 / 6


def test_unreadable_truths_are_left_out_and_counted():
    found = figures("traffic_light", ("Red", "Red"), ("The lights are out", "Red"))
    assert (found["records"], found["unreadable_truths"], found["accuracy"]["value"]) == (1, 1, 1.0)
    found = figures("motion", ("They go on.", "Object 1: KEEP, STRAIGHT"))
    assert (found["records"], found["unreadable_truths"]) == (0, 1)
    assert "form" in found["skipped"]


def test_a_registered_kind_is_scored_without_further_changes():
    def share_equal(truth, predicted, scenes):
        return {
            "equal": sum(a == b for a, b in zip(truth, predicted, strict=True)) / len(truth),
            "counted": scenes.count,
        }

    register(QuestionKind("weather", "Weather", 2, lambda frame, texts: [], {}, parse_text, share_equal))
    try:
        found = figures("weather", ("Rain", "Rain "), ("Sun", "Rain"), (" ", "Sun"))
    finally:
        unregister("weather")
    assert found == {"records": 2, "scenes": 2, "unreadable_truths": 1, "equal": 0.5, "counted": 2}
