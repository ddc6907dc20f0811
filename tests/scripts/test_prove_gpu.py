"""scripts/prove_gpu.sh: its parts with small models on a CPU, and the runner with parts that fail, hang and are killed."""

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from senna.cli import main
from senna.train.memory.model_shape import ModelShape, published_config
from tests.helpers.forks import Run
from tests.helpers.paths import REPOSITORY

SCRIPTS = str(REPOSITORY / "scripts")
SCRIPT = ["sh", str(REPOSITORY / "scripts" / "prove_gpu.sh")]
FIGURES = {"tokens/s", "questions/s", "step_s", "first_s", "MFU", "peak_GiB", "doctor_GiB", "loss"}


@pytest.fixture(scope="module")
def prove():
    """Return the modules of scripts/prove that import no torch."""
    sys.path.insert(0, SCRIPTS)
    names = ("cases", "commands", "flops", "parts", "report", "runner", "worker", "__main__")
    yield SimpleNamespace(**{name.strip("_"): importlib.import_module(f"prove.{name}") for name in names})
    sys.path.remove(SCRIPTS)


def run_script(*flags, cwd=REPOSITORY) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHON": sys.executable}
    command = [*SCRIPT, *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)


class Forked:
    """A `senna` command in a fork of this process, which saves its imports; the interface is that of `subprocess.Popen`."""

    def __init__(self, command, stdin):
        self._process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(main(command[3:])))
        self._process.start()
        self.kill = self._process.kill

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self._process.exitcode


def run_worker(arguments) -> int:
    sys.path.insert(0, SCRIPTS)
    worker, cases, resume = (importlib.import_module(f"prove.{name}") for name in ("worker", "cases", "resume"))
    resume.subprocess = SimpleNamespace(Popen=Forked, DEVNULL=subprocess.DEVNULL)
    importlib.import_module("prove.training").TIMED_STEPS = 1
    rows, *parts = arguments
    for part in parts:
        module, name = part.split(".")
        function = getattr(importlib.import_module(f"prove.{module}"), name)
        worker.run_part(function, cases.Scale(tiny=True), Path(rows) / name)
    return 0


def cases_of(folder: Path, *parts: str) -> dict[str, dict[str, dict]]:
    """Run parts, each ``module.part``, with small models. Return {part: {case: row}}."""
    result = Run(run_worker, [str(folder), *parts], REPOSITORY).result()
    assert result.returncode == 0, result.stderr
    found = {}
    for part in (part.split(".")[1] for part in parts):
        rows = [json.loads(line) for line in (folder / part).read_text().splitlines()]
        found[part] = {row["case"]: row for row in rows}
        assert not [row for row in rows if row["result"] == "failed"], result.stdout + result.stderr
    return found


def test_the_script_ends_with_a_table_and_a_result_file(tmp_path):
    result = run_script("--tiny", "--only", "tests", "--only", "stage1", "--out", "results/gpu.json", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    record = json.loads((tmp_path / "results" / "gpu.json").read_text())
    assert record["result"] == "passed"
    assert record["tiny"]
    assert {"device", "driver", "torch", "CUDA"} <= record["machine"].keys()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True).stdout
    assert not commit or commit.startswith(record["commit"].removesuffix("-dirty"))
    machine, tests, stage1 = record["parts"]
    assert [part["result"] for part in (machine, tests, stage1)] == ["passed", "skipped", "passed"]
    assert tests["cases"] == [{"case": "pytest -m gpu", "result": "skipped", "note": "needs CUDA"}]
    assert {case["case"]: case.keys() >= FIGURES for case in stage1["cases"]} == {"packed": True, "unpacked": True}
    table = result.stdout[result.stdout.index("part    case") :].splitlines()
    assert table[1].split() == ["tests", "pytest", "-m", "gpu", "skipped", "needs", "CUDA"]
    assert table[2].startswith("stage1  packed         passed   batch 4, tokens/s ")
    assert table[-3].startswith("2 passed, 1 skipped in ")
    assert table[-1] == "results: results/gpu.json"


