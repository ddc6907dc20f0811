"""Devices, FIFOs and files that are too large for an image are refused everywhere before they are opened."""

import os
from pathlib import Path

import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from senna.convert.captioners import cache, llava
from senna.convert.quality_images import _open
from senna.data.images import load_image
from senna.demo import uploads
from senna.demo.examples import _thumbnail
from senna.demo.questions import Refusal
from senna.errors import DataError
from senna.evaluate.report.frame_cards import small_jpeg
from senna.image_file import MOST_BYTES, check_image_file
from senna.visualize import album

PROCESSOR = CLIPImageProcessorPil(size={"shortest_edge": 14}, crop_size={"height": 14, "width": 14})
READERS = {
    "training": lambda path: load_image(path, PROCESSOR),
    "training_fast": lambda path: load_image(path, PROCESSOR, decode="fast"),
    "captioner": lambda path: llava._pixels(path, PROCESSOR),
    "captions_cache": cache.content_hash,
    "demo_example": lambda path: _thumbnail([path] * 6, 40.0),
    "demo_upload": lambda path: uploads.open_upload(path, "front", 40.0),
    "visualize": album.open_upload,
}


@pytest.fixture(params=["fifo", "device", "large"])
def path(request, tmp_path) -> Path:
    path = tmp_path / "image.jpg"
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"\xff\xd8")
        os.truncate(path, MOST_BYTES + 1)  # a sparse file
    return path


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_is_no_image_file_is_refused_before_it_is_opened(path, reader):
    with pytest.raises(
        (DataError, Refusal), match=r"not a regular file|too large for an image|not there any more|reads up to"
    ):
        READERS[reader](path)


def test_pages_show_a_tile_for_a_file_that_is_no_image_file(path):
    assert small_jpeg(path, (64, 36)) is None
    assert _open(path).getextrema() == ((58, 58), (65, 65), (76, 76))


def test_images_links_to_images_and_missing_files_pass(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to("a.png")
    for name in ("a.png", "link.png", "missing.png", "a\0.png", "."):
        check_image_file(f"{tmp_path}/{name}")
