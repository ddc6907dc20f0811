"""`senna convert` end to end on a small synthetic data set: interrupted, resumed, refused."""

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
from pathlib import Path

import pytest

from senna.cli import main
from senna.convert import journal
from senna.convert.scenes import split_off_dev
from senna.errors import SennaError, UsageError
from senna.record_file import open_records
from senna.records import write_records
from tests.convert import slowly
from tests.helpers.forks import Run
from tests.helpers.paths import REPOSITORY

pytest.importorskip("nuscenes", reason="needs the extra: pip install -c constraints.txt -e '.[nuscenes]'")

SPLITS, FUTURES = ("train", "val"), "futures.jsonl"


@pytest.fixture(scope="module")
def convert(drawn_world):
    return ["convert", "--nuscenes", str(drawn_world), "--version", "v1.0-mini"]


@pytest.fixture(scope="module")
def complete(convert, tmp_path_factory):
    """Return the output folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("complete")
    assert main([*convert, "--out", str(out)]) == 0
    return out


def contents(out, form="jsonl"):
    """Return the records of each split, and the futures beside them."""
    return [(out / f"senna_nusc_{split}.{ending}").read_bytes() for split in SPLITS for ending in (form, FUTURES)]


def frames_in(path):
    return list(dict.fromkeys(record["token"] for record in open_records(path)))


def test_scenes_for_calibration_are_taken_evenly_from_the_training_split():
    splits = {"train": [f"scene-{number}" for number in range(10)], "val": ["scene-v"], "test": []}
    found = split_off_dev(splits, 3)
    assert found["dev"] == ["scene-1", "scene-5", "scene-8"]
    assert found["train"] == [name for name in splits["train"] if name not in found["dev"]]
    assert found["val"] == ["scene-v"]
    assert split_off_dev(splits, 0)["train"] == splits["train"]
    for count in (10, -1):
        with pytest.raises(UsageError, match="the training split has 10 scenes"):
            split_off_dev(splits, count)


def test_files_have_every_frame_of_their_split_in_order(complete, drawn_world):
    tables = drawn_world / "v1.0-mini"
    samples = {row["token"]: row for row in json.loads((tables / "sample.json").read_text())}
    expected = {"train": [], "val": []}
    for scene in json.loads((tables / "scene.json").read_text()):
        token = scene["first_sample_token"]
        while token:
            expected["val" if scene["name"] == "scene-0103" else "train"].append(token)
            token = samples[token]["next"]
    for split in SPLITS:
        records = list(open_records(complete / f"senna_nusc_{split}.jsonl"))
        assert list(dict.fromkeys(record["token"] for record in records)) == expected[split]
        assert len({record["id"] for record in records}) == len(records)


def test_records_state_the_facts_of_their_questions(complete):
    for record in open_records(complete / "senna_nusc_train.jsonl"):
        question = record["conversations"][0]["value"]
        assert list(record)[:4] == ["id", "kind", "captioner", "view"]
        assert record["view"] == "front" or record["id"].endswith(record["view"].replace(" ", "-"))
        assert ("command" in record) == (record["kind"] in ("plan", "explanation", "trajectory"))
        if "command" in record:
            assert f"drives at {record['speed']:.1f} m/s" in question
            assert f"its route says: {record['command']}" in question


def test_report_counts_the_records_of_the_files(complete):
    counts = json.loads((complete / "quality.json").read_text())
    for split in SPLITS:
        records = list(open_records(complete / f"senna_nusc_{split}.jsonl"))
        assert counts["records"][split] == len(records)
        assert sum(by_split.get(split, 0) for by_split in counts["kinds"].values()) == len(records)
        assert counts["kinds"]["plan"][split] == sum(record["kind"] == "plan" for record in records)
    assert counts["missing_images"] == 0


def test_finished_run_is_left_unchanged(convert, complete, capsys):
    before = contents(complete)
    assert main([*convert, "--out", str(complete)]) == 0
    assert "is complete" in capsys.readouterr().out
    assert contents(complete) == before


def test_json_has_the_records_of_json_lines(convert, complete, tmp_path):
    assert main([*convert, "--out", str(tmp_path), "--format", "json"]) == 0
    for split in SPLITS:
        records = list(open_records(complete / f"senna_nusc_{split}.jsonl"))
        assert json.loads((tmp_path / f"senna_nusc_{split}.json").read_text()) == records
    reports = [json.loads((out / "quality.json").read_text()) for out in (complete, tmp_path)]
    assert reports[0] == reports[1]


def test_a_finished_run_of_an_earlier_version_is_complete(convert, complete, tmp_path, capsys):
    shutil.copytree(complete, tmp_path / "out")
    run = tmp_path / "out" / ".convert" / "run.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"shards": 1}))
    assert (tmp_path / "out" / ".convert" / "joined.json").is_file()
    assert main([*convert, "--out", str(tmp_path / "out")]) == 0
    assert "is complete" in capsys.readouterr().out


def test_a_run_of_a_version_without_trajectories_is_complete_or_refused(convert, complete, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(complete, out)
    run = out / ".convert" / "run.json"
    settings = json.loads(run.read_text())
    del settings["trajectories"]
    run.write_text(json.dumps(settings))
    assert main([*convert, "--out", str(out)]) == 0
    assert "is complete (of an earlier version, without trajectories)" in capsys.readouterr().out
    assert main([*convert, "--out", str(out), "--limit", "5"]) == 2
    (out / ".convert" / "joined.json").unlink()  # it was interrupted
    assert main([*convert, "--out", str(out)]) == 2
    assert "earlier version, which wrote no trajectories" in capsys.readouterr().err


def test_limit_gives_the_first_frames(convert, complete, tmp_path):
    assert main([*convert, "--out", str(tmp_path), "--limit", "5"]) == 0
    assert frames_in(tmp_path / "senna_nusc_train.jsonl") == frames_in(complete / "senna_nusc_train.jsonl")[:5]


def test_folder_of_another_run_is_refused_with_the_differences(convert, complete, capsys):
    before = contents(complete)
    assert main([*convert, "--out", str(complete), "--limit", "5", "--compat", "original"]) == 2
    error = capsys.readouterr().err
    assert "--limit was None and is 5" in error
    assert "--compat was None and is 'original'" in error
    assert contents(complete) == before


def test_files_of_unknown_origin_are_not_overwritten(convert, tmp_path, capsys):
    write_records(tmp_path / "senna_nusc_val.jsonl", [{"conversations": [{"from": "gpt", "value": "mine"}]}])
    before = (tmp_path / "senna_nusc_val.jsonl").read_bytes()
    assert main([*convert, "--out", str(tmp_path)]) == 2
    assert "senna_nusc_val.jsonl exists already" in capsys.readouterr().err
    assert (tmp_path / "senna_nusc_val.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shard", "1/2"], "--shard is replaced by --ray"),
        (["--shard=1/2"], "one machine with several GPUs: --ray"),
        (["--captioners", "2"], "--captioners 2 needs --ray"),
        (["--ray-wait", "5"], "--ray-wait 5.0 needs --ray"),
        (["--ray", "--captioners", "2"], "--captioners 2 needs a model"),
        (["--ray", "--workers", "0"], "--workers 0 is too small"),
        (["--ray", "--ray-wait", "nan"], "--ray-wait nan is too small"),
        (["--ray", "http://localhost:8265"], "is not an address"),
        (["--ray="], "--ray  is not an address"),
        (["--limit", "0"], "--limit 0"),
        (["--format", "csv"], "jsonl, json"),
        (["--name", "a/b"], "--name a/b"),
        (["--captioner_batch", "none"], "--captioner-batch none"),
        (["--captioner", "nobody"], "nobody"),
        (["--compat", "new"], "original"),
        (["--version", "v1.0-trainval"], "v1.0-mini"),
    ],
)
def test_wrong_flags_are_reported_before_anything_is_written(convert, tmp_path, capsys, flags, message):
    assert main([*convert, "--out", str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_images_are_counted_and_the_first_is_named(drawn_world, tmp_path, capsys):
    root, out = tmp_path / "nuscenes", tmp_path / "out"
    shutil.copytree(drawn_world, root)
    removed = [
        path for camera in ("CAM_BACK", "CAM_FRONT") for path in sorted((root / "samples" / camera).iterdir())[2:]
    ]
    for path in removed:
        path.unlink()
    flags = ["convert", "--nuscenes", str(root), "--version", "v1.0-mini", "--out", str(out)]
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert f"{len(removed)} of {48 * 6} image files" in error
    assert str(next(path for path in removed if path.parent.name == "CAM_FRONT").relative_to(root)) in error
    assert "--allow-missing-images" in error
    assert not out.exists()
    assert main([*flags, "--allow_missing_images"]) == 0
    printed = capsys.readouterr().out
    quality = json.loads((out / "quality.json").read_text())
    assert quality["missing_images"] == len(removed)
    kept = 0
    for split in SPLITS:
        path = out / f"senna_nusc_{split}.jsonl"
        records = list(open_records(path)) if path.is_file() else []
        assert all((root / image).is_file() for record in records for image in record["images"])
        kept += len({record["token"] for record in records})
    assert quality["frames_left_out"] == 48 - kept == 46
    assert "46 frames left out" in printed


def test_without_any_image_the_tables_alone_are_converted(drawn_world, tmp_path, capsys):
    root, out = tmp_path / "nuscenes", tmp_path / "out"
    shutil.copytree(drawn_world, root)
    shutil.rmtree(root / "samples")
    flags = ["convert", "--nuscenes", str(root), "--version", "v1.0-mini", "--out", str(out), "--limit", "2"]
    assert main([*flags, "--allow-missing-images"]) == 0
    assert "12 of 12 image files are not in" in capsys.readouterr().out
    assert len(frames_in(out / "senna_nusc_train.jsonl")) == 2


def test_a_run_that_would_leave_out_every_frame_is_refused(drawn_world, tmp_path, capsys):
    root, out = tmp_path / "nuscenes", tmp_path / "out"
    shutil.copytree(drawn_world, root)
    shutil.rmtree(root / "samples" / "CAM_BACK")
    flags = ["convert", "--nuscenes", str(root), "--version", "v1.0-mini", "--out", str(out)]
    assert main([*flags, "--allow-missing-images"]) == 2
    assert "no frame has all six" in capsys.readouterr().err
    assert not out.exists()


def test_run_resumes_after_a_full_disk(convert, complete, tmp_path, capsys, monkeypatch):
    room = 120_000

    def write(descriptor, data, real=os.write):
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(descriptor, data[:room])
        room -= written
        return written

    monkeypatch.setattr(journal.os, "write", write)
    assert main([*convert, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "make room and run the same command again" in error
    monkeypatch.undo()
    assert main([*convert, "--out", str(tmp_path)]) == 0
    assert "resuming: " in capsys.readouterr().out
    assert contents(tmp_path) == contents(complete)


def test_damaged_frame_and_those_after_it_are_converted_again(convert, complete, tmp_path, monkeypatch, capsys):
    folder = tmp_path / ".convert" / "frames"

    def fail(*_):
        raise SennaError("no room for the output", remedy="make room")

    monkeypatch.setattr("senna.convert.command._write_output", fail)
    assert main([*convert, "--out", str(tmp_path)]) == 1
    with (folder / "val.jsonl").open("r+b") as file:
        file.seek(5000)
        file.write(b"\0\0\0")
    monkeypatch.undo()
    assert main([*convert, "--out", str(tmp_path)]) == 0
    assert "incomplete frames are converted again" in capsys.readouterr().out
    assert contents(tmp_path) == contents(complete)


def test_second_process_on_the_same_folder_is_refused(convert, tmp_path, capsys):
    opened = journal.open_journal(tmp_path / ".convert" / "frames")
    assert main([*convert, "--out", str(tmp_path)]) == 2
    assert "another process is writing" in capsys.readouterr().err
    opened.close()
    assert main([*convert, "--out", str(tmp_path)]) == 0


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def kill_repeatedly(flags, seed, times=5):
    """Kill a run at random moments, then let it finish. Returns the number of finished frames at each start, and stdout.

    All but the first kill wait for another finished frame, however slow the machine is.
    """
    chance, frames = random.Random(seed), []
    finished = Path(flags[flags.index("--out") + 1]) / ".convert" / "frames" / journal.JOURNAL
    for number in range(times):
        process = Run(slowly.run, flags, REPOSITORY)
        for line in process.stdout:
            if line.startswith("resuming: "):
                frames.append(int(line.split()[1]))
            if "->" in line:
                break
        lines = count_lines(finished)
        while number and count_lines(finished) <= lines and process.returncode is None:
            time.sleep(0.002)
        time.sleep(chance.uniform(0.02, 0.1))
        process.kill()
        assert process.returncode == -signal.SIGKILL, (
            "the run finished before it was killed, so the test proves nothing"
        )
    result = Run(main, flags, REPOSITORY).result()
    assert result.returncode == 0, result.stderr
    return frames, result.stdout


@pytest.mark.slow
def test_run_killed_five_times_gives_the_files_of_an_uninterrupted_run(convert, complete, tmp_path):
    frames, output = kill_repeatedly([*convert, "--out", str(tmp_path)], seed=4)
    assert frames == sorted(frames)
    assert "resuming: " in output
    assert contents(tmp_path) == contents(complete)
    assert json.loads((tmp_path / "quality.json").read_text()) == json.loads((complete / "quality.json").read_text())


@pytest.fixture
def server():
    """Return an OpenAI-compatible server whose answers depend on image and question only, and the list of its requests."""
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
            text = "Red" if light else f"This image shows a street, number {key[:12]}, and nothing else."
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


def test_test_split_has_only_records_that_need_no_future(drawn_world, tmp_path, server, capsys):
    from nuscenes.utils.splits import test as names

    root = tmp_path / "nuscenes"
    for name in ("samples", "maps"):
        shutil.copytree(drawn_world / name, root / name)
    tables = root / "v1.0-test"
    tables.mkdir()
    for path in (drawn_world / "v1.0-mini").iterdir():
        rows = json.loads(path.read_text())
        if path.stem == "scene":
            rows = [{**row, "name": name} for row, name in zip(rows, names, strict=False)]
        without = path.stem in ("sample_annotation", "instance", "traffic_light")
        (tables / path.name).write_text(json.dumps([] if without else rows))
    flags = ["convert", "--nuscenes", str(root), "--version", "v1.0-test", "--out", str(tmp_path / "out")]
    assert main(flags) == 2
    assert "--captioner llava or openai" in capsys.readouterr().err
    assert main([*flags, "--captioner", "openai", "--server", server[0], "--limit", "3"]) == 0
    records = list(open_records(tmp_path / "out" / "senna_nusc_test.jsonl"))
    assert {record["kind"] for record in records} == {"traffic_light", "description"}
    assert len({record["id"] for record in records}) == len(records) == 3 * 7
    assert not any(record["fut_valid_flag"] or record["ego_fut_trajs"] for record in records)


@pytest.mark.parametrize("where", ["../secret.jpg", "samples/../../secret.jpg", "/secret.jpg"])
def test_no_image_outside_of_the_data_set_is_sent_to_a_server(drawn_world, tmp_path, server, capsys, where):
    root = tmp_path / "nuscenes"
    shutil.copytree(drawn_world, root)
    table = root / "v1.0-mini" / "sample_data.json"
    rows = json.loads(table.read_text())
    for row in rows:
        if "/CAM_FRONT/" in row["filename"]:
            shutil.copy(root / row["filename"], tmp_path / "secret.jpg")
            row["filename"] = f"{tmp_path}{where}" if where[0] == "/" else where
    table.write_text(json.dumps(rows))
    flags = ["convert", "--nuscenes", str(root), "--version", "v1.0-mini", "--out", str(tmp_path / "out")]
    assert main([*flags, "--captioner", "openai", "--server", server[0]]) == 1
    printed = capsys.readouterr().err
    assert "secret.jpg is outside of the data set" in printed
    assert "sample_data.json" in printed
    assert not server[1]


@pytest.mark.slow
def test_run_with_a_captioner_killed_five_times_gives_the_same_files_and_repeats_few_questions(
    drawn_world, tmp_path, server
):
    root = tmp_path / "nuscenes"
    shutil.copytree(drawn_world, root)
    (root / "v1.0-mini" / "traffic_light.json").unlink()  # nuScenes has no such table, so the captioner must answer
    address, asked = server
    flags = ["convert", "--nuscenes", str(root), "--version", "v1.0-mini", "--captioner", "openai", "--server", address]
    flags += ["--concurrency", "2"]
    assert main([*flags, "--out", str(tmp_path / "complete")]) == 0
    count = len(asked)
    asked.clear()
    kill_repeatedly([*flags, "--out", str(tmp_path / "killed")], seed=5)
    assert contents(tmp_path / "killed") == contents(tmp_path / "complete")
    assert count <= len(asked) <= count + 5 * 16  # each kill loses the requests in progress and answers not yet stored
    records = list(open_records(tmp_path / "complete" / "senna_nusc_train.jsonl"))
    lights = [record for record in records if record["kind"] == "traffic_light"]
    assert lights
    assert {record["captioner"] for record in lights} == {"openai:toy"}