@pytest.mark.slow
def test_every_part_of_the_model_passes_with_small_models(tmp_path):
    training = ("training.stage1", "training.lora", "training.qlora", "training.full")
    found = cases_of(tmp_path, "attention.attention", *training, "inference.plans", "inference.loading")
    attention = found["attention"]
    assert {name: row["result"] for name, row in attention.items()} == {
        f"{kind}, {precision}": "skipped" if kind == "flex" else "passed"
        for precision in ("fp32", "bf16")
        for kind in ("dense", "split", "flex")
    }
    assert 0 < attention["split, fp32"]["difference"] < 1e-4
    for name in ("lora", "qlora", "full"):
        packed, unpacked = found[name]["packed"], found[name]["unpacked"]
        assert (packed["batch"], unpacked["batch"]) == ("13", "8+5")
        assert packed["loss"] == pytest.approx(unpacked["loss"], rel=2e-3)
        assert packed["peak_GiB"] is None  # torch does not count it on a CPU
        assert packed["doctor_GiB"] > 0
    assert found["qlora"]["packed"]["doctor_GiB"] < found["lora"]["packed"]["doctor_GiB"]
    assert all("ms_a_frame" in row for name, row in found["plans"].items() if name.endswith("frames"))
    loading = found["loading"]
    assert loading["bf16"]["logits_differ"] == 0 < loading["int8"]["logits_differ"] < loading["nf4"]["logits_differ"]
    assert loading["nf4"]["of_bf16"] < loading["int8"]["of_bf16"] < 1


@pytest.mark.slow
def test_the_killed_run_continues_with_equal_losses(tmp_path):
    [row] = cases_of(tmp_path, "resume.resume")["resume"].values()
    assert row["difference"] == 0
    assert 8 <= row["killed_after_step"] < row["steps"]


# The runner -----------------------------------------------------------------------------------------------------------

WRITE = (
    "import json, sys, time; write = lambda **row: print(json.dumps(row), file=open(sys.argv[1], 'a'), flush=True)\n"
)
BODIES = {
    "good": "write(case='a', result='passed', speed=2.5)",
    "bad": "write(case='a', result='passed', speed=1.0); write(case='b', result='failed', note='too slow')",
    "absent": "write(case='a', result='skipped', note='needs CUDA')",
    "crash": "write(case='a', result='passed'); print('the reason'); import os; os.abort()",
    "silent": "pass",
    "hang": "import subprocess; child = subprocess.Popen(['sleep', '300']); "
    "write(case='a', result='passed', pid=child.pid); child.wait()",
    "half": "write(case='a', result='passed'); open(sys.argv[1], 'a').write('{\"case\": \"b\"'); import os; os.abort()",
}


def parts_of(prove, **seconds):
    return [prove.parts.Part(name, "", limit, f"about {name}") for name, limit in seconds.items()]


def fake_command(part, rows, tiny) -> list[str]:
    return [sys.executable, "-c", WRITE + BODIES[part.name], str(rows)]


def run_parts(prove, out, **seconds) -> dict:
    prove.runner.Proof(parts_of(prove, **seconds), out, True, fake_command).run()
    return json.loads(out.read_text())


def test_parts_that_fail_or_crash_do_not_stop_later_ones(prove, tmp_path):
    names = ("good", "bad", "absent", "crash", "silent", "half")
    record = run_parts(prove, tmp_path / "r.json", **dict.fromkeys(names, 30))
    parts = {part["part"]: part for part in record["parts"]}
    expected = ["passed", "failed", "skipped", "failed", "failed", "failed"]
    assert [parts[name]["result"] for name in names] == expected
    assert record["result"] == "failed"
    assert parts["crash"]["note"] == "its process ended with SIGABRT"
    assert "the reason" in parts["crash"]["output"]
    assert [case["case"] for case in parts["half"]["cases"]] == ["a"]
    table = prove.report.final_table(record)
    assert "bad     b     failed   too slow" in table
    assert "crash         failed   its process ended with SIGABRT" in table
    assert "1 passed, 4 failed, 1 skipped in " in table


