"""A DeepSpeed checkpoint for another number of processes: its optimizer state is found by the names of the weights.

ZeRO partitions the fp32 weights and the moments of the optimizer over the processes. ZeRO-1 and ZeRO-2 flatten all weights of
a parameter group and give each process an equal part of the vector. ZeRO-3 gives each process a part of every weight. Each
process reads, from the mapped files of all earlier processes, the parts that it needs.

The layout was read in DeepSpeed 0.19.8.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.deepspeed import deepspeed_load_checkpoint

from senna.errors import SennaError, UsageError, first_line

_OPTIMIZER_FILE = re.compile(r".*zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt", re.ASCII)


@dataclass(frozen=True)
class Fragment:
    """A range of a flattened weight in the partition of a process.

    Attributes:
        group: the index of the partition among those of the process.
        offset: where the range begins in the partition.
        start: where it begins in the weight.
        length: its number of elements.
    """

    name: str
    rank: int
    group: int
    offset: int
    start: int
    length: int


def flat_fragments(
    sizes: Mapping[str, int], paddings: Sequence[int], group: int, partition: int, ranks: Iterable[int]
) -> Iterator[Fragment]:
    """Yield the fragments of a parameter group of ZeRO-1 or ZeRO-2 in the partitions of ``ranks``.

    Args:
        sizes: the number of elements of each weight, in the order of the flat vector.
        paddings: the number of unused elements behind each weight.
        partition: the number of elements of a partition.
    """
    begin = 0
    for (name, size), padding in zip(sizes.items(), paddings, strict=True):
        for rank in ranks:
            low, high = max(begin, rank * partition), min(begin + size, (rank + 1) * partition)
            if low < high:
                yield Fragment(name, rank, group, low - rank * partition, low - begin, high - low)
        begin += size + padding


def sliced_fragments(sizes: Mapping[str, int], group: int, processes: int, ranks: Iterable[int]) -> Iterator[Fragment]:
    """Yield the fragments of a subgroup of ZeRO-3 in the partitions of ``ranks``."""
    offset = 0
    for name, size in sizes.items():
        part = -(-size // processes)
        for rank in ranks:
            length = min(part, size - rank * part)
            if length > 0:
                yield Fragment(name, rank, group, offset, rank * part, length)
        offset += part


def copy_fragments(
    target: torch.Tensor,
    wanted: Iterable[Fragment],
    sources: Mapping[str, Iterable[Fragment]],
    read: Callable[[Fragment], torch.Tensor],
) -> None:
    """Copy the fragments of a partition from earlier partitions.

    Args:
        target: (length of the partition,).
        sources: the earlier fragments of each weight.
        read: returns the earlier partition that holds a fragment.
    """
    for fragment in wanted:
        for source in sources[fragment.name]:
            low = max(fragment.start, source.start)
            length = min(fragment.start + fragment.length, source.start + source.length) - low
            if length > 0:
                part = read(source)[source.offset + low - source.start :][:length]
                target[fragment.offset + low - fragment.start :][:length].copy_(part)


class Partitions:
    """The partitions of one process, as the ``state_dict`` of DeepSpeed's ZeRO optimizers holds them."""

    def __init__(self, state: dict[str, Any]):
        self.state = state
        self.is_flat = int(state["zero_stage"]) < 3
        self.weights: list[torch.Tensor] = state[
            "single_partition_of_fp32_groups" if self.is_flat else "fp32_flat_groups"
        ]
        self.optimizer: dict[str, Any] = state["base_optimizer_state" if self.is_flat else "optimizer_state_dict"]
        unused = state["group_paddings"] if self.is_flat else [0] * len(self.weights)
        self.lengths = [weights.numel() + count for weights, count in zip(self.weights, unused, strict=True)]
        count = state["partition_count"]
        self.processes: int = max(count) if isinstance(count, list) else count

    def fragments(self, shapes: Sequence[Mapping[str, torch.Size]], ranks: Sequence[int]) -> list[Fragment]:
        """Return the fragments of all weights in the partitions of ``ranks``.

        Args:
            shapes: name -> shape of the weights of each group.
        """
        found: list[Fragment] = []
        paddings = self.state.get("param_alignment_paddings") or [[0] * len(group) for group in shapes]
        for group, names in enumerate(shapes):
            sizes = {name: shape.numel() for name, shape in names.items()}
            if self.is_flat:
                found += flat_fragments(sizes, paddings[group], group, self.lengths[group], ranks)
            else:
                found += sliced_fragments(sizes, group, self.processes, ranks)
        return found

    def moments(self, group: int) -> dict[str, Any]:
        """Return the state of the optimizer for a partition: tensors of its length, and numbers."""
        return self.optimizer["state"].get(group, {})

    def problem(self) -> str | None:
        """Return why the partitions cannot be split for another number of processes; None if they can."""
        for group, length in enumerate(self.lengths):
            for name, value in self.moments(group).items():
                is_number = value.dim() == 0 if isinstance(value, torch.Tensor) else isinstance(value, int | float)
                if not is_number and not (isinstance(value, torch.Tensor) and value.shape == (length,)):
                    return f"its optimizer keeps {name} for blocks of weights, as 8-bit optimizers do"
        return None


