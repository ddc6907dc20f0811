"""`senna launch`: the commands behind the scripts of train_tools/, data_tools/ and scripts/.

It turns the environment variables of the published scripts into the flags of a command, and starts the command on as many
processes as there are GPUs. Nothing heavy is imported.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from senna.errors import UsageError
from senna.launch import hosts
from senna.launch.devices import allocator_settings, optimizer_threads, visible_devices
from senna.launch.processes import (
    count_processes,
    number_of_gpus,
    replace_process,
    start_command,
    uses_several_processes,
)
from senna.launch.slurm import slurm_environment
from senna.launch.tiny_preset import ENVIRONMENT, Inputs, fill_inputs, number_of_processes
from senna.launch.variables import plain_path, read_port

_PATHS = """MODEL_PATH DATA IMAGE_DATA VISION_TOWER OUT_DIR TRAIN_DATA NUSCENES CANBUS DEEPSPEED_CONFIG""".split()

ROOT = Path(__file__).resolve().parents[2]

USAGE = """usage: senna launch RECIPE [any flag of the command that the recipe starts]

Start a command with inputs from environment variables, on as many processes as there are GPUs. The scripts call it.

recipes:
  pretrain    stage 1: projector and driving vision adapter        (train_tools/pretrain_senna_llava.sh)
  full        stages 2 and 3: all parameters but the vision tower  (train_tools/train_senna_llava.sh)
  lora        stages 2 and 3: LoRA on the LLM                      (train_tools/train_senna_llava_lora.sh)
  qlora       stages 2 and 3: LoRA on a 4-bit LLM                  (train_tools/train_senna_llava_qlora.sh)
  evaluate    metrics and report of a model                        (scripts/eval_meta_action.sh)
  visualize   images and films of a model's answers                (scripts/visualize.sh)
  convert     nuScenes to questions and answers                    (data_tools/senna_nusc_converter.sh)

variables of the training recipes:
  MODEL_PATH, DATA, IMAGE_DATA, VISION_TOWER, OUT_DIR   as in the published scripts
  NUM_GPUS      processes on this machine; default: the GPUs found, CUDA_VISIBLE_DEVICES respected
  HOSTFILE      several machines through pdsh or ssh from the first: a file with one line `NAME slots=GPUS` for each
  NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT   several machines through torchrun; start the script on each of them
  LAUNCHER=slurm   several machines as tasks of srun; the variables of SLURM take the place of NNODES and so on
  DEEPSPEED_CONFIG   a DeepSpeed file; default with several processes: the recipe's own. A single process uses DeepSpeed only
                if this is set (configs/deepspeed/zero3_offload.json: a large model on one card)
  MAX_RESTARTS  times that all processes start again from the newest checkpoint when one of them fails; default 0. On one
                machine; the flag --max_restarts is the same; see --hang_timeout of senna train
  PRESET=tiny   a small run on the CPU; the project's own small models and data replace every input that is not set. Without
                NUM_GPUS, two processes without DeepSpeed where there are two cores, else one

With --print or --help nothing is started or made: on any machine, NUM_GPUS=8 senna launch full --print shows a run on eight
GPUs.
"""


@dataclass(frozen=True)
class Command:
    """A command to start: its words, and the environment variables to change."""

    words: list[str]
    environment: dict[str, str]


@dataclass(frozen=True)
class Recipe:
    """A training recipe: the output folder's suffix, the DeepSpeed file for several processes, and a further config file."""

    suffix: str
    deepspeed: str
    overlay: str | None = None


PRETRAIN = Recipe("", "zero2.json")  # stage 1
DRIVING = {
    "full": Recipe("", "zero3.json"),
    "lora": Recipe("_lora", "zero3.json", "lora.yaml"),
    "qlora": Recipe("_qlora", "zero2.json", "qlora.yaml"),
}
"""Recipes of stages 2 and 3 by name."""

CONFIGS = {1: "stage1_pretrain.yaml", 2: "stage2_driving.yaml", 3: "stage3_planning.yaml"}
"""Stage -> file in configs/."""