def test_a_part_is_stopped_at_its_limit_with_its_children_and_keeps_its_cases(prove, tmp_path):
    started = time.monotonic()
    record = run_parts(prove, tmp_path / "r.json", hang=1, good=30)
    hang, good = record["parts"]
    assert time.monotonic() - started < 20
    assert (hang["result"], good["result"]) == ("failed", "passed")
    assert hang["note"] == "stopped at its time limit, 1 s"
    [case] = hang["cases"]
    assert case["result"] == "passed"
    assert has_ended(case["pid"])


def has_ended(pid: int, seconds: float = 5) -> bool:
    """Return whether a process ends in time. A process without parents may stay as a zombie."""
    for _ in range(int(seconds / 0.1)):
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.1)
                continue
        return True
    return False


def test_a_worker_ends_with_the_run_that_started_it():
    worker = (
        "import time; from prove.worker import die_with_parent; die_with_parent(); print(1, flush=True); time.sleep(60)"
    )
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {worker!r}], start_new_session=True, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint(child.pid, flush=True)\nimport os; os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"PYTHONPATH": f"{SCRIPTS}:{REPOSITORY}"}
    result = subprocess.run([sys.executable, "-c", parent], env=environment, stdout=subprocess.PIPE, text=True)
    assert has_ended(int(result.stdout))


def test_a_part_may_use_the_seconds_that_earlier_ones_left(prove, tmp_path, monkeypatch):
    monkeypatch.setitem(BODIES, "long", "time.sleep(1.5); write(case='a', result='passed')")
    record = run_parts(prove, tmp_path / "r.json", good=30, long=1)
    assert [part["result"] for part in record["parts"]] == ["passed", "passed"]


def test_all_limits_together_are_nine_minutes(prove):
    assert sum(part.seconds for part in prove.parts.PARTS) <= 9 * 60


