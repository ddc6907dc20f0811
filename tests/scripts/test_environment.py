"""scripts/environment.sh: the choice of an interpreter; .venv made, repaired and remade; under every sh that is installed."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers.paths import REPOSITORY
from tests.helpers.scripts import SHELLS

PINNED = next(line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))

FAKE_PIP = """
import os, pathlib, sys
with open(os.environ["LOG"], "a") as log:
    print("pip", *sys.argv[1:], file=log)
if os.environ.get("FAIL") in sys.argv:
    sys.exit(3)
if os.environ.get("KILL") in sys.argv:
    os.kill(os.getppid(), 9)
if "-e" in sys.argv:
    for name in ("senna", "torch", "transformers", "nuscenes", "pytest", "bitsandbytes"):
        next(pathlib.Path(sys.prefix).glob("lib/python3*/site-packages")).joinpath(name + ".py").touch()
"""

# A new environment gets an empty pip, which takes no time.
QUICK_VENV = """
[ "$2" = venv ] || exec {python} "$@"
{python} "$@" --without-pip || exit
for folder; do :; done
set -- "$folder"/lib/python3*/site-packages
touch "$1/pip.py"
"""


class Clone:
    """The scripts in a folder of their own, with a pip and a uv that only write down how they were called."""

    def __init__(self, folder, shell):
        self.folder, self.shell, self.log = folder / "a clone 中文", shell, folder / "log"
        self.venv = self.folder / ".venv"
        shutil.copytree(REPOSITORY / "scripts", self.folder / "scripts", ignore=shutil.ignore_patterns("*.py"))
        for name in ("pyproject.toml", "constraints.txt", "constraints-oldest.txt"):
            shutil.copy(REPOSITORY / name, self.folder)
        (folder / "fake").mkdir()
        (folder / "fake" / "pip.py").write_text(FAKE_PIP)
        (folder / "bin").mkdir()
        self.fake, self.bin = folder / "fake", folder / "bin"
        self.program("uv", 'echo uv "$@" >>"$LOG"; exit ${UV_CODE:-0}')
        self.program("nvidia-smi", "exit 1")
        self.program("python3", QUICK_VENV.format(python=sys.executable))

    def program(self, name, text):
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    def run(self, text, **environment):
        """Run shell code after ``. scripts/environment.sh`` with ROOT set; returns the finished process."""
        hidden = ("PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX", "SENNA_TORCH", "PYTHONPATH")
        clean = {name: value for name, value in os.environ.items() if name not in hidden}
        clean |= {"PATH": f"{self.bin}:/usr/bin:/bin", "LOG": str(self.log), "ROOT": str(self.folder)}
        clean |= {"PYTHONPATH": str(self.fake), **{name: str(value) for name, value in environment.items()}}
        script = f'set -eu\n. "$ROOT/scripts/environment.sh"\n{text}'
        return subprocess.run([*self.shell, "-c", script], env=clean, capture_output=True, text=True, cwd=self.folder)

    def make_venv(self, folder=None, pip=True, modules=()):
        """Make a virtual environment quickly: with a pip that cannot do anything, or without."""
        folder = folder or self.venv
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        site = next(folder.glob("lib/python3*/site-packages"))
        for name in [*(["pip"] if pip else []), *modules]:
            (site / f"{name}.py").touch()
        return site

    def calls(self):
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def clone(request, tmp_path):
    return Clone(tmp_path, request.param)


@pytest.fixture
def one_clone(tmp_path):
    """A clone under the first of the shells, for what takes seconds."""
    return Clone(tmp_path, SHELLS[0])


INSTALL = 'prepare_environment nuscenes; echo "PYTHON=$PYTHON"'


def test_a_new_environment_is_made_once_with_the_tested_versions(clone):
    first = clone.run(INSTALL)
    assert first.returncode == 0, first.stderr
    assert f"creating {clone.venv}" in first.stdout
    assert f"PYTHON={clone.venv}/bin/python" in first.stdout
    assert f"-e {clone.folder}[nuscenes]" in clone.calls()
    clone.log.unlink()
    assert clone.run(INSTALL).returncode == 0
    assert clone.calls() == ""


def test_the_oldest_versions_get_an_environment_of_their_own(clone, tmp_path):
    clone.make_venv(tmp_path / "active", modules=["senna", "pytest", "bitsandbytes"])
    oldest = 'prepare_environment oldest oldest; echo "PYTHON=$PYTHON"'
    first = clone.run(oldest, VIRTUAL_ENV=tmp_path / "active")
    assert first.returncode == 0, first.stderr
    venv = clone.folder / ".venv-oldest"
    assert f"PYTHON={venv}/bin/python" in first.stdout
    assert not clone.venv.exists()
    used = [word for line in clone.calls().splitlines() for word in line.split(" -c ")[1:] if line.startswith("pip")]
    assert used
    assert all(word.startswith(f"{venv}/constraints.txt") for word in used)
    pins = [line.split("=")[0] for line in (venv / "constraints.txt").read_text().splitlines() if line[:1] != "#"]
    assert pins.count("transformers") == 1
    assert pins.count("torch") == 1
    older = (clone.folder / "constraints-oldest.txt").read_text()
    assert (venv / "constraints.txt").read_text().startswith(older)
    clone.log.unlink()
    assert clone.run(oldest).returncode == 0
    assert clone.calls() == ""
    (clone.folder / "constraints-oldest.txt").write_text(older + "\n")
    assert clone.run(oldest).returncode == 0
    assert "-e" in clone.calls()


def test_an_environment_without_pip_gets_one(one_clone):
    one_clone.make_venv(pip=False)
    result = one_clone.run("venv=$ROOT/.venv PYTHON=$venv/bin/python; make_environment", PYTHONPATH="")
    assert result.returncode == 0, result.stderr
    assert "had no pip; it was added" in result.stdout
    assert subprocess.run([one_clone.venv / "bin" / "python", "-m", "pip", "--version"]).returncode == 0


def broken_interpreter(clone):
    clone.make_venv()
    (clone.venv / "bin" / "python").unlink()
    (clone.venv / "bin" / "python").symlink_to("/nowhere/python3.11")


def half_installed(clone):
    (clone.make_venv() / "torch-2.13.0.dist-info").mkdir()


def lost_file(clone):
    info = clone.make_venv() / "tqdm-4.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("tqdm/__init__.py,,\n")


def interrupted(clone):
    clone.make_venv()
    (clone.venv / ".senna-installing").touch()


def foreign_version(clone):
    clone.make_venv()
    (clone.venv / "bin" / "python").unlink()
    (clone.venv / "bin" / "python").write_text('#!/bin/sh\ncase $2 in "") exit 0 ;; esac\nexit 1\n')
    (clone.venv / "bin" / "python").chmod(0o755)


@pytest.mark.parametrize("fault", [broken_interpreter, half_installed, lost_file, interrupted, foreign_version])
def test_an_environment_that_cannot_be_used_is_remade_and_that_is_said(fault, one_clone):
    fault(one_clone)
    result = one_clone.run(INSTALL)
    assert result.returncode == 0, result.stderr
    assert f"remaking {one_clone.venv}: " in result.stdout
    assert f"-e {one_clone.folder}[nuscenes]" in one_clone.calls()
    assert subprocess.run([one_clone.venv / "bin" / "python", "-c", "import pip"]).returncode == 0


def test_nothing_is_installed_into_another_environment_through_a_wrapper(one_clone, tmp_path):
    one_clone.make_venv(tmp_path / "other")
    (one_clone.venv / "bin").mkdir(parents=True)
    wrapper = one_clone.venv / "bin" / "python"
    wrapper.write_text(f'#!/bin/sh\nexec "{tmp_path}/other/bin/python" "$@"\n')
    wrapper.chmod(0o755)
    result = one_clone.run(INSTALL)
    assert result.returncode == 0, result.stderr
    assert "installs into another environment" in result.stdout
    assert not list((tmp_path / "other").glob("lib/python3*/site-packages/senna*"))


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_environment_is_kept_under_another_name(kind, one_clone, tmp_path):
    if kind == "file":
        one_clone.venv.write_text("mine")
    else:
        own = tmp_path / "own" if kind == "link" else one_clone.venv
        own.mkdir()
        (own / "notes").write_text("mine")
        if kind == "link":
            one_clone.venv.symlink_to(own)
    result = one_clone.run("venv=$ROOT/.venv PYTHON=$ROOT/.venv/bin/python; make_environment")
    assert result.returncode == 0, result.stderr
    assert "kept as .venv.old1" in result.stdout
    kept = one_clone.folder / ".venv.old1"
    assert (kept if kind == "file" else kept / "notes").read_text() == "mine"


def test_a_failed_installation_fails_and_is_continued(clone):
    clone.make_venv()
    failed = clone.run(f"{INSTALL}; echo went on", FAIL="-e")
    assert failed.returncode == 3
    assert "went on" not in failed.stdout
    assert "failed" in failed.stderr
    again = clone.run(INSTALL)
    assert again.returncode == 0
    assert "remaking" not in again.stdout


def test_a_killed_installation_is_remade(one_clone):
    one_clone.make_venv()
    assert one_clone.run(INSTALL, KILL="-e").returncode == -9
    again = one_clone.run(INSTALL)
    assert again.returncode == 0, again.stderr
    assert "an installation was interrupted" in again.stdout


@pytest.mark.parametrize(
    ("asked", "card", "backend", "size"),
    [(None, False, "cpu", "0.2 GB"), (None, True, "auto", "3 GB"), ("cpu", True, "cpu", "0.2 GB"),
     ("cuda", False, "auto", "3 GB")],
)  # fmt: skip
def test_the_build_of_torch_follows_the_card_or_the_switch(asked, card, backend, size, one_clone):
    if os.path.exists("/dev/nvidia0") and not card and asked is None:
        pytest.skip("this machine has a card")
    one_clone.make_venv()
    if card:
        one_clone.program("nvidia-smi", "echo 'GPU 0: NVIDIA (UUID: 1)'")
    result = one_clone.run(INSTALL, **({"SENNA_TORCH": asked} if asked else {}))
    assert result.returncode == 0, result.stderr
    assert size in result.stdout
    assert f"--torch-backend {backend} {PINNED}" in one_clone.calls()
    assert "pip install --disable-pip-version-check --no-compile -c" in one_clone.calls()
    assert "constraints.txt torch\n" not in one_clone.calls()


def test_pip_installs_torch_where_uv_cannot_reach_a_build(clone):
    clone.make_venv()
    result = clone.run(INSTALL, UV_CODE=1)
    assert result.returncode == 0, result.stderr
    assert "up to 3 GB" in result.stdout
    assert "constraints.txt torch\n" in clone.calls()


def test_an_unknown_build_of_torch_is_refused(clone):
    result = clone.run(INSTALL, SENNA_TORCH="gpu")
    assert result.returncode == 2
    assert "SENNA_TORCH=gpu" in result.stderr
    assert not clone.venv.exists()


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
@pytest.mark.parametrize("choose", ["find_interpreter", "prepare_environment nuscenes"])
def test_the_active_environment_is_preferred_where_it_has_senna(variable, choose, one_clone, tmp_path):
    one_clone.make_venv(modules=["torch", "transformers"])
    one_clone.make_venv(tmp_path / "active", modules=["senna", "nuscenes"])
    result = one_clone.run(f'{choose}; echo "PYTHON=$PYTHON"', **{variable: tmp_path / "active"})
    assert result.returncode == 0, result.stderr
    assert f"PYTHON={tmp_path}/active/bin/python" in result.stdout
    assert f"interpreter: {tmp_path}/active/bin/python" in result.stdout + result.stderr
    assert one_clone.calls() == ""


def test_an_active_environment_without_senna_is_left_alone_and_that_is_said(clone, tmp_path):
    clone.make_venv()
    clone.make_venv(tmp_path / "base")
    result = clone.run('find_interpreter; echo "PYTHON=$PYTHON"', CONDA_PREFIX=tmp_path / "base")
    assert f"PYTHON={clone.venv}/bin/python" in result.stdout
    assert f"{tmp_path}/base does not have Senna" in result.stderr
    assert f"interpreter: {clone.venv}/bin/python" in result.stderr


@pytest.mark.parametrize("choose", ["find_interpreter", "prepare_environment dev"])
def test_python_keeps_bytecode_in_the_own_environment_only(choose, one_clone, tmp_path):
    """Images for containers often set PYTHONDONTWRITEBYTECODE; every process would compile torch and transformers again."""
    made = one_clone.run("prepare_environment dev")
    assert made.returncode == 0, made.stderr
    show = f'{choose} >/dev/null; echo "${{PYTHONDONTWRITEBYTECODE-unset}}"'
    assert one_clone.run(show, PYTHONDONTWRITEBYTECODE=1).stdout.strip() == "unset"
    one_clone.make_venv(tmp_path / "other", modules=("senna", "pytest", "ruff", "importlinter", "nuscenes"))
    active = one_clone.run(show, PYTHONDONTWRITEBYTECODE=1, VIRTUAL_ENV=tmp_path / "other")
    assert active.stdout.strip() == "1"


def test_deepspeed_installs_without_nvcc(clone):
    assert clone.run("printenv DS_IGNORE_CUDA_DETECTION").stdout == "1\n"


@pytest.mark.parametrize(
    "crlf", [["quickstart.sh"], ["environment.sh"], ["quickstart.sh", "environment.sh"], []], ids=str
)
@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_a_broken_quickstart_never_succeeds(shell, crlf, tmp_path):
    """Scripts with Windows' line endings, or a stage that fails, with the report of an earlier run in its folder."""
    clone = Clone(tmp_path, shell)
    clone.make_venv()
    for name in crlf:
        file = clone.folder / "scripts" / name
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    (clone.folder / "train_tools").mkdir()
    (clone.folder / "train_tools" / "pretrain_senna_llava.sh").write_text("exit 1\n")
    report = clone.folder / "outputs" / "quickstart" / "evaluation" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("an earlier run")
    environment = {
        **os.environ,
        "PATH": f"{clone.bin}:/usr/bin:/bin",
        "LOG": str(clone.log),
        "PYTHONPATH": str(clone.fake),
    }
    script = clone.folder / "scripts" / "quickstart.sh"
    result = subprocess.run([*shell, script], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode not in (0, None)
    assert "report:" not in result.stdout
