"""Shell scripts, run as users run them."""

import os
import shutil
import subprocess
import sys

from tests.helpers.paths import REPOSITORY

SHELLS = [shell for shell in (["dash"], ["busybox", "sh"], ["bash"]) if shutil.which(shell[0])] or [["sh"]]
"""The shells that are installed here, each as the beginning of a command."""

TOOLS = REPOSITORY / "train_tools"
PRETRAIN = TOOLS / "pretrain_senna_llava.sh"
VARIABLES = {"MODEL_PATH", "DATA", "IMAGE_DATA", "VISION_TOWER", "OUT_DIR", "PRESET", "NUM_GPUS", "HOSTFILE", "NNODES",
             "DEEPSPEED_CONFIG", "MAX_RESTARTS"}  # fmt: skip


def sh(script, *flags, cwd, shell=("sh",), **environment):
    """Run a script with none of its variables set but the given ones."""
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    clean |= {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    clean |= {name: str(value) for name, value in environment.items()}
    return subprocess.run([*shell, script, *flags], capture_output=True, text=True, cwd=cwd, env=clean)
