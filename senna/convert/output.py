"""The end of a run: write the files of OUT and the quality report."""

import json
import os
import shutil
from array import array
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from senna.convert.frames import Source
from senna.convert.journal import FUTURES, read_entries, read_records
from senna.convert.quality import LEFT_OUT, Summary, pick
from senna.convert.quality_images import draw_frame
from senna.convert.quality_page import FrameCard, write_page
from senna.convert.scenes import SPLITS, output_path
from senna.errors import SennaError
from senna.files import atomic_write, write_json
from senna.futures import futures_path
from senna.record_file import open_records
from senna.records import write_records

COMPLETE = "joined.json"  # in the work folder, named as by earlier versions; exists where OUT is complete
SHOWN_FRAMES = 50  # on quality.html


def write_files(frames: Path, out: Path, name: str, form: str) -> dict[str, Path]:
    """Write the record files of OUT from the folder of finished frames. Each file appears only when it is complete.

    JSON Lines are hard-linked, where the file system allows it, instead of copied.

    Returns:
        The file of each split that has frames.

    Raises:
        SennaError: the disk cannot be written.
    """
    files = {}
    for split in SPLITS:
        source = frames / f"{split}.jsonl"
        if not source.is_file() or not source.stat().st_size:
            continue
        target = files[split] = output_path(out, name, split, form)
        if form == "json":
            write_records(target, open_records(source))
            continue
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            _link_or_copy(source, partial)
            partial.replace(target)
        except OSError as error:
            raise SennaError(
                f"{target} cannot be written: {error.strerror or error}; every frame is saved in {frames}",
                remedy="make room and run the same command again",
            ) from error
        finally:
            partial.unlink(missing_ok=True)
    return files


def write_futures(frames: Path, files: Mapping[str, Path]) -> None:
    """Write the futures of the frames (``senna.futures``) beside the records of each split.

    Raises:
        SennaError: the disk cannot be written.
    """
    with ExitStack() as stack:
        written: dict[str, TextIO] = {}
        for entry in read_entries(frames):
            if entry.split in files and FUTURES in entry.facts:
                if entry.split not in written:
                    partial = stack.enter_context(atomic_write(futures_path(files[entry.split])))
                    written[entry.split] = stack.enter_context(partial.open("w", encoding="utf-8"))
                written[entry.split].write(json.dumps(entry.facts[FUTURES], ensure_ascii=False) + "\n")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
        return
    except OSError:
        pass  # a file system without hard links: copy the file
    with target.open("wb") as file, source.open("rb") as content:
        shutil.copyfileobj(content, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def write_report(frames: Path, out: Path, source: Source, made_by: str) -> dict:
    """Write OUT/quality.json and OUT/quality.html. Returns the content of quality.json."""
    summary, flags, size = Summary(), bytearray(), 0
    shown = array("l")  # indices of the frames that are not left out
    for index, entry in enumerate(read_entries(frames)):
        summary.add(entry.split, entry.facts)
        size += entry.size
        if not entry.facts.get(LEFT_OUT):
            shown.append(index)
            flags.append(bool(entry.facts["problems"]))
    counts = {"made_by": made_by, "bytes": size, **summary.as_json()}
    cards = _frame_cards(frames, source, [shown[number] for number in pick(flags, SHOWN_FRAMES)])
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


def _frame_cards(folder: Path, source: Source, chosen: Sequence[int]) -> list[FrameCard]:
    """Return the cards of the chosen frames, which are indices among the finished frames, in the order of ``chosen``."""
    wanted = set(chosen)
    entries = {index: entry for index, entry in enumerate(read_entries(folder)) if index in wanted}
    tokens = {entry.facts["token"] for entry in entries.values()}
    scenes = dict.fromkeys(entry.facts["scene"] for entry in entries.values())
    frames = {frame.token: frame for frame in source.frames(list(scenes)) if frame.token in tokens}
    cards = []
    for index in chosen:
        entry = entries[index]
        frame = frames[entry.facts["token"]]
        images = draw_frame(source.tables, frame)
        cards.append(FrameCard(entry.split, frame, read_records(folder, entry), images, entry.facts["problems"]))
    return cards


def is_complete(work: Path) -> bool:
    """Return whether OUT, whose work folder this is, is complete."""
    return (work / COMPLETE).is_file()


def mark_complete(work: Path, frames: Path) -> None:
    """Mark OUT as complete, and delete the folder of frames, whose records are in the files of OUT now."""
    write_json(work / COMPLETE, {})
    shutil.rmtree(frames, ignore_errors=True)
