"""The texts that a run prints: a table before its first step, and the results at its end."""

import shlex
from pathlib import Path

import torch
from torch import nn

from senna.data import FrameDataset
from senna.data.statistics import TokenStatistics, packing_statistics, token_statistics
from senna.errors import SennaError
from senna.model.packed_attention import packed_kind
from senna.model.parts import DRIVING_ADAPTER, LLM, LORA, PROJECTOR, VISION_TOWER, part_of
from senna.train.advice import time_lines
from senna.train.best import best_checkpoint, best_validation
from senna.train.build_model import count_weights
from senna.train.curve import plot_losses
from senna.train.log_history import LOG_FILE, read_log
from senna.train.timed_trainer import peak_tflops
from senna.train.trackers import tracker_lines
from senna.train.trainer import SennaTrainer

TITLES = {
    VISION_TOWER: "vision tower",
    PROJECTOR: "projector",
    DRIVING_ADAPTER: "driving adapter",
    LLM: "LLM",
    LORA: "LoRA",
}
"""Part -> its name in the table, in the order of the table."""


def _precision(parameter: nn.Parameter) -> str:
    """Return the short name of a parameter's precision: "fp32", "bf16", "fp16", "int8" or "nf4"."""
    if getattr(parameter, "quant_state", None) is not None:
        return "nf4"
    names = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16", "torch.int8": "int8"}
    return names.get(str(parameter.dtype), str(parameter.dtype))


def parameter_table(model: nn.Module) -> str:
    """Return a table of the model's parts: their weights, how many of these are trained, and their precisions."""
    total = dict.fromkeys(TITLES.values(), 0)
    trained = dict.fromkeys(total, 0)
    precisions: dict[str, dict[str, int]] = {part: {} for part in total}
    for name, parameter in model.named_parameters():
        part, weights, precision = TITLES[part_of(name)], count_weights(parameter), _precision(parameter)
        total[part] += weights
        trained[part] += weights * parameter.requires_grad
        precisions[part][precision] = precisions[part].get(precision, 0) + weights
    lines = [f"{'part':<16}{'parameters':>16}{'trained':>16}  precision"]
    for part in total:
        if total[part]:
            by_weights = sorted(precisions[part], key=lambda name: precisions[part][name], reverse=True)
            trained_text = f"{trained[part]:,}" if trained[part] else "-"
            lines.append(f"{part:<16}{total[part]:>16,}{trained_text:>16}  {', '.join(by_weights)}")
    return "\n".join([*lines, f"{'all':<16}{sum(total.values()):>16,}{sum(trained.values()):>16,}"])


def data_lines(trainer: SennaTrainer, tokens: TokenStatistics) -> list[str]:
    """Return the samples by kind and their lengths, with a warning if answers are truncated."""
    args, records = trainer.args, trainer.train_dataset.records
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in records.counts_by_kind().items())
    stage = "" if args.stage is None else f", stage {args.stage}"
    sampled = "" if tokens.measured == tokens.total else f" ({tokens.measured:,} samples measured)"
    lines = [
        f"data     {args.data_path}: {records.epoch_size:,} samples an epoch, format {args.version}{stage}",
        f"         {kinds}",
        f"tokens   {tokens.mean:.0f} a sample, at most {tokens.longest:,}{sampled}; the limit of {args.model_max_length:,} "
        f"truncates {tokens.share_cut:.1%}",
    ]
    if tokens.share_with_cut_answers:
        lines.append(
            f"WARNING  {tokens.share_with_cut_answers:.1%} of the samples have answers that --model_max_length "
            f"{args.model_max_length} truncates: the rest of them is not learned"
        )
    return lines


def packing_lines(trainer: SennaTrainer) -> list[str]:
    """Return the effect of packing on the data; an empty list for a run that does not pack."""
    args, data = trainer.args, trainer.train_dataset
    if not isinstance(data, FrameDataset):
        return []
    found = packing_statistics(
        data, args.model_max_length, trainer.model.config.mm_adapter_tokens, args.pack_max_tokens
    )
    if found.unpacked_tokens == found.packed_tokens:
        return [f"packed   several samples in a row of at most {args.pack_max_tokens:,} tokens"]
    ratio = found.unpacked_tokens / found.packed_tokens
    return [
        f"packed   {data.draw.epoch_size:,} frames of {found.records:.1f} samples: {found.packed_tokens:,.0f} tokens a frame "
        f"instead of {found.unpacked_tokens:,.0f} ({ratio:.1f} times fewer), {packed_kind(trainer.model.config)} attention"
    ]


def validation_lines(trainer: SennaTrainer) -> list[str]:
    """Return the held-out records and when they are used; an empty list for a run without validation."""
    args, validation = trainer.args, trainer.validation
    if validation is None:
        return []
    data = validation.data
    scenes = len({data.records.scene(record) for record in data.all_records()} - {""})
    when = (
        "after each epoch" if args.eval_strategy == "epoch" else f"every {args.eval_steps:g} steps and after the last"
    )
    lines = [
        f"held out {args.eval_data_path}: {len(data.all_records()):,} samples of {scenes:,} scenes, "
        f"of which {len(data.plans):,} plans are scored; {when}"
    ]
    if args.metric_for_best_model:
        patience = args.early_stopping_patience
        end = f"; the run ends after {patience} validations without a better one" if patience else ""
        lines.append(f"         the checkpoint of the best {args.metric_for_best_model} is kept{end}")
    return lines


