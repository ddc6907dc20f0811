"""Which flags of `senna evaluate` are for a server, and which for a model on this machine."""

from dataclasses import fields
from typing import Any

from senna.errors import UsageError
from senna.ranks import read_ranks

_LOCAL_FLAGS = (
    "model", "base", "quantization", "dtype", "device", "pack_attention", "workers", "batch_size", "aspect_ratio",
    "image_decode", "trajectory_tries",
)  # fmt: skip
_SERVER_FLAGS = ("served_model", "concurrency", "prompts")


def check_flags(args: Any) -> None:
    """Raise UsageError if flags of `senna evaluate` do not fit together: some are for a server, some for a local model.

    Args:
        args: the dataclass of the flags.
    """
    if not args.server and not args.model:
        raise UsageError("--model or --server is missing", remedy="name a model, or the address of a server")
    for item in fields(args):
        if item.name in (_LOCAL_FLAGS if args.server else _SERVER_FLAGS) and getattr(args, item.name) != item.default:
            name = f"--{item.name.replace('_', '-')}"
            if args.server:
                raise UsageError(
                    f"{name} does not fit --server", remedy="leave it out: it is for a model on this machine"
                )
            raise UsageError(f"{name} needs --server", remedy="give the address of a server, or leave it out")
    if args.server and read_ranks().world_size > 1:
        raise UsageError("--server takes a single process", remedy="start it without a launcher; raise --concurrency")
