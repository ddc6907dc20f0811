"""Every shell script under every POSIX shell that is installed, with an interpreter that only writes down how it was called."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.helpers.paths import REPOSITORY

SHELLS = {"dash": "dash", "busybox sh": "busybox", "bash": "bash"}
FILES = sorted(str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("*/*.sh"))
SOURCED = "scripts/environment.sh"

FLAGS = ["--limit", "two words", "it's"]
WORDS = "<--limit><two words><it's>"
CALLS = {
    "data_tools/senna_nusc_converter.sh": [f"<-m><senna><launch><convert>{WORDS}"],
    "scripts/download_assets.sh": [f"<-m><senna><download><--out=ROOT/outputs/assets>{WORDS}"],
    "scripts/eval_meta_action.sh": [f"<-m><senna><launch><evaluate>{WORDS}"],
    "scripts/prove_gpu.sh": [f"<-m><prove>{WORDS}"],
    "scripts/quickstart.sh": [
        "<-m><senna><synthesize><--stage1><--scenes><44><--image-width><448><--out><ROOT/outputs/embedded>",
        f"<-m><senna><launch><pretrain>{WORDS}",
        f"<-m><senna><launch><full><--stage><2>{WORDS}",
        f"<-m><senna><launch><full><--stage><3><--kinds><plan,trajectory>{WORDS}",
        "<-m><senna><calibrate><--model><ROOT/outputs/quickstart/stage3>"
        "<--data><ROOT/outputs/embedded/qa/senna_nusc_dev.jsonl>"
        "<--image-folder><ROOT/outputs/embedded/nuscenes><--device><cpu><--workers><1>",
        "<-m><senna><launch><evaluate><--kinds><plan,trajectory><--trajectory-tries><4><--blackout>"
        "<--decision><balanced><--device><cpu><--workers><1>",
        "<-m><senna><drive><--model><ROOT/outputs/quickstart/stage3><--decision><balanced><--image-width><448><--scenes><1>"
        "<--driver><model><--out><ROOT/outputs/quickstart/drive>",
    ],
    "scripts/soak.sh": [f"<-m><soak>{WORDS}"],
    "scripts/test.sh": [
        "<-m><ruff><check><.>",
        "<-m><ruff><format><--check><.>",
        "<-c><from importlinter.cli import lint_imports_command; lint_imports_command()><--no-cache>",
        "<-m><pyright><--pythonpath><PYTHON>",
        f"<-m><pytest><-n><2><--dist><worksteal><-m><not slow>{WORDS}",
    ],
    "scripts/visualize.sh": [f"<-m><senna><launch><visualize>{WORDS}"],
    "train_tools/pretrain_senna_llava.sh": [f"<-m><senna><launch><pretrain>{WORDS}"],
    "train_tools/train_senna_llava.sh": [f"<-m><senna><launch><full>{WORDS}"],
    "train_tools/train_senna_llava_lora.sh": [f"<-m><senna><launch><lora>{WORDS}"],
    "train_tools/train_senna_llava_qlora.sh": [f"<-m><senna><launch><qlora>{WORDS}"],
}
"""The calls of the interpreter by each script."""

OWN_ENVIRONMENTS = ["scripts/test_oldest.sh", "scripts/test_serve.sh", "scripts/test_slow.sh"]
"""Scripts that use no active environment. CI runs them with the shell `sh`."""

WITH_ENVIRONMENT = ["scripts/download_assets.sh", "scripts/quickstart.sh", "scripts/test.sh"]
QUICK_HELP = sorted(
    script
    for script in CALLS
    if "train_tools" not in script and script not in ("scripts/quickstart.sh", "scripts/test.sh")
)

# The first two lines answer the question whether the environment has Senna.
INTERPRETER = """#!/bin/sh
case $* in *find_spec*) exit 0 ;; esac
for word; do printf '<%s>' "$word" >>"$LOG"; done
echo >>"$LOG"
case $* in *"senna drive"*) for out; do :; done; mkdir -p "$out"; echo page >"$out/drive.html" ;; esac
[ -z "${OUT_DIR:-}" ] || { mkdir -p "$OUT_DIR" && echo report >"$OUT_DIR/report.html"; }
exit "${CODE:-0}"
"""


class Clone:
    """The scripts in a folder whose name has blanks, with an active environment; ``sh`` is the shell under test."""

    def __init__(self, folder, shell: str):
        self.root, self.environment, self.log = folder / "a clone 中文", folder / "an environment", folder / "log"
        for name in ("scripts", "train_tools", "data_tools"):
            shutil.copytree(REPOSITORY / name, self.root / name, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(REPOSITORY / name, self.root)
        (folder / "bin").mkdir()
        self.sh = folder / "bin" / "sh"
        self.sh.symlink_to(shutil.which(SHELLS[shell]))  # busybox is the program that its name says
        self.python = self.environment / "bin" / "python"
        self.python.parent.mkdir(parents=True)
        self.set_interpreter(INTERPRETER)

    def set_interpreter(self, text: str) -> None:
        self.python.write_text(text)
        self.python.chmod(0o755)

    def run(self, script: str, *flags: str, **variables: str) -> subprocess.CompletedProcess:
        hidden = {"PYTHON", "CONDA_PREFIX", "SENNA_TORCH", "SENNA_EMBEDDED", "PRESET", "OUT_DIR", "PYTHONPATH"}
        clean = {name: value for name, value in os.environ.items() if name not in hidden}
        clean |= {"PATH": f"{self.sh.parent}:/usr/bin:/bin", "VIRTUAL_ENV": str(self.environment), "LOG": str(self.log)}
        command = [str(self.sh), str(self.root / script), *flags]
        return subprocess.run(command, capture_output=True, text=True, env=clean | variables, cwd=self.root.parent)

    def calls(self) -> list[str]:
        text = self.log.read_text().replace(str(self.root), "ROOT").replace(str(self.python), "PYTHON")
        return text.splitlines()


@pytest.fixture(params=SHELLS)
def shell(request) -> str:
    if shutil.which(SHELLS[request.param]) is None:
        pytest.skip(f"{request.param} is not installed (Debian: apt-get install {SHELLS[request.param]})")
    return request.param


@pytest.fixture
def clone(tmp_path, shell):
    return Clone(tmp_path, shell)


def test_every_script_is_covered():
    assert sorted([*CALLS, *OWN_ENVIRONMENTS, SOURCED]) == FILES


@pytest.mark.parametrize("script", FILES)
def test_a_script_has_the_syntax_of_the_shell(shell, script):
    result = subprocess.run([*shell.split(), "-n", REPOSITORY / script], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("script", CALLS)
def test_a_script_passes_its_arguments_on_unchanged(clone, script):
    result = clone.run(script, *FLAGS)
    assert result.returncode == 0, result.stdout + result.stderr
    assert clone.calls() == CALLS[script]
    assert not re.search(r"not found|syntax|unexpected|bad substitution", result.stderr, re.IGNORECASE)


@pytest.mark.parametrize("script", CALLS)
def test_a_script_ends_with_the_exit_code_of_the_command_that_failed(clone, script):
    assert clone.run(script, CODE="3").returncode == 3
    assert len(clone.calls()) == 1


@pytest.mark.parametrize("script", WITH_ENVIRONMENT)
def test_a_wrong_variable_stops_a_script_before_it_installs(clone, script):
    result = clone.run(script, SENNA_TORCH="rocm")
    assert result.returncode == 2
    assert "SENNA_TORCH=rocm is unknown: use auto, cpu or cuda" in result.stdout + result.stderr
    assert not clone.log.exists()


@pytest.mark.parametrize("script", QUICK_HELP)
def test_a_script_with_the_real_interpreter_says_how_it_is_used(clone, script):
    path = f"{REPOSITORY / 'scripts'}:{REPOSITORY}"
    clone.set_interpreter(f'#!/bin/sh\nexport PYTHONPATH={path}\nexec {sys.executable} "$@"\n')
    result = clone.run(script, "--help", NUM_GPUS="1")
    is_help, is_usage_error = "usage: " in result.stdout, "  -> set " in result.stderr  # a variable that it needs
    assert (result.returncode, is_help, is_usage_error) in [(0, True, False), (2, False, True)], result.stderr
