"""The end of a run: the shards become OUT's files, and their quality is told."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from senna.convert.journal import Entry, read_entries, read_records
from senna.convert.pipeline import Source
from senna.convert.quality import Summary, pick
from senna.convert.quality_images import draw_frame
from senna.convert.quality_page import Shown, write_page
from senna.convert.shards import JOINED, SPLITS, output_path
from senna.errors import SennaError
from senna.files import atomic_write, write_json
from senna.record_file import open_records
from senna.records import write_records

SHOWN_FRAMES = 50  # on quality.html


def join(parts: Sequence[Path], out: Path, name: str, form: str) -> dict[str, Path]:
    """Make OUT's files of the finished parts, each whole or not at all. Returns the file of each split that has frames.

    One part in JSON Lines is only given its second name. Raises SennaError where the disk does not take it.
    """
    made = {}
    for split in SPLITS:
        sources = [path for part in parts if (path := part / f"{split}.jsonl").is_file() and path.stat().st_size]
        if not sources:
            continue
        target = made[split] = output_path(out, name, split, form)
        if form == "json":
            write_records(target, (record for path in sources for record in open_records(path)))
            continue
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            _put_together(sources, partial)
            partial.replace(target)
        except OSError as error:
            raise SennaError(
                f"{target} cannot be written: {error.strerror or error}; every frame is safe in {parts[0].parent}; make "
                "room and run the same command again"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
    return made


def _put_together(sources: Sequence[Path], target: Path) -> None:
    if len(sources) == 1:
        try:
            os.link(sources[0], target)
            return
        except OSError:
            pass  # a file system without hard links: copied, as several are
    with target.open("wb") as file:
        for path in sources:
            with path.open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def report(parts: Sequence[Path], out: Path, source: Source, made_by: str) -> dict:
    """Write OUT/quality.json and OUT/quality.html. Returns what quality.json holds."""
    summary, flags, size = Summary(), bytearray(), 0
    for part in parts:
        for entry in read_entries(part):
            summary.add(entry.split, entry.facts)
            flags.append(bool(entry.facts["problems"]))
            size += entry.size
    counts = {"made_by": made_by, "bytes": size, **summary.as_json()}
    chosen = pick(flags, SHOWN_FRAMES)
    shown = _shown(parts, source, chosen)
    title = f"nuScenes {source.tables.version}"
    page = write_page(title, f"{made_by}, {source.tables.dataroot}", counts, shown)
    try:
        for name, text in {
            "quality.json": json.dumps(counts, indent=2, ensure_ascii=False) + "\n",
            "quality.html": page,
        }.items():
            with atomic_write(out / name) as partial:
                partial.write_text(text, encoding="utf-8")
    except SennaError as error:
        raise SennaError(f"the records are complete, but not the report on their quality: {error}") from error
    return counts


def _shown(parts: Sequence[Path], source: Source, chosen: Sequence[int]) -> list[Shown]:
    """The frames at these places among all of the parts, in this order."""
    places = set(chosen)
    entries = {place: found for place, found in enumerate(_all_entries(parts)) if place in places}
    wanted = {entry.facts["token"] for _, entry in entries.values()}
    scenes = dict.fromkeys(entry.facts["scene"] for _, entry in entries.values())
    frames = {frame.token: frame for frame in source.frames(list(scenes)) if frame.token in wanted}
    shown = []
    for place in chosen:
        part, entry = entries[place]
        frame = frames[entry.facts["token"]]
        pictures = draw_frame(source.tables, frame)
        shown.append(Shown(entry.split, frame, read_records(part, entry), pictures, entry.facts["problems"]))
    return shown


def _all_entries(parts: Sequence[Path]) -> Iterator[tuple[Path, Entry]]:
    return ((part, entry) for part in parts for entry in read_entries(part))


def clear(work: Path, parts: Sequence[Path]) -> None:
    """Remember that OUT is complete, and delete the parts, whose records OUT's files hold now."""
    write_json(work / JOINED, {"parts": len(parts)})
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
