"""`senna convert` as a whole, on the small data set of the reference folder: stopped, continued, sharded, refused."""

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from senna.cli import main
from senna.convert import journal
from senna.record_file import open_records
from senna.records import write_records
from tests.conftest import REPOSITORY
from tests.convert import slowly
from tests.forks import Run

SPLITS = ("train", "val")


@pytest.fixture(scope="module")
def world(shared_golden):
    return ["convert", "--nuscenes", str(shared_golden / "synthetic_nuscenes"), "--version", "v1.0-mini"]


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    assert main([*world, "--out", str(out)]) == 0
    return out


def contents(out, form="jsonl"):
    return [(out / f"senna_nusc_{split}.{form}").read_bytes() for split in SPLITS]


def test_every_frame_of_both_splits_is_in_the_files_in_order(whole, shared_golden):
    tables = shared_golden / "synthetic_nuscenes" / "v1.0-mini"
    samples = {one["token"]: one for one in json.loads((tables / "sample.json").read_text())}
    scenes = json.loads((tables / "scene.json").read_text())
    expected = {"train": [], "val": []}
    for scene in scenes:
        token = scene["first_sample_token"]
        while token:
            expected["val" if scene["name"] == "scene-0103" else "train"].append(token)
            token = samples[token]["next"]
    for split in SPLITS:
        records = list(open_records(whole / f"senna_nusc_{split}.jsonl"))
        assert list(dict.fromkeys(record["token"] for record in records)) == expected[split]
        assert len({record["id"] for record in records}) == len(records)


def test_the_report_counts_what_the_files_hold(whole):
    counts = json.loads((whole / "quality.json").read_text())
    for split in SPLITS:
        records = list(open_records(whole / f"senna_nusc_{split}.jsonl"))
        assert counts["records"][split] == len(records)
        assert sum(kinds.get(split, 0) for kinds in counts["kinds"].values()) == len(records)
        plans = sum(record["kind"] == "plan" for record in records)
        assert counts["kinds"]["plan"][split] == plans
    assert counts["missing_images"] == 0


def test_a_finished_run_is_left_as_it_is(world, whole, capsys):
    before = contents(whole)
    assert main([*world, "--out", str(whole)]) == 0
    assert "is complete" in capsys.readouterr().out
    assert contents(whole) == before


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_shards_joined_equal_one_run(world, whole, tmp_path, capsys, form):
    for shard in ("3/3", "1/3"):
        assert main([*world, "--out", str(tmp_path), "--shard", shard, "--format", form]) == 0
        assert not list(tmp_path.glob("senna_nusc*"))
    assert "shard-2-of-3" in capsys.readouterr().out
    assert main([*world, "--out", str(tmp_path), "--shard", "2/3", "--format", form]) == 0
    if form == "jsonl":
        assert contents(tmp_path) == contents(whole)
    else:
        for split in SPLITS:
            records = list(open_records(whole / f"senna_nusc_{split}.jsonl"))
            assert json.loads((tmp_path / f"senna_nusc_{split}.json").read_text()) == records
    one, three = (json.loads((out / "quality.json").read_text()) for out in (whole, tmp_path))
    assert one == three


def test_a_limit_gives_the_first_frames(world, whole, tmp_path):
    assert main([*world, "--out", str(tmp_path), "--limit", "5"]) == 0
    tokens = list(dict.fromkeys(r["token"] for r in open_records(tmp_path / "senna_nusc_train.jsonl")))
    assert tokens == list(dict.fromkeys(r["token"] for r in open_records(whole / "senna_nusc_train.jsonl")))[:5]


def test_another_run_in_the_folder_is_refused_with_what_differs(world, whole, capsys):
    before = contents(whole)
    assert main([*world, "--out", str(whole), "--limit", "5", "--compat", "original"]) == 2
    error = capsys.readouterr().err
    assert "--limit was None and is 5" in error
    assert "--compat was None and is 'original'" in error
    assert contents(whole) == before


