"""A film holds all of its pictures completely."""

import shutil
import subprocess

import pytest
from PIL import Image

from senna.errors import SennaError, UsageError
from senna.visualize import style
from senna.visualize.film import film_form, make_film

HAS_FFMPEG = shutil.which("ffmpeg") is not None and shutil.which("ffprobe") is not None


@pytest.fixture
def pictures(tmp_path):
    """Four, the last higher than the others."""
    made = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        picture = Image.new("RGB", (320, 240 if number == 3 else 180), (40 * number, 90, 200))
        picture.paste(style.RIGHT, (0, 0, 20, 20))
        picture.save(path)
        made.append(path)
    return made


def test_a_gif_has_as_many_frames_as_pictures(pictures, tmp_path):
    make_film(pictures, tmp_path / "film.gif", fps=2)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 4
        assert film.size == (320, 240)
        for number in range(4):
            film.seek(number)
            assert film.info["duration"] == 500
            frame = film.convert("RGB")
            assert frame.getpixel((300, 100)) == pytest.approx((40 * number, 90, 200), abs=12)
            assert frame.getpixel((10, 10)) == (0x00, 0x72, 0xB2)  # what means something keeps its colour
            below = (40 * number, 90, 200) if number == 3 else (255, 255, 255)
            assert frame.getpixel((300, 230)) == pytest.approx(below, abs=12)


def test_a_gif_is_made_small(tmp_path):
    Image.new("RGB", (1920, 1080), "white").save(tmp_path / "a.png")
    make_film([tmp_path / "a.png"], tmp_path / "film.gif", fps=2)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.size == (960, 540)


@pytest.mark.skipif(not HAS_FFMPEG, reason="ffmpeg and ffprobe are not here")
def test_an_mp4_has_as_many_frames_as_pictures(pictures, tmp_path):
    make_film(pictures, tmp_path / "film.mp4", fps=2)
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames,width,height,r_frame_rate",
               "-of", "default=nokey=1:noprint_wrappers=1", str(tmp_path / "film.mp4")]  # fmt: skip
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert printed == ["320", "240", "2/1", "4"]


def test_a_failed_film_leaves_the_earlier_one_and_reports_the_reason(pictures, tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ffmpeg").write_text("#!/bin/sh\necho 'Unknown encoder' >&2\nexit 1\n")
    (folder / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    (tmp_path / "film.mp4").write_text("before")
    with pytest.raises(SennaError, match=r"film\.mp4.*Unknown encoder.*--film gif"):
        make_film(pictures, tmp_path / "film.mp4", fps=2)
    assert (tmp_path / "film.mp4").read_text() == "before"
    assert not list(tmp_path.glob(".*"))


def test_auto_uses_ffmpeg_if_it_is_installed_and_else_pillow(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert film_form("auto") == "gif"
    assert film_form("gif") == "gif"
    assert film_form("none") is None
    with pytest.raises(UsageError, match="ffmpeg was not found"):
        film_form("mp4")
    with pytest.raises(UsageError, match="avi"):
        film_form("avi")
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    assert film_form("auto") == "mp4"
