"""Predict the memory of a run from its arguments, and find the nearest settings that fit a GPU. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from senna.train.memory.activations import Attention, MicroBatch, NumberBytes, Trained
from senna.train.memory.estimate import Estimate, Setup, WeightFormat, Zero, estimate
from senna.train.memory.model_shape import ModelShape

if TYPE_CHECKING:
    from senna.model.config import SennaConfig
    from senna.train.arguments import TrainArguments

VIEWS = 6
"""Images of a driving question."""

CAPTION_TOKENS = 64
"""Tokens of a long stage 1 caption. The longest of 600 captions of Flickr8k and 10 of LLaVA-Pretrain has 47."""

QUESTION_TOKENS, ANSWER_TOKENS = 456, 100
"""Text tokens of the longest question about a nuScenes frame (the motion of one view's objects) and of its answer."""

CHOICE_TOKENS, CHOICE_TARGETS = 240, 219
"""Tokens behind a plan's question with ``plan_loss`` choice: twenty answers with Vicuna's tokenizer, and their targets."""

TARGET_SHARE = 768 / 3391
"""Share of answer tokens in a packed row: a nuScenes frame with 13 questions and 128 tokens per view."""

GATHERED = (871 + 13 * (871 + 453)) / 3391
"""Keys that ``split`` attention gathers on a GPU per position of a packed row, for the same frame: the prefix, and for each of
13 branches the prefix and a branch, padded to the longest."""

LOW_RANK = 32
"""The LoRA rank to try if nothing else fits: a quarter of the published rank."""

RELATIVE_ERROR = 0.1
"""The largest relative error of an estimate; see tests/train/memory/test_estimate.py."""


def micro_batch(args: TrainArguments, shape: ModelShape, rows: int | None = None) -> MicroBatch:
    """Return the largest micro-batch that a run may see, judging by nuScenes' questions and by captions.

    Args:
        rows: the batch size per device (default: that of the arguments).
    """
    rows = args.per_device_train_batch_size if rows is None else rows
    if args.version == "plain":
        tokens = shape.view_tokens + CAPTION_TOKENS
        if args.pack_frames:
            packed_rows = max(1, rows * tokens // args.pack_max_tokens)
            return MicroBatch(packed_rows, min(rows * tokens, args.pack_max_tokens), rows * CAPTION_TOKENS, rows)
        return MicroBatch(rows, tokens, rows * CAPTION_TOKENS, rows)
    question = VIEWS * shape.view_tokens + QUESTION_TOKENS
    is_choice = args.plan_loss == "choice"
    if args.pack_frames:
        # The answers to a plan are a tree of their own, beside that of the frame's other questions.
        tokens = args.pack_max_tokens + is_choice * (question + CHOICE_TOKENS)
        targets = args.pack_max_tokens * TARGET_SHARE + is_choice * CHOICE_TARGETS
        return MicroBatch(rows, tokens, round(rows * targets), VIEWS * rows)
    tokens = min(question + ANSWER_TOKENS, args.model_max_length)
    if is_choice:
        return MicroBatch(rows, max(tokens, question + CHOICE_TOKENS), rows * CHOICE_TARGETS, VIEWS * rows)
    return MicroBatch(rows, tokens, rows * ANSWER_TOKENS, VIEWS * rows)


def training_setup(args: TrainArguments, shape: ModelShape, gpus: int | None = None) -> Setup:
    """Return the training setup of a run on ``gpus`` processes (default: the processes that were started).

    Several processes without a DeepSpeed configuration are treated as the training scripts start them: with ZeRO-2 if
    the LLM is frozen or quantized, otherwise with ZeRO-3.
    """
    gpus = gpus or args.world_size
    half, cuda = args.bf16 or args.fp16, not args.use_cpu
    frozen_llm = args.tune_mm_mlp_adapter or args.freeze_backbone
    method: Literal["adapters", "lora", "full"] = "lora" if args.lora_enable else "adapters" if frozen_llm else "full"
    stage = args.zero_stage or (0 if gpus == 1 else 2 if method == "adapters" or args.bits < 16 else 3)
    compute = 2 if half else 4
    trained_bytes = compute if stage else 4  # without DeepSpeed, trained weights are fp32
    quantized: dict[int, WeightFormat] = {4: "nf4", 8: "int8"}
    return Setup(
        micro_batch=micro_batch(args, shape),
        trained=Trained(
            method,
            args.lora_r if method == "lora" else 0,
            dropout=args.lora_dropout > 0,
            mask=1 if cuda else compute,
        ),
        numbers=NumberBytes(compute, trained_bytes if method == "full" else compute, trained_bytes),
        frozen=quantized.get(args.bits, "bf16" if half else "fp32"),
        others="bf16" if half else "fp32",
        fp32_copies=bool(stage) and half,
        gradient_bytes=trained_bytes,
        accumulates=args.batch.accumulation_on(gpus) > 1,
        checkpointing=bool(args.gradient_checkpointing or getattr(args, "activation_checkpointing", False)),
        attention=Attention(
            eager=args.attn_implementation == "eager" and not args.packs_rows,
            masked=args.packs_rows and args.pack_attention == "dense",
            gathered=GATHERED if args.packs_rows and args.pack_attention == "split" and cuda else 0.0,
        ),
        liger=bool(args.use_liger_kernel),
        zero=Zero(stage, gpus, _offloads(args, "offload_optimizer"), _offloads(args, "offload_param")),
        cuda=cuda,
        pixel_bytes=1,
        batches=2 if cuda else 1,
    )


def _offloads(args: TrainArguments, key: str) -> bool:
    deepspeed = args.deepspeed if isinstance(args.deepspeed, dict) else {}
    return deepspeed.get("zero_optimization", {}).get(key, {}).get("device", "none") != "none"


@dataclass(frozen=True)
class Choice:
    """Settings that a run can use: a method, a batch, and the flags that select them."""

    method: str
    rows: int
    accumulation: int
    flags: str
    estimate: Estimate


def alternatives(setup: Setup, gpus: int) -> Iterator[tuple[str, str, Setup]]:
    """Yield (name, flags or script, setup) of other training methods that need less memory, the smallest change first."""
    method = setup.trained.method
    if not setup.checkpointing:
        setup = replace(setup, checkpointing=True)
        yield "with gradient checkpointing", "--gradient_checkpointing True", setup
    sharded = replace(
        setup, numbers=NumberBytes(2, 2, 2), fp32_copies=True, gradient_bytes=2, others="bf16", frozen="bf16"
    )
    if method == "full" and gpus > 1 and setup.zero.stage < 3:
        yield "ZeRO-3", "DEEPSPEED_CONFIG=configs/deepspeed/zero3.json", replace(sharded, zero=Zero(3, gpus))
    if method != "lora":
        offloaded = replace(sharded, zero=Zero(3, gpus, offload_optimizer=True, offload_weights=True))
        name = "ZeRO-3, weights and optimizer in main memory"
        yield name, "DEEPSPEED_CONFIG=configs/deepspeed/zero3_offload.json", offloaded
    if method == "adapters":
        return
    one_gpu = replace(
        setup, numbers=NumberBytes(2, 2, 4), fp32_copies=False, gradient_bytes=4, others="bf16", frozen="bf16"
    )
    trained = replace(setup.trained, method="lora", rank=setup.trained.rank or 128)
    lora = replace(sharded if gpus > 1 else one_gpu, trained=trained)
    if method == "full":
        yield "LoRA", "sh train_tools/train_senna_llava_lora.sh", replace(lora, zero=Zero(3 if gpus > 1 else 0, gpus))
    if setup.frozen != "nf4":
        nf4 = replace(lora, frozen="nf4", zero=Zero(2 if gpus > 1 else 0, gpus))
        yield "QLoRA", "sh train_tools/train_senna_llava_qlora.sh", nf4


def batch_splits(args: TrainArguments, gpus: int) -> list[tuple[int, int]]:
    """Return all (batch size, accumulation steps) with the same global batch, the largest batch first."""
    product = args.per_device_train_batch_size * args.batch.accumulation_on(gpus)
    return [(rows, product // rows) for rows in range(product, 0, -1) if product % rows == 0]


def batch_flags(args: TrainArguments, rows: int, accumulation: int, gpus: int, is_script: bool) -> str:
    """Return the flags of a batch size and accumulation steps. A script reads a global batch from the file of its stage."""
    flags = f"--per_device_train_batch_size {rows}"
    if args.batch.global_batch and args.batch.accumulation is None:
        return flags
    if is_script and not args.batch.global_batch:
        return f"{flags} --global_batch_size {rows * accumulation * gpus}"
    return f"{flags} --gradient_accumulation_steps {accumulation}"


def choices(args: TrainArguments, shape: ModelShape, gpu_bytes: float, gpus: int) -> list[Choice]:
    """Return settings with the same global batch that fit ``gpu_bytes`` even if the estimate is too low by ``RELATIVE_ERROR``.

    These are the given settings, the largest batch of the given method, and the given settings without gradient
    checkpointing, which are faster. If none fits, they are the largest batch of each other method.
    """
    setup = training_setup(args, shape, gpus)
    given = (args.per_device_train_batch_size, args.batch.accumulation_on(gpus))
    splits_of_all = batch_splits(args, gpus)

    def largest_batch(name: str, flags: str, setup: Setup, splits: list[tuple[int, int]]) -> list[Choice]:
        """Return the first of ``splits`` that fits, or nothing."""
        for rows, accumulation in splits:
            candidate = replace(setup, micro_batch=micro_batch(args, shape, rows), accumulates=accumulation > 1)
            needed = estimate(shape, candidate)
            if needed.total * (1 + RELATIVE_ERROR) <= gpu_bytes:
                # A script of another method may set another batch, so that the batch must be given.
                is_script = ".sh" in flags
                batch = batch_flags(args, rows, accumulation, gpus, is_script)
                words = [flags] if (rows, accumulation) == given and not is_script else [flags, batch]
                return [Choice(name, rows, accumulation, " ".join(filter(None, words)), needed)]
        return []

    found = largest_batch("as given", "", setup, [given])
    other_batch = largest_batch("another batch", "", setup, splits_of_all)
    found += [choice for choice in other_batch if (choice.rows, choice.accumulation) != given]
    if found and setup.checkpointing:
        faster = replace(setup, checkpointing=False)
        found += largest_batch("faster, without recomputation", "--gradient_checkpointing False", faster, [given])
    if found:
        return found
    methods = list(alternatives(setup, gpus))
    for name, flags, other in methods:
        found += largest_batch(name, flags, other, splits_of_all)
    if not found and setup.trained.method != "adapters":
        _, flags, last = methods[-1] if methods else ("", "", setup)  # QLoRA
        low_rank = replace(last, trained=replace(last.trained, rank=LOW_RANK))
        flags = f"{flags} --lora_r {LOW_RANK} --lora_alpha {2 * LOW_RANK}".strip()
        found += largest_batch(f"QLoRA of rank {LOW_RANK}", flags, low_rank, splits_of_all)
    return found


def suggest_smaller(args: TrainArguments, config: SennaConfig) -> str:
    """Return the nearest settings that need less memory, as "method: flags or script"; "" if there are none."""
    shape = ModelShape.from_config(config)
    needed = estimate(shape, training_setup(args, shape)).total
    found = choices(args, shape, needed, args.world_size)
    return f"{found[0].method}: {found[0].flags}" if found else ""
