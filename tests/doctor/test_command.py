"""The command `senna doctor`."""

import os
import subprocess
import sys

import pytest

from senna.cli import main
from senna.doctor import command
from senna.doctor.command import with_environment
from senna.doctor.dry_run import run_findings
from tests.helpers.paths import REPOSITORY


def doctor(*flags, **environment) -> subprocess.CompletedProcess:
    names = ("MODEL_PATH", "DATA", "IMAGE_DATA", "VISION_TOWER", "OUT_DIR")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    clean |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    clean |= {name: str(value) for name, value in environment.items()}
    words = [sys.executable, "-m", "senna", "doctor", *map(str, flags)]
    return subprocess.run(words, capture_output=True, text=True, env=clean, cwd=REPOSITORY)


def test_a_run_from_environment_variables_is_checked_and_reported_with_chart_and_count(toy, tmp_path):
    paths = {"MODEL_PATH": toy.llm, "VISION_TOWER": toy.clip, "DATA": toy.data, "IMAGE_DATA": toy.images}
    flags = ["--config", "configs/stage1_pretrain.yaml", "--mm_adapter_tokens", 3, "--gpu-memory", 24]
    result = doctor(*flags, OUT_DIR=tmp_path / "out", **paths)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert f"ok    model         {toy.llm}: 2 layers of width 32, complete (192 kB in 1 file)" in lines
    assert "ok    gpu           no GPU found; a GPU with 24 GB is assumed (--gpu-memory)" in lines
    assert "settings that fit 23.6 GiB, with the same global batch:" in lines
    assert lines[-1].endswith("ok")
    assert "\033" not in result.stdout
    assert not (tmp_path / "out").exists()


class RunHere:
    """A worker that checks the run alone, in this process, to save imports."""

    def __init__(self, topics, run):
        self.topics, self.memory, self.flags = topics, float(run[0]) if run else 0, run[2:]

    def results(self):
        return run_findings(self.flags, self.memory or None) if "run" in self.topics else iter([])

    def stop(self):
        pass


@pytest.fixture
def run_only(monkeypatch):
    """Let `senna doctor` check no packages and no GPU, and set no model and data in the environment."""
    monkeypatch.setattr(command, "Worker", RunHere)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    for name in ("MODEL_PATH", "DATA"):
        monkeypatch.delenv(name, raising=False)


def test_a_failed_check_gives_exit_code_2(run_only, capsys):
    assert main(["doctor", "--data_path", "gone.json", "--use_cpu", "True", "--bf16", "False"]) == 2
    out, err = capsys.readouterr()
    assert [line.split(None, 2)[1] for line in out.splitlines() if line.startswith("fail")] == ["data", "memory"]
    assert "warn  arguments     --model_name_or_path is not set, so it is not checked" in out
    assert "gone.json" in out
    assert "Traceback" not in out + err


def test_a_gpu_is_compared_with_the_7b_model_if_no_model_is_named(run_only, capsys):
    files = [word for name in ("stage2_driving", "qlora") for word in ("--config", f"{REPOSITORY}/configs/{name}.yaml")]
    assert main(["doctor", *files, "--gpu-memory", "24"]) == 0
    assert main(["doctor", *files, "--gpu-memory", "8"]) == 2
    out = capsys.readouterr().out
    assert "ok    memory        the 7B model needs about 12.4 GiB of each GPU, which has 23.6 GiB" in out
    assert "fail  memory        the 7B model needs about 12.4 GiB of each GPU, which has 7.9 GiB" in out


def test_flags_override_environment_variables(monkeypatch):
    for name in ("DATA", "IMAGE_DATA", "VISION_TOWER", "OUT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODEL_PATH", "a")
    monkeypatch.setenv("DATA", "b")
    assert with_environment(["--data_path=c"]) == ["--data_path=c", "--model_name_or_path", "a"]
    assert with_environment(["--data-path", "c"]) == ["--data-path", "c", "--model_name_or_path", "a"]


@pytest.mark.parametrize(
    ("flags", "message"), [(["--gpu-memory", "0"], "--gpu-memory 0"), (["--gpus", "two"], "invalid int value")]
)
def test_a_wrong_value_is_a_usage_error(flags, message, capsys):
    assert main(["doctor", *flags]) == 2
    assert message in capsys.readouterr().err


def test_help_lists_the_flags_of_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    assert "--gpu-memory" in capsys.readouterr().out
