"""Pictures one after the other: GIF by Pillow, which every machine has, MP4 by ffmpeg where it is."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from senna.errors import SennaError, UsageError
from senna.files import atomic_write
from senna.visualize.style import MEANT, PAPER

FILMS = ("auto", "gif", "mp4", "none")
GIF_WIDTH = 960  # pixels: a GIF of full size would have a megabyte a picture
_ENCODERS = (("-c:v", "libx264", "-crf", "20", "-preset", "veryfast"), ("-c:v", "mpeg4", "-q:v", "3"))


def film_form(wanted: str) -> str | None:
    """ "gif", "mp4" or None from the flag: auto is MP4 where ffmpeg is. Raises UsageError."""
    if wanted not in FILMS:
        raise UsageError(f"--film {wanted}: one of {', '.join(FILMS)}")
    has_ffmpeg = shutil.which("ffmpeg") is not None
    if wanted == "mp4" and not has_ffmpeg:
        raise UsageError("--film mp4: ffmpeg is not found here; install it, or take --film gif")
    if wanted == "auto":
        return "mp4" if has_ffmpeg else "gif"
    return None if wanted == "none" else wanted


def make_film(pictures: Sequence[Path], path: Path, fps: float) -> None:
    """Write a film with a frame a picture; its form is the path's suffix. It appears when it is whole.

    Pictures lower than the highest get white below.

    Raises:
        SennaError: it cannot be written, or ffmpeg fails; the message says with what.
    """
    sizes = [_size(picture) for picture in pictures]
    size = (max(width for width, _ in sizes), max(height for _, height in sizes))
    with atomic_write(path) as partial:
        if path.suffix == ".gif":
            _gif(pictures, partial, size, fps)
        elif complaint := _mp4(pictures, partial, size, fps):
            raise SennaError(f"{path}: ffmpeg cannot make it ({complaint}); --film gif needs no ffmpeg")


def _size(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


def _frames(pictures: Sequence[Path], size: tuple[int, int]) -> Iterator[Image.Image]:
    for picture in pictures:
        with Image.open(picture) as image:
            frame = Image.new("RGB", size, PAPER)
            frame.paste(image.convert("RGB"))
        yield frame


def _gif(pictures: Sequence[Path], path: Path, size: tuple[int, int], fps: float) -> None:
    width = min(GIF_WIDTH, size[0])
    small = (width, round(size[1] * width / size[0]))
    frames = (_few_colours(frame.resize(small, Image.Resampling.LANCZOS)) for frame in _frames(pictures, size))
    first = next(frames)
    first.save(path, save_all=True, append_images=frames, duration=round(1000 / fps), loop=0)


def _few_colours(frame: Image.Image) -> Image.Image:
    """In 256 colours, among them those that mean something, which are too little of the picture to be chosen for it."""
    colours = b"".join(bytes.fromhex(colour[1:]) for colour in MEANT)
    # The commonest colours make skies smooth; those far from each other keep a small red light red.
    for method, count in ((Image.Quantize.MEDIANCUT, 150), (Image.Quantize.MAXCOVERAGE, 106 - len(MEANT))):
        colours += bytes(frame.quantize(count, method=method).getpalette()[: 3 * count])
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def _mp4(pictures: Sequence[Path], path: Path, size: tuple[int, int], fps: float) -> str:
    """What ffmpeg complains of, "" where it made the film."""
    complaint = ""
    for encoder in _ENCODERS:
        complaint = _encode(pictures, path, size, fps, encoder)
        if not complaint:
            break
    return complaint


def _encode(pictures: Sequence[Path], path: Path, size: tuple[int, int], fps: float, encoder: Sequence[str]) -> str:
    """Run ffmpeg; what it complains of, "" where it is content."""
    command = [
        "ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}",
        "-r", f"{fps:g}", "-i", "-", *encoder, "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path),
    ]  # fmt: skip
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaints)
        try:
            for frame in _frames(pictures, size):
                process.stdin.write(frame.tobytes())
            process.stdin.close()
        except BrokenPipeError:
            pass  # it gave up; why, it says below
        except BaseException:
            process.kill()
            raise
        finally:
            code = process.wait()
        complaints.seek(0)
        said = complaints.read().decode("utf-8", "replace").strip()
    return "" if code == 0 else said.splitlines()[-1] if said else f"it ended with code {code}"
