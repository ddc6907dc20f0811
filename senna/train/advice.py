"""The text at the end of a run about its time: the shares, and for a large one the flags that would change it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from senna.cgroup import available_cores
from senna.ranks import read_ranks
from senna.train.step_times import PHASES, TIME_KEYS

if TYPE_CHECKING:
    from senna.train.arguments import TrainArguments

MOST_WORKERS = 16
FEWEST_STEPS = 10
"""Steps below which a run gets no advice: most of its time is that of the first step."""


@dataclass(frozen=True)
class Rule:
    """Advice on a quantity.

    Attributes:
        quantity: a key of the figures.
        threshold: the share above which it is given.
        text: what happened; ``{share}`` and ``{device}`` are filled in.
        remedies: returns flags that this run does not have yet; without any, there is no advice.
    """

    quantity: str
    threshold: float
    text: str
    remedies: Callable[["TrainArguments"], list[str]]


def _more_data(args: "TrainArguments") -> list[str]:
    now, cores = args.dataloader_num_workers, max(available_cores() // read_ranks().local_world_size, 1)
    workers = min(max(2 * now, 4), cores, MOST_WORKERS)
    found = [f"--dataloader_num_workers {workers}"] if workers > now else []
    return [*found, *(["--image_decode fast"] if args.image_decode == "exact" else []), "a faster disk for the images"]


def _less_communication(args: "TrainArguments") -> list[str]:
    found = []
    if args.zero_stage == 3:
        found.append("--deepspeed configs/deepspeed/zero2.json, if the model fits")
    if (
        args.zero_stage and (args.gradient_accumulation_steps or 1) > 1
    ):  # ZeRO reduces the gradients of each micro-batch
        found.append(f"--per_device_train_batch_size {2 * args.per_device_train_batch_size}, if it fits")
    else:
        found.append(_larger_batch(args))
    return found


def _cheaper_optimizer(args: "TrainArguments") -> list[str]:
    config = args.deepspeed if isinstance(args.deepspeed, dict) else {}
    if config.get("zero_optimization", {}).get("offload_optimizer", {}).get("device", "none") != "none":
        return ["a DeepSpeed configuration without offload_optimizer, if the model fits", _larger_batch(args)]
    return [_larger_batch(args)]


def _larger_batch(args: "TrainArguments") -> str:
    return f"--global_batch_size {2 * (args.global_batch_size or 1)}, with a learning rate up to 1.4 times higher"


def _less_validation(args: "TrainArguments") -> list[str]:
    rarer = [f"--eval_steps {2 * (args.eval_steps or args.save_steps):g}"] if args.eval_strategy != "epoch" else []
    return [*rarer, "a lower --eval_limit" if args.eval_limit else "--eval_limit N"]


def _less_padding(args: "TrainArguments") -> list[str]:
    if args.pack_frames:
        return []
    if args.version != "plain" and args.stage != 3:  # captions and plans share no images
        return ["--pack_frames True"]
    return [] if args.group_by_modality_length else ["--group_by_modality_length True"]


def _less_logging(args: "TrainArguments") -> list[str]:
    return ["--logging_steps 10"] if args.logging_steps == 1 else []


RULES = (
    Rule("data", 0.1, "the {device} waited {share} of the time for images", _more_data),
    Rule("communication", 0.2, "the {device} waited {share} of the time for other processes", _less_communication),
    Rule("optimizer", 0.3, "the optimizer took {share} of the time", _cheaper_optimizer),
    Rule("padding", 0.2, "{share} of the positions were padding", _less_padding),
    Rule("validation", 0.1, "validation took {share} of the run", _less_validation),
    Rule("saving", 0.1, "saving took {share} of the run", lambda args: [f"--save_steps {2 * args.save_steps:g}"]),
    Rule("other", 0.2, "logging and other work between the steps took {share} of the time", _less_logging),
)


def advise(args: "TrainArguments", figures: Mapping[str, float]) -> list[str]:
    """Return a line for each share that is above the threshold of its rule, the largest first.

    Args:
        figures: shares by name: those of `senna.train.step_times.PHASES`, "padding", "validation" and "saving".
    """
    device = "run" if args.use_cpu else "GPU"
    large = [rule for rule in RULES if figures.get(rule.quantity, 0.0) > rule.threshold]
    lines = []
    for rule in sorted(large, key=lambda rule: -figures[rule.quantity]):
        if remedies := rule.remedies(args):
            text = rule.text.format(share=f"{figures[rule.quantity]:.0%}", device=device)
            lines.append(f"{text}: {', or '.join(remedies)}")
    return lines


def run_figures(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return figures of a run from its log history, the entries weighted with their seconds; empty for a log without times.

    Returns:
        The share of each of `PHASES` in the time of the steps, "padding" and "mfu" if they are in the log, the shares of
        "validation" and "saving" in the time of the run, and "seconds", the time of the steps.
    """
    entries = [entry for entry in history if "step_seconds" in entry]
    seconds = sum(entry["step_seconds"] for entry in entries)
    if not seconds:
        return {}
    names = {**TIME_KEYS, "padding": "padding", "mfu": "mfu"}
    figures = {"seconds": seconds}
    for name, key in names.items():
        known = [entry for entry in entries if key in entry]
        if known:
            weight = sum(entry["step_seconds"] for entry in known)
            figures[name] = sum(entry[key] * entry["step_seconds"] for entry in known) / weight
    pauses = {"validation": "eval_seconds", "saving": "save_seconds"}
    paused = {name: sum(entry.get(key, 0.0) for entry in history) for name, key in pauses.items()}
    total = seconds + sum(paused.values())
    return figures | {name: time / total for name, time in paused.items()}


def time_lines(args: "TrainArguments", history: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the shares of a run's time, the largest first, and advice on those that are too large."""
    figures = run_figures(history)
    if not figures:
        return []
    phases = sorted((phase for phase in PHASES if figures[phase] >= 0.005), key=lambda phase: -figures[phase])
    text = ", ".join(f"{PHASES[phase]} {figures[phase]:.0%}" for phase in phases)
    mfu = f"; MFU {figures['mfu']:.1%}" if "mfu" in figures else ""
    advice = advise(args, figures) if max(entry["step"] for entry in history) >= FEWEST_STEPS else []
    return [f"time     {text}{mfu}", *(f"advice   {line}" for line in advice)]
