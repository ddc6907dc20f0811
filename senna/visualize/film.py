"""Films of a scene's pictures: GIF by Pillow, or MP4 by ffmpeg where it is installed."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from senna.errors import SennaError, UsageError
from senna.files import atomic_write
from senna.visualize.style import PAPER, SIGNAL_COLOURS

FILMS = ("auto", "gif", "mp4", "none")
GIF_WIDTH = 960  # pixels; at full size a GIF would take a megabyte per picture
_ENCODERS = (("-c:v", "libx264", "-crf", "20", "-preset", "veryfast"), ("-c:v", "mpeg4", "-q:v", "3"))


def film_form(wanted: str) -> str | None:
    """Return "gif", "mp4" or None for the flag; auto is MP4 where ffmpeg is installed. Raises UsageError."""
    if wanted not in FILMS:
        raise UsageError(f"--film {wanted} is unknown", remedy=f"use one of {', '.join(FILMS)}")
    has_ffmpeg = shutil.which("ffmpeg") is not None
    if wanted == "mp4" and not has_ffmpeg:
        raise UsageError("--film mp4: ffmpeg was not found", remedy="install ffmpeg, or use --film gif")
    if wanted == "auto":
        return "mp4" if has_ffmpeg else "gif"
    return None if wanted == "none" else wanted


def make_film(pictures: Sequence[Path], path: Path, fps: float) -> None:
    """Write a film of pictures atomically, in the format of the path's suffix.

    Pictures that are lower than the highest one get a white border below.

    Raises:
        SennaError: the film cannot be written, or ffmpeg fails; the message holds ffmpeg's last line.
    """
    sizes = [_size(picture) for picture in pictures]
    size = (max(width for width, _ in sizes), max(height for _, height in sizes))
    with atomic_write(path) as partial:
        if path.suffix == ".gif":
            _gif(pictures, partial, size, fps)
        elif complaint := _mp4(pictures, partial, size, fps):
            raise SennaError(f"{path}: ffmpeg failed ({complaint})", remedy="use --film gif, which needs no ffmpeg")


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
    """Reduce a frame to 256 colours that include the signal colours, which cover too few pixels to be chosen otherwise."""
    colours = b"".join(bytes.fromhex(colour[1:]) for colour in SIGNAL_COLOURS)
    sample = frame.resize((max(frame.width // 2, 1), max(frame.height // 2, 1)), Image.Resampling.NEAREST)
    # Median cut keeps skies smooth; maximum coverage keeps a small red light red.
    for method, count in ((Image.Quantize.MEDIANCUT, 150), (Image.Quantize.MAXCOVERAGE, 106 - len(SIGNAL_COLOURS))):
        colours += bytes(sample.quantize(count, method=method).getpalette()[: 3 * count])
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def _mp4(pictures: Sequence[Path], path: Path, size: tuple[int, int], fps: float) -> str:
    """Encode with the first encoder that works; return ffmpeg's complaint, "" on success."""
    complaint = ""
    for encoder in _ENCODERS:
        complaint = _encode(pictures, path, size, fps, encoder)
        if not complaint:
            break
    return complaint


def _encode(pictures: Sequence[Path], path: Path, size: tuple[int, int], fps: float, encoder: Sequence[str]) -> str:
    """Run ffmpeg; return its last error line, "" on success."""
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
            pass  # ffmpeg stopped early; its error output says why
        except BaseException:
            process.kill()
            raise
        finally:
            code = process.wait()
        complaints.seek(0)
        output = complaints.read().decode("utf-8", "replace").strip()
    return "" if code == 0 else output.splitlines()[-1] if output else f"exit code {code}"
