import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from senna.convert.questions import Answer, questions_of, records_of
from senna.errors import DataError, UsageError
from senna.kinds import all_kinds
from senna.meta_actions import MetaAction, parse_meta_action
from senna.record_file import open_records
from senna.records import prompt_images, record_kind, write_records
from senna.templates import DEFAULT, load_templates
from senna.trajectory import parse_trajectory, with_plan
from senna.views import VIEWS, camera_of, image_block
from tests.helpers.converter_frames import KEEP, STOP, agent, frame, walker

TEMPLATES = load_templates()
TABLES = ("vru", "motion", "plan", "trajectory")  # the kinds that the tables answer


def asked(of, kind, templates=TEMPLATES):
    return [question for question in questions_of(of, templates) if question.kind == kind]


def answers_to(of):
    return {
        (question.kind, question.view): Answer(f"{question.kind} of {question.view}.", "somebody")
        for question in questions_of(of, TEMPLATES)
        if question.answer is None
    }


def test_frame_has_questions_of_every_kind_and_none_twice():
    questions = questions_of(frame(agent(0, 10), agent(0, -10)), TEMPLATES)
    assert list(dict.fromkeys(question.kind for question in questions)) == [kind.name for kind in all_kinds()]
    assert len({(question.kind, question.view) for question in questions}) == len(questions)
    assert [question.view for question in questions if question.kind == "description"] == list(VIEWS)
    assert {question.kind for question in questions if question.answer is None} == {
        "traffic_light", "description", "explanation",
    }  # fmt: skip


def test_motion_lists_moving_objects_within_reach_nearest_first():
    scene = frame(
        agent(3, 39, speed=7.26),
        agent(-2, 12, name="truck", plan=MetaAction("DECELERATE", "LEFT_TURN")),
        agent(0, 41),  # too far
        agent(1, 8, "movable_object.trafficcone", "traffic cone", "static", plan=STOP),
        agent(1, 9, plan=None),  # its next 3 s are incomplete
        agent(0, -19, name="bus", speed=float("nan"), plan=STOP),
        agent(0, -21),  # too far at the back
    )
    front, back = asked(scene, "motion")
    assert [line for line in front.text.splitlines() if line.startswith(("Object 1", "Object 2"))] == [
        "Object 1: truck, 12 m ahead, 2 m to the left, 5.0 m/s",
        "Object 2: car, 39 m ahead, 3 m to the right, 7.3 m/s",
    ]
    assert front.answer == "Object 1: DECELERATE, LEFT_TURN\nObject 2: KEEP, STRAIGHT\n"
    assert "Object 1: bus, 19 m behind, 0 m to the right, speed not yet known\n" in back.text
    assert (back.view, back.answer) == ("back", "Object 1: STOP, STRAIGHT\n")


def test_only_the_nearest_twenty_objects_are_listed():
    (motion,) = asked(frame(*(walker(0, 5 + index) for index in range(30))), "motion")
    assert motion.answer.count("\n") == 20
    assert "24 m ahead" in motion.text
    assert "25 m ahead" not in motion.text


def test_vulnerable_road_users_are_pedestrians_and_riders_within_20_m_in_front():
    scene = frame(
        walker(2.6, 14),
        agent(-1, 8, "vehicle.bicycle", "bicycle", "cyclist", plan=None),
        walker(0, 21),
        walker(0, -5),
        agent(0, 5, "animal", "animal", "pedestrian"),
        agent(0, 6),
    )
    (question,) = asked(scene, "vru")
    assert question.answer == (
        "Within 20 m there are: a bicycle 8 m ahead and 1 m to the left, a pedestrian 14 m ahead and 3 m to the right."
    )
    assert asked(frame(walker(0, 10)), "vru")[0].answer.startswith("Within 20 m there is: a pedestrian")
    assert asked(frame(agent(0, 6)), "vru")[0].answer.startswith("No one")