START = f"""
import sys
sys.path[:0] = [{SCRIPTS!r}, {str(REPOSITORY)!r}]
from pathlib import Path
from types import SimpleNamespace
import prove.parts, prove.runner
from tests.scripts.test_prove_gpu import fake_command, parts_of
out = Path(sys.argv[1])
import signal
signal.signal(signal.SIGTERM, signal.default_int_handler)
parts = parts_of(SimpleNamespace(parts=prove.parts), good=30, hang=60, absent=30)
prove.runner.Proof(parts, out, True, fake_command).run()
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_leaves_the_results_of_the_finished_parts(tmp_path, kind):
    out = tmp_path / "r.json"
    with subprocess.Popen([sys.executable, "-c", START, str(out)], stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout:
            if line.startswith("hang: "):
                break
        time.sleep(0.5)
        run.send_signal(kind)
        run.wait(30)
    record = json.loads(out.read_text())
    assert (record["parts"][0]["part"], record["parts"][0]["result"]) == ("good", "passed")
    assert record["parts"][0]["cases"] == [{"case": "a", "result": "passed", "speed": 2.5}]
    if kind == signal.SIGKILL:
        assert (record["result"], len(record["parts"])) == ("running", 1)
    else:
        assert (record["result"], record["parts"][1]["result"], len(record["parts"])) == (
            "interrupted",
            "interrupted",
            2,
        )


# Cases and the command ------------------------------------------------------------------------------------------------


def test_an_error_in_a_case_is_its_result(prove, tmp_path):
    def part(scale):
        yield "good", lambda: {"speed": 1}
        yield "absent", raiser(prove.cases.Skipped("needs CUDA"))
        yield "wrong", raiser(prove.cases.Failed("2 differs from 1"))
        yield "memory", raiser(RuntimeError("CUDA out of memory.\nTried to allocate"))
        raise ValueError("no model")

    rows = tmp_path / "rows"
    prove.worker.run_part(part, prove.cases.Scale(True), rows)
    assert [json.loads(line) for line in rows.read_text().splitlines()] == [
        {"case": "good", "result": "passed", "speed": 1},
        {"case": "absent", "result": "skipped", "note": "needs CUDA"},
        {"case": "wrong", "result": "failed", "note": "2 differs from 1"},
        {"case": "memory", "result": "failed", "note": "RuntimeError: CUDA out of memory."},
        {"case": "preparation", "result": "failed", "note": "ValueError: no model"},
    ]


def raiser(error):
    def function():
        raise error

    return function


def test_a_case_that_needs_more_memory_than_the_card_has_is_left_out(prove, monkeypatch):
    scale = prove.cases.Scale(False)
    monkeypatch.setattr(prove.cases.Scale, "free_memory", 24 * 2**30)
    scale.check_memory(23 * 2**30)
    with pytest.raises(prove.cases.Skipped, match=r"needs about 25\.0 GiB; 24\.0 GiB can be used"):
        scale.check_memory(25 * 2**30)


def test_without_a_gpu_the_command_names_the_tiny_run(prove, tmp_path, monkeypatch, capsys):
    row = "write(case='device and versions', result='passed', device='CPU')"
    monkeypatch.setitem(BODIES, "machine", row)
    monkeypatch.setattr(prove.runner, "worker_command", fake_command)
    monkeypatch.setattr(prove.runner.Proof.__init__, "__defaults__", (fake_command,))
    out = tmp_path / "r.json"
    assert prove.main.main(["--out", str(out)]) == 2
    assert "torch finds no GPU" in (message := capsys.readouterr().err)
    assert "--tiny" in message
    assert json.loads(out.read_text())["result"] == "failed"


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--help"], 0, "examples:"),
        (["--list"], 0, "qlora "),
        (["--only", "everything"], 2, "invalid choice: 'everything'"),
        (["--out", "table.txt"], 2, "--out table.txt is no JSON file"),
        (["--out", "/proc/nowhere/r.json"], 2, "--out /proc/nowhere/r.json"),
    ],
)
def test_the_command_explains_itself(prove, capsys, flags, code, text):
    try:
        found = prove.main.main(flags)
    except SystemExit as stop:
        found = stop.code
    assert found == code
    captured = capsys.readouterr()
    assert text in captured.out + captured.err


def test_the_runner_does_not_import_torch():
    code = "import sys; import prove.__main__; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    environment = os.environ | {"PYTHONPATH": f"{SCRIPTS}:{REPOSITORY}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


# FLOPs ----------------------------------------------------------------------------------------------------------------


def test_flops_of_a_step_are_those_of_the_products(prove):
    shape = ModelShape.from_config(published_config())
    work = prove.flops.Work(tokens=1000, pairs=500_500, targets=100, images=0)
    linear, attention = 6_476_005_376 * 1000, 12 * 4096 * 32 * 500_500
    head = 32000 * 4096 * 100
    flops = {method: prove.flops.step_flops(shape, work, method, 128) for method in ("adapters", "lora", "full")}
    assert flops["adapters"] == 4 * linear + 4 * head + attention
    assert flops["full"] == 6 * linear + 6 * head + attention
    assert flops["lora"] == flops["adapters"] + 6 * 319_815_680 * 1000
    tower = prove.flops.step_flops(shape, prove.flops.Work(0, 0, 0, 1), "full")
    # 23 layers of CLIP ViT-L/14-336 over 577 positions: LLaVA's tower takes about 0.37 TFLOPs an image with all 24
    assert tower == pytest.approx(0.36e12 + 3 * 25e9, rel=0.05)


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100 NVL", 835e12), ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA A100 80GB PCIe", 312e12), ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA L4", 121e12), ("NVIDIA L40S", 362e12), ("NVIDIA A10", 125e12), ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("NVIDIA GeForce RTX 3090 Ti", None), ("NVIDIA A10G", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None), ("CPU", None),
    ],
)  # fmt: skip
def test_peak_rates_are_found_by_the_complete_name(prove, device, peak):
    assert prove.flops.peak_flops(device) == peak
