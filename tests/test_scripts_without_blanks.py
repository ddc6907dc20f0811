"""Words of texts in scripts that put no blanks between them."""

import pytest

from senna.record_file import open_records
from senna.records import write_records
from senna.scripts_without_blanks import count_words
from tests.helpers.caption_records import a_record


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0), ("A wet road.", 3), ("Zürich — ein Weg", 4), ("路面湿滑。", 4), ("東京タワー、赤い", 7),
        ("前方12米处有 truck", 7), ("𠮷野", 2), ("비가 온다", 2), ("🚗 ahead", 2),
    ],
)  # fmt: skip
def test_characters_count_as_words_and_other_texts_by_their_blanks(text, count):
    assert count_words(text) == count


def test_the_index_of_a_file_counts_characters(tmp_path):
    write_records(tmp_path / "a.json", [a_record(0, "前方有一辆卡车。")])
    assert open_records(tmp_path / "a.json").words.tolist() == [2 + 7]
