"""From a run's arguments to what it takes of a card, and to the nearest settings that fit. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from senna.model.config import SennaConfig
from senna.train.memory.activations import Attention, Numbers, Trained, Work
from senna.train.memory.estimate import Estimate, Setup, Zero, estimate
from senna.train.memory.model_shape import ModelShape

if TYPE_CHECKING:
    from senna.train.arguments import TrainArguments

CAPTION = 64
"""Tokens of a long caption of stage 1: of 600 of Flickr8k's and 10 of LLaVA-Pretrain's the longest has 47."""

QUESTION, ANSWER = 456, 100
"""Tokens beside the views of the longest question of a nuScenes frame, the motion of one view's objects, and of its answer."""

TARGETS = 768 / 3391
"""Share of a packed row that is answers: of a nuScenes frame of 13 questions, with 128 tokens a view."""

LOW_RANK = 32
"""Of LoRA, where nothing else fits: a quarter of the published rank."""

ERROR = 0.1
"""How far an estimate may be off, as a share of it: see tests/train/memory/test_estimate.py."""


def work_of(args: TrainArguments, g: ModelShape, rows: int | None = None) -> Work:
    """What a micro-batch holds at most, by what nuScenes' questions and captions are like."""
    rows = args.per_device_train_batch_size if rows is None else rows
    if args.version == "plain":
        tokens = g.view_tokens + CAPTION
        if args.pack_frames:
            tokens = min(rows * tokens, args.pack_max_tokens)
            return Work(max(1, rows * (g.view_tokens + CAPTION) // args.pack_max_tokens), tokens, rows * CAPTION, rows)
        return Work(rows, tokens, rows * CAPTION, rows)
    if args.pack_frames:
        return Work(rows, args.pack_max_tokens, round(rows * args.pack_max_tokens * TARGETS), 6 * rows)
    tokens = min(6 * g.view_tokens + QUESTION + ANSWER, args.model_max_length)
    return Work(rows, tokens, rows * ANSWER, 6 * rows)


def setup_of(args: TrainArguments, g: ModelShape, gpus: int | None = None) -> Setup:
    """How the run of these arguments trains, on ``gpus`` processes (default: those that there are).

    Several processes without a DeepSpeed configuration are what the training scripts make of them: ZeRO-3, and ZeRO-2 where
    the LLM is frozen or quantised.
    """
    gpus = gpus or args.world_size
    half, cuda = args.bf16 or args.fp16, not args.use_cpu
    what = "lora" if args.lora_enable else "adapters" if args.tune_mm_mlp_adapter or args.freeze_backbone else "full"
    stage = args.zero_stage or (0 if gpus == 1 else 2 if what == "adapters" or args.bits < 16 else 3)
    options = (args.deepspeed or {}).get("zero_optimization", {})
    compute = 2 if half else 4
    held = compute if stage else 4  # what trains: without DeepSpeed in fp32
    return Setup(
        work=work_of(args, g),
        trained=Trained(
            what, args.lora_r if what == "lora" else 0, dropout=args.lora_dropout > 0, mask=1 if cuda else held
        ),
        numbers=Numbers(compute, held if what == "full" else compute, held),
        frozen={4: "nf4", 8: "int8"}.get(args.bits, "bf16" if half else "fp32"),
        others="bf16" if half else "fp32",
        master=bool(stage) and half,
        gradient=held,
        accumulates=args.gradient_accumulation_steps > 1,
        checkpointing=bool(args.gradient_checkpointing or getattr(args, "activation_checkpointing", False)),
        attention=Attention(
            eager=args.attn_implementation == "eager" and not args.pack_frames,
            masked=args.pack_frames and args.pack_attention == "dense",
        ),
        liger=args.use_liger_kernel,
        zero=Zero(stage, gpus, _offloads(options, "offload_optimizer"), _offloads(options, "offload_param")),
        cuda=cuda,
    )


def _offloads(options: dict, what: str) -> bool:
    return options.get(what, {}).get("device", "none") != "none"


@dataclass(frozen=True)
class Choice:
    """Settings that a run can have: a method, a batch, and the flags that ask for them."""

    method: str
    rows: int
    accumulation: int
    flags: str
    estimate: Estimate


def methods(setup: Setup, gpus: int) -> Iterator[tuple[str, str, Setup]]:
    """What else the run could be, the least change first: (name, flags or script, setup)."""
    what = setup.trained.what
    if not setup.checkpointing:
        setup = replace(setup, checkpointing=True)
        yield "with gradient checkpointing", "--gradient_checkpointing True", setup
    numbers = Numbers(2, 2, 2)
    split = replace(setup, numbers=numbers, master=True, gradient=2, others="bf16", frozen="bf16")
    if what == "full" and gpus > 1 and setup.zero.stage < 3:
        yield "ZeRO-3", "DEEPSPEED_CONFIG=configs/deepspeed/zero3.json", replace(split, zero=Zero(3, gpus))
    if what != "lora":
        offloaded = replace(split, zero=Zero(3, gpus, offload_optimizer=True, offload_weights=True))
        name = "ZeRO-3, weights and optimizer in main memory"
        yield name, "DEEPSPEED_CONFIG=configs/deepspeed/zero3_offload.json", offloaded
    if what == "adapters":
        return
    alone = replace(setup, numbers=Numbers(2, 2, 4), master=False, gradient=4, others="bf16", frozen="bf16")
    lora = replace(
        split if gpus > 1 else alone, trained=replace(setup.trained, what="lora", rank=setup.trained.rank or 128)
    )
    if what == "full":
        yield "LoRA", "sh train_tools/train_senna_llava_lora.sh", replace(lora, zero=Zero(3 if gpus > 1 else 0, gpus))
    if setup.frozen != "nf4":
        nf4 = replace(lora, frozen="nf4", zero=Zero(2 if gpus > 1 else 0, gpus))
        yield "QLoRA", "sh train_tools/train_senna_llava_qlora.sh", nf4


def batches(args: TrainArguments) -> list[tuple[int, int]]:
    """(batch, accumulation) that keep the global batch, the largest batch first."""
    product = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return [(rows, product // rows) for rows in range(product, 0, -1) if product % rows == 0]


def choices(args: TrainArguments, g: ModelShape, card: float, gpus: int) -> list[Choice]:
    """What surely fits ``card`` bytes, the global batch kept: the run as asked and its largest batch, or where neither is
    small enough the largest batch of each other method."""
    asked = setup_of(args, g, gpus)
    given = (args.per_device_train_batch_size, args.gradient_accumulation_steps)

    def fitting(name: str, flags: str, setup: Setup, which: list[tuple[int, int]]) -> Iterator[Choice]:
        for rows, accumulation in which:
            tried = replace(setup, work=work_of(args, g, rows), accumulates=accumulation > 1)
            needed = estimate(g, tried)
            if needed.total * (1 + ERROR) <= card:
                batch = f"--per_device_train_batch_size {rows} --gradient_accumulation_steps {accumulation}"
                # Another script's recipe has a batch of its own.
                added = [flags] if (rows, accumulation) == given and ".sh" not in flags else [flags, batch]
                yield Choice(name, rows, accumulation, " ".join(filter(None, added)), needed)
                return

    found = list(fitting("as asked", "", asked, [given]))
    for other in fitting("another batch", "", asked, batches(args)):
        if (other.rows, other.accumulation) != given:
            found.append(other)
    if found:
        return found
    for name, flags, setup in methods(asked, gpus):
        found += fitting(name, flags, setup, batches(args))
    if not found and asked.trained.what != "adapters":
        *_, (_, flags, setup) = [("", "", asked), *methods(asked, gpus)]  # the last is QLoRA
        low = replace(setup, trained=replace(setup.trained, rank=LOW_RANK))
        rank = f"{flags} --lora_r {LOW_RANK} --lora_alpha {2 * LOW_RANK}".strip()
        found += fitting(f"QLoRA of rank {LOW_RANK}", rank, low, batches(args))
    return found


def smaller(args: TrainArguments, config: SennaConfig) -> str:
    """Settings that surely take less than these: the nearest, as flags or a script; "" where there are none."""
    g = ModelShape.of(config)
    found = choices(args, g, estimate(g, setup_of(args, g)).total, args.world_size)
    return f"{found[0].method}: {found[0].flags}" if found else ""
