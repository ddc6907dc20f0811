"""`senna drive`: drives, films and a page; a killed run continues with the same result; wrong flags are named."""

import json
import time
from collections import Counter

import pytest
from PIL import Image

from senna.cli import main as cli
from senna.drive import command
from senna.drive.command import ALL, main
from senna.drive.drivers import DRIVERS, FOLLOWS
from tests.helpers.forks import Run
from tests.helpers.paths import REPOSITORY

BLIND = ("--driver", "keep", "--film", "none")


def flags(out, *more) -> list[str]:
    return ["--out", str(out), "--device", "cpu", "--workers", "1", *map(str, more)]


def test_a_model_drives_beside_the_others(planner, toy, tmp_path, capsys):
    more = ("--model", planner, "--train-data", toy.driving, "--scenes", 1, "--time-limit", 1, "--film", "gif")
    assert main(flags(tmp_path, *more)) == 0
    drives = {name: json.loads((tmp_path / f"drives/{name}/0000.json").read_text()) for name in DRIVERS}
    assert all(len(drive["steps"]) == 2 and len(drive["states"]) == 11 for drive in drives.values())
    assert {step["decision"] for step in drives["keep"]["steps"]} == {"KEEP, STRAIGHT"}
    for name in ("model", "black"):
        for step in drives[name]["steps"]:
            assert sum(step["probabilities"]) == pytest.approx(1.0, abs=1e-3)
    with Image.open(tmp_path / "films/model/0000.gif") as film:
        assert (film.n_frames, film.width) == (2, 960)
    page = (tmp_path / "drive.html").read_text()
    assert 'src="films/model/0000.gif"' in page
    assert "http" not in page.partition("<body>")[0]
    assert set(json.loads((tmp_path / "drive.json").read_text())["drivers"]) == set(DRIVERS)
    assert "model   driving score" in capsys.readouterr().out


def test_answers_that_are_no_trajectory_are_counted(planner, tmp_path, capsys):
    more = ("--model", planner, "--driver", "model", "--follow", "trajectory", "--film", "none")
    assert main(flags(tmp_path, *more, "--scenes", 1, "--time-limit", 1, "--image-width", 400)) == 0
    warning = capsys.readouterr().err
    assert "in 2 of 2 steps the answer of the driver model was no trajectory" in warning
    assert "--kinds plan,trajectory" in warning


def test_workers_share_the_drives_of_each_driver(toy, tmp_path, monkeypatch):
    shared = []

    def drive(args, missing, *_):
        shared.extend(missing)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_drive", drive)
    more = ("--driver", "keep,expert,tree", "--train-data", toy.driving, "--film", "none", "--scenes", 4)
    with pytest.raises(KeyboardInterrupt):
        main(flags(tmp_path, *more))
    for worker in range(2):  # as `senna.synthetic.workers` deals them out
        assert Counter(name for name, _ in shared[worker::2]) == {"keep": 2, "expert": 2, "tree": 2}


@pytest.mark.slow
def test_a_killed_run_continues_with_the_same_result(tmp_path):
    complete, killed = tmp_path / "complete", tmp_path / "killed"
    more = (*BLIND, "--scenes", 3, "--time-limit", 3)
    assert main(flags(complete, *more)) == 0
    process = Run(main, flags(killed, *more), tmp_path)
    first = killed / "drives/keep/0000.json"
    while process.poll() is None and not first.exists():
        time.sleep(0.01)
    process.kill()
    assert not (killed / "drive.json").exists()
    before = first.stat().st_mtime_ns
    assert main(flags(killed, *more)) == 0
    assert first.stat().st_mtime_ns == before
    for path in complete.rglob("*.json"):
        assert (killed / path.relative_to(complete)).read_bytes() == path.read_bytes()
    assert (killed / "drive.html").read_bytes() == (complete / "drive.html").read_bytes()


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (("--driver", "robot"), "robot"),
        (("--filmed", "robot"), "robot"),
        (("--driver", "model"), "--model"),
        (("--driver", "tree"), "--train-data"),
        (("--scenes", "0"), "--scenes"),
        (("--seed", "-1"), "--seed"),
        (("--workers", "0"), "--workers"),
        (("--time-limit", "nan"), "--time-limit"),
        (("--film", "avi"), "avi"),
        (("--follow", "stars"), "stars"),
        (("--decision", "best", *BLIND), "best"),
        (("--decision", "balanced", *BLIND), "balanced"),
        (("--model", "no/such/folder"), "no/such/folder"),
        (("--model", str(REPOSITORY / "senna")), "config.json"),
        (("--driver", "tree", "--train-data", "no.jsonl"), "no.jsonl"),
    ],
)
def test_wrong_flags_are_refused_before_work(more, word, tmp_path, capsys):
    assert cli(["drive", "--out", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert word in error
    assert "->" in error
    assert not (tmp_path / "out" / "drives").exists()


def test_another_run_in_the_folder_is_refused(tmp_path, capsys):
    more = (*BLIND, "--scenes", "1", "--time-limit", "0.5")
    assert main(flags(tmp_path, *more)) == 0
    assert cli(["drive", *flags(tmp_path, *more, "--seed", "7")]) == 2
    assert "seed was 0 and is 7" in capsys.readouterr().err


def test_the_help_names_every_driver():
    assert ALL.split(",") == list(DRIVERS)
    assert command.FOLLOWS == FOLLOWS
