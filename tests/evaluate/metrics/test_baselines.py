import numpy as np
import pytest

from senna.evaluate.metrics.baselines import BY_COMMAND, BY_SITUATION, MAJORITY, baselines
from senna.evaluate.metrics.bootstrap import Scenes
from senna.evaluate.metrics.meta_actions import decide
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


def test_baselines_reach_their_known_figures_on_nuscenes_mini(data):
    pytest.importorskip("nuscenes", reason="nuscenes-devkit is not installed")
    from senna.convert.frames import read_frames

    frames = [frame for frame in read_frames(data / "nuscenes_mini10_tables", "v1.0-mini") if frame.plan]
    truth, names = [frame.plan for frame in frames], np.array([frame.scene for frame in frames])
    situations = [Situation(frame.command, None if np.isnan(frame.speed) else frame.speed) for frame in frames]
    predicted = {}
    for scene in np.unique(names):  # fitted on all other scenes
        rest, held = np.flatnonzero(names != scene), np.flatnonzero(names == scene)
        found = baselines([situations[i] for i in rest], [truth[i] for i in rest], [situations[i] for i in held])
        for name, answers in found.items():
            predicted.setdefault(name, {}).update(zip(held, answers, strict=True))
    scenes = Scenes(names)
    figures = {
        name: decide(truth, [answers[i] for i in range(len(truth))], scenes).as_json()
        for name, answers in predicted.items()
    }
    majority, tree = figures[MAJORITY], figures[BY_SITUATION]
    assert len(truth) == 344
    assert majority["accuracy"]["both"]["value"] == pytest.approx(0.616, abs=5e-4)
    assert majority["macro_f1"]["both"]["value"] == pytest.approx(0.127, abs=5e-4)
    assert tree["accuracy"]["both"]["value"] == pytest.approx(0.80, abs=0.02)
    assert tree["macro_f1"]["both"]["value"] == pytest.approx(0.33, abs=0.03)
