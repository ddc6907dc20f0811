from senna.evaluate.metrics.baselines import BY_COMMAND, BY_SITUATION, MAJORITY, baselines
from senna.evaluate.metrics.plan_prompt import Situation
from senna.meta_actions import MetaAction

KEEP, STOP = MetaAction("KEEP", "STRAIGHT"), MetaAction("STOP", "STRAIGHT")
LEFT = MetaAction("KEEP", "LEFT_TURN")


def test_each_baseline_uses_the_facts_in_its_name():
    train = (
        [Situation("go straight", 8.0)] * 4 + [Situation("go straight", 1.0)] * 3 + [Situation("turn left", 8.0)] * 2
    )
    truth = [KEEP] * 4 + [STOP] * 3 + [LEFT] * 2
    situations = [Situation("go straight", 9.0), Situation("go straight", 0.5), Situation("turn left", 8.0)]
    found = baselines(train, truth, situations)
    assert found == {MAJORITY: [KEEP] * 3, BY_COMMAND: [KEEP, KEEP, LEFT], BY_SITUATION: [KEEP, STOP, LEFT]}


def test_an_unknown_command_gets_the_majority_and_ties_go_to_the_first():
    train = [Situation("go straight", 1.0), Situation("go straight", 2.0), Situation(None, 3.0)]
    found = baselines(train, [STOP, KEEP, STOP], [Situation("turn right", 1.0), *train])
    assert found[MAJORITY] == [STOP] * 4
    assert found[BY_COMMAND] == [STOP, KEEP, KEEP, STOP]


def test_an_unknown_speed_differs_from_speed_zero():
    train = [Situation("go straight", 0.0)] * 5 + [Situation("go straight", None)] * 5
    found = baselines(train, [STOP] * 5 + [KEEP] * 5, train)
    assert found[BY_SITUATION] == [STOP] * 5 + [KEEP] * 5