def test_files_from_elsewhere_are_not_overwritten(world, tmp_path, capsys):
    write_records(tmp_path / "senna_nusc_val.jsonl", [{"conversations": [{"from": "gpt", "value": "mine"}]}])
    before = (tmp_path / "senna_nusc_val.jsonl").read_bytes()
    assert main([*world, "--out", str(tmp_path)]) == 2
    assert "senna_nusc_val.jsonl is there already" in capsys.readouterr().err
    assert (tmp_path / "senna_nusc_val.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shard", "0/2"], "I from 1 to N"),
        (["--shard", "3/2"], "I from 1 to N"),
        (["--shard", "half"], "I from 1 to N"),
        (["--limit", "0"], "--limit 0: at least 1"),
        (["--format", "csv"], "jsonl, json"),
        (["--captioner-batch", "none"], "--captioner-batch none"),
        (["--captioner", "nobody"], "nobody"),
        (["--compat", "new"], "original"),
        (["--version", "v1.0-trainval"], "v1.0-mini"),
    ],
)
def test_wrong_use_is_told_before_anything_is_written(world, tmp_path, capsys, flags, message):
    assert main([*world, "--out", str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_images_are_counted_and_the_first_is_named(data, tmp_path, capsys):
    flags = [
        "convert",
        "--nuscenes",
        str(data / "nuscenes_mini3"),
        "--version",
        "v1.0-mini",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert "714 of 720 image files" in error
    assert "samples/CAM_FRONT/n015-2018-07-24-11-22-45+0800__CAM_FRONT__1532402928112460.jpg" in error
    assert "--allow-missing-images" in error
    assert not (tmp_path / "o").exists()
    assert main([*flags, "--allow-missing-images"]) == 0
    assert json.loads((tmp_path / "o" / "quality.json").read_text())["missing_images"] == 714
    first = open_records(tmp_path / "o" / "senna_nusc_train.jsonl")[0]
    assert first["token"] == "ca9a282c9e77460f8360f564131a8af5"


def test_a_full_disk_stops_clearly_and_the_run_goes_on_when_there_is_room(world, whole, tmp_path, capsys, monkeypatch):
    room = 120_000

    def write(descriptor, data, real=os.write):
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = real(descriptor, data[:room])
        room -= taken
        return taken

    monkeypatch.setattr(journal.os, "write", write)
    assert main([*world, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "make room and run the same command again" in error
    monkeypatch.undo()
    assert main([*world, "--out", str(tmp_path)]) == 0
    assert "are there already" in capsys.readouterr().out
    assert contents(tmp_path) == contents(whole)


def test_a_damaged_frame_and_what_follows_are_made_again(world, whole, tmp_path, monkeypatch, capsys):
    folder = tmp_path / ".convert" / "shard-1-of-1"
    monkeypatch.setattr("senna.convert.command._finish", lambda *_: 0)
    assert main([*world, "--out", str(tmp_path)]) == 0
    (folder / journal.FINISHED).unlink()
    with (folder / "val.jsonl").open("r+b") as file:
        file.seek(5000)
        file.write(b"\0\0\0")
    monkeypatch.undo()
    assert main([*world, "--out", str(tmp_path)]) == 0
    assert "were not whole" in capsys.readouterr().out
    assert contents(tmp_path) == contents(whole)


def test_a_second_process_on_the_same_shard_is_refused(world, tmp_path, capsys):
    part = journal.open_part(tmp_path / ".convert" / "shard-1-of-1")
    assert main([*world, "--out", str(tmp_path)]) == 2
    assert "another process writes" in capsys.readouterr().err
    part.close()
    assert main([*world, "--out", str(tmp_path)]) == 0


def kill_again_and_again(flags, seed, times=10):
    """Kill a run at random moments of its work, then let it end. Returns how many frames were there at each start."""
    chance, frames = random.Random(seed), []
    for _ in range(times):
        process = Run(slowly.run, flags, REPOSITORY)
        for line in process.stdout:
            if "frames are there already" in line:
                frames.append(int(line.split()[2]))
            if "->" in line:
                break
        time.sleep(chance.uniform(0.02, 0.12))
        process.kill()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed: the test proves nothing"
    result = Run(main, flags, REPOSITORY).result()
    assert result.returncode == 0, result.stderr
    return frames, result.stdout


@pytest.mark.slow
def test_killed_ten_times_the_files_are_those_of_an_uninterrupted_run(world, whole, tmp_path):
    frames, output = kill_again_and_again([*world, "--out", str(tmp_path)], seed=4)
    assert frames == sorted(frames)
    assert "are there already" in output
    assert contents(tmp_path) == contents(whole)
    assert json.loads((tmp_path / "quality.json").read_text()) == json.loads((whole / "quality.json").read_text())


@pytest.fixture
def server():
    """An OpenAI-compatible server whose answers depend on picture and question alone; `asked` counts its requests."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply({"data": [{"id": "toy"}]})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            key = hashlib.sha256(body).hexdigest()
            asked.append(key)
            time.sleep(0.002)
            light = "Answer with one word" in json.loads(body)["messages"][0]["content"][1]["text"]
            text = "Red" if light else f"This picture shows a street, number {key[:12]}, and nothing else."
            self.reply({"choices": [{"message": {"role": "assistant", "content": text}}]})

        def reply(self, value):
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()
    server.server_close()


def test_the_test_split_gets_only_what_needs_no_future(shared_golden, tmp_path, server, capsys):
    from nuscenes.utils.splits import test as names

    root = tmp_path / "nuscenes"
    shutil.copytree(shared_golden / "synthetic_nuscenes" / "samples", root / "samples")
    shutil.copytree(shared_golden / "synthetic_nuscenes" / "maps", root / "maps")
    tables = root / "v1.0-test"
    tables.mkdir()
    for path in (shared_golden / "synthetic_nuscenes" / "v1.0-mini").iterdir():
        rows = json.loads(path.read_text())
        if path.stem == "scene":
            rows = [{**row, "name": name} for row, name in zip(rows, names, strict=False)]
        empty = path.stem in ("sample_annotation", "instance")
        (tables / path.name).write_text(json.dumps([] if empty else rows))
    flags = ["convert", "--nuscenes", str(root), "--version", "v1.0-test", "--out", str(tmp_path / "out")]
    assert main(flags) == 2
    assert "--captioner llava or openai" in capsys.readouterr().err
    assert main([*flags, "--captioner", "openai", "--server", server[0], "--limit", "3"]) == 0
    records = list(open_records(tmp_path / "out" / "senna_nusc_test.jsonl"))
    assert {record["kind"] for record in records} == {"traffic_light", "description"}
    assert len({record["id"] for record in records}) == len(records) == 3 * 7
    assert not any(record["fut_valid_flag"] or record["ego_fut_trajs"] for record in records)


@pytest.mark.slow
def test_killed_ten_times_with_a_captioner_the_files_are_the_same_and_few_questions_are_asked_twice(
    world, tmp_path, server
):
    address, asked = server
    flags = [*world, "--captioner", "openai", "--server", address, "--concurrency", "2"]
    assert main([*flags, "--out", str(tmp_path / "whole")]) == 0
    once = len(asked)
    asked.clear()
    kill_again_and_again([*flags, "--out", str(tmp_path / "killed")], seed=5)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert once <= len(asked) <= once + 10 * 16  # at each kill those under way, and those come but not yet kept
    lights = [r for r in open_records(tmp_path / "whole" / "senna_nusc_train.jsonl") if r["kind"] == "traffic_light"]
    assert lights
    assert {record["captioner"] for record in lights} == {"openai:toy"}