def test_incomplete_future_gives_no_plan_and_no_explanation():
    future = np.array(frame().future)
    future[4:] = np.nan
    cut = frame(future=future, plan=None)
    assert {question.kind for question in questions_of(cut, TEMPLATES)} == {kind.name for kind in all_kinds()} - {
        "plan",
        "trajectory",
        "explanation",
        "motion",
    }
    record = records_of(cut, questions_of(cut, TEMPLATES), {})[0]
    assert (record["fut_valid_flag"], record["ego_fut_trajs"]) == (False, future[:4].tolist())


def test_plan_question_states_command_and_speed_and_its_explanation_the_plan():
    (plan,), (why,) = asked(frame(), "plan"), asked(frame(), "explanation")
    assert plan.answer == "KEEP, STRAIGHT\n"
    assert "turn left" in plan.text
    assert "8.0 m/s" in plan.text
    assert "KEEP, STRAIGHT" in why.text
    assert "KEEP, STRAIGHT" not in plan.text
    assert (plan.command, plan.speed) == (why.command, why.speed) == ("turn left", 8.0)


def test_the_plan_of_a_trajectory_s_question_can_be_replaced_wherever_it_stands():
    texts = {**TEMPLATES, "trajectory": {"question": "{plan}? Not KEEP, STRAIGHT but {plan} at {speed}."}}
    (record,) = (r for r in records_of(frame(), questions_of(frame(), texts), {}) if r["kind"] == "trajectory")
    assert (record["plan"], len(record["plan_at"])) == ("KEEP, STRAIGHT", 2)
    for plan in ("STOP, RIGHT_CHANGE", "KEEP, STRAIGHT", "STOP, STRAIGHT"):
        changed = with_plan(record, plan)
        question = changed["conversations"][0]["value"]
        assert question == image_block() + f"{plan}? Not KEEP, STRAIGHT but {plan} at 8.0 m/s."
        assert with_plan(changed, "KEEP, STRAIGHT") == record
        assert changed["conversations"][1] == record["conversations"][1]


@pytest.mark.parametrize("change", [{"plan_at": None}, {"plan_at": []}, {"plan_at": [0]}, {"plan": None}])
def test_a_trajectory_without_the_place_of_its_plan_is_an_error(change):
    (record,) = (r for r in records_of(frame(), questions_of(frame(), TEMPLATES), {}) if r["kind"] == "trajectory")
    with pytest.raises(DataError, match="plan_at"):
        with_plan({**record, **change}, "STOP, STRAIGHT")


def test_records_are_complete_and_readable(tmp_path):
    of = frame(agent(0, 10), walker(-9, 9), agent(12, 2))
    questions = questions_of(of, TEMPLATES)
    records = records_of(of, questions, answers_to(of))
    assert [(record["kind"], record["view"]) for record in records] == [(q.kind, q.view) for q in questions]
    path = tmp_path / "records.jsonl"
    write_records(path, records)
    assert list(open_records(path)) == records
    first, last = ["id", "kind", "captioner", "view"], [*("token", "image", "images", "prev", "next", "scene_token"),
                   *("fut_valid_flag", "ego_fut_trajs", "conversations")]  # fmt: skip
    for record in records:
        stated = ["command", "speed"] if record["kind"] in ("plan", "explanation", "trajectory") else []
        stated += ["plan", "plan_at"] if record["kind"] == "trajectory" else []
        assert list(record) == [*first, *stated, *last]
    assert len({record["id"] for record in records}) == len(records)
    for record in records:
        assert record["conversations"][0]["value"].startswith(image_block())
        assert [camera_of(image) for image in prompt_images(record)] == list(VIEWS)
        assert record["captioner"] == ("tables" if record["kind"] in TABLES else "somebody")
        if record["kind"] in ("plan", "motion", "trajectory"):
            bare = {key: value for key, value in record.items() if key != "kind"}
            assert record_kind(bare) == record["kind"], "the form of the answer shows the kind"
    assert parse_meta_action(records[-2]["conversations"][1]["value"]) == KEEP
    assert parse_trajectory(records[-1]["conversations"][1]["value"]).tolist() == of.future.tolist()
    assert np.array(records[-1]["ego_fut_trajs"]).shape == (6, 2)


