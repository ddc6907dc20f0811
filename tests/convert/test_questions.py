import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from senna.convert.facts import Agent, Frame
from senna.convert.questions import Answer, load_templates, questions_of, records_of
from senna.errors import UsageError
from senna.kinds import all_kinds
from senna.meta_actions import MetaAction, parse_meta_action
from senna.record_file import open_records
from senna.records import prompt_images, record_kind, write_records
from senna.templates import DEFAULT
from senna.views import VIEWS, camera_of, image_block, view_of

KEEP = MetaAction("KEEP", "STRAIGHT")
STANDS = MetaAction("STOP", "STRAIGHT")
TEMPLATES = load_templates()


def agent(x, y, category="vehicle.car", name="car", group="vehicle", speed=5.0, plan=KEEP):
    return Agent(f"{name} {x} {y}", category, name, group, x, y, speed, view_of(x, y), np.zeros((6, 2)), plan)


def walker(x, y, **changes):
    return agent(x, y, "human.pedestrian.adult", "pedestrian", "pedestrian", **changes)


def frame(
    *agents, future=((0.0, 4.0), (0.0, 8.0), (0.0, 12.0), (0.0, 16.0), (0.0, 20.0), (0.0, 24.0)), plan=KEEP, **changes
):
    return Frame(
        token="t", prev="", next="n", scene="scene-0061", scene_token="s", timestamp=0,
        images=tuple(f"samples/CAM_{view.upper().replace(' ', '_')}/1.jpg" for view in VIEWS),
        description="", speed=8.0, command="turn left", future=np.array(future), plan=plan, agents=agents, **changes,
    )  # fmt: skip


def asked(of, kind):
    return [question for question in questions_of(of, TEMPLATES) if question.kind == kind]


def answers_to(of):
    return {
        (question.kind, question.view): Answer(f"{question.kind} of {question.view}.", "somebody")
        for question in questions_of(of, TEMPLATES)
        if question.answer is None
    }


def test_a_frame_is_asked_every_kind_and_no_kind_and_view_twice():
    questions = questions_of(frame(agent(0, 10), agent(0, -10)), TEMPLATES)
    assert list(dict.fromkeys(question.kind for question in questions)) == [kind.name for kind in all_kinds()]
    assert len({(question.kind, question.view) for question in questions}) == len(questions)
    assert [question.view for question in questions if question.kind == "description"] == list(VIEWS)
    assert {question.kind for question in questions if question.answer is None} == {
        "traffic_light", "description", "explanation",
    }  # fmt: skip


