"""scripts/download_assets.sh against a hub on loopback."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers.paths import REPOSITORY
from tests.helpers.scripts import SHELLS

STAMP = 'echo "$1 $(cat "$2/pyproject.toml" "$2/constraints.txt" | cksum)"'


@pytest.fixture
def checkout(tmp_path):
    """Return a checkout with an installed environment, whose interpreter is that of this test."""
    root = tmp_path / "a checkout"
    shutil.copytree(REPOSITORY / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, root)
    interpreter = root / ".venv" / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    stamp = subprocess.run(["sh", "-c", STAMP, "sh", "", str(root)], capture_output=True, text=True, check=True).stdout
    (root / ".venv" / ".senna-installed").write_text(stamp)
    return root


def test_the_printed_lines_can_be_evaluated_by_a_shell(hub, checkout, tmp_path, subprocess_environment):
    environment = subprocess_environment | {"HF_ENDPOINT": hub.endpoint}
    download = '"$(sh "$1/scripts/download_assets.sh" --preset 7b pretrain-data)"'
    use = f'eval {download}; ls -d "$VISION_TOWER"; ls "$MODEL_PATH" "$IMAGE_DATA"'
    command = ["sh", "-euc", use, "sh", str(checkout)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == str(checkout / "outputs" / "assets" / "clip-vit-large-patch14-336")
    assert {"tokenizer.model", "00000", "00003"} <= set(done.stdout.splitlines())


def test_the_exit_code_is_that_of_the_command(hub, checkout):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OUT_DIR": "/nowhere"}
    script = str(checkout / "scripts" / "download_assets.sh")
    done = subprocess.run(["sh", script, "--preset", "13b"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--preset 13b is unknown" in done.stderr
    assert done.stdout.splitlines()[-1] == "false"


def test_the_printed_lines_clear_the_variables_where_the_environment_cannot_be_made(checkout):
    """`senna download` does not run then."""
    command = [str(checkout / "scripts" / "download_assets.sh"), "--preset", "7b"]
    for shell in SHELLS:
        use = 'MODEL_PATH=old; eval "$("$@")" && echo evaluated; echo "[${MODEL_PATH-}]"'
        environment = os.environ | {"SENNA_TORCH": "gpu"}
        done = subprocess.run(
            [*shell, "-c", use, "sh", *shell, *command], env=environment, capture_output=True, text=True
        )
        assert "SENNA_TORCH=gpu is unknown" in done.stderr
        assert done.stdout == "[]\n"
