"""A folder is claimed by one run, and other settings are refused."""

import pytest

from senna import run_folder
from senna.errors import SennaError, UsageError
from senna.run_folder import RUN_FILE, check_same_run, claim, describe, differences, fingerprint, read_settings

REMEDY = "choose another folder"


def test_the_same_settings_claim_a_folder_again(tmp_path):
    settings = {"seed": 1, "views": ("front", "back"), "share": 0.1}
    for _ in range(2):
        claim(tmp_path / "out", settings, remedy=REMEDY)
    assert read_settings(tmp_path / "out" / RUN_FILE) == {"seed": 1, "views": ["front", "back"], "share": 0.1}
    assert [path.name for path in (tmp_path / "out").iterdir()] == [RUN_FILE]


def test_other_settings_are_refused_with_both_values(tmp_path):
    claim(tmp_path, {"limit": 5, "seed": 1, "old": 0}, remedy=REMEDY)
    with pytest.raises(UsageError) as error:
        claim(tmp_path, {"limit": 6, "seed": 1, "new": True}, remedy=REMEDY, where="--out")
    assert error.value.message == (
        "--out holds another run: limit was 5 and is 6; new was None and is True; old was 0 and is None"
    )
    assert error.value.remedy == REMEDY
    assert read_settings(tmp_path / RUN_FILE) == {"limit": 5, "seed": 1, "old": 0}


def test_a_damaged_file_is_another_run(tmp_path):
    (tmp_path / RUN_FILE).write_text("{")
    assert read_settings(tmp_path / RUN_FILE) == {}
    with pytest.raises(UsageError, match="seed was None and is 1"):
        claim(tmp_path, {"seed": 1}, remedy=REMEDY)


def test_a_folder_can_be_claimed_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("not supported")

    monkeypatch.setattr(run_folder.os, "link", no_links)
    for _ in range(2):
        claim(tmp_path, {"seed": 1}, remedy=REMEDY)
    with pytest.raises(UsageError):
        claim(tmp_path, {"seed": 2}, remedy=REMEDY)


def test_a_folder_that_cannot_be_written_raises_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(SennaError, match="cannot be written"):
            claim(folder, {}, remedy=REMEDY)


def test_only_the_given_names_are_compared():
    before, now = {"seed": 1, "host": "a"}, {"seed": 1, "host": "b"}
    check_same_run("out", before, now, remedy=REMEDY, names=["seed"])
    check_same_run("out", None, now, remedy=REMEDY)
    assert differences(before, now) == {"host": ("a", "b")}
    assert describe(differences(before, now)) == "host was 'a' and is 'b'"


def test_a_fingerprint_depends_on_contents_and_their_borders():
    assert fingerprint(b"a", b"b") == fingerprint(b"a", b"b")
    assert len({fingerprint(b"a", b"b"), fingerprint(b"ab"), fingerprint(b"b", b"a")}) == 3
