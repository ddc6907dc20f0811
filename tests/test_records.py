import errno
import json
import os
import pickle
import tracemalloc
from pathlib import Path

import pytest

import senna.records
from senna.errors import DataError, SennaError, UsageError
from senna.record_file import open_records
from senna.records import image_paths, prompt_images, record_kind, record_name, write_records
from senna.views import VIEWS, image_block


def a_record(number: int, answer: str = "a white car") -> dict:
    question = "<image>\nDescribe."
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": f"r{number}", "image": f"{number}.jpg", "conversations": turns}


AWKWARD = [
    a_record(0, 'quotes " and \\ and ]},{[ inside'),
    a_record(1, "Zürich — 东京 🚗 \u2028 \x85"),
    a_record(2, ""),
    a_record(3, "long " * 300),
]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


LAYOUTS = {
    "compact.json": lambda records: json.dumps(records, separators=(",", ":")),
    "indented.json": lambda records: json.dumps(records, indent=2, ensure_ascii=False),
    "bom.json": lambda records: "\ufeff" + json.dumps(records, ensure_ascii=False),
    "windows.json": lambda records: "\r\n [\r\n" + " ,\r\n".join(map(json.dumps, records)) + "\r\n]\r\n\r\n",
    "lines.jsonl": lambda records: "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records),
    "blank_lines.jsonl": lambda records: "\ufeff" + "\r\n\r\n".join(json.dumps(r) for r in records),
    "lines.json": lambda records: "\n".join(json.dumps(r) for r in records),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("chunk", [5, 64, 1 << 20])
def test_every_layout_gives_the_same_records_whatever_the_window(tmp_path, monkeypatch, layout, chunk):
    monkeypatch.setattr(senna.records, "_CHUNK", chunk)
    records = open_records(write(tmp_path / layout, LAYOUTS[layout](AWKWARD)))
    assert list(records) == AWKWARD
    assert [records[i] for i in (3, 0, 2, 1)] == [AWKWARD[i] for i in (3, 0, 2, 1)]
    assert records.words.tolist() == [2 + len(record["conversations"][1]["value"].split()) for record in AWKWARD]
    assert records.images.tolist() == [1, 1, 1, 1]
    assert [records.kind_names[kind] for kind in records.kinds] == ["other"] * 4


def test_what_is_written_reads_back_in_both_formats(tmp_path):
    for name in ("out.json", "out.jsonl"):
        assert write_records(tmp_path / name, iter(AWKWARD)) == 4
        assert list(open_records(tmp_path / name)) == AWKWARD
    assert json.loads((tmp_path / "out.json").read_text()) == AWKWARD
    assert write_records(tmp_path / "none.json", []) == 0
    assert json.loads((tmp_path / "none.json").read_text()) == []


@pytest.mark.parametrize("name", ["big.json", "big.jsonl"])
def test_opening_needs_no_memory_for_the_texts(tmp_path, name):
    write_records(tmp_path / name, (a_record(number, "w" * 10_000) for number in range(2000)))
    assert (tmp_path / name).stat().st_size > 20e6
    tracemalloc.start()
    records = open_records(tmp_path / name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6e6
    assert records[1999] == a_record(1999, "w" * 10_000)
    held = [value for value in vars(records).values() if hasattr(value, "nbytes")]
    assert sum(array.nbytes for array in held) <= 29 * len(records)


def test_a_pickled_file_reads_on(tmp_path):
    records = open_records(write(tmp_path / "a.jsonl", LAYOUTS["lines.jsonl"](AWKWARD)))
    assert records[1] == AWKWARD[1]
    assert list(pickle.loads(pickle.dumps(records))) == AWKWARD


def test_an_index_that_is_not_there_is_an_index_error(tmp_path):
    records = open_records(write(tmp_path / "a.jsonl", LAYOUTS["lines.jsonl"](AWKWARD)))
    for index in (-1, 4):
        with pytest.raises(IndexError):
            records[index]


def test_names_tell_file_index_line_and_id(tmp_path):
    lines = open_records(write(tmp_path / "a.jsonl", "\n" + LAYOUTS["lines.jsonl"](AWKWARD)))
    assert lines.name(2) == f"{tmp_path}/a.jsonl: record 2, line 4 (r2)"
    listed = open_records(write(tmp_path / "a.json", LAYOUTS["compact.json"](AWKWARD)))
    assert listed.name(2) == f"{tmp_path}/a.json: record 2 (r2)"
    assert (record_name({"token": "t"}, 7), record_name({}, 7)) == ("t", "7")


NO_CONVERSATIONS = {"id": "lonely", "image": "x.jpg"}
CUT = json.dumps(AWKWARD, indent=1)[:-40]
CUT_COLUMN = CUT.splitlines()[-1].index('"long') + 1
BROKEN = {
    "empty": ("", "holds no records"),
    "blank": (" \n\n", "holds no records"),
    "empty_list": ("[]", "holds no records"),
    "prose": ("hello\n", "line 1 is not JSON"),
    "truncated_list": (CUT, f"Unterminated string starting at, line {len(CUT.splitlines())} column {CUT_COLUMN}"),
    "list_without_end": (json.dumps(AWKWARD)[:-1], "the list does not end"),
    "trailing_comma": ("[" + json.dumps(AWKWARD[2]) + ",\n  ]", "is not JSON: Expecting value, line 2 column 3"),
    "missing_comma": ("[\n{}\n  {}]".replace("{}", json.dumps(AWKWARD[2])), "expected ',', found '{', line 3 column 3"),
    "single_quotes": ("[\n {'id': 1}]", "Expecting property name enclosed in double quotes, line 2 column 3"),
    "after_the_list": (json.dumps(AWKWARD) + "\n[]", "something after the list, line 2 column 1"),
    "not_utf8": (b'[{"id": "\xff"}]', "not UTF-8, line 1 column 10"),
    "not_utf8_line": (json.dumps(AWKWARD[2]).encode() + b'\n{"id": "\xff"}', "line 2 is not JSON"),
    "bad_line": (json.dumps(AWKWARD[0]) + "\n{]\n", "line 2 is not JSON"),
    "list_of_numbers": ("[1, 2]", "record 0 is not an object but 1"),
    "no_conversations": (json.dumps([AWKWARD[0], NO_CONVERSATIONS]), "record 1 (lonely) has no 'conversations'"),
    "line_without": (
        json.dumps(AWKWARD[0]) + "\n\n" + json.dumps(NO_CONVERSATIONS),
        "record 1, line 3 (lonely) has no 'conversations'",
    ),
    "bad_role": (json.dumps([{"conversations": [{"from": "robot", "value": ""}]}]), "turn 0 that is not from 'human'"),
    "bad_value": (json.dumps([{"conversations": [{"from": "gpt", "value": 3}]}]), "turn 0 whose 'value' is not text"),
    "bad_kind": (
        json.dumps([AWKWARD[0], {**a_record(1), "kind": 3}]),
        "record 1 (r1) has a 'kind' that is not text but 3",
    ),
    "object": (json.dumps({"frames": {"a": 1}}, indent=2), "line 1 is not JSON"),
}


@pytest.mark.parametrize("chunk", [16, 1 << 20])
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_an_error_that_names_the_place(tmp_path, monkeypatch, case, chunk):
    monkeypatch.setattr(senna.records, "_CHUNK", chunk)
    text, message = BROKEN[case]
    path = write(tmp_path / "data.json", text)
    with pytest.raises(DataError) as error:
        open_records(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json does not exist"):
        open_records(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="is a folder"):
        open_records(tmp_path)


def test_a_file_that_changes_after_opening_is_noticed(tmp_path):
    path = write(tmp_path / "a.jsonl", LAYOUTS["lines.jsonl"](AWKWARD))
    records = open_records(path)
    write(path, LAYOUTS["lines.jsonl"](AWKWARD[1:]))
    with pytest.raises(DataError, match="changed after it was opened"):
        records[0]


def test_writing_over_a_file_does_not_disturb_its_reader(tmp_path):
    path = tmp_path / "a.jsonl"
    write_records(path, AWKWARD)
    reader = open_records(path)
    assert reader[0] == AWKWARD[0]
    write_records(path, AWKWARD[2:])
    assert list(reader) == AWKWARD
    assert list(open_records(path)) == AWKWARD[2:]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    write_records(path, AWKWARD)

    def no_space(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(senna.records.os, "fsync", no_space)
    with pytest.raises(SennaError, match="No space left"):
        write_records(path, AWKWARD[:1])
    assert list(open_records(path)) == AWKWARD
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]
    with pytest.raises(UsageError, match="csv"):
        write_records(tmp_path / "a.csv", AWKWARD)


@pytest.mark.parametrize(
    ("placeholders", "named", "expected"),
    [
        (6, {"image": "f", "images": list("abcdef")}, list("abcdef")),
        (1, {"image": "f", "images": list("abcdef")}, ["f"]),
        (1, {"images": ["f"]}, ["f"]),
        (2, {"image": "f"}, ["f"]),
        (0, {}, []),
        (0, {"image": None}, []),
        (0, {"image": "f"}, ["f"]),
    ],
)
def test_the_text_decides_which_images_a_record_means(placeholders, named, expected):
    turns = [{"from": "human", "value": "<image>\n" * placeholders}, {"from": "gpt", "value": "x"}]
    assert image_paths({"conversations": turns, **named}) == expected


def test_an_image_path_that_is_no_text_is_an_error():
    with pytest.raises(DataError, match="image paths must be text"):
        image_paths({"conversations": [{"from": "human", "value": "<image>"}], "image": 7})


PLAN, MOTION = "DECELERATE, LEFT_TURN\n", "Object 1: KEEP, STRAIGHT\nObject 2: STOP, STRAIGHT\n"


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (["KEEP, STRAIGHT\n"], "plan"),
        ([" keep ,straight."], "plan"),
        ([PLAN, "STOP, STRAIGHT"], "plan"),
        ([PLAN, "Because the light is red."], "other"),
        (["Because the light is red.", PLAN], "other"),
        ([PLAN, ""], "other"),
        (["KEEP, STRAIGHT since the road is free"], "other"),
        (["KEEP, KEEP"], "other"),
        ([MOTION], "motion"),
        (["\n" + MOTION + "\n\n"], "motion"),
        ([MOTION, ""], "motion"),
        ([MOTION, "Object 3: ACCELERATE, RIGHT_CHANGE"], "motion"),
        ([MOTION + "Object 3: a parked car"], "other"),
        (["Object 1: KEEP, STRAIGHT, then STOP, STRAIGHT"], "other"),
        ([MOTION, PLAN], "other"),
        (["Red"], "traffic_light"),
        (["green.\n"], "traffic_light"),
        (["None"], "traffic_light"),
        (["None, no, none."], "other"),
        (["Red and white"], "other"),
        (["Blue"], "other"),
        (["a white car parked in front of a house"], "other"),
        ([""], "other"),
        ([" \n "], "other"),
        ([], "other"),
    ],
)
def test_without_a_kind_the_form_of_the_answers_tells_it(answers, kind):
    turns = [{"from": "human", "value": "KEEP, STRAIGHT"}]
    for answer in answers:
        turns += [{"from": "gpt", "value": answer}, turns[0]]
    assert record_kind({"conversations": turns[:-1] if answers else turns}) == kind
    assert record_kind({"conversations": turns}) == kind, "a last question without an answer changes nothing"
    assert record_kind({"conversations": turns, "kind": None}) == kind


def test_a_records_own_kind_wins_over_its_form(tmp_path):
    kinds = ["vru", "plan", None, "my own", "plan"]
    records = [{**a_record(number, PLAN), "kind": kind} for number, kind in enumerate(kinds)]
    write_records(tmp_path / "a.json", records)
    opened = open_records(tmp_path / "a.json")
    assert opened.kind_names == ("vru", "plan", "my own")
    assert opened.kinds.tolist() == [0, 1, 1, 2, 1]


def test_the_published_answers_are_of_the_kinds_they_are(shared_golden):
    cases = {case["name"]: case for case in json.loads((shared_golden / "preprocess.json").read_text())}
    kinds = {name: record_kind(cases[name]) for name in ("v1_plan", "v1_mot", "v1_vru_yes", "plain_caption")}
    assert kinds == {"v1_plan": "plan", "v1_mot": "motion", "v1_vru_yes": "other", "plain_caption": "other"}


def test_a_kind_of_each_records_own_is_told_instead_of_held_in_memory(tmp_path):
    write_records(tmp_path / "a.json", ({**a_record(number), "kind": f"sample {number}"} for number in range(1001)))
    with pytest.raises(
        DataError, match=r"record 1000 \(r1000\) has another 'kind', 'sample 1000', than 1000 before it"
    ):
        open_records(tmp_path / "a.json")


CAMERAS = {view: f"samples/CAM_{view.upper().replace(' ', '_')}/{number}.jpg" for number, view in enumerate(VIEWS)}
MIXED_UP = [CAMERAS[VIEWS[place]] for place in (3, 0, 5, 1, 4, 2)]


@pytest.mark.parametrize(
    ("question", "named", "expected"),
    [
        (image_block(), {"image": MIXED_UP[0], "images": MIXED_UP}, list(CAMERAS.values())),
        ("<image>" * 6, {"images": MIXED_UP}, list(CAMERAS.values())),
        (image_block(VIEWS[5:]), {"image": CAMERAS["front"], "images": MIXED_UP}, [CAMERAS["back"]]),
        (image_block(VIEWS[:1]), {"images": MIXED_UP}, [CAMERAS["front"]]),
        (image_block(VIEWS[:1]), {"image": CAMERAS["front"], "images": MIXED_UP[2:3]}, [CAMERAS["front"]]),
        (image_block(VIEWS[:1]), {"image": "f.jpg", "images": list("abcdef")}, ["f.jpg"]),
        ("<image>\n", {"image": "f.jpg", "images": MIXED_UP}, ["f.jpg"]),
        ("", {}, []),
    ],
)
def test_images_come_in_the_order_of_the_prompt_whatever_that_of_the_record(question, named, expected):
    turns = [{"from": "human", "value": f"{question}Plan?"}, {"from": "gpt", "value": PLAN}]
    assert prompt_images({"conversations": turns, **named}) == expected


def test_views_asked_for_in_later_turns_count_on(tmp_path):
    turns = [{"from": "human", "value": image_block((view,))} for view in ("back", "front")]
    turns.insert(1, {"from": "gpt", "value": "A wall. <FRONT LEFT VIEW>:"})
    assert prompt_images({"conversations": turns, "images": MIXED_UP}) == [CAMERAS["back"], CAMERAS["front"]]
