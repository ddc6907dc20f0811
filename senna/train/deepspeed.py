"""The DeepSpeed configuration of a run, and the environment that DeepSpeed reads when it starts."""

import importlib
import importlib.util
import json
import os
import socket
from pathlib import Path
from typing import Any

import torch
from torch import nn

from senna.errors import UsageError
from senna.ranks import is_launched


def read_deepspeed(config: str | dict | None) -> dict | None:
    """Return a DeepSpeed configuration (a JSON file, a dict or "none") as a dict; None without DeepSpeed.

    Raises:
        UsageError: the file cannot be read or is not JSON; the message names it.
    """
    if not config or config == "none":
        return None
    if isinstance(config, dict):
        return config
    remedy = "give a file such as configs/deepspeed/zero3.json, or none"
    try:
        return json.loads(Path(config).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--deepspeed {config}: cannot be read ({error.strerror})", remedy=remedy) from error
    except json.JSONDecodeError as error:
        raise UsageError(f"--deepspeed {config}: not JSON: {error}", remedy=remedy) from error


def start_deepspeed(config: dict, use_cpu: bool) -> None:
    """Set the environment variables that DeepSpeed reads, and on a CPU switch off what it does not support or compiles there.

    Raises:
        UsageError: DeepSpeed is not installed.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise UsageError(
            "--deepspeed: DeepSpeed is not installed", remedy="pip install -e '.[gpu]', or use --deepspeed none"
        )
    if not is_launched():  # DeepSpeed would look for MPI
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
        config.get("zero_optimization", {})["overlap_comm"] = False  # a CPU has no streams to overlap
        # DeepSpeed would compile its own Adam and reduction for a minute each, and fail where there is no compiler.
        config.setdefault("zero_force_ds_cpu_optimizer", False)
        backend: Any = importlib.import_module("deepspeed.comm.torch")
        backend.build_shm_op = lambda: None


def partition_weights(model: nn.Module, config: dict, dtype: torch.dtype, device: torch.device) -> None:
    """Partition all parameters of a model in main memory for ZeRO-3, in place, and move its buffers to ``device``.

    Only one unpartitioned parameter is on the device at a time. DeepSpeed's engine would move the entire model there first.
    Of a model that is partitioned already it changes neither the dtype nor the device, so that both are set here.

    Args:
        config: the DeepSpeed configuration, with the batch sizes that transformers has filled in.
        dtype: the dtype of the parameters during training.
    """
    import deepspeed

    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    deepspeed.init_distributed()  # otherwise Init would read the configuration as that of a single process
    deepspeed.zero.Init(module=model, config_dict_or_path=config)
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to(device))
