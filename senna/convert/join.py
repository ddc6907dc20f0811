"""The end of a run: join the shards into the files of OUT and write the quality report."""

import json
import os
import shutil
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from senna.convert.journal import Entry, read_entries, read_records
from senna.convert.pipeline import Source
from senna.convert.quality import LEFT_OUT, Summary, pick
from senna.convert.quality_images import draw_frame
from senna.convert.quality_page import FrameCard, write_page
from senna.convert.shards import SPLITS, output_path
from senna.errors import SennaError
from senna.files import atomic_write, write_json
from senna.record_file import open_records
from senna.records import write_records

JOINED = "joined.json"  # in the work folder; exists where OUT is complete
SHOWN_FRAMES = 50  # on quality.html


def join(shards: Sequence[Path], out: Path, name: str, form: str) -> dict[str, Path]:
    """Write the record files of OUT from the folders of finished shards. Each file appears only when it is complete.

    A single shard in JSON Lines is hard-linked, where the file system allows it, instead of copied.

    Returns:
        The file of each split that has frames.

    Raises:
        SennaError: the disk cannot be written.
    """
    files = {}
    for split in SPLITS:
        sources = [path for shard in shards if (path := shard / f"{split}.jsonl").is_file() and path.stat().st_size]
        if not sources:
            continue
        target = files[split] = output_path(out, name, split, form)
        if form == "json":
            write_records(target, (record for path in sources for record in open_records(path)))
            continue
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            _concatenate(sources, partial)
            partial.replace(target)
        except OSError as error:
            raise SennaError(
                f"{target} cannot be written: {error.strerror or error}; every frame is saved in {shards[0].parent}",
                remedy="make room and run the same command again",
            ) from error
        finally:
            partial.unlink(missing_ok=True)
    return files


def _concatenate(sources: Sequence[Path], target: Path) -> None:
    if len(sources) == 1:
        try:
            os.link(sources[0], target)
            return
        except OSError:
            pass  # a file system without hard links: copy the file
    with target.open("wb") as file:
        for path in sources:
            with path.open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def report(shards: Sequence[Path], out: Path, source: Source, made_by: str) -> dict:
    """Write OUT/quality.json and OUT/quality.html. Returns the content of quality.json."""
    summary, flags, size = Summary(), bytearray(), 0
    shown = array("l")  # indices of the frames that are not left out
    for index, (_, entry) in enumerate(_all_entries(shards)):
        summary.add(entry.split, entry.facts)
        size += entry.size
        if not entry.facts.get(LEFT_OUT):
            shown.append(index)
            flags.append(bool(entry.facts["problems"]))
    counts = {"made_by": made_by, "bytes": size, **summary.as_json()}
    cards = _frame_cards(shards, source, [shown[number] for number in pick(flags, SHOWN_FRAMES)])
    title = f"nuScenes {source.tables.version}"
    page = write_page(title, f"{made_by}, {source.tables.dataroot}", counts, cards)
    try:
        for name, text in {
            "quality.json": json.dumps(counts, indent=2, ensure_ascii=False) + "\n",
            "quality.html": page,
        }.items():
            with atomic_write(out / name) as partial:
                partial.write_text(text, encoding="utf-8")
    except SennaError as error:
        raise SennaError(
            f"the records are complete, but the quality report is not: {error.message}", remedy=error.remedy
        ) from error
    return counts


def _frame_cards(shards: Sequence[Path], source: Source, chosen: Sequence[int]) -> list[FrameCard]:
    """Return the cards of the chosen frames, which are indices among the frames of all shards, in the order of ``chosen``."""
    wanted = set(chosen)
    entries = {index: found for index, found in enumerate(_all_entries(shards)) if index in wanted}
    tokens = {entry.facts["token"] for _, entry in entries.values()}
    scenes = dict.fromkeys(entry.facts["scene"] for _, entry in entries.values())
    frames = {frame.token: frame for frame in source.frames(list(scenes)) if frame.token in tokens}
    cards = []
    for index in chosen:
        shard, entry = entries[index]
        frame = frames[entry.facts["token"]]
        images = draw_frame(source.tables, frame)
        cards.append(FrameCard(entry.split, frame, read_records(shard, entry), images, entry.facts["problems"]))
    return cards


def _all_entries(shards: Sequence[Path]) -> Iterator[tuple[Path, Entry]]:
    return ((shard, entry) for shard in shards for entry in read_entries(shard))


def is_joined(work: Path) -> bool:
    """Return whether OUT, whose work folder this is, is complete."""
    return (work / JOINED).is_file()


def clear(work: Path, shards: Sequence[Path]) -> None:
    """Mark OUT as complete, and delete the folders of the shards, whose records are in the files of OUT now."""
    write_json(work / JOINED, {"parts": len(shards)})
    for shard in shards:
        shutil.rmtree(shard, ignore_errors=True)
