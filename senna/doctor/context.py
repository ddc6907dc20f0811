"""The run that is checked, and the facts that earlier checks pass on to later ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from senna.doctor.findings import Finding
from senna.doctor.weights import Weights

if TYPE_CHECKING:
    from senna.data import Mixture
    from senna.model import SennaConfig
    from senna.model.source import ModelSource
    from senna.train.arguments import TrainArguments


@dataclass
class RunContext:
    """A run that has not been started, and the results of the checks so far.

    Attributes:
        args: the arguments of `senna train`.
        is_preflight: True if the run follows (`senna train`), False for `senna doctor`.
        num_processes: number of processes of the run, one per GPU.
        local_processes: number of processes on this machine.
        gpu_bytes: memory of each GPU; None if no GPU is known.
        is_remote_gpu: True if the GPU is in another machine (`--gpu-memory`).
        source: the model, resolved on this disk; None if no model is named or if its base is missing.
        config: the configuration of the model; None until it could be read.
        hub_findings: the findings about models that are not on this disk, by hub name.
        weight_names: names of the weights in the model's files; None if some cannot be known without opening a pickle.
        records: the records of the run; None until they could be read.
    """

    args: TrainArguments
    is_preflight: bool
    num_processes: int = 1
    local_processes: int = 1
    gpu_bytes: int | None = None
    is_remote_gpu: bool = False
    source: ModelSource | None = None
    config: SennaConfig | None = None
    hub_findings: dict[str, Finding] = field(default_factory=dict)
    weight_names: set[str] | None = field(default_factory=set)
    records: Mixture | None = None

    def add_weights(self, weights: Weights) -> None:
        """Add the names of the weights in one of the model's folders."""
        if not weights.complete:
            self.weight_names = None
        elif self.weight_names is not None:
            self.weight_names |= weights.shapes.keys()

    def may_have(self, part: str) -> bool:
        """Return False if the files certainly hold no weights of a part ("vision_tower", "mm_projector", "img_adapter")."""
        return self.weight_names is None or any(f"{part}." in name for name in self.weight_names)
