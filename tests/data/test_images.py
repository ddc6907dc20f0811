"""Pixels equal the published ones: stored values, and values computed with Pillow and transformers in the test."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from senna.data.images import PixelRules, load_image, load_pixels, square_pixels
from senna.errors import DataError, UsageError
from tests.helpers.published_pixels import (
    clip_processor,
    published,
    published_pixels,
    share_of_changed_pixels,
)


def draw(width: int, height: int, channels: int = 3) -> np.ndarray:
    """Return noise with hard stripes, so that every weight of the filter has an effect."""
    random = np.random.default_rng(width * 100_003 + height)
    pixels = random.integers(0, 256, (height, width, channels), dtype=np.uint8)
    pixels[:, ::7] = 255
    pixels[::5] = 0
    return pixels


def golden_images(golden):
    return json.loads((golden / "images.json").read_text())["images"]


@pytest.mark.parametrize("aspect_ratio", ["pad", "square"])
def test_golden_images_have_the_published_values(golden, aspect_ratio):
    # The published stack (transformers 4.31) rounds like the current one, so even the last bit must be equal.
    processor = CLIPImageProcessorPil.from_pretrained(golden / "clip_tiny")
    arrays = np.load(golden / "images.npz")
    cuts = {
        "center": np.s_[:, 160:176, 160:176],
        "corner": np.s_[:, :8, :8],
        "br": np.s_[:, -8:, -8:],
        "midcol": np.s_[:, :, 168],
        "midrow": np.s_[:, 168, :],
    }
    seen = 0
    for record in golden_images(golden):
        values = load_image(golden / record["file"], processor, aspect_ratio)
        assert values.dtype == torch.float32
        expected = record[f"{aspect_ratio}_train"]
        assert list(values.shape) == expected["shape"]
        values = values.numpy()
        for cut, index in cuts.items():
            key = f"{record['file'].split('/')[-1]}.{aspect_ratio}.{cut}"
            if key in arrays:
                seen += 1
                np.testing.assert_array_equal(values[index], arrays[key], err_msg=key)
        wide = values.astype(np.float64)
        figures = {"mean": wide.mean(axis=(1, 2)), "std": wide.std(axis=(1, 2)), "min": wide.min(), "max": wide.max()}
        figures |= {"sum": wide.sum(), "abssum": np.abs(wide).sum()}
        for figure, value in figures.items():
            np.testing.assert_allclose(value, expected[figure], rtol=1e-9, atol=1e-9, err_msg=record["file"])
    assert seen == sum(f".{aspect_ratio}." in key for key in arrays)


def test_golden_uint8_pixels_are_the_published_ones(golden):
    rules = PixelRules.from_processor(CLIPImageProcessorPil.from_pretrained(golden / "clip_tiny"))
    arrays = np.load(golden / "images.npz")
    for record in golden_images(golden):
        if "resized_uint8_sum" in record:
            pixels = load_pixels(golden / record["file"], rules)
            key = f"{record['file'].split('/')[-1]}.resized_uint8"
            assert int(pixels.sum()) == record["resized_uint8_sum"]
            np.testing.assert_array_equal(pixels[100:140, 100:140], arrays[key])


@pytest.mark.parametrize("aspect_ratio", ["pad", "square"])
def test_exact_equals_pillow_and_transformers_bit_for_bit_on_stored_images(golden, aspect_ratio):
    for path in sorted((golden / "images").iterdir()):
        for size in (336, 112):
            expected = published(Image.open(path), clip_processor(size), aspect_ratio)
            assert torch.equal(load_image(path, clip_processor(size), aspect_ratio), expected), path


def test_fast_differs_by_one_level_in_at_most_two_of_a_thousand_pixels_of_stored_images(golden):
    assert max(map(share_of_changed_pixels, (golden / "images").iterdir())) <= 0.002


SIZES = [(1, 1), (2, 1000), (1000, 3), (337, 335), (335, 337), (112, 112), (112, 60), (60, 112), (16, 9), (640, 480)]


@pytest.mark.parametrize("aspect_ratio", ["pad", "square"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_exact_equals_pillow_and_transformers_at_odd_sizes(size, aspect_ratio):
    processor = clip_processor(112)
    image = Image.fromarray(draw(*size))
    expected = published(image, processor, aspect_ratio)
    assert torch.equal(load_image(image, processor, aspect_ratio), expected)
    near = load_pixels(image, PixelRules.from_processor(processor), aspect_ratio, decode="fast").astype(int)
    assert np.abs(near - published_pixels(image, processor, aspect_ratio)).max() <= 1


def test_exact_equals_a_full_resize_for_every_kind_of_window():
    random = np.random.default_rng(0)
    sizes = [(1600, 900), (900, 1600), (640, 200), (200, 640), (480, 10)]
    sizes += [tuple(int(v) for v in random.integers(2, 500, 2)) for _ in range(60)]
    for width, height in sizes:
        for target in (8, 24, 56):
            rules = PixelRules(target, (target, target), (0.5, 0.4, 0.3), (1.0, 1.0, 1.0))
            pixels = draw(width, height)
            side = max(width, height)
            square = Image.new("RGB", (side, side), rules.background)
            square.paste(Image.fromarray(pixels), ((side - width) // 2, (side - height) // 2))
            expected = np.asarray(square.resize((target, target), Image.Resampling.BICUBIC))
            np.testing.assert_array_equal(square_pixels(pixels, rules), expected, err_msg=f"{width}x{height}->{target}")


@pytest.mark.parametrize("aspect_ratio", ["pad", "square"])
@pytest.mark.parametrize("resample", list(Image.Resampling))
def test_every_filter_and_a_crop_smaller_than_the_resized_edge_follow_the_processor(resample, aspect_ratio):
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 60}, crop_size={"height": 40, "width": 51}, resample=int(resample)
    )
    image = Image.fromarray(draw(160, 90))
    assert torch.equal(load_image(image, processor, aspect_ratio), published(image, processor, aspect_ratio))


def drawn_in_mode(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(draw(90, 50, 2).view(np.uint16)[..., 0])
    image = Image.fromarray(draw(90, 50, 4), "RGBA")
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


@pytest.mark.parametrize("decode", ["exact", "fast"])
@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *((mode, "png") for mode in ("L", "LA", "1", "RGBA", "P", "I;16")),
        *((mode, "jpg") for mode in ("L", "RGB", "CMYK")),
        ("RGB", "webp"),
        ("P", "gif"),
    ],
)
def test_every_mode_is_converted_to_rgb_as_pillow_does(tmp_path, mode, suffix, decode):
    path = tmp_path / f"image.{suffix}"
    drawn_in_mode(mode).save(path)
    processor = clip_processor(56)
    expected = published_pixels(Image.open(path), processor, "pad").astype(int)
    for source in (path, str(path), Image.open(path)):
        pixels = load_pixels(source, PixelRules.from_processor(processor), decode=decode)
        assert np.abs(pixels - expected).max() <= (decode == "fast")


def test_exif_orientation_is_ignored_as_published(tmp_path):
    image = Image.fromarray(draw(90, 50))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "turned.png", exif=exif)
    processor = clip_processor(56)
    assert torch.equal(load_image(tmp_path / "turned.png", processor), load_image(tmp_path / "plain.png", processor))


def test_any_object_with_the_attributes_of_a_processor_can_be_used():
    plain = SimpleNamespace(size=56, crop_size=56, image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.2] * 3)
    image = Image.fromarray(draw(90, 50))
    processor = clip_processor(56)
    processor.image_std = [0.2] * 3
    assert torch.equal(load_image(image, plain), load_image(image, processor))
    fixed = SimpleNamespace(**{**vars(plain), "size": {"height": 40, "width": 60}, "crop_size": None})
    assert load_image(image, fixed).shape == (3, 40, 60)


def jpeg_bytes(**options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw(320, 200)).save(file, "jpeg", **options)
    return file.getvalue()


def png_bytes() -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw(320, 200)).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("decode", ["exact", "fast"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "no such image", id="missing"),
        pytest.param(b"", r"empty \(0 bytes\)", id="empty"),
        pytest.param(b"<html>404</html>" * 9, "not an image", id="html"),
        pytest.param(jpeg_bytes()[:9000], "truncated", id="truncated jpeg"),
        pytest.param(jpeg_bytes(progressive=True)[:9000], "truncated", id="truncated progressive jpeg"),
        pytest.param(jpeg_bytes()[:40], "not an image|truncated", id="jpeg header only"),
        pytest.param(png_bytes()[:9000], "truncated", id="truncated png"),
        pytest.param(png_bytes()[:5000] + b"\0" * 3000 + png_bytes()[8000:], "damaged", id="damaged png"),
    ],
)
def test_a_file_that_is_not_a_complete_image_raises_an_error_with_its_name(tmp_path, decode, content, message):
    path = tmp_path / "front.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        load_image(path, clip_processor(56), decode=decode)
    assert error.value.file == str(path)
    assert error.value.kind == (DataError.MISSING_IMAGE if content is None else None)


def test_a_folder_instead_of_an_image_raises_an_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        load_image(tmp_path, clip_processor(56))


def test_an_image_without_pixels_raises_an_error():
    with pytest.raises(DataError, match="0 x 5 pixels"):
        load_image(Image.new("RGB", (0, 5)), clip_processor(56))


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_a_decompression_bomb_raises_an_error_with_its_name(tmp_path, monkeypatch, decode):
    path = tmp_path / "bomb.jpg"
    path.write_bytes(jpeg_bytes())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 320 * 200 // 2 - 1)
    with pytest.raises(DataError, match=r"bomb\.jpg: too large"):
        load_image(path, clip_processor(56), decode=decode)


def test_a_very_thin_image_raises_an_error_for_square_and_fits_for_pad():
    thin = Image.new("RGB", (1, 20000), (200, 10, 10))
    with pytest.raises(DataError, match="too thin"):
        load_image(thin, clip_processor(336), "square")
    assert load_image(thin, clip_processor(336), "pad").shape == (3, 336, 336)


def test_unknown_options_raise_an_error_with_the_known_ones():
    image = Image.new("RGB", (8, 8))
    with pytest.raises(UsageError, match="pad, square"):
        load_image(image, clip_processor(56), aspect_ratio="anyres")
    with pytest.raises(UsageError, match="exact, fast"):
        load_image(image, clip_processor(56), decode="draft")


def test_a_crop_larger_than_the_resized_image_raises_an_error():
    with pytest.raises(UsageError, match="crop_size <= size"):
        square_pixels(Image.new("RGB", (8, 8)), PixelRules(56, (57, 57), (0.5,) * 3, (1.0,) * 3))
