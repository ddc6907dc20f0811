"""A run that is killed many times on alternating numbers of processes, and one that is not: `python -m tests.train.kills`.

The moments are drawn from a seed and printed: most at random, one inside a save, one inside a validation, one SIGTERM. The run
is a full or LoRA training of the toy model in stage 2, with validation.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from senna.cli import main as senna
from senna.files import SAVING
from senna.model.loading import open_model
from senna.train.checkpoint import checkpoints
from senna.train.trainer import SennaTrainer
from tests.helpers.forks import Run
from tests.helpers.paths import ZERO2, ZERO3
from tests.helpers.toy import Toy, driving_records, losses, make_toy

WAYS = {
    "full": {},
    "lora": {"how": "lora"},
    "lora-zero2": {"how": "lora", "deepspeed": ZERO2},
    "full-zero3": {"deepspeed": ZERO3},
}
TOLERANCE = 1e-4
"""The limit of |difference| / |weights| of a tensor of the final model, where the sums of two processes round differently."""


def train(words: list[str]) -> int:
    """Run `senna train`, which also prints when a validation begins and ends."""
    evaluate = SennaTrainer.evaluate

    def announce(self, *arguments, **options):
        print("validation begins", flush=True)
        figures = evaluate(self, *arguments, **options)
        print("validation ends", flush=True)
        return figures

    SennaTrainer.evaluate = announce
    return senna(words)


class Killed:
    """A run that is killed and started again."""

    def __init__(self, toy: Toy, out: Path, flags: list[str], chance: random.Random):
        self.toy, self.out, self.flags, self.chance = toy, out, flags, chance

    def start(self, processes: int) -> Run:
        return Run(train, ["train", *self.flags], self.toy.folder, processes)

    def newest(self) -> int:
        """Return the step of the newest checkpoint."""
        return max((int(path.name.split("-")[1]) for path in checkpoints(self.out)), default=0)

    def at_random(self, processes: int) -> str:
        """Kill at most three steps after the newest checkpoint, at any moment of a step."""
        step, pause = self.newest() + self.chance.randint(1, 3), self.chance.uniform(0, 0.1)
        run = self.start(processes)
        _wait(run, f"step {step}/")
        time.sleep(pause)
        _kill(run)
        return f"kill -9 {pause:.3f} s after step {step}"

    def in_a_save(self, processes: int) -> str:
        attempt = 0
        while attempt == 0 or not (self.out / SAVING).exists():
            attempt += 1
            shutil.rmtree(self.out / SAVING, ignore_errors=True)  # of an earlier kill
            run = self.start(processes)
            while run.poll() is None and not list((self.out / SAVING).glob("checkpoint-*")):
                time.sleep(0.0002)
            _kill(run)
        return f"kill -9 inside a save (attempt {attempt})"

    def in_a_validation(self, processes: int) -> str:
        attempt, printed = 0, "validation ends"
        while "validation ends" in printed:
            attempt += 1
            run = self.start(processes)
            _wait(run, "validation begins")
            printed = _kill(run)
        return f"kill -9 inside a validation (attempt {attempt})"

    def by_sigterm(self, processes: int) -> str:
        step = self.newest() + self.chance.randint(1, 3)
        run = self.start(processes)
        _wait(run, f"step {step}/")
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate()
        if run.returncode != 128 + signal.SIGTERM:
            raise SystemExit(f"SIGTERM: exit code {run.returncode}\n{errors}")
        return f"SIGTERM after step {step}: checkpoint-{self.newest()}"


def _wait(run: Run, text: str) -> None:
    for line in run.stdout:
        if line.startswith(text):
            return


def _kill(run: Run) -> str:
    printed, errors = run.kill()
    if run.returncode != -signal.SIGKILL:
        raise SystemExit(f"a run ended with exit code {run.returncode} before it was killed\n{errors}")
    return printed


def survive(toy: Toy, model: Path, folder: Path, kills: int, seed: int, way: str = "full") -> Iterator[str]:
    """Kill a run, let it end, compare it with a run that was not killed, and yield a line for each.

    Args:
        model: the model of stage 1 from which both runs start.
        kills: the number of kills, at least four.
        way: one of `WAYS`. The run that is not killed has one process and no DeepSpeed.

    Raises:
        SystemExit: a weight differs by more than `TOLERANCE`, or a run failed.
    """
    held_out = folder / "held_out.jsonl"
    records = [{**record, "scene_token": "held-out"} for record in driving_records(8)]
    held_out.write_text("".join(json.dumps(record) + "\n" for record in records))
    options = {
        "global_batch_size": 4, "gradient_accumulation_steps": None, "per_device_train_batch_size": 1, "pack_frames": False,
        "max_steps": 3 * kills + 5, "num_train_epochs": 99, "save_steps": 2, "eval_data_path": held_out, "eval_steps": 5,
    }  # fmt: skip
    whole, out = folder / "whole", folder / "killed"
    code = Run(
        train, ["train", *toy.driving_flags(whole, model, **{**options, **WAYS[way], "deepspeed": None})], toy.folder
    )
    result = code.result()
    if result.returncode:
        raise SystemExit(result.stderr)
    chance = random.Random(seed)
    killed = Killed(toy, out, toy.driving_flags(out, model, **options, **WAYS[way]), chance)
    special = [killed.in_a_save, killed.in_a_validation, killed.by_sigterm]
    ways = [killed.at_random, *chance.sample([*special, *[killed.at_random] * (kills - 4)], kills - 1)]
    for number, kill in enumerate(ways, 1):
        processes = 1 + number % 2
        yield f"{number:>3}  {processes} process{'es' * (processes > 1):<2}  {kill(processes)}"
    processes = 1 + (kills + 1) % 2
    result = killed.start(processes).result()
    if result.returncode:
        raise SystemExit(result.stderr)
    yield f"end  {processes} process{'es' * (processes > 1):<2}  {len(losses(out))} steps"
    found, expected = dict(losses(out)), dict(losses(whole))
    if found.keys() != expected.keys():
        raise SystemExit(f"the log has {len(found)} steps instead of {len(expected)}")
    loss = max(abs(found[step] - expected[step]) / expected[step] for step in expected)
    yield f"largest relative difference of a loss: {loss:.1e}"
    before, after = (open_model(str(path), dtype=torch.float32)[0].state_dict() for path in (whole, out))
    differences = {name: float((after[name] - before[name]).norm() / before[name].norm()) for name in before}
    name = max(differences, key=lambda name: differences[name])
    yield f"largest relative difference of a weight: {differences[name]:.1e} ({name}); limit {TOLERANCE}"
    if not differences[name] <= TOLERANCE:
        raise SystemExit("the final weights differ")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.train.kills", description="Kill a run many times.")
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--way", choices=WAYS, default="full", help="what to train, and how (default: full)")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "toy").mkdir()
        make_toy(folder / "toy")
        toy = Toy(folder / "toy")
        result = toy.start(folder / "stage1").result()
        if result.returncode:
            raise SystemExit(result.stderr)
        print(f"{parsed.kills} kills of a run ({parsed.way}), seed {parsed.seed}", flush=True)
        for line in survive(toy, folder / "stage1", folder, parsed.kills, parsed.seed, parsed.way):
            print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
