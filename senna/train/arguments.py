"""One dataclass is the training command: its fields are the flags, the YAML keys and the help."""

import argparse
import difflib
import importlib.util
import json
import os
import socket
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from senna.data.mixture import parse_data_path
from senna.errors import UsageError

PUBLISHED_NAMES = {"evaluation_strategy": "eval_strategy", "warmup_ratio": "warmup_steps"}
"""Flags of the published scripts that transformers has renamed since; the old names go on working."""


def option(default, help: str):
    """A dataclass field with its help text."""
    return field(default=default, metadata={"help": help})


def prepare_deepspeed(config: str | dict | None, use_cpu: bool) -> dict | None:
    """A DeepSpeed configuration (JSON file, dict, or "none") as a dict, and the environment that DeepSpeed reads."""
    if not config or config == "none":
        return None
    if isinstance(config, str):
        try:
            config = json.loads(Path(config).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"--deepspeed {config}: cannot be read ({error.strerror})") from error
        except json.JSONDecodeError as error:
            raise UsageError(f"--deepspeed {config}: not JSON: {error}") from error
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
    return config


@dataclass
class TrainArguments(TrainingArguments):
    """Flags of the published training script under their published names, beside all of transformers' TrainingArguments."""

    # What is trained, and on what
    model_name_or_path: str | None = option(
        None,
        "the LLM (a Llama: folder or hub name), or a checkpoint: of any stage, published Senna, LLaVA-1.5, a LoRA folder",
    )
    model_base: str | None = option(None, "the base of a LoRA folder that is given as the model, where it has moved")
    vision_tower: str | None = option(None, "the CLIP vision tower: folder or hub name; default: the checkpoint's own")
    data_path: str | None = option(
        None, "records: a JSON list or JSON Lines; several with how often an epoch takes each: a.json:1.0,b.jsonl:0.5"
    )
    stage: int | None = option(
        None, "records to train on: 2 every driving question but the plan, 3 the plan alone; default: all"
    )
    image_folder: str | None = option(
        None, "where the records' image paths start; default, and for images not there: the data file's folder"
    )
    version: Literal["plain", "v1"] = option("v1", "prompt format: plain (captions) or v1 (questions and answers)")
    image_aspect_ratio: Literal["pad", "square"] = option(
        "pad", "pad to a square, or the processor's plain resize and crop"
    )
    image_decode: Literal["exact", "fast"] = option(
        "exact", "exact: the published pixels; fast: twice as fast, at most one grey level off in few pixels"
    )
    model_max_length: int = option(2048, "tokens a sample, view tokens included; longer ones are cut")
    group_by_modality_length: bool = option(False, "batches of like length, text-only samples by themselves")
    pack_frames: bool = option(
        False,
        "encode what a frame's questions share (images, text before them) once: the same gradient, several times faster",
    )
    pack_max_tokens: int = option(4096, "tokens of a packed row; a frame with more is split, small frames share a row")
    loss_weight: Literal["token", "record"] = option(
        "token",
        "what counts equally in the loss: each answer's tokens, as published, or each record whatever its length",
    )
    skip_bad_samples: int = option(0, "unusable samples to leave out before the run stops; each is logged")
    lazy_preprocess: bool = option(True, "kept for the published scripts: data is always read when it is needed")
    is_multimodal: bool = option(True, "kept for the published scripts: the model always sees images")

    # The model
    mm_projector_type: str = option("mlp2x_gelu", "the projector; the only one Senna has")
    mm_vision_select_layer: int | None = option(
        None, "tower layer whose features are used; default -2, or the checkpoint's"
    )
    mm_adapter_tokens: int | None = option(None, "tokens a view becomes, for a new adapter; default 128")
    mm_use_im_start_end: bool = option(False, "kept for the published scripts: no image start and end tokens")
    mm_use_im_patch_token: bool = option(False, "kept for the published scripts: no patch token")
    attn_implementation: Literal["sdpa", "flash_attention_2", "eager"] = option(
        "sdpa", "attention of the tower, and of the LLM where it is not packed"
    )
    pack_attention: Literal["auto", "split", "dense", "flex"] = option(
        "auto",
        "attention of packed rows: split (CPU), flex (CUDA), dense (any device; slow: the reference); auto chooses",
    )

    # Which parts train
    tune_mm_mlp_adapter: bool = option(False, "stage 1: train the projector and the driving vision adapter only")
    freeze_mm_mlp_adapter: bool = option(False, "keep the projector as it is")
    freeze_img_adapter: bool = option(False, "keep the driving vision adapter as it is")
    freeze_backbone: bool = option(False, "keep the LLM as it is")
    init_weight_img_adapter: bool = option(False, "start the driving vision adapter anew: normal(0, 0.01), zero bias")
    mm_projector_lr: float | None = option(None, "learning rate of projector and adapter; default: learning_rate")
    lora_enable: bool = option(False, "train LoRA on every Linear of the LLM but lm_head, beside projector and adapter")
    lora_r: int = option(128, "rank of LoRA")
    lora_alpha: int = option(256, "LoRA is scaled by lora_alpha / lora_r")
    lora_dropout: float = option(0.05, "dropout before LoRA")
    lora_bias: str = option("none", "kept for the published scripts: LoRA trains no bias (a Llama has none)")
    bits: int = option(16, "the LLM's frozen weights under LoRA: 16 (as --bf16 says), 8 (int8) or 4 (nf4: QLoRA)")
    quant_type: str = option("nf4", "kept for the published scripts: 4 bits are nf4")
    double_quant: bool = option(True, "kept for the published scripts: the scales of nf4 are quantised too")

    # transformers' own fields with the defaults of this repository
    output_dir: str = option("outputs/run", "folder of checkpoints, logs and the final model")
    lr_scheduler_type: str = option("cosine", "learning rate schedule")
    warmup_steps: float = option(0.03, "warm-up: a share of all steps if below 1, else steps (published: warmup_ratio)")
    gradient_checkpointing: bool | None = option(
        None, "recompute activations in the backward pass: less memory, slower"
    )
    logging_steps: float = option(1, "steps between two log lines")
    save_steps: float = option(200, "steps between two checkpoints")
    save_total_limit: int | None = option(1, "checkpoints kept")
    report_to: str = option("tensorboard", "where metrics go: none, tensorboard, wandb, ...")
    remove_unused_columns: bool = option(False, "must stay False: the collator needs every column")
    logging_nan_inf_filter: bool = option(False, "must stay False: a loss that is not finite stops the run")

    def __post_init__(self):
        for name, only in {"mm_use_im_start_end": False, "mm_use_im_patch_token": False, "lazy_preprocess": True,
                           "is_multimodal": True, "remove_unused_columns": False, "logging_nan_inf_filter": False,
                           "mm_projector_type": "mlp2x_gelu", "lora_bias": "none", "quant_type": "nf4",
                           "double_quant": True}.items():  # fmt: skip
            if getattr(self, name) != only:
                raise ValueError(f"--{name} {getattr(self, name)}: only {only} is supported")
        for name, known in {"stage": (None, 1, 2, 3), "bits": (16, 8, 4)}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"--{name} {getattr(self, name)}: one of {', '.join(str(k) for k in known if k)}")
        if self.lora_enable and (self.tune_mm_mlp_adapter or self.lora_r < 1):
            raise ValueError(
                "--lora_enable: a rank of 1 or more, and not with --tune_mm_mlp_adapter, which is stage 1's"
            )
        if self.bits < 16 and not self.lora_enable:
            raise ValueError(f"--bits {self.bits}: quantised weights cannot be trained; add --lora_enable True (QLoRA)")
        if self.pack_frames and self.pack_max_tokens < self.model_max_length:
            raise ValueError(
                f"--pack_max_tokens {self.pack_max_tokens}: a row must hold the longest sample, --model_max_length "
                f"{self.model_max_length}"
            )
        if self.gradient_checkpointing is not None and hasattr(self, "activation_checkpointing"):  # the newer name
            self.activation_checkpointing, self.gradient_checkpointing = self.gradient_checkpointing, None
        if self.use_cpu:
            self.tf32 = None  # the published flags ask for it; it is a matter of GPUs
        self.deepspeed = prepare_deepspeed(self.deepspeed, self.use_cpu)
        if self.bits < 16 and self.zero_stage == 3:
            raise ValueError(
                f"--bits {self.bits}: ZeRO-3 cannot split quantised weights; use configs/deepspeed/zero2.json"
            )
        super().__post_init__()

    @property
    def quantization(self) -> str | None:
        """``bits`` as `senna.model.loading.open_model` calls it."""
        return {16: None, 8: "int8", 4: "nf4"}[self.bits]

    @property
    def zero_stage(self) -> int:
        """DeepSpeed's ZeRO stage, 0 without DeepSpeed."""
        return (self.deepspeed or {}).get("zero_optimization", {}).get("stage", 0)

    @property
    def data_bytes(self) -> int:
        """Size of the data files: other data would not continue the same run."""
        return sum(path.stat().st_size for path, _ in parse_data_path(self.data_path))

    @property
    def precision(self) -> torch.dtype:
        """What is frozen, and the finished model, are kept in."""
        return torch.bfloat16 if self.bf16 else torch.float16 if self.fp16 else torch.float32

    @property
    def global_batch_size(self) -> int:
        """Samples of one optimizer step, over all processes; with `pack_frames` frames."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size


OWN_FIELDS = [f.name for f in fields(TrainArguments) if f.name in TrainArguments.__annotations__]


def nearest(word: str, known: list[str]) -> str:
    """ " (did you mean X?)" for a mistyped word, empty where nothing is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def read_yaml(path: str) -> dict:
    """Fields that a YAML file sets. Raises UsageError for a missing file, bad YAML or an unknown key."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UsageError(f"--config {path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise UsageError(f"--config {path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--config {path}: expected 'key: value' lines")
    values = {PUBLISHED_NAMES.get(key, key): value for key, value in values.items()}
    known = [f.name for f in fields(TrainArguments) if f.init]
    for key in values:
        if key not in known:
            raise UsageError(f"--config {path}: unknown key {key}{nearest(str(key), known)}")
    if isinstance(values.get("deepspeed"), str) and not Path(values["deepspeed"]).is_file():
        values["deepspeed"] = str(Path(path).parent / values["deepspeed"])
    return values


COMMON_FIELDS = """output_dir per_device_train_batch_size gradient_accumulation_steps num_train_epochs max_steps learning_rate
lr_scheduler_type warmup_steps weight_decay bf16 gradient_checkpointing deepspeed use_cpu dataloader_num_workers logging_steps
save_steps save_total_limit report_to seed""".split()
"""The fields of transformers' TrainingArguments that `senna train --help` shows; --help_all shows every one."""


