"""Commands that messages and documents show, to be copied into a shell."""

import os
import re
import shlex
import subprocess
from types import SimpleNamespace

import pytest

from senna.doctor.command import with_environment
from senna.doctor.data import _all_missing
from senna.doctor.packages import PACKAGES, install_command
from senna.doctor.weights import DamagedFile, check_pointer
from senna.errors import UsageError
from senna.evaluate.report.comparison import _read_metrics
from senna.launch.command import prepare
from senna.train.summary import next_command
from tests.helpers.paths import REPOSITORY
from tests.helpers.scripts import SHELLS

TEXTS = sorted([*REPOSITORY.glob("senna/**/*.py"), *REPOSITORY.glob("[a-z]*/**/*.md"), REPOSITORY / "README.md"])
EXTRAS = set(re.findall(r"^([a-z-]+) = \[", (REPOSITORY / "pyproject.toml").read_text(), re.M))
NAMES = ["a b", "it's", 'a"b', "$(touch pwned)", "`touch pwned`", "a;touch pwned", "中文"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def words(command):
    """Return the words that each shell makes of a command."""
    made = []
    for shell in SHELLS:
        script = f"show() {{ printf '%s\\0' \"$@\"; }}\nshow {command}"
        made.append(subprocess.run([*shell, "-euc", script], capture_output=True, text=True, check=True).stdout)
    assert len(set(made)) == 1
    return made[0].split("\0")[:-1]


def test_every_extra_in_a_pip_command_exists_and_is_quoted():
    """zsh takes unquoted brackets for a pattern. The name `senna` on a package index is not this project."""
    found = 0
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"pip install[^\n]*\bsenna\b", text), path
        for command in re.findall(r"pip install[^\n`#]*", text):
            for quote, extras in re.findall(r"(.?)\.\[([a-z,-]+)\]", command):
                found += 1
                assert quote == "'", (path, command)
                assert set(extras.split(",")) <= EXTRAS, (path, command)
                assert ("flash-attn" in extras) == ("--no-build-isolation" in command), (path, command)
    assert found >= 10


@pytest.mark.parametrize("name", PACKAGES)
def test_the_doctor_installs_a_package_by_an_extra_of_the_project(name):
    command = install_command(name)
    extras = [part[2:-1] for part in shlex.split(command) if part.startswith(".[")]
    assert extras == ([PACKAGES[name].extra] if PACKAGES[name].extra else [])
    assert set(extras) <= EXTRAS
    assert ("--no-build-isolation" in command) == (name == "flash-attn")


@pytest.mark.parametrize("name", NAMES)
def test_the_next_command_of_a_run_names_its_folder(name):
    args = SimpleNamespace(bits=16, lora_enable=True, stage=3, output_dir=f"/out/{name}")
    assert words(next_command(SimpleNamespace(args=args))) == [
        "senna", "merge", "--adapter", f"/out/{name}", "--out", f"/out/{name}_merged"
    ]  # fmt: skip
    args.stage = 2
    assert words(next_command(SimpleNamespace(args=args)))[0] == f"MODEL_PATH=/out/{name}"


@pytest.mark.parametrize("name", NAMES)
def test_the_remedy_for_a_pointer_names_its_folder(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DamagedFile) as error:
        check_pointer(tmp_path / name / "model.safetensors")
    command = error.value.problem.remedy.partition("&& ")[2]
    assert words(command) == ["git", "-C", str(tmp_path / name), "lfs", "pull"]


@pytest.mark.parametrize("name", NAMES)
def test_the_remedy_for_missing_images_names_their_folder(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "1.jpg").touch()
    remedy = _all_missing(tmp_path, ["1.jpg"]).remedy
    flag, _, variable = remedy.partition("   (")
    assert words(flag) == ["--image_folder", str(tmp_path / name)]
    assert words(variable.removesuffix(" for the scripts)")) == [f"IMAGE_DATA={tmp_path / name}"]


@pytest.mark.parametrize("name", NAMES)
def test_the_remedy_for_missing_metrics_names_their_folder(name, tmp_path):
    with pytest.raises(UsageError) as error:
        _read_metrics(tmp_path / name)
    assert words(error.value.remedy.split("`senna evaluate")[1].rsplit("`", 1)[0]) == ["--out", str(tmp_path / name)]


def test_a_path_that_begins_with_a_hyphen_is_no_flag(monkeypatch):
    given = {name: f"-{name}" for name in ("MODEL_PATH", "DATA", "IMAGE_DATA", "OUT_DIR", "NUSCENES", "TRAIN_DATA")}
    for recipe in ("full", "evaluate", "visualize", "convert"):
        command = prepare(recipe, [], {**given, "CUDA_VISIBLE_DEVICES": "0"}).words
        assert not set(given.values()) & set(command)
        assert "./-OUT_DIR" in command
    monkeypatch.setattr(os, "environ", {"MODEL_PATH": "-m"})
    assert with_environment([]) == ["--model_name_or_path", "./-m"]
