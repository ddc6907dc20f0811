"""One dataclass is the training command: its fields are the flags, the YAML keys and the help."""

from dataclasses import dataclass
from typing import Literal

import torch
from transformers import TrainingArguments

from senna.data.mixture import parse_data_path
from senna.flags import flag
from senna.train.deepspeed import read_deepspeed, start_deepspeed


@dataclass
class TrainArguments(TrainingArguments):
    """Flags of the published training script under their published names, beside all of transformers' TrainingArguments."""

    # What is trained, and on what
    model_name_or_path: str | None = flag(
        "the LLM (a Llama: folder or hub name), or a checkpoint: of any stage, published Senna, LLaVA-1.5, a LoRA folder; "
        "required (the training scripts: MODEL_PATH)",
        None,
    )
    model_base: str | None = flag("the base of a LoRA folder that is given as the model, where it has moved", None)
    vision_tower: str | None = flag(
        "the CLIP vision tower: folder or hub name; default: the checkpoint's own, so only a bare LLM needs it", None
    )
    data_path: str | None = flag(
        "records: a JSON list or JSON Lines; several with how often an epoch takes each: a.json:1.0,b.jsonl:0.5; required "
        "(the training scripts: DATA)",
        None,
    )
    image_folder: str | None = flag(
        "where the records' image paths start; default, and for images not there: the data file's folder", None
    )
    stage: int | None = flag(
        "records to train on: 2 every driving question but the plan, 3 the plan alone; default: all", None
    )
    skip_bad_samples: int = flag(
        "unusable samples to leave out before the run stops; each is logged. Raise it for data with a few broken images",
        0,
    )
    skip_checks: bool = flag("begin without what `senna doctor` checks: memory, disk, files, packages", False)

    # How a sample becomes tokens
    version: Literal["plain", "v1"] = flag(
        "prompt format: plain (captions, stage 1) or v1 (questions and answers, stages 2 and 3)", "v1"
    )
    image_aspect_ratio: Literal["pad", "square"] = flag(
        "pad to a square (stages 2 and 3), or the processor's plain resize and crop (stage 1); as the model was trained",
        "pad",
    )
    image_decode: Literal["exact", "fast"] = flag(
        "exact: the published pixels; fast: twice as fast, at most one grey level off in few pixels. Fast where a step waits "
        "for images",
        "exact",
    )
    model_max_length: int = flag(
        "tokens a sample, view tokens included (six views take 768); longer ones are cut. Lower it to save memory where the "
        "table before the first step shows room",
        2048,
    )
    group_by_modality_length: bool = flag(
        "batches of like length, text-only samples by themselves: less padding where frames are not packed", False
    )
    pack_frames: bool = flag(
        "encode what a frame's questions share (images, text before them) once: the same gradient, several times faster. A "
        "batch then counts frames. For stage 2; in stage 3 a frame has one question",
        False,
    )
    pack_max_tokens: int = flag(
        "tokens of a packed row; a frame with more is split, small frames share a row. Lower it, to model_max_length at "
        "least, to save memory",
        4096,
    )
    pack_attention: Literal["auto", "split", "dense", "flex"] = flag(
        "attention of packed rows: split (CPU), flex (CUDA), dense (any device; slow: the reference); auto chooses",
        "auto",
    )
    loss_weight: Literal["token", "record"] = flag(
        "what counts equally in the loss: each answer's tokens, as published, or each record whatever its length (where "
        "long descriptions drown short answers)",
        "token",
    )

    # Which parts train
    tune_mm_mlp_adapter: bool = flag("stage 1: train the projector and the driving vision adapter only", False)
    freeze_mm_mlp_adapter: bool = flag("keep the projector as it is", False)
    freeze_img_adapter: bool = flag("keep the driving vision adapter as it is", False)
    freeze_backbone: bool = flag("keep the LLM as it is", False)
    init_weight_img_adapter: bool = flag(
        "start the driving vision adapter anew: normal(0, 0.01), zero bias. Stage 1 only: later, what it learnt would be lost",
        False,
    )
    mm_adapter_tokens: int | None = flag(
        "tokens a view becomes, for a new adapter; default 128, the published best of 32, 64, 128 and 256", None
    )
    mm_vision_select_layer: int | None = flag(
        "tower layer whose features are used, -1 the last; default -2, or the checkpoint's", None
    )
    attn_implementation: Literal["sdpa", "flash_attention_2", "eager"] = flag(
        "attention of the tower, and of the LLM where it is not packed; flash_attention_2 needs the package flash-attn and "
        "a GPU, eager is slow and for comparison",
        "sdpa",
    )

    # LoRA and QLoRA
    lora_enable: bool = flag(
        "train LoRA on every Linear of the LLM but lm_head, beside projector and adapter: where full training does not fit",
        False,
    )
    lora_r: int = flag(
        "rank of LoRA: 2.5 million weights a rank in the 7B model, of 16 bytes each. 64 or 32 where memory is short",
        128,
    )
    lora_alpha: int = flag("LoRA is scaled by lora_alpha / lora_r: change both together", 256)
    lora_dropout: float = flag(
        "share of LoRA's inputs that is dropped, 0 to 1; more where little data is overfitted", 0.05
    )
    bits: int = flag(
        "of each of the LLM's frozen weights under LoRA: 16 (as --bf16 says), 8 (int8) or 4 (nf4: QLoRA, for 24 GB)", 16
    )

    # Batch, steps and learning rate
    per_device_train_batch_size: int = flag(
        "samples (with pack_frames: frames) that a GPU takes at once. Too large for the card: halve it and double "
        "gradient_accumulation_steps",
        8,
    )
    gradient_accumulation_steps: int = flag(
        "batches to one step of the optimizer. Global batch = batch x accumulation x GPUs: keep it when one of them changes",
        1,
    )
    num_train_epochs: float = flag("passes over the data", 3.0)
    max_steps: int = flag(
        "steps of the optimizer to stop after, whatever the epochs; -1: no such limit. 2 for a trial", -1
    )
    learning_rate: float = flag(
        "its peak, after the warm-up. With a k times larger global batch, up to the square root of k times higher",
        5e-5,
    )
    mm_projector_lr: float | None = flag("learning rate of projector and adapter; default: learning_rate", None)
    lr_scheduler_type: str = flag(
        "how the learning rate falls: cosine, linear, constant, constant_with_warmup, ...", "cosine"
    )
    warmup_steps: float = flag("warm-up: a share of all steps if below 1, else steps (published: warmup_ratio)", 0.03)
    weight_decay: float = flag("of AdamW, a step, times the learning rate; norms and biases are spared", 0.0)
    seed: int = flag("of new weights, of the data's order and of dropout", 42)

    # The machine
    bf16: bool = flag("compute, and keep what is frozen, in bfloat16: GPUs since Ampere (RTX 30, A100)", False)
    fp16: bool = flag("the same in float16, for older GPUs (V100, T4); not together with bf16", False)
    gradient_checkpointing: bool | None = flag(
        "recompute activations in the backward pass: a third slower, and far less memory; not set: no", None
    )
    deepspeed: dict | str | None = flag(
        "a DeepSpeed file, such as configs/deepspeed/zero3.json, or none. The training scripts set it for more than one GPU",
        None,
    )
    use_liger_kernel: bool = flag("Liger's fused norms, rotary embedding and MLP: faster, on CUDA only", False)
    use_cpu: bool = flag("train on the CPU even if there is a GPU; needed where there is none", False)
    dataloader_num_workers: int = flag(
        "processes that read and decode images, for each GPU; 0: the training process does. More where the GPU waits", 0
    )

    # Files and logs
    output_dir: str = flag(
        "folder of checkpoints, logs and the final model (the training scripts: OUT_DIR)", "outputs/run"
    )
    save_steps: float = flag("steps between two checkpoints; what a killed run loses at most", 200)
    save_total_limit: int | None = flag("checkpoints kept, the newest", 1)
    logging_steps: float = flag("steps between two log lines", 1)
    report_to: str = flag("where metrics go: none, tensorboard, wandb, ...", "tensorboard")

    # Fixed, and known so that the published scripts run: each has only one value
    mm_projector_type: str = flag("the projector; the only one Senna has", "mlp2x_gelu")
    mm_use_im_start_end: bool = flag("no image start and end tokens", False)
    mm_use_im_patch_token: bool = flag("no patch token", False)
    lazy_preprocess: bool = flag("data is always read when it is needed", True)
    is_multimodal: bool = flag("the model always sees images", True)
    lora_bias: str = flag("LoRA trains no bias (a Llama has none)", "none")
    quant_type: str = flag("4 bits are nf4", "nf4")
    double_quant: bool = flag("the scales of nf4 are quantised too", True)
    remove_unused_columns: bool = flag("the collator needs every column", False)
    logging_nan_inf_filter: bool = flag("a loss that is not finite stops the run", False)

    def __post_init__(self):
        self.check()
        if self.deepspeed:
            start_deepspeed(self.deepspeed, self.use_cpu)
        super().__post_init__()

    def check(self) -> None:
        """Raise ValueError for values that exclude each other, UsageError for a DeepSpeed file that cannot be read."""
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
        self.deepspeed = read_deepspeed(self.deepspeed)
        if self.bits < 16 and self.zero_stage == 3:
            raise ValueError(
                f"--bits {self.bits}: ZeRO-3 cannot split quantised weights; use configs/deepspeed/zero2.json"
            )
        if self.gradient_checkpointing is not None and hasattr(self, "activation_checkpointing"):  # the newer name
            self.activation_checkpointing, self.gradient_checkpointing = self.gradient_checkpointing, None
        if self.use_cpu:
            self.tf32 = None  # the published flags ask for it; it is a matter of GPUs

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


