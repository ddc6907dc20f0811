"""What a run says of itself: the table before its first step, and the last lines."""

from pathlib import Path

from torch import nn

from senna.data import FrameDataset
from senna.data.statistics import TokenStatistics, packing_statistics, token_statistics
from senna.errors import SennaError
from senna.model.packed_attention import packed_kind
from senna.model.source import base_of, is_lora
from senna.train.build_model import count
from senna.train.progress import plot_losses
from senna.train.trainer import SennaTrainer

PARTS = {
    "vision tower": "model.vision_tower.",
    "projector": "model.mm_projector.",
    "driving adapter": "model.img_adapter.",
}


def part_of(name: str) -> str:
    """The part of the model that a weight belongs to."""
    if "lora_" in name:
        return "LoRA"
    return next((part for part, prefix in PARTS.items() if name.startswith(prefix)), "LLM")


def _precision(parameter: nn.Parameter) -> str:
    if getattr(parameter, "quant_state", None) is not None:
        return "nf4"
    names = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16", "torch.int8": "int8"}
    return names.get(str(parameter.dtype), str(parameter.dtype))


def parameter_table(model: nn.Module) -> str:
    """Parts of the model, how many weights each has, how many are trained, and in what precision they are."""
    rows: dict[str, list] = {part: [0, 0, {}] for part in (*PARTS, "LLM", "LoRA")}
    for name, parameter in model.named_parameters():
        row, number = rows[part_of(name)], count(parameter)
        row[0] += number
        row[1] += number * parameter.requires_grad
        row[2][_precision(parameter)] = row[2].get(_precision(parameter), 0) + number
    lines = [f"{'part':<16}{'parameters':>16}{'trained':>16}  precision"]
    for part, (total, trained, precisions) in rows.items():
        if total:
            most_first = ", ".join(sorted(precisions, key=precisions.get, reverse=True))
            lines.append(f"{part:<16}{total:>16,}{f'{trained:,}' if trained else '-':>16}  {most_first}")
    total, trained = sum(row[0] for row in rows.values()), sum(row[1] for row in rows.values())
    return "\n".join([*lines, f"{'all':<16}{total:>16,}{trained:>16,}"])


def data_lines(trainer: SennaTrainer, tokens: TokenStatistics) -> list[str]:
    """Samples by kind and their lengths, with a warning where answers are cut off."""
    args, records = trainer.args, trainer.train_dataset.records
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in records.counts_by_kind().items())
    stage = "" if args.stage is None else f", stage {args.stage}"
    seen = "" if tokens.looked_at == tokens.total else f" (of {tokens.looked_at:,} looked at)"
    lines = [
        f"data     {args.data_path}: {records.epoch_size:,} samples an epoch, format {args.version}{stage}",
        f"         {kinds}",
        f"tokens   {tokens.mean:.0f} a sample, at most {tokens.longest:,}{seen}; the limit of {args.model_max_length:,} cuts "
        f"{tokens.share_cut:.1%}",
    ]
    if tokens.share_with_cut_answers:
        lines.append(
            f"WARNING  {tokens.share_with_cut_answers:.1%} of the samples lose a part of their answers to --model_max_length "
            f"{args.model_max_length}: what is cut is not learnt"
        )
    return lines


def packing_lines(trainer: SennaTrainer) -> list[str]:
    """What packing makes of the data; nothing for a run that does not pack."""
    args, data = trainer.args, trainer.train_dataset
    if not isinstance(data, FrameDataset):
        return []
    found = packing_statistics(
        data, args.model_max_length, trainer.model.config.mm_adapter_tokens, args.pack_max_tokens
    )
    if found.unpacked_tokens == found.packed_tokens:
        return [f"packed   several samples to a row of at most {args.pack_max_tokens:,} tokens"]
    ratio = found.unpacked_tokens / found.packed_tokens
    return [
        f"packed   {data.draw.epoch_size:,} frames of {found.records:.1f} samples: {found.packed_tokens:,.0f} tokens a frame "
        f"instead of {found.unpacked_tokens:,.0f} ({ratio:.1f} times fewer), {packed_kind(trainer.model.config)} attention"
    ]


def describe(trainer: SennaTrainer) -> str:
    """What is about to run: model, data, steps and where to."""
    args, model, data = trainer.args, trainer.model, trainer.train_dataset
    samples = data.dataset if isinstance(data, FrameDataset) else data
    tokens = token_statistics(samples, args.model_max_length, model.config.mm_adapter_tokens)
    a_step, epoch = args.global_batch_size, data.draw.epoch_size
    unit = "samples" if len(data) == len(samples) else "frames"
    steps = args.max_steps if args.max_steps > 0 else -(-epoch // a_step) * args.num_train_epochs
    method = {"nf4": "QLoRA", "int8": "LoRA on int8"}.get(args.quantization, "LoRA" if args.lora_enable else "full")
    zero = f", ZeRO-{args.zero_stage}" if args.zero_stage else ""
    source = []
    if is_lora(args.model_name_or_path):
        again = f", then in {args.quantization} again" if args.quantization else ""
        source = [f"         LoRA on {base_of(args.model_name_or_path, args.model_base)}: merged in memory{again}"]
    return "\n".join([
        f"model    {args.model_name_or_path}, tower {model.config.mm_vision_tower}",
        *source,
        f"         {model.config.mm_adapter_tokens} tokens a view; {method} training",
        *(f"         {line}" for line in parameter_table(model).splitlines()),
        *data_lines(trainer, tokens),
        *packing_lines(trainer),
        f"run      {steps:.0f} steps of {a_step} {unit} ({args.per_device_train_batch_size} x "
        f"{args.gradient_accumulation_steps} x {args.world_size} processes{zero}), learning rate {args.learning_rate:g}",
        f"output   {args.output_dir}",
    ])  # fmt: skip


def next_command(trainer: SennaTrainer) -> str:
    """What a user would run on this run's folder."""
    args = trainer.args
    how = {"nf4": "_qlora", None: "_lora"}.get(args.quantization, "_lora") if args.lora_enable else ""
    folder = Path(args.output_dir)
    if args.stage == 3:
        if args.lora_enable:
            return f"senna merge --adapter {folder} --out {folder}_merged"
        return f"MODEL_PATH={folder} DATA=... IMAGE_DATA=... sh scripts/eval_meta_action.sh"
    stage = "--stage 3" if args.stage == 2 else "--stage 2"
    return f"MODEL_PATH={folder} DATA=... IMAGE_DATA=... sh train_tools/train_senna_llava{how}.sh {stage}"


def report(trainer: SennaTrainer) -> str:
    """Draw the loss curve, and say what the loss was and is, where the model lies, and what comes next."""
    history, output_dir = trainer.state.log_history, Path(trainer.args.output_dir)
    losses = [entry["loss"] for entry in history if "loss" in entry]
    if not losses:
        raise SennaError("the run logged no loss: it took no step")
    drawn = plot_losses(history, output_dir / "loss.png", f"{output_dir.name}: training loss")
    last = losses[-max(len(losses) // 10, 1) :]
    what = "LoRA  " if trainer.args.lora_enable else "model "
    return (
        f"loss     {losses[0]:.4f} at the start, {sum(last) / len(last):.4f} over the last {len(last)} log steps\n"
        f"curve    {output_dir / 'loss.png' if drawn else 'too few steps to draw one'}\n"
        f"{what}   {output_dir} (senna.model.load_model opens it)\n"
        f"next     {next_command(trainer)}"
    )
