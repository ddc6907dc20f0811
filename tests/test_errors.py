"""Errors have fields, a text made of them, and survive pickling."""

import pickle

import pytest

from senna.errors import DataError, SennaError, UsageError


def test_the_text_is_location_message_and_remedy():
    assert str(SennaError("disk full")) == "disk full"
    assert str(UsageError("no such folder", remedy="create it")) == "no such folder; create it"
    assert str(DataError("is empty", file="a.json")) == "a.json: is empty"
    error = DataError("has no image", remedy="add it", file="a.json", record="3, line 4 (x)")
    assert str(error) == "a.json: record 3, line 4 (x): has no image; add it"


@pytest.mark.parametrize(
    "error",
    [
        SennaError("a"),
        UsageError("a", remedy="b"),
        DataError("a", remedy="b", file="f", record=0, kind=DataError.MISSING_IMAGE),
    ],
)
def test_a_pickled_error_keeps_its_type_and_fields(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), vars(copy)) == (str(error), vars(error))
    assert copy.exit_code == error.exit_code


def test_a_subclass_with_other_arguments_can_be_pickled():
    copy = pickle.loads(pickle.dumps(CountError(3)))
    assert (copy.count, str(copy)) == (3, "3 failures; stop")


class CountError(SennaError):
    def __init__(self, count: int) -> None:
        super().__init__(f"{count} failures", remedy="stop")
        self.count = count


def test_locating_an_error_keeps_its_remedy_and_kind():
    error = DataError("bad turn", remedy="fix it", kind="turn").located("a.json", 5)
    assert (error.file, error.record, error.kind, error.remedy) == ("a.json", 5, "turn", "fix it")
    assert str(error) == "a.json: record 5: bad turn; fix it"


def test_locating_an_error_of_an_image_keeps_the_name_of_the_image():
    error = DataError("no such image", file="x.jpg", kind=DataError.MISSING_IMAGE).located("a.json", 5)
    assert str(error) == "a.json: record 5: x.jpg: no such image"
    assert error.kind == DataError.MISSING_IMAGE