class PartitionedCheckpoint:
    """The files of a checkpoint that DeepSpeed has partitioned. Their tensors are mapped, not read."""

    def __init__(self, folder: Path):
        tag = folder / "latest"  # names DeepSpeed's subfolder
        self.folder = folder / tag.read_text(encoding="utf-8").strip() if tag.is_file() else folder
        files = {
            int(match[1]): path for path in self.folder.iterdir() if (match := _OPTIMIZER_FILE.fullmatch(path.name))
        }
        self.files = [files[rank] for rank in sorted(files)]

    @property
    def processes(self) -> int:
        """The number of processes that wrote it; 0 if the optimizer is not partitioned."""
        return len(self.files)

    def partitions(self, rank: int) -> Partitions:
        """Return what a process wrote."""
        return Partitions(_load(self.files[rank])["optimizer_state_dict"])

    def model_state(self) -> dict[str, Any]:
        """Return the weights of ZeRO-1 and ZeRO-2, the shapes of all weights, the scheduler and the numbers of steps."""
        return _load(min(self.folder.glob("*mp_rank_00_model_states.pt")))

    def problem(self, config: Mapping[str, Any]) -> str | None:
        """Return why a run with a DeepSpeed configuration cannot split it for another number of processes; None if it can."""
        if (config.get("zero_optimization", {}).get("offload_optimizer") or {}).get("device") == "nvme":
            return "every process has its own files of the optimizer, which is offloaded to NVMe"
        try:
            first = self.partitions(0)
            if first.processes != self.processes:
                return f"its optimizer is partitioned over {first.processes} of {self.processes} processes"
            return first.problem()
        except Exception as error:  # torch.load raises many kinds for a file with unknown objects
            return f"the files of this version of DeepSpeed are not known ({first_line(error)})"


def _load(path: Path) -> dict[str, Any]:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]):
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def check_processes(checkpoint: Path, config: Mapping[str, Any], processes: int) -> None:
    """Check that a run with a DeepSpeed configuration can continue from a checkpoint on a number of processes.

    Raises:
        UsageError: the checkpoint is partitioned over another number and cannot be split anew.
    """
    saved = PartitionedCheckpoint(checkpoint)
    if saved.processes in (0, processes) or not (problem := saved.problem(config)):
        return
    raise UsageError(
        f"{checkpoint} was written by {saved.processes} processes and cannot be continued by {processes}: {problem}",
        remedy=f"continue on as many as before: NUM_GPUS={saved.processes}",
    )


def load_checkpoint(engine: Any, folder: Path) -> None:
    """Load a checkpoint, of any number of processes, into a DeepSpeed engine. All processes must call it.

    Raises:
        SennaError: the checkpoint holds other weights.
    """
    saved = PartitionedCheckpoint(folder)
    if saved.processes in (0, torch.distributed.get_world_size()):
        deepspeed_load_checkpoint(engine, str(folder), load_module_strict=False)
        return
    model_state = saved.model_state()
    is_zero3 = engine.zero_optimization_stage() == 3
    if is_zero3:
        engine.optimizer.checkpoint_event_prologue()
    state = _own_state(engine, saved, model_state["param_shapes"])
    earlier_ranks = [None] * torch.distributed.get_rank()
    engine.optimizer.load_state_dict([*earlier_ranks, state], load_from_fp32_weights=True)
    if is_zero3:
        engine.optimizer.checkpoint_event_epilogue()
    else:
        with torch.no_grad():
            for name, parameter in engine.module.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(model_state["module"][name])
    for name in ("global_steps", "global_samples", "skipped_steps"):
        setattr(engine, name, model_state[name])
    if engine.lr_scheduler is not None:
        engine.lr_scheduler.load_state_dict(model_state["lr_scheduler"])


def _own_state(engine: Any, saved: PartitionedCheckpoint, shapes: Sequence[Mapping[str, torch.Size]]) -> dict[str, Any]:
    """Return the optimizer state of this process as DeepSpeed would have saved it for this number of processes.

    Args:
        shapes: name -> shape of the weights of each group in the checkpoint.
    """
    earlier = [saved.partitions(rank) for rank in range(saved.processes)]
    own, own_shapes = Partitions(engine.optimizer.state_dict()), engine._get_zero_param_shapes()
    if _merged(shapes) != _merged(own_shapes):
        raise SennaError(
            f"{saved.folder} does not hold the weights that this run trains",
            remedy="continue with the flags of the earlier run, or choose another --output_dir",
        )
    sources, wanted = defaultdict(list), defaultdict(list)
    for fragment in earlier[0].fragments(shapes, range(saved.processes)):
        sources[fragment.name].append(fragment)
    for fragment in own.fragments(own_shapes, [torch.distributed.get_rank()]):
        wanted[fragment.group].append(fragment)
    own.optimizer["state"] = {}
    for group, (weights, length) in enumerate(zip(own.weights, own.lengths, strict=True)):
        copy_fragments(weights.data, wanted[group], sources, lambda part: earlier[part.rank].weights[part.group])
        example = sources[next(iter(own_shapes[group]))][0]
        moments = own.optimizer["state"][group] = dict(earlier[example.rank].moments(example.group))
        for name, value in moments.items():
            if isinstance(value, torch.Tensor) and value.dim():
                moments[name] = torch.zeros(length, dtype=value.dtype, device=weights.device)
                read = lambda part, name=name: earlier[part.rank].moments(part.group)[name]  # noqa: E731
                copy_fragments(moments[name], wanted[group], sources, read)
    groups = zip(earlier[0].optimizer["param_groups"], own.optimizer["param_groups"], strict=True)
    own.optimizer["param_groups"] = [{**before, "params": now["params"]} for before, now in groups]
    scale = {name: earlier[0].state[name] for name in ("loss_scaler", "dynamic_loss_scale", "overflow")}
    return own.state | scale


def _merged(shapes: Sequence[Mapping[str, torch.Size]]) -> dict[str, torch.Size]:
    """Return name -> shape of the weights of all groups."""
    return {name: shape for group in shapes for name, shape in group.items()}