def best_lines(trainer: SennaTrainer) -> list[str]:
    """Return the best validation and how to use its checkpoint; an empty list for a run that keeps none."""
    args, history = trainer.args, trainer.state.log_history
    entry, path = best_validation(history, args), best_checkpoint(history, args)
    if entry is None or path is None:
        return []
    made = "the final folder is made of it"
    if not args.load_best_model_at_end:
        made = f"senna export --checkpoint {shlex.quote(str(path))} --out DIR"
    return [
        f"best     {args.metric_for_best_model} {entry[str(args.metric_for_best_model)]:.4f} at step {entry['step']}: {made}"
    ]


def mfu_lines(trainer: SennaTrainer) -> list[str]:
    """Return why a run on a GPU shows no MFU; an empty list if it shows it."""
    args = trainer.args
    if args.device.type != "cuda" or peak_tflops(args) is not None:
        return []
    return [
        f"mfu      not shown: the peak of {torch.cuda.get_device_name(args.device)} in this precision is not known; "
        "--peak_tflops sets it"
    ]


def describe_run(trainer: SennaTrainer) -> str:
    """Return the text that is printed before the first step: model, data, steps and output folder."""
    args, model, data = trainer.args, trainer.model, trainer.train_dataset
    samples = data.dataset if isinstance(data, FrameDataset) else data
    tokens = token_statistics(samples, args.model_max_length, model.config.mm_adapter_tokens)
    step_size, epoch_size = args.global_batch_size or 1, data.draw.epoch_size
    unit = "samples" if len(data) == len(samples) else "frames"
    steps = args.max_steps if args.max_steps > 0 else -(-epoch_size // step_size) * args.num_train_epochs
    zero = f", ZeRO-{args.zero_stage}" if args.zero_stage else ""
    return "\n".join([
        f"model    {args.model_name_or_path}, tower {model.config.mm_vision_tower}",
        *_lora_lines(trainer),
        f"         {model.config.mm_adapter_tokens} tokens a view; {_method(trainer)} training",
        *(f"         {line}" for line in parameter_table(model).splitlines()),
        *data_lines(trainer, tokens),
        *packing_lines(trainer),
        *validation_lines(trainer),
        f"run      {steps:.0f} steps of {step_size} {unit} ({args.per_device_train_batch_size} x "
        f"{args.gradient_accumulation_steps} x {args.world_size} processes{zero}), learning rate {args.learning_rate:g}",
        *mfu_lines(trainer),
        f"output   {args.output_dir}",
        *(f"tracker  {line}" for line in tracker_lines(args)),
    ])  # fmt: skip


def _method(trainer: SennaTrainer) -> str:
    if not trainer.args.lora_enable:
        return "full"
    return {4: "QLoRA", 8: "LoRA on int8"}.get(trainer.args.bits, "LoRA")


def _lora_lines(trainer: SennaTrainer) -> list[str]:
    args, source = trainer.args, trainer.source
    if not source.is_lora:
        return []
    quantized = f", then quantized to {args.quantization} again" if args.quantization else ""
    return [f"         LoRA on {source.base}: merged in memory{quantized}"]


def next_command(trainer: SennaTrainer) -> str:
    """Return the command that usually follows on this run's folder."""
    args = trainer.args
    suffix = ("_qlora" if args.bits == 4 else "_lora") if args.lora_enable else ""
    folder = shlex.quote(str(Path(args.output_dir)))
    if args.stage == 3:
        if args.lora_enable:
            return f"senna merge --adapter {folder} --out {shlex.quote(f'{Path(args.output_dir)}_merged')}"
        return f"MODEL_PATH={folder} DATA=... IMAGE_DATA=... sh scripts/eval_meta_action.sh"
    stage = "--stage 3" if args.stage == 2 else "--stage 2"
    return f"MODEL_PATH={folder} DATA=... IMAGE_DATA=... sh train_tools/train_senna_llava{suffix}.sh {stage}"


def describe_results(trainer: SennaTrainer) -> str:
    """Draw the loss curve, and return the text that is printed at the end: losses, files and the next command.

    Raises:
        SennaError: the run took no step, or the loss curve cannot be written.
    """
    output_dir = Path(trainer.args.output_dir)
    history = list(read_log(output_dir / LOG_FILE))
    losses = [entry["loss"] for entry in history if "loss" in entry]
    if not losses:
        raise SennaError("the run took no step, so it logged no loss", remedy="raise --num_train_epochs or --max_steps")
    is_drawn = plot_losses(history, output_dir / "loss.png", f"{output_dir.name}: training loss")
    last = losses[-max(len(losses) // 10, 1) :]
    label = "LoRA  " if trainer.args.lora_enable else "model "
    return "\n".join([
        f"loss     {losses[0]:.4f} at the start, {sum(last) / len(last):.4f} over the last {len(last)} log steps",
        *best_lines(trainer),
        *time_lines(trainer.args, history),
        f"curve    {output_dir / 'loss.png' if is_drawn else 'not drawn: too few steps'}",
        f"{label}   {output_dir} (senna.model.load_model opens it)",
        f"next     {next_command(trainer)}",
    ])  # fmt: skip
