"""What the checks of one run know, and tell each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from senna.doctor.findings import Finding
from senna.doctor.weights import Weights

if TYPE_CHECKING:
    from senna.data import Mixture
    from senna.model import SennaConfig
    from senna.train.arguments import TrainArguments


@dataclass
class RunContext:
    """A run that is to be: what was asked, and what earlier checks have found out for later ones.

    Attributes:
        starts: whether the run follows (`senna train`), or this is `senna doctor`.
        gpus: processes of the whole run.
        here: processes on this machine.
        card: bytes of each card; None where no card is known.
        elsewhere: whether the card is not this machine's (`--gpu-memory`).
        lineage: the model's folder; of a LoRA folder its base too, and so on.
        hub: what is to be said of models that are not on this disk, by name.
        names: of the weights that the model's files hold; None where some cannot be known without reading a pickle.
    """

    args: TrainArguments
    starts: bool
    gpus: int = 1
    here: int = 1
    card: int | None = None
    elsewhere: bool = False
    lineage: list[str] = field(default_factory=list)
    config: SennaConfig | None = None
    hub: dict[str, Finding] = field(default_factory=dict)
    names: set[str] | None = field(default_factory=set)
    records: Mixture | None = None
    start_from: Path | None = None

    def holds(self, weights: Weights) -> None:
        """Note what the files of the model hold."""
        if not weights.complete:
            self.names = None
        elif self.names is not None:
            self.names |= weights.shapes.keys()

    def has(self, part: str) -> bool:
        """Whether the files hold weights of a part ("vision_tower", "mm_projector", "img_adapter"), as far as one knows."""
        return self.names is None or any(f"{part}." in name for name in self.names)
