"""What may be uploaded: a picture, whole, not too large; and that a visitor is told so without a path of this machine."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageFile

from senna.demo.questions import Refusal
from senna.demo.uploads import open_upload

PIXELS = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8)


def jpeg(width: int = 60, height: int = 40) -> bytes:
    """A JPEG of 60 x 40 pixels whose header says otherwise: to read its size is cheap, to decode it impossible."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG")
    data = bytearray(file.getvalue())
    frame = data.index(b"\xff\xc0")  # start of frame: length, precision, height, width
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def refused(path, most: float = 40.0) -> str:
    with pytest.raises(Refusal) as refusal:
        open_upload(path, "back left", most)
    told = str(refusal.value)
    assert "back left" in told
    assert str(path.parent) not in told
    assert path.name not in told
    return told


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("PNG", mode) for mode in ("RGB", "L", "RGBA", "P")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    ],
)
def test_pictures_of_every_usual_form_come_as_rgb(tmp_path, form, mode):
    Image.fromarray(PIXELS).convert(mode).save(tmp_path / "upload.bin", form)
    picture = open_upload(tmp_path / "upload.bin", "front", 40.0)
    assert (picture.mode, picture.size) == ("RGB", (60, 40))


def test_a_picture_on_its_side_is_turned_as_the_browser_turns_it(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn clockwise
    Image.fromarray(PIXELS).save(tmp_path / "upload.jpg", exif=exif)
    assert open_upload(tmp_path / "upload.jpg", "front", 40.0).size == (40, 60)


def test_sixty_megapixels_are_refused_before_a_pixel_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "large.jpg"
    path.write_bytes(jpeg(10_000, 6_000))
    loaded, load = [], ImageFile.ImageFile.load

    def noted(picture):
        loaded.append(picture.size)
        return load(picture)

    monkeypatch.setattr(ImageFile.ImageFile, "load", noted)
    told = refused(path)
    assert "60 megapixels (10000 x 6000)" in told
    assert "up to 40" in told
    assert not loaded
    path.write_bytes(jpeg())
    open_upload(path, "front", 40.0)
    assert loaded[0] == (60, 40)  # so a picture that is allowed is decoded there


def test_what_pillow_takes_for_an_attack_is_refused_as_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)  # Pillow's own limit, which other libraries lift
    path = tmp_path / "bomb.jpg"
    path.write_bytes(jpeg(60_000, 60_000))
    assert "far too large" in refused(path)


def test_a_text_called_jpg_is_refused(tmp_path):
    path = tmp_path / "text.jpg"
    path.write_text("this is no picture")
    assert "not a picture that this page can read" in refused(path)


def test_a_form_that_the_page_does_not_name_is_refused(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "upload.jpg", "TIFF")
    assert "Use JPEG, PNG or WebP" in refused(tmp_path / "upload.jpg")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_picture_that_is_cut_off_is_refused(tmp_path, form):
    Image.fromarray(PIXELS).save(tmp_path / "upload.bin", form)
    whole = (tmp_path / "upload.bin").read_bytes()
    (tmp_path / "upload.bin").write_bytes(whole[: len(whole) * 2 // 3])
    assert "damaged or cut off" in refused(tmp_path / "upload.bin")


@pytest.mark.parametrize("size", [(8, 400), (2000, 20)])
def test_a_sliver_is_refused(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "upload.png")
    assert f"{size[0]} x {size[1]} pixels" in refused(tmp_path / "upload.png")


def test_a_file_that_has_gone_is_refused(tmp_path):
    assert "again" in refused(tmp_path / "gone.jpg")
