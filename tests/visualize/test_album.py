"""Images of records that are drawn."""

import os

import pytest

from senna.errors import DataError
from senna.visualize.album import open_upload


def test_a_pipe_or_a_text_in_place_of_an_image_is_reported_without_its_content(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.jpg").write_text("root:x:0:0")
    for name, reason in (("pipe", "not a regular file"), ("text.jpg", "not an image")):
        with pytest.raises(DataError) as error:
            open_upload(tmp_path / name)
        assert error.value.message == reason