class PlannedArguments(TrainArguments):
    """The arguments of a run that is not started: the same values, but no device is looked for and DeepSpeed is left alone."""

    device = torch.device("cpu")

    def __post_init__(self):
        self.check()
        planned = {name: getattr(self, name) for name in ("deepspeed", "use_cpu", "tf32", "dataloader_pin_memory")}
        # transformers refuses bf16 where it finds no GPU, and asks for none on the CPU.
        self.deepspeed, self.use_cpu, self.tf32 = None, True, None
        TrainingArguments.__post_init__(self)
        if planned["use_cpu"]:
            del planned["dataloader_pin_memory"]
        vars(self).update(planned)


OWN_FIELDS = list(TrainArguments.__annotations__)
"""Fields that `senna train --help` shows, in its order: Senna's, and of transformers' own those one wants to know."""

HEADINGS = {
    "model_name_or_path": "What is trained, and on what",
    "version": "How a sample becomes tokens",
    "tune_mm_mlp_adapter": "Which parts train",
    "lora_enable": "LoRA and QLoRA",
    "per_device_train_batch_size": "Batch, steps and learning rate",
    "bf16": "The machine",
    "output_dir": "Files and logs",
    "mm_projector_type": "Fixed, and known so that the published scripts run: each has only one value",
}
"""The headings of `TrainArguments`, which code cannot read there, by the first field of each."""


def grouped_fields() -> dict[str, list[str]]:
    """`OWN_FIELDS` under their headings."""
    groups: dict[str, list[str]] = {}
    for name in OWN_FIELDS:
        if name in HEADINGS:
            group = groups.setdefault(HEADINGS[name], [])
        group.append(name)
    return groups
