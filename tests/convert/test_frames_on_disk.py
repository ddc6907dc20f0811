"""Selection of scenes, the journal, and memory, on frames that the tests construct."""

import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import pytest

from senna.convert.captioners import ANNOTATIONS, make_captioner
from senna.convert.images import Images
from senna.convert.journal import open_journal, read_entries, read_records
from senna.convert.pipeline import LocalEngine, Preparer, convert_frames
from senna.convert.scenes import Scene, select_scenes
from senna.errors import DataError, UsageError
from senna.run_folder import claim
from senna.templates import load_templates
from tests.helpers.converter_frames import agent, frame


def tables(**lengths):
    scenes = [{"name": name, "token": f"token of {name}"} for name in lengths]
    samples = [{"scene_token": f"token of {name}"} for name, length in lengths.items() for _ in range(length)]
    return SimpleNamespace(scene=scenes, sample=samples, dataroot="data")


def test_scenes_keep_the_order_of_the_table_and_a_limit_shortens_the_last():
    splits = {"val": ["b"], "train": ["c", "a"]}
    assert select_scenes(tables(a=3, b=4, c=5), splits) == [
        Scene("a", "train", 3),
        Scene("b", "val", 4),
        Scene("c", "train", 5),
    ]
    assert select_scenes(tables(a=3, b=4, c=5), splits, 5) == [Scene("a", "train", 3), Scene("b", "val", 2)]


def test_folder_is_claimed_once_and_other_settings_are_named(tmp_path):
    settings = {"--version": "v1.0-mini", "--limit": None}
    claim(tmp_path / "work", settings, remedy="give another --out")
    claim(tmp_path / "work", settings, remedy="give another --out")
    with pytest.raises(UsageError, match="--limit was None and is 3") as error:
        claim(tmp_path / "work", settings | {"--limit": 3}, remedy="give another --out")
    assert error.value.remedy == "give another --out"
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["run.json"]


class Frames:
    """A data set whose scenes have frames that the tests construct."""

    def __init__(self, **lengths):
        self.lengths = lengths
        self.tables = tables(**lengths)
        self.tables.scene = [row | {"first_sample_token": f"{row['name']}-0"} for row in self.tables.scene]
        self.tables.get = lambda _, token: {"next": self._next(token)}

    def _next(self, token):
        name, _, number = token.rpartition("-")
        return f"{name}-{int(number) + 1}" if int(number) + 1 < self.lengths[name] else ""

    def frames(self, scenes):
        for name in scenes:
            for number in range(self.lengths[name]):
                yield replace(frame(agent(3, 12)), token=f"{name}-{number}", scene=name)


@pytest.fixture
def convert(tmp_path):
    """Return a function that converts scenes of constructed frames, with a given captioner or with annotations."""

    def run(folder, captioner=None, **lengths):
        source = Frames(**lengths)
        scenes = select_scenes(source.tables, {"train": list(lengths)})
        captioner = captioner or make_captioner("annotations")
        preparer = Preparer(source, load_templates(), Images(tmp_path), needs_images=captioner.name != ANNOTATIONS)
        return convert_frames(source.tables, scenes, tmp_path / folder, LocalEngine(preparer, captioner))

    return run


def test_memory_does_not_grow_with_the_number_of_frames(convert, tmp_path):
    convert("warm", scene=50)  # fills caches
    tracemalloc.start()
    convert("frames", scene=800)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    written = (tmp_path / "frames" / "train.jsonl").stat().st_size
    assert written > 5e6
    assert peak < written / 10


class UnusableAtTheBack:
    """A captioner whose answers about the back view are never usable."""

    name, window = "unusable", 10

    def answer(self, requests):
        return ["Yes" if request.view == "back" else self.good(request.kind) for request in requests]

    def good(self, kind):
        return "Red" if kind == "traffic_light" else "A road with two lanes lies ahead, and it is empty."


def test_captioners_are_not_asked_about_missing_images(convert, tmp_path):
    convert("frames", UnusableAtTheBack(), scene=3)
    for entry in read_entries(tmp_path / "frames"):
        assert {record["kind"] for record in read_records(tmp_path / "frames", entry)} == {
            "vru",
            "motion",
            "plan",
            "trajectory",
        }
        assert entry.facts["missing"] == 6


def test_unusable_captions_are_marked_in_record_and_report(convert, tmp_path):
    for path in frame().images:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    convert("frames", UnusableAtTheBack(), scene=3)
    for entry in read_entries(tmp_path / "frames"):
        records = {record["id"]: record for record in read_records(tmp_path / "frames", entry)}
        marked = {
            name.removeprefix(f"{entry.facts['token']}-") for name, record in records.items() if "problems" in record
        }
        assert marked == {"description-back"}
        assert "caption too short: description, back view" in entry.facts["problems"]
        assert len(records) == 12  # vru, motion, plan and trajectory from the tables, and eight captions


def test_changed_data_set_is_not_mixed_with_earlier_frames(convert, tmp_path):
    convert("frames", scene=5)
    complete = (tmp_path / "frames" / "train.jsonl").read_bytes()
    journal = tmp_path / "frames" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]) + lines[2].replace(b"scene-2", b"other-2"))
    with pytest.raises(DataError, match="ends with frame other-2"):
        convert("frames", scene=5)
    journal.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    assert convert("frames", scene=5).frames == 5
    assert (tmp_path / "frames" / "train.jsonl").read_bytes() == complete


def test_incomplete_frames_are_truncated(convert, tmp_path):
    convert("frames", scene=4)
    complete = (tmp_path / "frames" / "train.jsonl").read_bytes()
    lines = (tmp_path / "frames" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for keep in range(5):
        (tmp_path / "frames" / "journal.jsonl").write_bytes(b"".join(lines[:keep]))
        opened = open_journal(tmp_path / "frames")
        opened.close()
        assert opened.frames == keep
        assert complete.startswith((tmp_path / "frames" / "train.jsonl").read_bytes())
        assert convert("frames", scene=4).frames == 4
        assert (tmp_path / "frames" / "train.jsonl").read_bytes() == complete
