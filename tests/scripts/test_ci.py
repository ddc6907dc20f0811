"""The commands of CI: tests with the tested versions, the slow ones, the oldest supported versions, and vLLM."""

import re
import shutil
import subprocess

import pytest

from tests.helpers.paths import REPOSITORY

PIN = re.compile(r"^([\w-]+)==([\w.]+)$", re.M)


SCRIPTS = ("test.sh", "test_slow.sh", "test_oldest.sh", "test_serve.sh")


@pytest.mark.parametrize("codes", [(0, 0, 0, 0), (0, 5, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (1, 1, 1, 1)])
def test_ci_runs_all_commands_and_fails_if_any_fails(tmp_path, codes):
    for name in (".ci", "scripts", "bin"):
        (tmp_path / name).mkdir()
    shutil.copy(REPOSITORY / ".ci" / "run", tmp_path / ".ci")
    for name, code in zip(SCRIPTS, codes, strict=True):
        (tmp_path / "scripts" / name).write_text(
            f"echo {name} $* >>calls; [ $# = 0 ] || exit 1; echo ran {name}; exit {code}\n"
        )
    for name in ("chromium", "busybox"):
        (tmp_path / "bin" / name).touch(mode=0o755)
    done = subprocess.run(
        ["bash", ".ci/run"], cwd=tmp_path, env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [f"ran {name}" for name in SCRIPTS]
    assert (done.returncode == 0) == (not any(codes))
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call for call in calls if " -" in call] == [
        "test_serve.sh --environment-only",
        "test_oldest.sh --environment-only",
    ]
    assert calls.index("test_oldest.sh --environment-only") < calls.index("test_slow.sh")


def test_no_transformers_newer_than_the_tested_one_is_supported():
    bound = re.search(r'"transformers>=[\d.]+,<(\d+)\.(\d+)"', (REPOSITORY / "pyproject.toml").read_text())
    newest = re.search(r"^transformers==(\d+)\.(\d+)", (REPOSITORY / "constraints.txt").read_text(), re.M)
    assert (bound[1], int(bound[2])) == (newest[1], int(newest[2]) + 1)


def test_the_lower_bounds_are_the_oldest_versions_that_are_tested():
    pins = dict(PIN.findall((REPOSITORY / "constraints-oldest.txt").read_text()))
    assert pins.keys() >= {"transformers", "peft", "accelerate", "huggingface_hub", "tokenizers"}
    bounds = re.findall(r'"([\w-]+)>=([\w.]+)', (REPOSITORY / "pyproject.toml").read_text())
    for name, version in pins.items():
        stated = [bound for package, bound in bounds if package == name]
        assert stated, name
        for bound in stated:
            assert version == bound or version.startswith(f"{bound}."), name
