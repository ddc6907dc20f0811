"""Values that JSON allows and that nothing can use: an error that names the record, or a record that is skipped."""

import json
import pickle

import pytest

from senna.convert.caption_checks import check, clean
from senna.data.dataset import ConversationDataset
from senna.data.mixture import open_mixture
from senna.errors import DataError, UsageError
from senna.record_file import open_records
from senna.records import write_records
from senna.templates import DEFAULT, load_templates
from tests.data.test_dataset import PROCESSOR
from tests.helpers.caption_records import a_record
from tests.helpers.small_tokenizers import byte_level

LONE = "\ud83d"
DEEP = "[" * 100_000 + "]" * 100_000


def with_turn(value: str, role: int = 1) -> dict:
    record = a_record(1)
    record["conversations"][role]["value"] = value
    return record


BAD = {
    "surrogate_in_an_answer": (with_turn(f"a car {LONE}"), "surrogate"),
    "surrogate_in_a_question": (with_turn(f"<image>\n{LONE} where?", 0), "surrogate"),
    "surrogate_in_the_id": ({**a_record(1), "id": f"r1{LONE}"}, "surrogate"),
    "surrogate_in_the_kind": ({**a_record(1), "kind": LONE}, "surrogate"),
    "surrogate_in_a_key": ({**a_record(1), LONE: 1}, "surrogate"),
    "surrogate_in_a_path": ({**a_record(1), "image": f"{LONE}.jpg"}, "surrogate"),
    "surrogate_that_python_uses_for_bytes": ({**a_record(1), "image": "\udcff.jpg"}, "surrogate"),
    "nul_in_a_path": ({**a_record(1), "image": "a\0.jpg"}, "NUL"),
    "nul_in_one_of_six_paths": ({**a_record(1), "images": ["a.jpg"] * 5 + ["\0"]}, "NUL"),
    "many_images": (with_turn("<image>" * 40_000, 0), "40000 <image>"),
    "many_images_with_paths": ({**with_turn("<image>" * 40_000, 0), "images": ["a.jpg"] * 40_000}, "40000 <image>"),
    "ragged_trajectory": ({**a_record(1), "ego_fut_trajs": [[0, 1], [0, 1, 2]]}, "ego_fut_trajs"),
    "nan_in_the_trajectory": ({**a_record(1), "ego_fut_trajs": [[0, float("nan")]]}, "ego_fut_trajs"),
    "infinite_trajectory": ({**a_record(1), "ego_fut_trajs": [[0, float("inf")]]}, "ego_fut_trajs"),
    "text_in_the_trajectory": ({**a_record(1), "ego_fut_trajs": [[0, "1"]]}, "ego_fut_trajs"),
    "flat_trajectory": ({**a_record(1), "ego_fut_trajs": [0.0, 1.0]}, "ego_fut_trajs"),
    "trajectory_that_is_a_number": ({**a_record(1), "ego_fut_trajs": 3}, "ego_fut_trajs"),
    "nan_speed": ({**a_record(1), "speed": float("nan")}, "speed"),
    "deep": ({**a_record(1), "extra": "DEEP"}, "nested too deeply"),
    "deep_turn": ({"id": "r1", "conversations": ["DEEP"]}, "nested too deeply"),
}


def write(path, middle: dict):
    """Write three records, as a list or as lines; the second is ``middle``."""
    lines = [json.dumps(record).replace('"DEEP"', DEEP) for record in (a_record(0), middle, a_record(2))]
    path.write_text("\n".join(lines) if path.suffix == ".jsonl" else f"[{', '.join(lines)}]")
    return path


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("case", BAD)
def test_a_value_that_nothing_can_use_is_an_error_that_names_the_record_or_is_skipped(tmp_path, case, name):
    record, message = BAD[case]
    path = write(tmp_path / name, record)
    with pytest.raises(DataError) as error:
        open_records(path)
    str(error.value).encode()  # it can be printed
    assert message in error.value.message
    assert error.value.file == path
    assert str(error.value.record).startswith("1")
    with pytest.raises(DataError) as error:
        open_mixture(str(path))
    assert "--skip_bad_samples" in (error.value.remedy or "")

    records = open_mixture(str(path), skip_bad=1)
    assert [records[0], records[2]] == [a_record(0), a_record(2)]
    dataset = pickle.loads(pickle.dumps(ConversationDataset(records, byte_level(), PROCESSOR)))
    sample = dataset.text(1)
    assert "error" in sample
    assert str(sample["error"]).count(str(path)) == 1
    assert message in sample["error"].message


def test_more_bad_records_than_may_be_skipped_are_an_error_over_all_files(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / name, BAD["nul_in_a_path"][0])
    with pytest.raises(DataError, match=r"b\.jsonl"):
        open_mixture(f"{tmp_path}/a.jsonl,{tmp_path}/b.jsonl", skip_bad=1)
    mixture = open_mixture(f"{tmp_path}/a.jsonl,{tmp_path}/b.jsonl", skip_bad=2)
    assert [list(file.bad) for file in mixture.files] == [[1], [1]]


def test_valid_values_are_accepted(tmp_path):
    records = [
        {**a_record(0, "🚗 東京"), "ego_fut_trajs": [], "speed": None},
        {**a_record(1), "ego_fut_trajs": [[0.0, 1], [2, 3.5]], "speed": 3},
        {**a_record(2), "ego_fut_trajs": [[0, 1, 2]] * 6},
    ]
    write_records(tmp_path / "a.json", records)
    assert list(open_records(tmp_path / "a.json")) == records


def test_a_number_with_thousands_of_digits_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "a.json").write_text(f'[{{"id": {"1" * 5000}}}]')
    with pytest.raises(DataError, match="is not JSON"):
        open_records(tmp_path / "a.json")


def test_a_record_that_cannot_be_written_is_named_and_the_old_file_stays(tmp_path):
    write_records(tmp_path / "a.jsonl", [a_record(0)])
    with pytest.raises(DataError, match="r1"):
        write_records(tmp_path / "a.jsonl", [a_record(0), with_turn(LONE)])
    assert list(open_records(tmp_path / "a.jsonl")) == [a_record(0)]


def test_half_a_character_in_a_caption_is_marked_and_can_be_saved():
    text = clean("description", f"A car drives ahead on the road {LONE}.")
    assert text.encode()
    assert check("description", text) == ["broken character"]


def test_half_a_character_in_a_file_of_prompts_is_an_error(tmp_path):
    text = DEFAULT.read_text().replace("question: ", 'question: "\\ud83d" #', 1)
    (tmp_path / "prompts.yaml").write_text(text)
    with pytest.raises(UsageError):
        load_templates(tmp_path / "prompts.yaml")
