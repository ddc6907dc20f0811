"""`senna convert --ray`: the files of one process, whatever dies, and no answer is asked for twice that had arrived."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import psutil
import pytest

from senna.cli import main
from tests.convert.counting_server import counting
from tests.convert.ray_cluster import actors_below, ray_cluster
from tests.helpers.forks import Run
from tests.helpers.paths import REPOSITORY
from tests.helpers.repeated_world import write_repeated_world
from tests.helpers.small_world import write_small_world

pytest.importorskip("ray", reason="needs the extra: pip install -c constraints.txt -e '.[ray]'")
pytestmark = pytest.mark.slow
pytest.importorskip("nuscenes", reason="needs the extra: pip install -c constraints.txt -e '.[nuscenes]'")

SCENES, FRAMES = 40, 2
QUESTIONS = 7 * SCENES * FRAMES  # six descriptions and the traffic light of each frame
FILES = tuple(f"senna_nusc_{split}{ending}" for split in ("train", "val") for ending in (".jsonl", ".futures.jsonl"))
FILES += ("quality.json",)
NOISE = ("(raylet)", "WARNING", "INFO", "rpc_client", "gcs_client", "Traceback", "ray::")
FLAGS = ["--captioner", "openai", "--concurrency", "2", "--workers", "1"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return the root of a data set of 40 scenes with tiny images."""
    root = tmp_path_factory.mktemp("world")
    small = write_small_world(root / "small", frames=FRAMES)
    return write_repeated_world(root / "nuscenes", small, SCENES, images=True)


@pytest.fixture(scope="module")
def convert(world):
    return ["convert", "--nuscenes", str(world), "--version", "v1.0-trainval"]


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(num_cpus=2) as cluster:
        for _ in range(2):
            cluster.add(num_cpus=1)
        yield cluster


def contents(out):
    return [(out / name).read_bytes() for name in FILES]


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.02)
    return found


