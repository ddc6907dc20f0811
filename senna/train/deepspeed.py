"""A run's DeepSpeed configuration, and the environment in which DeepSpeed starts."""

import importlib.util
import json
import os
import socket
from pathlib import Path

from senna.errors import UsageError


def read_deepspeed(config: str | dict | None) -> dict | None:
    """A DeepSpeed configuration (JSON file, dict, or "none") as a dict. Raises UsageError that names the file."""
    if not config or config == "none":
        return None
    if isinstance(config, dict):
        return config
    try:
        return json.loads(Path(config).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--deepspeed {config}: cannot be read ({error.strerror})") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"--deepspeed {config}: not JSON: {error}") from error


def start_deepspeed(config: dict, use_cpu: bool) -> None:
    """Set the environment that DeepSpeed reads, and what it must not do on a CPU."""
    if importlib.util.find_spec("deepspeed") is None:
        raise UsageError("--deepspeed: DeepSpeed is not installed: pip install -e '.[gpu]', or --deepspeed none")
    if "LOCAL_RANK" not in os.environ:  # started by no launcher: without these DeepSpeed would look for MPI
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        os.environ |= {
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
    if use_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        config.get("zero_optimization", {})["overlap_comm"] = False  # a CPU has no stream to overlap on
