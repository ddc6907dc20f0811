"""`senna doctor` as a user starts it."""

import os
import subprocess
import sys

import pytest

from senna.cli import main
from senna.doctor import command
from senna.doctor.command import with_environment
from tests.conftest import REPOSITORY


def doctor(*flags, **environment) -> subprocess.CompletedProcess:
    names = ("MODEL_PATH", "DATA", "IMAGE_DATA", "VISION_TOWER", "OUT_DIR")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    clean |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    clean |= {name: str(value) for name, value in environment.items()}
    words = [sys.executable, "-m", "senna", "doctor", *map(str, flags)]
    return subprocess.run(words, capture_output=True, text=True, env=clean, cwd=REPOSITORY)


def test_a_run_from_the_environment_is_checked_in_aligned_lines_and_closed_by_a_chart_and_a_count(toy, tmp_path):
    paths = {"MODEL_PATH": toy.llm, "VISION_TOWER": toy.clip, "DATA": toy.data, "IMAGE_DATA": toy.images}
    flags = ["--config", "configs/stage1_pretrain.yaml", "--mm_adapter_tokens", 3, "--gpu-memory", 24]
    result = doctor(*flags, OUT_DIR=tmp_path / "out", **paths)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert f"ok    model         {toy.llm}: 2 layers of 32, 192 kB in 1 file, whole" in lines
    assert "ok    gpu           none here; a card of 24 GB is assumed (--gpu-memory)" in lines
    assert "fits 23.6 GiB, the global batch kept:" in lines
    assert lines[-1].endswith("ok")
    assert "\033" not in result.stdout
    assert not (tmp_path / "out").exists()


def test_a_fail_is_exit_code_two(monkeypatch, capsys):
    monkeypatch.setattr(command, "PACKAGES", {})
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("MODEL_PATH", raising=False)
    assert main(["doctor", "--data_path", "gone.json", "--use_cpu", "True", "--bf16", "False"]) == 2
    out, err = capsys.readouterr()
    assert [line.split(None, 2)[1] for line in out.splitlines() if line.startswith("fail")] == ["data", "memory"]
    assert "warn  arguments     --model_name_or_path is not set: nothing of it is checked" in out
    assert "gone.json: no such file" in out
    assert "Traceback" not in out + err


def test_a_card_is_judged_by_the_7b_model_before_anything_is_there(monkeypatch, capsys):
    monkeypatch.setattr(command, "PACKAGES", {})
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    for name in ("MODEL_PATH", "DATA"):
        monkeypatch.delenv(name, raising=False)
    files = [word for name in ("stage2_driving", "qlora") for word in ("--config", f"{REPOSITORY}/configs/{name}.yaml")]
    assert main(["doctor", *files, "--gpu-memory", "24"]) == 0
    assert main(["doctor", *files, "--gpu-memory", "8"]) == 2
    out = capsys.readouterr().out
    assert "ok    memory        the 7B model takes about 12.6 GiB of each card, which has 23.6 GiB" in out
    assert "fail  memory        the 7B model takes about 12.6 GiB of each card, which has 7.9 GiB" in out


def test_flags_win_over_the_environment(monkeypatch):
    for name in ("DATA", "IMAGE_DATA", "VISION_TOWER", "OUT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODEL_PATH", "a")
    monkeypatch.setenv("DATA", "b")
    assert with_environment(["--data_path=c"]) == ["--data_path=c", "--model_name_or_path", "a"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--gpu-memory", "0"], "--gpu-memory 0: a number above 0"), (["--gpus", "two"], "invalid int value")],
)
def test_wrong_use_is_one_message(flags, message, capsys):
    assert main(["doctor", *flags]) == 2
    assert message in capsys.readouterr().err


def test_help_is_quick_and_names_what_can_be_asked(capsys):
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    assert "--gpu-memory" in capsys.readouterr().out