def stored(out):
    """Return the keys of the answers on disk; none while the database, or its table, is not made yet."""
    if not (out / "captions.sqlite").exists():
        return set()
    with contextlib.closing(sqlite3.connect(f"file:{out / 'captions.sqlite'}?mode=ro", uri=True)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'answers'").fetchone():
            return set()
        return {key for (key,) in database.execute("SELECT key FROM answers")}


def assert_quiet(*texts):
    for text in texts:
        assert not [noise for noise in NOISE if noise in text], text


def listening(processes):
    """Return the addresses at which processes accept connections."""
    found = set()
    for process in processes:
        try:
            found |= {
                connection.laddr.ip.removeprefix("::ffff:")
                for connection in process.net_connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            }
        except psutil.NoSuchProcess:
            continue
    return found


def finish(run):
    """Return what a run printed that must succeed."""
    result = run.result()
    assert result.returncode == 0, result.stderr
    assert_quiet(result.stdout, result.stderr)
    return result.stdout + result.stderr


def test_files_and_questions_after_a_node_an_actor_and_the_driver_were_killed(convert, world, cluster, tmp_path):
    flags = [*convert, *FLAGS]
    with counting() as server:
        single = [*convert, "--captioner", "openai", "--server", server.address, "--out", str(tmp_path / "single")]
        assert main(single) == 0
        questions = set(server.asked)
        assert len(questions) == QUESTIONS
        assert set(server.asked.values()) == {1}

    out = tmp_path / "ray"
    lost = set()  # questions that were asked before a kill and whose answers had not arrived
    with counting(delay=0.1) as server:
        server.holds = lambda image, question: True
        flags += ["--captioners", "3", "--ray", cluster.address, "--server", server.address, "--out", str(out)]

        def captioners(node):
            return cluster.actors(node, "CaptionWorker")

        def kill(action, captioners):
            before = stored(out)
            counts = {key: server.asked[key] for key in before}
            action()
            until(lambda: not any(map(psutil.pid_exists, captioners)))  # they ask until they notice it
            lost.update(set(server.asked) - before)
            return counts

        run = Run(main, flags, REPOSITORY)
        head, doomed, other = cluster.nodes
        until(lambda: len(server.asked) == 3 * 2)
        assert all(captioners(node) for node in (doomed, other))
        server.release.set()
        until(lambda: len(stored(out)) >= 60)
        history = [kill(lambda: cluster.remove(doomed), captioners(doomed))]
        until(lambda: len(stored(out)) >= 140)
        (pid,) = captioners(other)[:1]
        history.append(kill(lambda: os.kill(pid, signal.SIGKILL), [pid]))
        until(lambda: len(stored(out)) >= 260)
        assert run.poll() is None
        killed = []
        history.append(kill(lambda: killed.extend(run.kill()), captioners(head) + captioners(other)))
        assert_quiet(*killed)
        assert killed[1].count("a captioner was lost") == 2
        assert len(stored(out)) < QUESTIONS - 50
        printed = finish(Run(main, flags, REPOSITORY))
        assert "resuming: " in printed
        counts = dict(server.asked)
    assert contents(out) == contents(tmp_path / "single")
    assert set(counts) == questions
    for before in history:
        assert {key: counts[key] for key in before} == before, "a question was asked again whose answer had arrived"
    repeated = {key for key, count in counts.items() if count > 1}
    assert repeated <= lost
    again = sum(counts.values()) - QUESTIONS
    print(f"{again} questions were asked again")
    # two requests in progress at each of one, one and three captioners, and what they ask until they notice a death
    assert again <= 2 * (1 + 1 + 3) + 12
    cluster.add(num_cpus=1)


def test_annotations_through_ray_equal_those_of_one_process(convert, cluster, tmp_path):
    assert main([*convert, "--out", str(tmp_path / "single")]) == 0
    finish(
        Run(main, [*convert, "--workers", "2", "--ray", cluster.address, "--out", str(tmp_path / "ray")], REPOSITORY)
    )
    assert contents(tmp_path / "ray") == contents(tmp_path / "single")


def test_at_most_a_window_of_frames_is_asked_while_the_first_has_no_answer(convert, world, cluster, tmp_path):
    rows = json.loads((world / "v1.0-trainval" / "sample_data.json").read_text())
    first = next(row for row in rows if "/CAM_FRONT/" in row["filename"])
    with counting() as server:
        image = hashlib.sha256((world / first["filename"]).read_bytes()).hexdigest()
        server.holds = lambda asked, question: asked == image and "one word" not in question
        flags = [*convert, *FLAGS, "--concurrency", "16", "--captioners", "2", "--window", "4", "--limit", "16"]
        flags += ["--ray", cluster.address]
        run = Run(main, [*flags, "--server", server.address, "--out", str(tmp_path)], REPOSITORY)
        until(lambda: len(server.asked) >= 4 * 7)
        time.sleep(2)
        assert len(server.asked) <= 4 * 7
        assert len(server.images) == 4 * 6
        server.release.set()
        finish(run)
        assert set(server.asked.values()) == {1}


def test_a_cluster_without_gpus_ends_the_run_after_the_wait(convert, cluster, tmp_path):
    flags = [
        *convert,
        "--captioner",
        "llava",
        "--captioner-model",
        "llava-hf/llava-1.5-7b-hf",
        "--ray",
        cluster.address,
    ]
    start = time.monotonic()
    result = Run(main, [*flags, "--ray-wait", "10", "--out", str(tmp_path)], REPOSITORY).result()
    assert result.returncode == 1
    assert "no captioner could be started in 10 s: each needs 1 GPU, and the cluster has" in result.stderr
    assert_quiet(result.stdout, result.stderr)
    assert time.monotonic() - start < 120


def test_ctrl_c_ends_a_run_on_this_machine_and_the_next_one_resumes(convert, tmp_path):
    with counting(delay=0.05) as server:
        flags = [*convert, *FLAGS, "--captioners", "1", "--ray", "--server", server.address, "--limit", "30"]
        flags += ["--out", str(tmp_path / "ray")]
        process = subprocess.Popen(
            [sys.executable, "-m", "senna", *flags],
            cwd=REPOSITORY,
            env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        until(lambda: len(stored(tmp_path / "ray")) >= 70)
        children = psutil.Process(process.pid).children(recursive=True)
        assert actors_below(process.pid, "CaptionWorker")
        assert listening([psutil.Process(process.pid), *children]) == {"127.0.0.1"}
        start = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # a terminal signals the whole group
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - start < 15
        assert process.returncode == 130
        assert "stopped; run the same command again to continue" in err
        assert_quiet(out, err)
        assert psutil.wait_procs(children, timeout=10)[1] == []
        asked = stored(tmp_path / "ray")
        counts = {key: server.asked[key] for key in asked}
        printed = finish(Run(main, flags, REPOSITORY))
        assert "resuming: " in printed
        assert {key: server.asked[key] for key in asked} == counts
        single = [*convert, "--captioner", "openai", "--server", server.address, "--limit", "30", "--concurrency", "16"]
        assert main([*single, "--out", str(tmp_path / "single")]) == 0
    assert contents(tmp_path / "ray") == contents(tmp_path / "single")


def test_this_machine_without_a_gpu_is_refused_at_once(convert, tmp_path):
    result = Run(main, [*convert, "--captioner", "llava", "--ray", "--out", str(tmp_path)], REPOSITORY).result()
    assert result.returncode == 2
    assert "each captioner needs 1 GPU, and this machine has 0" in result.stderr
    assert "--gpus-per-captioner 0" in result.stderr
    assert_quiet(result.stdout, result.stderr)


@pytest.mark.parametrize(
    ("address", "variable", "message"),
    [
        ("127.0.0.1:1", None, "no Ray cluster answers at 127.0.0.1:1 (Connection refused)"),
        ("auto", "127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1 (Connection refused)"),
        ("nowhere", None, "Invalid address format: nowhere"),
        ("http://127.0.0.1:8265", None, "is not an address"),
        ("SERVER", None, "another server is there"),
    ],
)
def test_an_address_without_a_cluster_is_refused(convert, tmp_path, monkeypatch, capfd, address, variable, message):
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    with counting() as server:
        address = f"127.0.0.1:{server.server_address[1]}" if address == "SERVER" else address
        start = time.monotonic()
        assert main([*convert, "--ray", address, "--out", str(tmp_path / "out")]) == 2
    assert time.monotonic() - start < 30
    out, err = capfd.readouterr()
    assert message in err
    assert f"--ray {address}" in err
    assert_quiet(out, err)
    assert not (tmp_path / "out").exists()


def test_the_driver_holds_few_scenes_however_many_there_are(monkeypatch, tmp_path):
    from senna.convert import on_ray
    from senna.convert.scenes import Scene

    started = []

    class Instant:
        def __init__(self, *_):
            self.size = self.alive = self.busy_with = 1

        async def manage(self):
            await asyncio.Event().wait()

        async def process(self, scene):
            started.append(scene.name)
            return [scene.name]

    monkeypatch.setattr(on_ray, "Pool", Instant)
    monkeypatch.setattr(on_ray.ray, "cluster_resources", lambda: {"CPU": 3})
    names = [f"scene-{number}" for number in range(850)]
    options = on_ray.RayOptions(workers=3)
    engine = on_ray.RayEngine(None, None, {"name": "annotations"}, tmp_path / "cache", options)
    taken, ahead = [], []
    for frame in engine.convert([Scene(name, "train", 1) for name in names], None):
        taken.append(frame)
        ahead.append(len(started) - len(taken))
    assert taken == started == names
    assert max(ahead) <= 2 * 3


def run_without_ray(arguments):
    sys.modules["ray"] = None
    return main(arguments)


def test_without_the_package_the_command_to_install_it_is_named(convert, tmp_path):
    result = Run(run_without_ray, [*convert, "--ray", "--out", str(tmp_path / "out")], REPOSITORY).result()
    assert result.returncode == 2
    assert "--ray needs the package ray" in result.stderr
    assert "pip install -c constraints.txt -e '.[ray]'" in result.stderr
    assert not (tmp_path / "out").exists()