def main(argv: list[str]) -> int:
    """Run `senna launch`. Replaces this process by the command that it starts; raises UsageError before that."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] == "hosts":
        return hosts.main(argv[1:])
    command = prepare(argv[0], argv[1:], os.environ)
    replace_process(command.words, command.environment)
    return 0


def prepare(recipe: str, flags: list[str], environment: Mapping[str, str]) -> Command:
    """Return the command that a recipe starts. Raises UsageError if a variable or flag is missing or wrong."""
    if not (ROOT / "configs").is_dir():
        raise UsageError(
            f"senna launch needs the repository, whose configs/ it reads; {ROOT} has none",
            remedy="clone the repository, and run `pip install -e .` or the scripts of train_tools/ in it",
        )
    flags, restarts = _take_restarts(flags)
    environment = {**environment, **restarts}
    environment = {name: plain_path(value) if name in _PATHS else value for name, value in environment.items()}
    if recipe == "pretrain" or recipe in DRIVING:
        environment = _with_machines(environment, flags)
    if recipe == "pretrain":
        return _train(1, PRETRAIN, flags, environment)
    if recipe in DRIVING:
        return _train(_driving_stage(flags), DRIVING[recipe], flags, environment)
    if recipe in OTHERS:
        return OTHERS[recipe](flags, environment)
    known = ", ".join(["pretrain", *DRIVING, *OTHERS])
    raise UsageError(f"unknown recipe {recipe}", remedy=f"use one of {known}")


def _take_restarts(flags: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the flags without --max_restarts N, and its value as the variable MAX_RESTARTS."""
    rest, variables, words = [], {}, iter(flags)
    for word in words:
        name, equals, value = word.partition("=")
        if name.replace("-", "_") == "__max_restarts":
            variables["MAX_RESTARTS"] = value if equals else next(words, "")
        else:
            rest.append(word)
    if variables.get("MAX_RESTARTS") == "":
        raise UsageError("--max_restarts has no value", remedy="give a number: --max_restarts 3")
    return rest, variables


def _with_machines(environment: Mapping[str, str], flags: list[str]) -> Mapping[str, str]:
    """Return the variables with those of SLURM translated. Raises UsageError where HOSTFILE or LAUNCHER cannot be used."""
    launcher = environment.get("LAUNCHER", "")
    if launcher not in ("", "slurm"):
        raise UsageError(f"LAUNCHER={launcher} is unknown", remedy="use LAUNCHER=slurm, or leave LAUNCHER unset")
    if _only_prints(flags):
        return environment
    if environment.get("HOSTFILE"):
        hosts.remote_shell(environment)
        read_port(environment)
        return environment
    return slurm_environment(environment) if launcher else environment


def _driving_stage(flags: list[str]) -> int:
    """Return the stage that the flags ask for, 2 by default."""
    stage = "2"
    for word, following in pairwise([*flags, ""]):
        name, equals, value = word.partition("=")
        if name == "--stage":
            stage = value if equals else following
    if stage not in ("2", "3"):
        raise UsageError(
            f"--stage {stage}: this recipe trains stage 2 or 3",
            remedy="use --stage 2 or --stage 3; train_tools/pretrain_senna_llava.sh trains stage 1",
        )
    return int(stage)


def _only_prints(flags: list[str]) -> bool:
    """Return whether the flags only ask for information, so that no run starts."""
    return not {"--print", "--help", "-h", "--help_all", "--help-all"}.isdisjoint(flags)


