"""The dataclass of `senna train`: its fields are the command-line flags, the YAML keys and the help."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from transformers import TrainingArguments

from senna.data.mixture import parse_data_path
from senna.errors import UsageError
from senna.flags import flag
from senna.ranks import read_ranks
from senna.train.deepspeed import read_deepspeed, start_deepspeed
from senna.train.global_batch import BatchSettings
from senna.train.number_flags import check_numbers
from senna.train.refused import check_refused
from senna.train.trackers import settle_trackers
from senna.train.validation_flags import best_rule, settle_validation


@dataclass
class TrainArguments(TrainingArguments):
    """All of transformers' TrainingArguments, and the flags of the published training script under their published names.

    Constructing the arguments validates them and has no side effects. `start` prepares this process for training.
    """

    # Model and data
    model_name_or_path: str | None = flag(
        "model to start from: a Llama (folder or hub name), or a checkpoint of any stage, a published Senna or LLaVA-1.5 "
        "checkpoint or a LoRA folder; required (MODEL_PATH for the training scripts)",
        None,
    )
    model_base: str | None = flag(
        "base model of a LoRA folder, if it has moved since the LoRA folder was written", None
    )
    vision_tower: str | None = flag(
        "CLIP vision tower, a folder or hub name; default: the checkpoint's own, so only a bare LLM needs it", None
    )
    data_path: str | None = flag(
        "records, as a JSON list or JSON Lines; several files with the number of times an epoch reads each: "
        "a.json:1.0,b.jsonl:0.5; required (DATA for the training scripts)",
        None,
    )
    image_folder: str | None = flag(
        "folder that the image paths of the records are relative to; default, and fallback for missing images: the folder of "
        "the data file",
        None,
    )
    stage: int | None = flag(
        "records to train on: 2 for every driving question except the plan, 3 for the plan only; default: all", None
    )
    kinds: str | None = flag(
        "kinds of questions to train on instead of those of the stage, as plan,trajectory; default: those of the stage",
        None,
    )
    skip_bad_samples: int = flag(
        "number of unusable samples to skip, with a log line each, before the run stops; raise it if a few images are broken",
        0,
    )
    skip_checks: bool = flag("skip the checks of memory, disk, files and packages that `senna doctor` makes", False)

    # Prompts, images and packing
    version: Literal["plain", "v1"] = flag(
        "prompt format: plain (captions, stage 1) or v1 (questions and answers, stages 2 and 3)", "v1"
    )
    image_aspect_ratio: Literal["pad", "square"] = flag(
        "pad images to a square (stages 2 and 3), or use the processor's own resize and crop (stage 1); must match the "
        "training of the checkpoint",
        "pad",
    )
    image_decode: Literal["exact", "fast"] = flag(
        "exact: the published pixels; fast: twice as fast, with a few pixels off by at most one grey level; useful if the GPU "
        "waits for images",
        "exact",
    )
    model_max_length: int = flag(
        "maximum tokens of a sample, view tokens included (six views take 768); longer samples are truncated. Lower it to save "
        "memory if the table before the first step shows that samples are shorter",
        2048,
    )
    group_by_modality_length: bool = flag(
        "batch samples of similar length, and text-only samples separately: less padding if frames are not packed",
        False,
    )
    pack_frames: bool = flag(
        "encode the shared part of a frame's questions (images and the text before them) once: the same gradient, several "
        "times faster. Batch sizes then count frames. For stage 2; in stage 3 a frame has a single question",
        False,
    )
    pack_max_tokens: int = flag(
        "tokens of a packed row: a longer frame is split, small frames share a row. Lower it to save memory, but not below "
        "model_max_length",
        4096,
    )
    pack_attention: Literal["auto", "split", "dense", "flex"] = flag(
        "attention of packed rows: split (CPU), flex (CUDA), dense (any device, slow: the reference), or auto to choose by "
        "device",
        "auto",
    )
    loss_weight: Literal["token", "record"] = flag(
        "unit of equal weight in the loss: token, as published, or record, so that short answers count as much as long ones",
        "token",
    )
    plan_loss: Literal["text", "choice"] = flag(
        "loss of a plan: text, as published, or choice, the cross-entropy among the twenty meta-actions plus that of the text. "
        "Other questions and validations keep the loss of the text",
        "text",
    )
    class_balance: float = flag(
        "with plan_loss choice: how far rare plans count as much as frequent ones, from 0 to 1 (tau of the logit adjustment)",
        0.0,
    )

    # Trained parts
    tune_mm_mlp_adapter: bool = flag("train only the projector and the driving vision adapter (stage 1)", False)
    freeze_mm_mlp_adapter: bool = flag("freeze the projector", False)
    freeze_img_adapter: bool = flag("freeze the driving vision adapter", False)
    freeze_backbone: bool = flag("freeze the LLM", False)
    init_weight_img_adapter: bool = flag(
        "initialize the driving vision adapter again, with normal(0, 0.01) and zero bias. For stage 1: later stages would lose "
        "the trained adapter",
        False,
    )
    mm_adapter_tokens: int | None = flag(
        "tokens per view of a new adapter; default 128, the best of 32, 64, 128 and 256 in the paper", None
    )
    mm_vision_select_layer: int | None = flag(
        "tower layer whose features are used, -1 for the last; default: -2, or the checkpoint's", None
    )
    attn_implementation: Literal["sdpa", "flash_attention_2", "eager"] = flag(
        "attention of the tower, and of the LLM for rows that are not packed; flash_attention_2 needs the package flash-attn "
        "and a GPU; eager is slow and for comparison",
        "sdpa",
    )

    # LoRA and QLoRA
    lora_enable: bool = flag(
        "train LoRA on every Linear of the LLM except lm_head, together with projector and adapter; for cards that full "
        "training does not fit on",
        False,
    )
    lora_r: int = flag(
        "rank of LoRA: each rank adds 2.5 million weights to the 7B model, at 16 bytes a weight. Use 64 or 32 if memory is "
        "short",
        128,
    )
    lora_alpha: int = flag("LoRA is scaled by lora_alpha / lora_r: change both together", 256)
    lora_dropout: float = flag("dropout probability of the LoRA inputs; raise it against overfitting", 0.05)
    bits: int = flag(
        "bits of a frozen LLM weight under LoRA: 16 (the precision of --bf16), 8 (int8) or 4 (nf4: QLoRA, for 24 GB)",
        16,
    )

    # Batch size, steps and learning rate
    global_batch_size: int | None = flag(
        "samples (frames with pack_frames) per optimizer step over all GPUs; the accumulation steps follow from it. 0, and the "
        "default: batch size x accumulation x GPUs",
        None,
    )
    per_device_train_batch_size: int = flag(
        "samples (frames with pack_frames) per GPU and forward pass. If they do not fit, halve this", 8
    )
    gradient_accumulation_steps: int | None = flag(
        "forward passes per optimizer step; default: what global_batch_size needs, or 1 without it", None
    )
    num_train_epochs: float = flag("passes over the data", 3.0)
    max_steps: int = flag("stop after this many optimizer steps, whatever the epochs; -1 for no limit", -1)
    learning_rate: float = flag(
        "peak learning rate, after the warm-up. For a k times larger global batch raise it by up to the square root of k",
        5e-5,
    )
    mm_projector_lr: float | None = flag("learning rate of projector and adapter; default: learning_rate", None)
    lr_scheduler_type: str = flag(
        "learning rate schedule: cosine, linear, constant, constant_with_warmup, ...", "cosine"
    )
    warmup_steps: float = flag(
        "warm-up: a fraction of all steps if below 1, else a number of steps (warmup_ratio in the published scripts)",
        0.03,
    )
    weight_decay: float = flag("weight decay of AdamW; norms and biases have none", 0.0)
    seed: int = flag("random seed of new weights, data order and dropout", 42)

    # Validation
    eval_data_path: str | None = flag(
        "held-out records, written like data_path; records of the run's stage. No scene may be in both; default: no validation",
        None,
    )
    eval_strategy: Literal["no", "steps", "epoch"] | None = flag(
        "when to validate: every eval_steps and after the last step, or after each epoch; default: steps, with eval_data_path",
        None,
    )
    eval_steps: float | None = flag("steps between validations; default: save_steps", None)
    eval_limit: int | None = flag(
        "use at most this many held-out records: whole scenes, always the same; default: all", None
    )
    per_device_eval_batch_size: int | None = flag(
        "records (frames with pack_frames) per GPU and forward pass of a validation; default: per_device_train_batch_size",
        None,
    )  # type: ignore[assignment]
    metric_for_best_model: Literal["eval_loss", "eval_plan_macro_f1"] | None = flag(
        "save a checkpoint whenever this figure is better than ever before, and keep the best one beside the newest",
        None,
    )
    load_best_model_at_end: bool = flag(
        "make the final folder of the best checkpoint; default: of the last step", False
    )
    early_stopping_patience: int | None = flag(
        "end the run after this many validations in a row without a better metric_for_best_model", None
    )

    # Hardware
    bf16: bool = flag("compute in bfloat16 and keep frozen weights in it; for GPUs since Ampere (RTX 30, A100)", False)
    fp16: bool = flag("the same in float16, for older GPUs (V100, T4); not together with bf16", False)
    gradient_checkpointing: bool | None = flag(
        "recompute activations in the backward pass: a third slower, and much less memory; default: no", None
    )
    deepspeed: dict | str | None = flag(
        "DeepSpeed configuration, such as configs/deepspeed/zero3.json, or none; the training scripts set it for more than one "
        "GPU",
        None,
    )
    use_liger_kernel: bool | None = flag(
        "use Liger's fused norms, rotary embedding and MLP: faster, CUDA only; default: yes, if liger-kernel is installed and "
        "works in a trial on the GPU",
        None,
    )
    use_cpu: bool = flag("train on the CPU, even if there is a GPU; required if there is none", False)
    dataloader_num_workers: int = flag(
        "processes per GPU that read and decode images; 0: the training process does it. Raise it if the GPU waits for images",
        0,
    )

    # Output and logging
    output_dir: str = flag(
        "folder for checkpoints, logs and the final model (OUT_DIR for the training scripts)", "outputs/run"
    )
    save_steps: float = flag("steps between checkpoints; a killed run loses at most these", 200)
    save_total_limit: int | None = flag("number of checkpoints to keep, newest first", 1)
    hang_timeout: float = flag(
        "seconds without progress after which a process shows where it stands and ends; ten times as long for a first step, a "
        "checkpoint or a validation. Several times the longest step, 0 for no limit; see MAX_RESTARTS of the training scripts",
        0.0,
    )
    logging_steps: float = flag("steps between log lines", 1)
    peak_tflops: float | None = flag(
        "peak TFLOP/s of a GPU in the precision of the run, for MFU in the log; default: NVIDIA's figure, if known",
        None,
    )
    report_to: str = flag("trackers, with commas: tensorboard, wandb, trackio, swanlab, mlflow; or none", "tensorboard")

    # Fixed values, accepted so that the published scripts run
    mm_projector_type: str = flag("type of the projector", "mlp2x_gelu")
    mm_use_im_start_end: bool = flag("surround images with start and end tokens", False)
    mm_use_im_patch_token: bool = flag("add a patch token", False)
    lazy_preprocess: bool = flag("read samples when they are needed", True)
    is_multimodal: bool = flag("the data has images", True)
    lora_bias: str = flag("biases that LoRA trains (a Llama has none)", "none")
    quant_type: str = flag("type of 4-bit weights", "nf4")
    double_quant: bool = flag("quantize the scales of nf4 too", True)
    remove_unused_columns: bool = flag("drop columns that the model does not take (the collator needs all)", False)
    logging_nan_inf_filter: bool = flag("hide losses that are not finite (they stop the run)", False)

    def __post_init__(self):
        self.batch = BatchSettings(
            self.per_device_train_batch_size, self.gradient_accumulation_steps, self.global_batch_size or None
        )
        self.gradient_accumulation_steps = self.gradient_accumulation_steps or 1  # until `spread` sets it
        self._check()
        self._has_started, self.distributed_state, self._n_gpu = False, None, 0
        # transformers validates here too, but also looks for a GPU and starts DeepSpeed and FSDP; not for a plain CPU run.
        requested = {name: getattr(self, name) for name in "deepspeed fsdp use_cpu tf32 dataloader_pin_memory".split()}
        self.deepspeed, self.fsdp, self.use_cpu, self.tf32 = None, None, True, None
        self._validate()
        if requested["use_cpu"]:
            del requested["dataloader_pin_memory"]
        self.__dict__.update(requested)

    def start(self) -> None:
        """Find the device, join the other processes of the run and start DeepSpeed. Later calls do nothing.

        Raises:
            UsageError: there is no GPU and ``use_cpu`` is not set, or this machine lacks something else that is requested.
        """
        if self._has_started:
            return
        if not self.use_cpu and not torch.cuda.is_available():
            raise UsageError(
                "no GPU found",
                remedy="set --use_cpu True to train on the CPU (PRESET=tiny does, with a model that fits)",
            )
        if isinstance(self.deepspeed, dict):
            start_deepspeed(self.deepspeed, self.use_cpu)
        self.spread(read_ranks().world_size)
        self._has_started = True
        try:
            self._validate()
        except (ValueError, ImportError) as error:
            raise UsageError(
                f"this machine cannot run these arguments: {error}",
                remedy="change the argument, or run `senna doctor` with the same flags",
            ) from error
        # transformers counts all visible GPUs here and would spread one process over them (DataParallel).
        self._n_gpu = min(self.n_gpu, 1)

    def spread(self, processes: int, source: str = "") -> None:
        """Set the accumulation steps and the global batch of a run on a number of processes.

        Args:
            source: the file and line, or the flag, that gives ``global_batch_size``, for the message of an error.

        Raises:
            UsageError: the global batch cannot be split so.
        """
        self.batch = replace(self.batch, rows=self.per_device_train_batch_size, source=source or self.batch.source)
        self.gradient_accumulation_steps = self.batch.accumulation_on(processes)
        self.global_batch_size = self.per_device_train_batch_size * self.gradient_accumulation_steps * processes

    def _validate(self) -> None:
        """Let transformers validate and normalize its fields, but not ask that checkpoints coincide with validations."""
        loads_best, self.load_best_model_at_end = self.load_best_model_at_end, False
        try:
            super().__post_init__()
        finally:
            self.load_best_model_at_end = loads_best

    def required(self, name: str) -> str:
        """Return an argument that every run needs. Raise UsageError if it is not set."""
        value = getattr(self, name)
        if not value:
            raise UsageError(f"--{name} is not set", remedy=f"add --{name}; see senna train --help")
        return value

    @property
    def device(self) -> torch.device:
        """The device of this process; the CPU before `start`."""
        return super().device if self._has_started else torch.device("cpu")

    def _check(self) -> None:
        """Normalize the fields of Senna. Raise UsageError for an unsupported value and for values that exclude each other."""
        for name, known in {"stage": (None, 1, 2, 3), "bits": (16, 8, 4)}.items():
            if getattr(self, name) not in known:
                choices = ", ".join(str(value) for value in known if value)
                raise UsageError(f"--{name} {getattr(self, name)} is not supported", remedy=f"use one of {choices}")
        check_refused(self)
        settle_trackers(self)
        self.batch.check()
        check_numbers(self)
        settle_validation(self)
        self.deepspeed = read_deepspeed(self.deepspeed)
        if self.bits < 16 and self.zero_stage == 3:
            raise UsageError(
                f"--bits {self.bits}: ZeRO-3 cannot partition quantized weights",
                remedy="use --deepspeed configs/deepspeed/zero2.json",
            )
        if self.gradient_checkpointing is not None and hasattr(self, "activation_checkpointing"):  # the newer name
            self.activation_checkpointing, self.gradient_checkpointing = self.gradient_checkpointing, None
        if self.use_cpu:
            self.tf32 = None  # the published scripts set it, but it concerns GPUs only

    @property
    def chosen_kinds(self) -> list[str] | None:
        """The kinds of questions that ``kinds`` names; None for those of the stage."""
        return None if self.kinds is None else [name.strip() for name in self.kinds.split(",") if name.strip()]

    @property
    def packs_rows(self) -> bool:
        """True if batches are packed rows of trees: of frames, or of the answers to plans."""
        return self.pack_frames or self.plan_loss == "choice"

    @property
    def quantization(self) -> str | None:
        """The quantization that `senna.model.loading.open_model` takes: None, "int8" or "nf4"."""
        return {16: None, 8: "int8", 4: "nf4"}[self.bits]

    @property
    def zero_stage(self) -> int:
        """The ZeRO stage of DeepSpeed; 0 without DeepSpeed."""
        config = self.deepspeed if isinstance(self.deepspeed, dict) else {}
        return config.get("zero_optimization", {}).get("stage", 0)

    @property
    def data_bytes(self) -> int:
        """The total size of the data files, to notice that they have changed since a run began."""
        return sum(path.stat().st_size for path, _ in parse_data_path(self.required("data_path")))

    @property
    def best_checkpoint_by(self) -> str | None:
        """The figure and the records that choose the best checkpoint, which must not change within a run."""
        return best_rule(self)

    @property
    def precision(self) -> torch.dtype:
        """The dtype of frozen weights and of the final model."""
        return torch.bfloat16 if self.bf16 else torch.float16 if self.fp16 else torch.float32
