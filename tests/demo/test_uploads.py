"""Uploads: complete images of a sensible size. Refusals name no path of this machine."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageFile

from senna.demo.questions import Refusal
from senna.demo.uploads import open_upload

PIXELS = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8)


def jpeg(width: int = 60, height: int = 40) -> bytes:
    """Return a JPEG of 60 x 40 pixels whose header states another size, so that it cannot be decoded."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG")
    data = bytearray(file.getvalue())
    frame = data.index(b"\xff\xc0")  # start of frame: length, precision, height, width
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def refused(path, most: float = 40.0) -> str:
    with pytest.raises(Refusal) as refusal:
        open_upload(path, "back left", most)
    message = str(refusal.value)
    assert "back left" in message
    assert str(path.parent) not in message
    assert path.name not in message
    return message


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("PNG", mode) for mode in ("RGB", "L", "RGBA", "P")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    ],
)
def test_images_of_every_common_format_become_rgb(tmp_path, form, mode):
    Image.fromarray(PIXELS).convert(mode).save(tmp_path / "upload.bin", form)
    image = open_upload(tmp_path / "upload.bin", "front", 40.0)
    assert (image.mode, image.size) == ("RGB", (60, 40))


def test_an_image_is_rotated_as_its_exif_data_say(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn clockwise
    Image.fromarray(PIXELS).save(tmp_path / "upload.jpg", exif=exif)
    assert open_upload(tmp_path / "upload.jpg", "front", 40.0).size == (40, 60)


def test_sixty_megapixels_are_refused_before_a_pixel_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "large.jpg"
    path.write_bytes(jpeg(10_000, 6_000))
    loaded, load = [], ImageFile.ImageFile.load

    def recorded(image):
        loaded.append(image.size)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", recorded)
    message = refused(path)
    assert "60 megapixels (10000 x 6000)" in message
    assert "up to 40" in message
    assert not loaded
    path.write_bytes(jpeg())
    open_upload(path, "front", 40.0)
    assert loaded[0] == (60, 40)  # an accepted image is decoded there


def test_a_decompression_bomb_is_refused_as_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)  # Pillow's own limit, which other libraries lift
    path = tmp_path / "bomb.jpg"
    path.write_bytes(jpeg(60_000, 60_000))
    assert "far too large" in refused(path)


def test_a_text_called_jpg_is_refused(tmp_path):
    path = tmp_path / "text.jpg"
    path.write_text("this is no image")
    assert "not an image that this page can read" in refused(path)


def test_an_unsupported_format_is_refused(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "upload.jpg", "TIFF")
    assert "Use JPEG, PNG or WebP" in refused(tmp_path / "upload.jpg")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_is_refused(tmp_path, form):
    Image.fromarray(PIXELS).save(tmp_path / "upload.bin", form)
    complete = (tmp_path / "upload.bin").read_bytes()
    (tmp_path / "upload.bin").write_bytes(complete[: len(complete) * 2 // 3])
    assert "damaged or truncated" in refused(tmp_path / "upload.bin")


@pytest.mark.parametrize("size", [(8, 400), (2000, 20)])
def test_a_sliver_is_refused(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "upload.png")
    assert f"{size[0]} x {size[1]} pixels" in refused(tmp_path / "upload.png")


def test_a_deleted_file_is_refused(tmp_path):
    assert "again" in refused(tmp_path / "gone.jpg")
