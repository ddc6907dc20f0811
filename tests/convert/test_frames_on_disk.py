"""Selection of scenes, shards, the journal, and memory, on frames that the tests construct."""

import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import pytest

from senna.convert import pipeline
from senna.convert.captioners import make_captioner
from senna.convert.journal import open_shard, read_entries, read_records
from senna.convert.pipeline import Images, Source, convert_shard
from senna.convert.shards import Scene, parse_shard, select_scenes, shard_of
from senna.errors import UsageError
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


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 20])
def test_shards_have_every_scene_once_in_order_and_similar_numbers_of_frames(shards):
    scenes = [Scene(str(number), "train", 39 + number % 3) for number in range(60)]
    divided = [shard_of(scenes, shard, shards) for shard in range(1, shards + 1)]
    assert [scene for shard in divided for scene in shard] == scenes
    frames = [sum(scene.frames for scene in shard) for shard in divided]
    assert max(frames) - min(frames) <= 2 * 41


def test_shards_are_counted_from_one():
    assert parse_shard("2/8") == (2, 8)
    for wrong in ("0/8", "9/8", "1", "1/", "a/b", "-1/2"):
        with pytest.raises(UsageError, match="from 1 to N"):
            parse_shard(wrong)


def test_folder_is_claimed_once_and_other_settings_are_named(tmp_path):
    settings = {"--version": "v1.0-mini", "--limit": None}
    claim(tmp_path / "work", settings, remedy="give another --out")
    claim(tmp_path / "work", settings, remedy="give another --out")
    with pytest.raises(UsageError, match="--limit was None and is 3") as error:
        claim(tmp_path / "work", settings | {"--limit": 3}, remedy="give another --out")
    assert error.value.remedy == "give another --out"
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["run.json"]


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """Return a function that converts scenes of constructed frames, with a given captioner or with annotations."""

    def frames_of(tables, can_bus, scenes, compat):
        lengths = {scene["name"]: tables.lengths[scene["name"]] for scene in tables.scene}
        for name in scenes:
            for number in range(lengths[name]):
                yield replace(frame(agent(3, 12)), token=f"{name}-{number}", scene=name)

    def run(folder, captioner=None, **lengths):
        source = tables(**lengths)
        source.lengths = lengths
        scenes = select_scenes(source, {"train": list(lengths)})
        captioner = captioner or make_captioner("annotations")
        return convert_shard(Source(source), scenes, tmp_path / folder, captioner, load_templates(), Images(tmp_path))

    monkeypatch.setattr(pipeline, "frames_of", frames_of)
    return run


def test_memory_does_not_grow_with_the_number_of_frames(convert, tmp_path):
    convert("warm", scene=50)  # fills caches
    tracemalloc.start()
    convert("shard", scene=800)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    written = (tmp_path / "shard" / "train.jsonl").stat().st_size
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
    convert("shard", UnusableAtTheBack(), scene=3)
    for entry in read_entries(tmp_path / "shard"):
        assert {record["kind"] for record in read_records(tmp_path / "shard", entry)} == {"vru", "motion", "plan"}
        assert entry.facts["missing"] == 6


def test_unusable_captions_are_marked_in_record_and_report(convert, tmp_path):
    for path in frame().images:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    convert("shard", UnusableAtTheBack(), scene=3)
    for entry in read_entries(tmp_path / "shard"):
        records = {record["id"]: record for record in read_records(tmp_path / "shard", entry)}
        marked = {
            name.removeprefix(f"{entry.facts['token']}-") for name, record in records.items() if "problems" in record
        }
        assert marked == {"description-back"}
        assert "caption too short: description, back view" in entry.facts["problems"]
        assert len(records) == 11  # vru, motion and plan from the tables, and eight captions


def test_changed_data_set_is_not_mixed_into_a_shard(convert, tmp_path, monkeypatch):
    convert("shard", scene=5)
    complete = (tmp_path / "shard" / "train.jsonl").read_bytes()
    journal = tmp_path / "shard" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]) + lines[2].replace(b"scene-2", b"other-2"))
    with pytest.raises(pipeline.DataError, match="ends with frame other-2"):
        convert("shard", scene=5)
    journal.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    assert convert("shard", scene=5).frames == 5
    assert (tmp_path / "shard" / "train.jsonl").read_bytes() == complete


def test_incomplete_frames_are_truncated(convert, tmp_path):
    convert("shard", scene=4)
    complete = (tmp_path / "shard" / "train.jsonl").read_bytes()
    lines = (tmp_path / "shard" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for keep in range(5):
        (tmp_path / "shard" / "journal.jsonl").write_bytes(b"".join(lines[:keep]))
        shard = open_shard(tmp_path / "shard")
        shard.close()
        assert shard.frames == keep
        assert complete.startswith((tmp_path / "shard" / "train.jsonl").read_bytes())
        assert convert("shard", scene=4).frames == 4
        assert (tmp_path / "shard" / "train.jsonl").read_bytes() == complete
