import pytest

from senna.evaluate.metrics.plan_prompt import Situation, parse_situation, situation_of
from senna.navigation import COMMANDS
from senna.templates import load_templates

TEXTS = load_templates()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("speed", "metres"), [("0.0 m/s", 0.0), ("13.7 m/s", 13.7), ("speed not yet known", None)])
def test_command_and_speed_are_read_from_our_own_question(command, speed, metres):
    question = TEXTS["plan"]["question"].format(command=command, speed=speed)
    assert "RIGHT_TURN" in question
    assert parse_situation(question) == (command, metres)


@pytest.mark.parametrize(
    ("question", "situation"),
    [
        ("Your current speed is 3 m/s, the navigation command is 'turn right', based on the scene, what is your plan? "
         "SPEED includes KEEP and STOP, PATH includes STRAIGHT, RIGHT_CHANGE, LEFT_TURN.", ("turn right", 3.0)),
        ("current speed is 3.1 m/s, the navigation command is go straight and turn left", ("go straight and turn left", 3.1)),
        ("THE CAR DRIVES AT 3.1 M/S AND ITS ROUTE SAYS: GO  STRAIGHT\nAND TURN RIGHT.", ("go straight and turn right", 3.1)),
        ("Navigation: Turn Left. Speed: 4,5 metres per second.", ("turn left", 4.5)),
        ("You drive at 36 km/h. Navigation command: go straight.", ("go straight", 10.0)),
        ("Under 2.0 m/s it is a STOP. Your speed is 7.5m/s.", (None, 7.5)),
        ("Choose go straight, turn left or turn right. The route says turn right.", ("turn right", None)),
        ("Choose go straight, turn left or turn right.", (None, None)),
        ("SPEED, PATH: KEEP, STRAIGHT, RIGHT_TURN, LEFT_TURN for 3 seconds?", (None, None)),
        ("", (None, None)),
    ],
)  # fmt: skip
def test_other_phrasings_are_read_and_missing_facts_are_none(question, situation):
    command, speed = parse_situation(question)
    assert command == situation[0]
    assert speed == pytest.approx(situation[1])


def test_the_fields_of_a_record_have_priority_over_its_question():
    question = TEXTS["plan"]["question"].format(command="turn left", speed="3.1 m/s")
    assert situation_of({"command": "turn right", "speed": 4.25}, question) == ("turn right", 4.2)
    assert situation_of({"command": "turn right"}, question) == ("turn right", None)
    assert situation_of({"kind": "plan"}, question) == ("turn left", 3.1)
    assert situation_of({"command": "somewhere"}, "") == Situation(None, None)