def test_motion_lists_what_moves_within_reach_nearest_first():
    scene = frame(
        agent(3, 39, speed=7.26),
        agent(-2, 12, name="truck", plan=MetaAction("DECELERATE", "LEFT_TURN")),
        agent(0, 41),  # too far
        agent(1, 8, "movable_object.trafficcone", "traffic cone", "static", plan=STANDS),
        agent(1, 9, plan=None),  # not wholly known
        agent(0, -19, name="bus", speed=float("nan"), plan=STANDS),
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


def test_a_crowd_is_cut_to_the_nearest_twenty_so_that_the_prompt_fits():
    (motion,) = asked(frame(*(walker(0, 5 + index) for index in range(30))), "motion")
    assert motion.answer.count("\n") == 20
    assert "24 m ahead" in motion.text
    assert "25 m ahead" not in motion.text


def test_vulnerable_are_who_walks_or_rides_within_20_m_in_the_front_view():
    there = frame(
        walker(2.6, 14),
        agent(-1, 8, "vehicle.bicycle", "bicycle", "cyclist", plan=None),
        walker(0, 21),
        walker(0, -5),
        agent(0, 5, "animal", "animal", "pedestrian"),
        agent(0, 6),
    )
    (question,) = asked(there, "vru")
    assert question.answer == (
        "Within 20 m there are: a bicycle 8 m ahead and 1 m to the left, a pedestrian 14 m ahead and 3 m to the right."
    )
    assert asked(frame(walker(0, 10)), "vru")[0].answer.startswith("Within 20 m there is: a pedestrian")
    assert asked(frame(agent(0, 6)), "vru")[0].answer.startswith("No one")


def test_without_a_whole_future_there_is_no_plan_and_no_explanation():
    future = np.array(frame().future)
    future[4:] = np.nan
    cut = frame(future=future, plan=None)
    assert {question.kind for question in questions_of(cut, TEMPLATES)} == {kind.name for kind in all_kinds()} - {
        "plan",
        "explanation",
        "motion",
    }
    record = records_of(cut, {}, TEMPLATES)[0]
    assert (record["fut_valid_flag"], record["ego_fut_trajs"]) == (False, future[:4].tolist())


def test_the_plan_is_asked_with_command_and_speed_and_its_explanation_with_the_plan():
    (plan,), (why,) = asked(frame(), "plan"), asked(frame(), "explanation")
    assert plan.answer == "KEEP, STRAIGHT\n"
    assert "turn left" in plan.text
    assert "8.0 m/s" in plan.text
    assert "KEEP, STRAIGHT" in why.text
    assert "KEEP, STRAIGHT" not in plan.text


def test_records_are_what_the_other_half_reads(tmp_path):
    of = frame(agent(0, 10), walker(-9, 9), agent(12, 2))
    records = records_of(of, answers_to(of), TEMPLATES)
    assert [record["kind"] for record in records] == [question.kind for question in questions_of(of, TEMPLATES)]
    path = tmp_path / "records.jsonl"
    write_records(path, records)
    assert list(open_records(path)) == records
    keys = {"id", "kind", "captioner", "token", "image", "images", "prev", "next", "scene_token", "fut_valid_flag",
            "ego_fut_trajs", "conversations"}  # fmt: skip
    assert all(record.keys() == keys for record in records)
    assert len({record["id"] for record in records}) == len(records)
    for record in records:
        assert record["conversations"][0]["value"].startswith(image_block())
        assert [camera_of(image) for image in prompt_images(record)] == list(VIEWS)
        assert record["captioner"] == ("tables" if record["kind"] in ("vru", "motion", "plan") else "somebody")
        if record["kind"] in ("plan", "motion"):
            bare = {key: value for key, value in record.items() if key != "kind"}
            assert record_kind(bare) == record["kind"], "by the form of the answer alone"
    assert parse_meta_action(records[-1]["conversations"][1]["value"]) == KEEP
    assert np.array(records[-1]["ego_fut_trajs"]).shape == (6, 2)


def test_what_nobody_answered_is_left_out():
    answers = answers_to(frame())
    answers["traffic_light", "front"] = Answer("", "somebody")
    del answers["explanation", "front"]
    kinds = [record["kind"] for record in records_of(frame(), answers, TEMPLATES)]
    assert "traffic_light" not in kinds
    assert "explanation" not in kinds
    assert kinds.count("description") == 6


def test_compat_lists_the_images_in_the_published_order():
    record = records_of(frame(compat="original"), {}, TEMPLATES)[0]
    cameras = ["front", "front right", "front left", "back", "back left", "back right"]
    assert [camera_of(path) for path in record["images"]] == cameras
    assert camera_of(record["image"]) == "front"
    assert [camera_of(path) for path in prompt_images(record)] == list(VIEWS), "readers go by the tags"


def test_no_question_says_nan_or_shows_a_slot():
    of = replace(frame(agent(0, 10, speed=float("nan"))), speed=float("nan"))
    text = json.dumps(records_of(of, answers_to(of), TEMPLATES), allow_nan=False)
    assert not any(word in text for word in ("nan", "{view}", "{speed}", "{objects}"))


# --prompts


def prompts(tmp_path, change):
    texts = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
    change(texts)
    path = tmp_path / "prompts.yaml"
    path.write_text(yaml.safe_dump(texts, allow_unicode=True), encoding="utf-8")
    return path


def test_other_prompts_are_asked(tmp_path):
    path = prompts(tmp_path, lambda texts: texts["plan"].update(question="{{Route}} {command}, schnell {speed}?"))
    assert questions_of(frame(), load_templates(path))[-1].text == "{Route} turn left, schnell 8.0 m/s?"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("plan"), "the sections lack plan"),
        (lambda t: t.update(plans={}), "the sections have plans"),
        (lambda t: t["motion"].pop("object"), "the keys under motion lack object"),
        (lambda t: t.update(vru="?"), "the keys under vru must be question"),
        (
            lambda t: t["plan"].update(question="{comand}?"),
            r"plan\.question has the unknown slot \{comand\}.*\{command\}",
        ),
        (lambda t: t["plan"].update(question="{}?"), r"plan\.question has the unknown slot \{\}"),
        (lambda t: t["motion"].update(question="{view}?"), r"motion\.question lacks the slot \{objects\}"),
        (lambda t: t["plan"].update(question="{speed:.1f}?"), r"plan\.question: write the slot plainly, \{speed\}"),
        (lambda t: t["plan"].update(question="{speed?"), r"plan\.question is no template"),
        (lambda t: t["plan"].update(question="<image>?"), r"plan\.question must not hold <image>"),
        (lambda t: t["plan"].update(question=3), r"plan\.question must be text"),
        (lambda t: t["traffic_light"].update(question="{view}?"), "it may use none at all"),
    ],
)
def test_a_fault_of_a_prompts_file_is_told_by_its_place(tmp_path, change, message):
    with pytest.raises(UsageError, match=rf"prompts\.yaml.*{message}"):
        load_templates(prompts(tmp_path, change))


def test_a_prompts_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_templates(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UsageError, match="is not YAML"):
        load_templates(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(UsageError, match="the sections must be words"):
        load_templates(tmp_path / "list.yaml")
