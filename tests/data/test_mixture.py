"""Mixtures of files: stages, kinds, weights, and the records and frames of an epoch."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from senna import kinds
from senna.data.mixture import Frames, Mixture, open_mixture, parse_data_path
from senna.data.sampler import LengthGroupedSampler
from senna.errors import DataError, UsageError
from senna.kinds import QuestionKind
from senna.record_file import open_records
from senna.records import write_records


def a_record(number: int, answer: str = "a white car", **more) -> dict:
    turns = [{"from": "human", "value": "<image>\nPlan?" * (number % 2)}, {"from": "gpt", "value": answer}]
    return {"id": f"r{number}", "image": f"{number}.jpg", "conversations": turns, **more}


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """Return the working directory, with 20 descriptions and 10 plans in a.json, 7 plans and 4 lights in b.jsonl."""
    monkeypatch.chdir(tmp_path)
    a = [a_record(n, "KEEP, STRAIGHT") if n % 3 == 2 else a_record(n, kind="description") for n in range(30)]
    b = [a_record(100 + n, "Red" if n < 4 else "STOP, STRAIGHT\n") for n in range(11)]
    write_records(tmp_path / "a.json", a)
    write_records(tmp_path / "b.jsonl", b)
    return tmp_path


def test_several_files_are_one_sequence_of_records_with_their_own_names_and_folders(files):
    (files / "sub").mkdir()
    (files / "b.jsonl").rename(files / "sub" / "b.jsonl")
    mixture = open_mixture("a.json,sub/b.jsonl")
    first, second = open_records("a.json"), open_records("sub/b.jsonl")
    assert list(mixture) == [*first, *second]
    assert mixture.words.tolist() == [*first.words, *second.words]
    assert mixture.images.tolist() == [*first.images, *second.images]
    assert mixture.name(30) == "sub/b.jsonl: record 0, line 1 (r100)"
    assert (mixture.path(30), mixture.label(30)) == (Path("sub/b.jsonl"), "0, line 1 (r100)")
    assert (mixture.folder(29), mixture.folder(30)) == (Path("."), Path("sub"))
    for index in (-1, 41):
        with pytest.raises(IndexError):
            mixture[index]


def test_kinds_of_several_files_share_their_numbers(files):
    mixture = open_mixture("b.jsonl,a.json")
    assert mixture.kind_names == ("traffic_light", "plan", "description")
    assert mixture.kinds.tolist() == [0] * 4 + [1] * 7 + [2, 2, 1] * 10
    assert mixture.counts_by_kind() == {"traffic_light": 4, "plan": 17, "description": 20}


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (None, {"description": 20, "plan": 17, "traffic_light": 4}),
        (1, {"description": 20, "plan": 17, "traffic_light": 4}),
        (2, {"description": 20, "traffic_light": 4}),
        (3, {"plan": 17}),
    ],
)
def test_a_stage_takes_the_records_of_its_kinds(files, stage, expected):
    mixture = open_mixture("a.json,b.jsonl", stage)
    assert mixture.counts_by_kind() == expected
    assert mixture.kind_names == tuple(expected)
    assert len(mixture) == mixture.epoch_size == sum(expected.values())
    records = {record["id"]: record for record in (*open_records("a.json"), *open_records("b.jsonl"))}
    for index, record in enumerate(mixture):
        assert record == records[record["id"]]
        assert f"({record['id']})" in mixture.name(index)
        assert mixture.images[index] == record["conversations"][0]["value"].count("<image>")
        is_plan = "KEEP" in str(record) or "STOP" in str(record)
        assert is_plan == (mixture.kind_names[mixture.kinds[index]] == "plan")


def test_a_registered_kind_of_stage_3_is_left_out_of_stage_2(files):
    write_records(files / "c.json", [a_record(0, kind="description"), a_record(1, kind="route")])
    kinds.register(QuestionKind("route", "Route", stage=3, ask="a:b", template={}, parse="a:b"))
    try:
        assert [open_mixture("c.json", stage).kind_names for stage in (2, 3)] == [("description",), ("route",)]
    finally:
        kinds.unregister("route")


def test_a_kind_on_request_is_taken_only_where_kinds_names_it(files):
    records = [a_record(0, kind="description"), a_record(1, "KEEP, STRAIGHT"), a_record(2, kind="trajectory")]
    write_records(files / "c.json", records)
    assert [open_mixture("c.json", stage).kind_names for stage in (2, 3)] == [("description",), ("plan",)]
    for stage in (None, 2, 3):
        chosen = open_mixture("c.json,b.jsonl", stage, kinds=["trajectory", "plan"])
        assert chosen.counts_by_kind() == {"plan": 8, "trajectory": 1}
    with pytest.raises(UsageError, match=r"c\.json is of kind motion") as error:
        open_mixture("c.json", 3, kinds=["plan", "motion"])
    assert "description, plan, trajectory" in error.value.remedy


def test_a_stage_without_records_raises_an_error_with_the_kinds_of_the_file(files):
    write_records(files / "c.json", [a_record(0, kind="description"), a_record(1, "Red"), a_record(2, "None")])
    with pytest.raises(DataError, match=r"nothing to use: stage 3 .* 1 description, 2 traffic_light") as error:
        open_mixture("c.json", 3)
    assert error.value.file == "c.json"
    assert open_mixture("c.json,b.jsonl", 3).counts_by_kind() == {"plan": 7}, (
        "a single file may have no record of the stage"
    )
    with pytest.raises(UsageError, match="stage 4"):
        open_mixture("a.json", 4)


@pytest.mark.parametrize(
    ("weight", "times_taken"),
    [(1, {1}), (2, {2}), (3.0, {3}), (0.5, {0, 1}), (0.2, {0, 1}), (1.5, {1, 2}), (2.05, {2, 3})],
)
def test_a_weight_is_how_often_an_epoch_takes_a_record(files, weight, times_taken):
    mixture = open_mixture(f"a.json:{weight},b.jsonl")
    assert mixture.epoch_size == round(weight * 30) + 11
    for epoch in range(3):
        drawn = mixture.epoch(7, epoch)
        assert (drawn.dtype, len(drawn)) == (np.dtype(np.int64), mixture.epoch_size)
        times = np.bincount(drawn, minlength=41)
        assert set(times[:30]) == times_taken
        assert set(times[30:]) == {1}
    assert (mixture.weight(29), mixture.weight(30)) == (weight, 1)


def test_with_weights_of_1_an_epoch_has_the_records_in_their_order(files):
    mixture = open_mixture("a.json:1.0,b.jsonl")
    assert mixture.epoch(3, 4).tolist() == list(range(41))


def test_draws_depend_only_on_seed_and_epoch(files):
    mixture, again = (open_mixture("a.json:0.5,b.jsonl:0.5") for _ in range(2))
    draws = {(seed, epoch): mixture.epoch(seed, epoch).tolist() for seed in range(3) for epoch in range(3)}
    assert len({tuple(draw) for draw in draws.values()}) == 9
    for arguments, draw in reversed(draws.items()):
        assert again.epoch(*arguments).tolist() == draw
    share = np.bincount(np.concatenate([mixture.epoch(0, epoch) for epoch in range(1000)])) / 1000
    assert (abs(share[:30] - 0.5) < 0.08).all()
    assert (abs(share[30:] - 6 / 11) < 0.08).all()


def test_the_draws_of_the_files_are_independent(files):
    write_records(files / "a2.json", list(open_records("a.json")))
    mixture = open_mixture("a.json:0.5,a2.json:0.5")
    drawn = mixture.epoch(0, 0)
    assert (drawn[:15] + 30).tolist() != drawn[15:].tolist()


def test_a_sampler_orders_the_records_that_the_mixture_draws(files):
    mixture = open_mixture("a.json:0.5,b.jsonl:2")
    sampler = LengthGroupedSampler(mixture.words, mixture.images > 0, 4, seed=5, draw=mixture)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        assert sorted(sampler.order()) == sorted(mixture.epoch(5, epoch))
    assert len(sampler) == 40


def test_a_pickled_copy_reads_and_draws_the_same(files):
    mixture = open_mixture("a.json:0.5,b.jsonl", 2)
    assert mixture[0]["id"] == "r0"
    copy = pickle.loads(pickle.dumps(mixture))
    assert list(copy) == list(mixture)
    assert copy.epoch(1, 1).tolist() == mixture.epoch(1, 1).tolist()


def test_a_mixture_needs_a_few_bytes_for_each_record(tmp_path):
    write_records(tmp_path / "a.json", (a_record(number, "word " * 50) for number in range(5000)))
    mixture = Mixture([(open_records(tmp_path / "a.json"), 1.0)])
    assert len(pickle.dumps(mixture)) < 40 * 5000


def test_data_path_is_parsed_into_files_and_weights(files):
    assert parse_data_path("a.json") == [(Path("a.json"), 1.0)]
    assert parse_data_path("a.json:0.25, b.jsonl") == [(Path("a.json"), 0.25), (Path("b.jsonl"), 1.0)]
    assert parse_data_path(f"{files}/a.json:2e0") == [(files / "a.json", 2.0)]


@pytest.mark.parametrize("name", ["a.json:0.5", "a.json,b.jsonl", "a.json:1.0,b.jsonl:0.5"])
def test_a_file_with_exactly_that_name_has_priority_over_parsing(files, name):
    write_records(files / "x.json", [a_record(0)])
    (files / "x.json").rename(files / name)
    assert parse_data_path(name) == [(Path(name), 1.0)]
    if "," not in name:
        assert parse_data_path(f"{name}:2,b.jsonl") == [(Path(name), 2.0), (Path("b.jsonl"), 1.0)]


@pytest.mark.parametrize(
    ("data_path", "message"),
    [
        ("gone.json", "gone.json: no such file"),
        ("a.json:0.5,gone.json:0.5", "--data_path gone.json: no such file"),
        ("a.json:", "weight '' is not a number above 0"),
        ("a.json:half", "weight 'half' is not a number above 0"),
        ("a.json:0", "weight '0' is not a number above 0"),
        ("a.json:-1", "weight '-1' is not a number above 0"),
        ("a.json:nan", "weight 'nan' is not a number above 0"),
        ("a.json:inf", "weight 'inf' is not a number above 0"),
        ("a.json,b.jsonl,", "empty name"),
        ("a.json,:0.5", "empty name"),
        ("", "empty name"),
        (".", "is a folder"),
        ("a.json,./a.json:0.5", "names a.json twice; name it once"),
        (
            "a.json:0.001",
            "a.json:0.001: that is less than one of its 30 records an epoch; give a weight of 0.033 or more",
        ),
        (",".join(["gone.json"] * 900), "gone.json: no such file"),
    ],
)
def test_a_wrong_data_path_raises_an_error_with_a_remedy(files, data_path, message):
    with pytest.raises(UsageError) as error:
        open_mixture(data_path)
    assert message in str(error.value)
    assert error.value.remedy


def records_of_frames(counts: list[int], first: int = 0, answer: str = "a white car") -> list[dict]:
    """Return records of frames with the given counts, interleaved: first the first record of each frame, and so on."""
    frames_by_question = {}
    for frame, count in enumerate(counts, first):
        for question in range(count):
            frames_by_question.setdefault(question, []).append(frame)
    return [
        {**a_record(1, answer), "id": f"{frame}-{question}", "image": f"{frame}.jpg"}
        for question, frames in frames_by_question.items()
        for frame in frames
    ]


def test_frames_hold_every_record_once_file_after_file(tmp_path):
    write_records(tmp_path / "a.jsonl", records_of_frames([3, 1, 2]))
    # Frames of different files are different, even if their images have the same names.
    write_records(tmp_path / "b.jsonl", [a_record(0), *records_of_frames([2, 2])])
    mixture = open_mixture(f"{tmp_path}/a.jsonl,{tmp_path}/b.jsonl")
    frames = Frames(mixture)
    members = [frames.members(number) for number in range(len(frames))]
    assert [ids.tolist() for ids in members] == [[0, 3, 5], [1], [2, 4], [6], [7, 9], [8, 10]]
    assert all(ids.dtype == np.int64 for ids in members)
    assert [[mixture[index]["id"] for index in ids] for ids in members[:3]] == [
        ["0-0", "0-1", "0-2"],
        ["1-0"],
        ["2-0", "2-1"],
    ]
    assert (frames.epoch_size, frames.epoch(0, 0).tolist()) == (6, list(range(6)))
    for wrong in (-1, 6):
        with pytest.raises(IndexError, match="6 frames"):
            frames.members(wrong)


def test_records_that_are_not_grouped_are_a_frame_each(tmp_path):
    write_records(tmp_path / "a.jsonl", records_of_frames([3, 1, 2]))
    mixture = open_mixture(f"{tmp_path}/a.jsonl:0.5")
    frames = Frames(mixture, together=False)
    assert [frames.members(number).tolist() for number in range(len(frames))] == [[number] for number in range(6)]
    assert frames.epoch(3, 1).tolist() == mixture.epoch(3, 1).tolist()


def test_a_stage_takes_its_own_records_of_each_frame(tmp_path):
    seen = records_of_frames([2, 1])
    plans = records_of_frames([0, 1, 1], answer="KEEP, STRAIGHT")
    write_records(tmp_path / "a.jsonl", [*plans, *seen])
    described, planned = (Frames(open_mixture(f"{tmp_path}/a.jsonl", stage)) for stage in (2, 3))
    assert [described.members(number).tolist() for number in range(len(described))] == [[1], [0, 2]]
    assert [planned.members(number).tolist() for number in range(len(planned))] == [[0], [1]]


@pytest.mark.parametrize(("weight", "times_taken"), [(1, {1}), (2, {2}), (0.5, {0, 1}), (1.5, {1, 2})])
def test_a_weight_is_how_often_an_epoch_takes_a_frame(tmp_path, weight, times_taken):
    write_records(tmp_path / "a.jsonl", records_of_frames([1, 13, 2, 5] * 10))
    write_records(tmp_path / "b.jsonl", records_of_frames([4] * 7, first=100))
    frames = Frames(open_mixture(f"{tmp_path}/a.jsonl:{weight},{tmp_path}/b.jsonl"))
    assert frames.epoch_size == round(weight * 40) + 7
    draws = [frames.epoch(7, epoch) for epoch in range(3)]
    for drawn in draws:
        times = np.bincount(drawn, minlength=47)
        assert (len(drawn), set(times[:40]), set(times[40:])) == (frames.epoch_size, times_taken, {1})
    assert (draws[0].tolist() == draws[1].tolist()) == (weight in (1, 2))
    again = pickle.loads(pickle.dumps(frames))
    assert again.epoch(7, 0).tolist() == draws[0].tolist()


def test_a_weight_that_takes_no_frame_raises_an_error(tmp_path):
    write_records(tmp_path / "a.jsonl", records_of_frames([13, 13]))
    mixture = open_mixture(f"{tmp_path}/a.jsonl:0.1")
    with pytest.raises(UsageError, match=r"less than one of its 2 frames an epoch; give a weight of 0\.5 or more"):
        Frames(mixture)


def test_frames_need_a_few_bytes_for_each_record(tmp_path):
    write_records(tmp_path / "a.jsonl", records_of_frames([10] * 500))
    frames = Frames(open_mixture(f"{tmp_path}/a.jsonl"))
    assert len(pickle.dumps(frames)) < 7 * 5000 + 6000


def test_scenes_are_those_of_the_records_of_the_stage(tmp_path):
    plan = {"answer": "KEEP, STRAIGHT"}
    write_records(
        tmp_path / "a.jsonl", [a_record(0, scene_token="x"), a_record(1, scene_token="y", **plan), a_record(2)]
    )
    write_records(tmp_path / "b.jsonl", [a_record(3, scene_token="z", **plan), a_record(4, scene_token="y", **plan)])
    everything, plans = (open_mixture(f"{tmp_path}/a.jsonl,{tmp_path}/b.jsonl", stage) for stage in (None, 3))
    assert everything.scenes() == ["x", "y", "", "z"]
    assert [everything.scene(index) for index in range(5)] == ["x", "y", "", "z", "y"]
    assert plans.scenes() == ["y", "z"]


def test_errors_name_the_flag_that_gives_the_files(tmp_path):
    for path in ("gone.json", f"{tmp_path}", "a.json:x"):
        with pytest.raises(UsageError, match=r"^--eval_data_path"):
            open_mixture(path, flag="--eval_data_path")