class _Parser(HfArgumentParser):
    """Errors become one line with exit code 2 instead of 200 flags of usage."""

    def error(self, message: str):
        raise UsageError(f"senna train: {message}; see senna train --help")


class _HelpAll(argparse.Action):
    def __call__(self, parser, *_):
        build_parser(every_field=True).print_help()
        parser.exit()


def build_parser(every_field: bool = False) -> argparse.ArgumentParser:
    """The parser of `senna train`, made from `TrainArguments`."""
    parser = _Parser(
        TrainArguments,
        prog="senna train",
        usage="senna train --config FILE [--config FILE ...] [--any_field value ...]",
        description="Train Senna. Every flag is also a YAML key; --config files are read in order, flags come last.",
        allow_abbrev=False,
        epilog="Example: senna train --config configs/stage1_pretrain.yaml --model_name_or_path vicuna-7b-v1.5 "
        "--vision_tower clip-vit-large-patch14-336 --data_path captions.json --image_folder images --output_dir out",
    )
    parser.add_argument(
        "--config", action="append", default=[], help="a YAML file with any of these flags; may be repeated"
    )
    parser.add_argument("--help_all", action=_HelpAll, nargs=0, help="every field, transformers' own included")
    for action in parser._actions:
        action.option_strings = [
            o for o in action.option_strings if "-" not in o[2:]
        ]  # argparse knows the others still
        hidden = action.dest not in (*OWN_FIELDS, *COMMON_FIELDS, "config", "help", "help_all")
        if (hidden and not every_field) or action.option_strings[:1] == [f"--no_{action.dest}"]:
            action.help = argparse.SUPPRESS
    parser._optionals._group_actions.sort(
        key=lambda action: action.dest not in ("help", "config", "help_all", *OWN_FIELDS)
    )
    return parser


def parse_arguments(argv: list[str]) -> TrainArguments:
    """Command line and YAML files -> arguments. Raises UsageError that names the flag and the nearest known one."""
    argv = [
        f"--{PUBLISHED_NAMES[name]}{sep}{value}" if name in PUBLISHED_NAMES else word
        for word in argv
        for name, sep, value in [word.removeprefix("--").partition("=")]
    ]
    parser = build_parser()
    defaults: dict = {}
    for path in parser.parse_known_args(argv)[0].config:
        defaults.update(read_yaml(path))
    parser.set_defaults(**defaults)
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [name for name in parser._option_string_actions if name.startswith("--") and "-" not in name[2:]]
        raise UsageError(
            f"unknown argument {unknown[0]}{nearest(unknown[0].split('=')[0], flags)}; see senna train --help"
        )
    values = vars(namespace)
    del values["config"], values["help_all"]
    try:
        return TrainArguments(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(f"arguments: {error}") from error
