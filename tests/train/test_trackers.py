"""The trackers of a run: they work without a network, get everything, and never end a run."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback, TrainerState

from senna.doctor.dry_run import run_findings
from senna.errors import UsageError
from senna.meta_actions import ALL_META_ACTIONS
from senna.train import trackers
from senna.train.arguments import parse_arguments
from senna.train.held_out import HeldOutPlan
from senna.train.plan_images import choose_plans
from senna.train.tracked import Tracker
from tests.helpers.forks import Run
from tests.helpers.quiet_network import senna_without_network
from tests.train.test_validation import write_held_out

CLEARED = ("WANDB_", "TRACKIO_", "SWANLAB_", "MLFLOW_", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "NETRC")
SECRET = "hf_0123456789secret"


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    return write_held_out(tmp_path_factory.mktemp("tracked") / "val.jsonl")


@pytest.fixture
def no_login(monkeypatch, tmp_path):
    """Clear the variables of all trackers, and set a home without logins."""
    for name in list(os.environ):
        if name.startswith(CLEARED):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


@pytest.fixture
def requests(no_login, monkeypatch):
    """Return the requests to other machines, which go to a proxy that refuses them."""
    found: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self):
            found.append(self.path)
            self.send_error(403)

        do_GET = do_POST = do_CONNECT

        def log_message(self, format, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    yield found
    server.shutdown()
    server.server_close()


def start(toy, out: Path, model: Path, held_out: Path, processes: int = 1, **options) -> Run:
    """Start a run on all kinds with a validation every two steps."""
    values = {"eval_data_path": held_out, "eval_steps": 2, "save_steps": 2, "max_steps": 4, "eval_limit": 24, **options}
    flags = toy.flags(out, **{**toy.driving_options(model, **values), "configs": []})
    return Run(senna_without_network, ["train", *flags], toy.folder, processes)


def logged(out: Path) -> list[dict]:
    """Return the entries of the run's log with an x axis, under the names that the trackers show."""
    single = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos")
    entries = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    return [
        {
            "eval/" + key[5:]
            if key.startswith("eval_")
            else "train/" + ("global_step" if key == "step" else key): value
            for key, value in entry.items()
            if key not in single
        }
        for entry in entries
    ]


def wandb_records(folder: Path) -> list:
    """Return the records of an offline run: a log of blocks of 32 KiB, in the format of LevelDB after 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    [file] = folder.glob("*.wandb")
    data, position, part, found = file.read_bytes(), 7, b"", []
    while position < len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if kind == 0:
            break
        part = (part if kind in (3, 4) else b"") + data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            found.append(wandb_internal_pb2.Record.FromString(part))
    return found


def wandb_run(folder: Path) -> tuple[str, dict, list[dict]]:
    """Return the id, the configuration and the history of an offline run."""
    run_id, config, history = "", {}, []
    for record in wandb_records(folder):
        for update in [*record.config.update, *record.run.config.update]:
            config[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
        run_id = record.run.run_id or run_id
        if items := record.history.item:
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            history.append({key: value for key, value in row.items() if not key.startswith("_")})
    return run_id, config, history


def trackio_runs(folder: Path) -> tuple[set[str], dict, list[dict]]:
    """Return the ids of the runs, the configuration of the last one, and all rows."""
    with contextlib.closing(sqlite3.connect(next(folder.glob("*.db")))) as connection:
        rows = connection.execute("select run_id, metrics from metrics order by id").fetchall()
        [*_, (config,)] = connection.execute("select config from configs order by id").fetchall()
    return {run for run, _ in rows}, json.loads(config), [json.loads(row) for _, row in rows]


def check_rows(rows: list[dict], out: Path) -> None:
    """Check that the rows of figures are those of the run's log, of which ``train/epoch`` and the like are a part."""
    figures = [row for row in rows if not any(key.startswith("eval/plan_images") for key in row)]
    expected = logged(out)
    assert len(figures) >= len([entry for entry in expected if len(entry) > 2])
    for entry, row in zip(expected, figures, strict=False):
        assert row == pytest.approx(entry, nan_ok=True)