def test_unanswered_questions_have_no_record():
    answers = answers_to(frame())
    answers["traffic_light", "front"] = Answer("", "somebody")
    del answers["explanation", "front"]
    kinds = [record["kind"] for record in records_of(frame(), questions_of(frame(), TEMPLATES), answers)]
    assert "traffic_light" not in kinds
    assert "explanation" not in kinds
    assert kinds.count("description") == 6


def test_compat_lists_the_images_in_the_published_order():
    of = frame(compat="original")
    record = records_of(of, questions_of(of, TEMPLATES), {})[0]
    cameras = ["front", "front right", "front left", "back", "back left", "back right"]
    assert [camera_of(path) for path in record["images"]] == cameras
    assert camera_of(record["image"]) == "front"
    assert [camera_of(path) for path in prompt_images(record)] == list(VIEWS), "tags determine the order"


def test_questions_contain_neither_nan_nor_unfilled_slots():
    of = replace(frame(agent(0, 10, speed=float("nan"))), speed=float("nan"))
    records = records_of(of, questions_of(of, TEMPLATES), answers_to(of))
    text = json.dumps(records, allow_nan=False)
    assert not any("speed" in record for record in records)
    assert not any(word in text for word in ("nan", "{view}", "{speed}", "{objects}"))


# --prompts


def prompts(tmp_path, change):
    texts = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
    change(texts)
    path = tmp_path / "prompts.yaml"
    path.write_text(yaml.safe_dump(texts, allow_unicode=True), encoding="utf-8")
    return path


def test_other_prompts_replace_the_questions(tmp_path):
    path = prompts(tmp_path, lambda texts: texts["plan"].update(question="{{Route}} {command}, schnell {speed}?"))
    assert asked(frame(), "plan", load_templates(path))[0].text == "{Route} turn left, schnell 8.0 m/s?"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("plan"), ("sections", "plan")),
        (lambda t: t.update(plans={}), ("sections", "plans")),
        (lambda t: t["motion"].pop("object"), ("motion", "object")),
        (lambda t: t.update(vru="?"), ("vru", "question")),
        (lambda t: t["plan"].update(question="{comand}?"), ("plan.question", "{comand}", "{command}")),
        (lambda t: t["plan"].update(question="{}?"), ("plan.question", "{}")),
        (lambda t: t["motion"].update(question="{view}?"), ("motion.question", "{objects}")),
        (lambda t: t["plan"].update(question="{speed:.1f}?"), ("plan.question", "{speed}")),
        (lambda t: t["plan"].update(question="{speed?"), ("plan.question", "template")),
        (lambda t: t["plan"].update(question="<image>?"), ("plan.question", "<image>")),
        (lambda t: t["plan"].update(question=3), ("plan.question", "text")),
        (lambda t: t["traffic_light"].update(question="{view}?"), ("traffic_light.question", "{view}")),
    ],
)
def test_fault_of_a_prompts_file_is_located(tmp_path, change, words):
    with pytest.raises(UsageError) as error:
        load_templates(prompts(tmp_path, change))
    assert all(word in str(error.value) for word in ("prompts.yaml", *words))


def test_a_prompts_file_of_an_earlier_version_has_the_default_question_of_trajectories(tmp_path):
    path = prompts(tmp_path, lambda texts: texts.pop("trajectory"))
    assert load_templates(path) == TEMPLATES
    with pytest.raises(UsageError, match="lack plan"):
        load_templates(prompts(tmp_path, lambda texts: texts.pop("plan")))


def test_unreadable_prompts_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.yaml"):
        load_templates(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UsageError, match=r"bad\.yaml.*YAML"):
        load_templates(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(UsageError, match=r"list\.yaml.*sections"):
        load_templates(tmp_path / "list.yaml")
