"""`senna train` that also writes the names of the samples of every step, in the order of the sampler."""

import itertools
import json
from pathlib import Path

from senna.cli import main
from senna.train.trainer import SennaTrainer


def train(words: list[str]) -> int:
    """Run `senna train`. ``words`` are the file for the names, without the rank, and then the words of the command."""
    path, *command = words
    get_batch_samples = SennaTrainer.get_batch_samples

    def record(self, epoch_iterator, num_batches, device):
        batches = list(itertools.islice(epoch_iterator, num_batches))
        entry = {"step": self.state.global_step, "batches": [batch["counts"].samples for batch in batches]}
        with Path(f"{path}-{self.args.process_index}").open("a") as file:
            file.write(json.dumps(entry) + "\n")
        return get_batch_samples(self, iter(batches), num_batches, device)

    SennaTrainer.get_batch_samples = record
    try:
        return main(command)
    finally:
        SennaTrainer.get_batch_samples = get_batch_samples


def samples(path: Path, processes: int) -> dict[int, list[str]]:
    """Return step -> the names of its samples. Of a killed run, the steps that all processes have begun."""
    ranks = []
    for rank in range(processes):
        entries = [json.loads(line) for line in Path(f"{path}-{rank}").read_text().splitlines()]
        ranks.append({entry["step"]: entry["batches"] for entry in entries})
    steps = set.intersection(*map(set, ranks))
    return {
        step: [
            name for batches in zip(*(rank[step] for rank in ranks), strict=True) for names in batches for name in names
        ]
        for step in sorted(steps)
    }
