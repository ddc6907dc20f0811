"""Files of records: the same records from every format, in little memory, with errors that name file and record."""

import json
import os
import pickle
import tracemalloc
from pathlib import Path

import pytest

import senna.record_file
from senna.errors import DataError
from senna.record_file import open_records
from senna.records import write_records
from senna.scripts_without_blanks import count_words
from tests.helpers.caption_records import AWKWARD, a_record


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


FORMATS = {
    "compact.json": lambda records: json.dumps(records, separators=(",", ":")),
    "indented.json": lambda records: json.dumps(records, indent=2, ensure_ascii=False),
    "bom.json": lambda records: "\ufeff" + json.dumps(records, ensure_ascii=False),
    "windows.json": lambda records: "\r\n [\r\n" + " ,\r\n".join(map(json.dumps, records)) + "\r\n]\r\n\r\n",
    "lines.jsonl": lambda records: "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records),
    "blank_lines.jsonl": lambda records: "\ufeff" + "\r\n\r\n".join(json.dumps(r) for r in records),
    "lines.json": lambda records: "\n".join(json.dumps(r) for r in records),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("chunk", [5, 64, 1 << 20])
def test_every_format_gives_the_same_records_for_any_chunk_size(tmp_path, monkeypatch, format, chunk):
    monkeypatch.setattr(senna.record_file, "_CHUNK", chunk)
    records = open_records(write(tmp_path / format, FORMATS[format](AWKWARD)))
    assert list(records) == AWKWARD
    assert [records[i] for i in (3, 0, 2, 1)] == [AWKWARD[i] for i in (3, 0, 2, 1)]
    assert records.words.tolist() == [2 + count_words(record["conversations"][1]["value"]) for record in AWKWARD]
    assert records.images.tolist() == [1, 1, 1, 1]
    assert [records.kind_names[kind] for kind in records.kinds] == ["other"] * 4


@pytest.mark.parametrize("name", ["big.json", "big.jsonl"])
def test_opening_a_file_needs_no_memory_for_the_texts(tmp_path, name):
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


def test_a_pickled_file_can_be_read(tmp_path):
    records = open_records(write(tmp_path / "a.jsonl", FORMATS["lines.jsonl"](AWKWARD)))
    assert records[1] == AWKWARD[1]
    assert list(pickle.loads(pickle.dumps(records))) == AWKWARD


def test_an_index_out_of_range_raises_an_index_error(tmp_path):
    records = open_records(write(tmp_path / "a.jsonl", FORMATS["lines.jsonl"](AWKWARD)))
    for index in (-1, 4):
        with pytest.raises(IndexError):
            records[index]


def test_a_name_has_file_index_line_and_id(tmp_path):
    lines = open_records(write(tmp_path / "a.jsonl", "\n" + FORMATS["lines.jsonl"](AWKWARD)))
    assert lines.label(2) == "2, line 4 (r2)"
    assert lines.name(2) == f"{tmp_path}/a.jsonl: record 2, line 4 (r2)"
    listed = open_records(write(tmp_path / "a.json", FORMATS["compact.json"](AWKWARD)))
    assert listed.name(2) == f"{tmp_path}/a.json: record 2 (r2)"


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
    "list_of_numbers": ("[1, 2]", "record 0: is not an object but 1"),
    "no_conversations": (json.dumps([AWKWARD[0], NO_CONVERSATIONS]), "record 1 (lonely): has no 'conversations'"),
    "line_without": (
        json.dumps(AWKWARD[0]) + "\n\n" + json.dumps(NO_CONVERSATIONS),
        "record 1, line 3 (lonely): has no 'conversations'",
    ),
    "bad_role": (json.dumps([{"conversations": [{"from": "robot", "value": ""}]}]), "turn 0 that is not from 'human'"),
    "bad_value": (json.dumps([{"conversations": [{"from": "gpt", "value": 3}]}]), "turn 0 whose 'value' is not text"),
    "bad_kind": (
        json.dumps([AWKWARD[0], {**a_record(1), "kind": 3}]),
        "record 1 (r1): has a 'kind' that is not text but 3",
    ),
    "object": (json.dumps({"frames": {"a": 1}}, indent=2), "line 1 is not JSON"),
}


@pytest.mark.parametrize("chunk", [16, 1 << 20])
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_raises_an_error_with_the_file_and_the_position(tmp_path, monkeypatch, case, chunk):
    monkeypatch.setattr(senna.record_file, "_CHUNK", chunk)
    text, message = BROKEN[case]
    path = write(tmp_path / "data.json", text)
    with pytest.raises(DataError) as error:
        open_records(path)
    assert error.value.file == path
    assert message in str(error.value)


def test_a_missing_file_and_a_folder_raise_an_error(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json: does not exist"):
        open_records(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="is a folder"):
        open_records(tmp_path)


def test_a_file_that_changes_after_opening_raises_an_error(tmp_path):
    path = write(tmp_path / "a.jsonl", FORMATS["lines.jsonl"](AWKWARD))
    records = open_records(path)
    write(path, FORMATS["lines.jsonl"](AWKWARD[1:]))
    with pytest.raises(DataError, match="changed after it was opened"):
        records[0]


def test_the_kind_of_a_record_has_priority_over_the_form_of_its_answers(tmp_path):
    kinds = ["vru", "plan", None, "my own", "plan"]
    records = [{**a_record(number, "STOP, STRAIGHT"), "kind": kind} for number, kind in enumerate(kinds)]
    write_records(tmp_path / "a.json", records)
    opened = open_records(tmp_path / "a.json")
    assert opened.kind_names == ("vru", "plan", "my own")
    assert opened.kinds.tolist() == [0, 1, 1, 2, 1]


def test_a_different_kind_in_every_record_raises_an_error(tmp_path):
    write_records(tmp_path / "a.json", ({**a_record(number), "kind": f"sample {number}"} for number in range(1001)))
    with pytest.raises(DataError, match="has the 'kind' 'sample 1000', and 1000 other kinds") as error:
        open_records(tmp_path / "a.json")
    assert (error.value.file, error.value.record) == (tmp_path / "a.json", "1000 (r1000)")


def test_a_path_that_leads_to_no_file_of_records_is_wrong_use(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("nothing.jsonl", "does not exist"), ("", "is a folder"), ("pipe", "is not a regular file")):
        with pytest.raises(DataError, match=reason) as error:
            open_records(tmp_path / name)
        assert error.value.exit_code == 2
        assert error.value.remedy