@pytest.mark.slow
def test_runs_are_in_wandb_and_trackio_offline_with_figures_configuration_and_images(
    toy, stage1, held_out, requests, tmp_path
):
    out = tmp_path / "out"
    result = start(
        toy, out, stage1, held_out, report_to="wandb,trackio,tensorboard", hub_token=SECRET, run_name="first"
    ).result()
    assert result.returncode == 0, result.stdout + result.stderr
    assert not requests
    assert not re.search("CONNECTS|LOOKS UP|warning", result.stdout)
    assert f"wandb sync {out}/wandb/offline-run-*" in result.stdout
    [folder] = (out / "wandb").glob("offline-run-*")
    run_id, config, history = wandb_run(folder)
    names = json.loads((out / "trackers.json").read_text())
    assert names == {"id": run_id, "name": "first"}
    runs, trackio_config, rows = trackio_runs(out / "trackio")
    assert len(runs) == 1
    for found, settings in ((history, config), (rows, trackio_config)):
        check_rows(found, out)
        assert {"train/loss_plan", "train/loss_description", "eval/loss_plan", "eval/plan_macro_f1"} <= set().union(
            *found
        )
        assert settings["max_steps"] == 4
        assert settings["report_to"] == ["wandb", "trackio", "tensorboard"]
        assert settings["senna"]["records/plan"] == 24
        assert settings["senna"]["processes"] == 1
    shown = [row for row in history if "eval/plan_images/count" in row]
    assert [row["train/global_step"] for row in shown] == [2, 4]
    [plans] = {row["eval/plans"] for row in history if "eval/plans" in row}
    assert 2 < plans <= 10
    assert [row["eval/plan_images/count"] for row in shown] == [plans, plans]
    assert sum(f"eval/plan_images/{plans - 1}" in row for row in rows) == 2
    assert len(list((out / "trackio").rglob("*.png"))) == 2 * plans
    events = EventAccumulator(str(next((out / "runs").iterdir())), size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Images("eval/plan_images/0")] == [2, 4]
    kept = [path for path in out.rglob("*") if path.is_file()]
    assert not [path for path in kept if SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_killed_run_continues_in_the_same_runs_of_its_trackers(toy, stage1, held_out, requests, tmp_path):
    out = tmp_path / "out"
    options = {"report_to": "wandb,trackio", "max_steps": 400, "eval_steps": 400, "save_steps": 2, "logging_steps": 1}
    process = start(toy, out, stage1, held_out, **options)
    limit = time.monotonic() + 120
    while not list(out.glob("checkpoint-*")) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(1)  # Trackio writes twice a second
    process.kill()
    assert process.returncode == -signal.SIGKILL
    names = (out / "trackers.json").read_text()
    step = max(int(path.name.rpartition("-")[2]) for path in out.glob("checkpoint-*"))
    result = start(toy, out, stage1, held_out, **{**options, "max_steps": step + 2}).result()
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"continue {out}/checkpoint-" in result.stdout
    assert (out / "trackers.json").read_text() == names
    folders = sorted((out / "wandb").glob("offline-run-*"))
    assert len(folders) == 2  # of one run: they have the same id
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1
    # wandb writes in blocks of 32 KiB: of the killed process, nothing need be in its file.
    run_id, _, history = wandb_run(folders[1])
    assert run_id == json.loads(names)["id"]
    assert history[0]["train/global_step"] == step + 1
    runs, _, rows = trackio_runs(out / "trackio")
    assert len(runs) == 1
    assert {row["train/global_step"] for row in rows} >= {1, step + 2}
    assert not requests


class Failing(TrainerCallback):
    def __init__(self):
        self.calls = 0

    def on_log(self, args, state, control, **kwargs):
        self.calls += 1
        raise OSError(28, "No space left on device")


def test_a_tracker_that_fails_is_switched_off_with_one_warning(capsys):
    callback = Failing()
    tracker = Tracker("wandb", callback, {}, lambda: pytest.fail("not used"), list)
    for _ in range(3):
        tracker.on_log(None, TrainerState(), None, logs={"loss": 1.0})
    tracker.on_train_end(None, TrainerState(), None)
    assert callback.calls == 1
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "warning  wandb failed" in printed
    assert "No space left on device" in printed


def test_a_run_goes_on_without_a_tracker_that_cannot_write(toy, stage1, held_out, requests, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file"))
    out = tmp_path / "out"
    result = start(toy, out, stage1, held_out, report_to="wandb", eval_data_path=None, eval_steps=None).result()
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("warning  wandb failed") == 1
    assert logged(out)[-1]["train/global_step"] == 4


@pytest.mark.slow
def test_only_the_main_process_of_several_has_a_tracker_run(toy, stage1, held_out, requests, tmp_path):
    out = tmp_path / "out"
    result = start(toy, out, stage1, held_out, 2, report_to="wandb,trackio", per_device_train_batch_size=1).result()
    assert result.returncode == 0, result.stdout + result.stderr
    [folder] = (out / "wandb").glob("offline-run-*")
    assert wandb_run(folder)[1]["senna"]["processes"] == 2
    runs, _, rows = trackio_runs(out / "trackio")
    assert len(runs) == 1
    check_rows(rows, out)


# ---- checks before a run


@pytest.mark.parametrize(
    ("given", "names"),
    [("wandb, trackio", ["wandb", "trackio"]), (["wandb", "wandb"], ["wandb"]), ("none", ["none"]), ([], ["none"]),
     ("", ["none"]), (None, ["none"]), ("dvclive", ["dvclive"]), ("all", ["all"])],
)  # fmt: skip
def test_names_of_trackers(given, names):
    assert trackers.tracker_names(given) == names


@pytest.mark.parametrize(
    ("given", "message"),
    [("wandbb", "wandbb: there is no such tracker; did you mean wandb"), ("trackio,nothing_like_it", "use tensorboard, "),
     ("none,wandb", "none excludes other trackers"), ("WandB", "did you mean wandb")],
)  # fmt: skip
def test_wrong_names_are_refused(given, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_arguments(["--report_to", given])


def test_a_missing_package_is_refused_before_anything_is_loaded(toy, stage1, tmp_path, monkeypatch, no_login):
    found = trackers.importlib.util.find_spec
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None if name == "trackio" else found(name))
    result = toy.drive(tmp_path / "out", stage1, stage=3, report_to="wandb,trackio")
    assert result.returncode == 2
    assert "--report_to trackio requires trackio, which is not installed" in result.stderr
    assert "pip install -c constraints.txt -e '.[trackers]'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_wandb_is_offline_without_a_key_and_its_online_mode_without_one_is_refused(
    toy, stage1, tmp_path, monkeypatch, no_login
):
    flags = toy.driving_flags(tmp_path / "out", stage1, stage=3, report_to="wandb")

    def findings():
        return [finding for finding in run_findings(flags) if getattr(finding, "topic", "") == "trackers"]

    [finding] = findings()
    assert finding.level == "ok"
    assert "wandb offline" in finding.message
    monkeypatch.setenv("WANDB_MODE", "online")
    assert [finding.level for finding in findings()] == ["fail", "ok"]
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    assert [finding.level for finding in findings()] == ["ok"]
    assert SECRET not in str(findings())
    assert not (tmp_path / "out").exists()


def test_a_login_in_a_netrc_file_is_found(tmp_path, monkeypatch, no_login):
    monkeypatch.setenv("NETRC", str(tmp_path / "logins"))
    assert trackers.wandb_mode() == "offline"
    (tmp_path / "logins").write_text(f"machine api.wandb.ai login user password {SECRET}\n")
    assert trackers.wandb_mode() == "online"


def test_the_password_of_an_mlflow_server_is_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://user:{SECRET}@tracks.example/ml")
    args = parse_arguments(["--report_to", "mlflow"])
    assert trackers.tracker_lines(args) == ["mlflow to https://tracks.example/ml"]


def test_plans_to_show_are_spread_over_the_scenes():
    plans = [HeldOutPlan(number, ALL_META_ACTIONS[0], f"scene {number // 5}", True) for number in range(20)]
    assert choose_plans(plans, 6) == [0, 1, 5, 6, 10, 15]
    assert choose_plans(plans[:3]) == [0, 1, 2]