def _train(stage: int, recipe: Recipe, flags: list[str], environment: Mapping[str, str]) -> Command:
    """Return the `senna train` command of a stage. Raises UsageError if an input or a GPU is missing."""
    inputs = Inputs(
        model=environment.get("MODEL_PATH") or None,
        data=environment.get("DATA") or None,
        images=environment.get("IMAGE_DATA") or None,
        tower=environment.get("VISION_TOWER") or None,
    )
    only_prints, preset = _only_prints(flags), environment.get("PRESET", "")
    changes: dict[str, str] = {}
    configs = [ROOT / "configs" / CONFIGS[stage]]
    if recipe.overlay:
        configs.append(ROOT / "configs" / recipe.overlay)
    if preset == "tiny":
        changes = {name: environment.get(name) or value for name, value in ENVIRONMENT.items()}
        inputs = fill_inputs(inputs, stage, ROOT, environment, make=not only_prints)
        configs.append(ROOT / "configs" / "presets" / f"tiny_{CONFIGS[stage]}")
        processes = number_of_gpus({"NUM_GPUS": str(number_of_processes()), **environment})
    elif preset:
        raise UsageError(f"PRESET={preset} is unknown", remedy="use PRESET=tiny, or leave PRESET unset")
    else:
        processes = number_of_gpus(environment)
        changes = allocator_settings(environment)
        if processes < 1 and not environment.get("HOSTFILE") and not only_prints:
            raise UsageError(
                "No GPU found",
                remedy="run on a GPU machine (set NUM_GPUS=N if detection fails), or use PRESET=tiny for a small CPU run",
            )
    deepspeed = environment.get("DEEPSPEED_CONFIG") or None
    if not preset or environment.get(
        "NUM_GPUS"
    ):  # the preset's own processes need no DeepSpeed, as the quickstart has none
        deepspeed = _deepspeed_file(recipe, environment, processes)
    changes |= optimizer_threads({**environment, **changes}, processes, deepspeed)
    arguments = ["train", "--config", str(configs[0])]
    arguments += ["--output_dir", environment.get("OUT_DIR") or str(ROOT / "outputs" / f"stage{stage}{recipe.suffix}")]
    given = {
        "--model_name_or_path": inputs.model,
        "--data_path": inputs.data,
        "--image_folder": inputs.images,
        "--vision_tower": inputs.tower,
        "--deepspeed": deepspeed,
        "--mm_adapter_tokens": inputs.adapter_tokens,
        "--eval_data_path": inputs.held_out,
    }
    arguments += [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    arguments += [word for config in configs[1:] for word in ("--config", str(config))]
    arguments += flags  # last, so that they win
    if only_prints:
        if "--print" in flags and not any(flag.startswith("--processes") for flag in flags):
            arguments += ["--processes", str(count_processes(environment, max(processes, 1)))]
        return Command(start_command(arguments, {}, 1), changes)
    for name, value, meaning in (
        ("MODEL_PATH", inputs.model, "the model to start from: a folder or a hub name"),
        ("DATA", inputs.data, "the records to train on: a JSON or JSON Lines file"),
    ):
        if value is None:
            raise UsageError(f"{name} is not set", remedy=f"set {name} to {meaning}")
    changes |= visible_devices(environment, processes)
    return Command(start_command(arguments, environment, processes), changes)


def _deepspeed_file(recipe: Recipe, environment: Mapping[str, str], processes: int) -> str | None:
    """Return DEEPSPEED_CONFIG, else the recipe's file if there are several processes, else None."""
    chosen = environment.get("DEEPSPEED_CONFIG")
    if chosen or uses_several_processes(environment, processes):
        return chosen or str(ROOT / "configs" / "deepspeed" / recipe.deepspeed)
    return None


def _required(environment: Mapping[str, str], name: str, meaning: str) -> str:
    """Return a variable that must be set. Raises UsageError if it is not."""
    if not environment.get(name):
        raise UsageError(f"{name} is not set", remedy=f"set {name} to {meaning}")
    return environment[name]


def _optional(environment: Mapping[str, str], names: Mapping[str, str]) -> list[str]:
    """Return the flags whose variables are set, with their values; ``names`` maps a flag to its variable."""
    return [word for flag, name in names.items() if environment.get(name) for word in (flag, environment[name])]


def _evaluate(flags: list[str], environment: Mapping[str, str]) -> Command:
    arguments = [
        "evaluate",
        *("--model", _required(environment, "MODEL_PATH", "a model folder, a LoRA folder or a hub name")),
        *("--data", _required(environment, "DATA", "the records to evaluate on, for example senna_nusc_val.jsonl")),
        *("--out", environment.get("OUT_DIR") or str(ROOT / "outputs" / "evaluation")),
        *_optional(environment, {"--image-folder": "IMAGE_DATA", "--train-data": "TRAIN_DATA"}),
        *flags,
    ]
    one_machine = {
        name: value for name, value in environment.items() if name not in ("HOSTFILE", "NNODES", "MAX_RESTARTS")
    }
    processes = number_of_gpus(environment)
    return Command(start_command(arguments, one_machine, processes), visible_devices(one_machine, processes))


def _visualize(flags: list[str], environment: Mapping[str, str]) -> Command:
    arguments = [
        "visualize",
        *("--data", _required(environment, "DATA", "the records to show: a JSON or JSON Lines file")),
        *("--out", environment.get("OUT_DIR") or str(ROOT / "outputs" / "pictures")),
        *_optional(environment, {"--model": "MODEL_PATH", "--image-folder": "IMAGE_DATA"}),
        *flags,
    ]
    return Command(start_command(arguments, {}, 1), {})


def _convert(flags: list[str], environment: Mapping[str, str]) -> Command:
    arguments = [
        "convert",
        *("--nuscenes", _required(environment, "NUSCENES", "the nuScenes folder, with samples/ and v1.0-trainval/")),
        *("--version", environment.get("VERSION") or "v1.0-trainval"),
        *("--out", environment.get("OUT_DIR") or str(ROOT / "outputs" / "nuscenes_qa")),
        *_optional(environment, {"--canbus": "CANBUS"}),
        *flags,
    ]
    return Command(start_command(arguments, {}, 1), {})


OTHERS: dict[str, Callable[[list[str], Mapping[str, str]], Command]] = {
    "evaluate": _evaluate,
    "visualize": _visualize,
    "convert": _convert,
}
