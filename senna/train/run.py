"""`senna train`: from arguments to a final folder that `load_model` opens."""

import logging
import shutil
from pathlib import Path

import torch
from transformers import ProgressCallback, set_seed
from transformers.trainer_callback import PrinterCallback

from senna.data import Collator, ConversationDataset
from senna.errors import SennaError, UsageError
from senna.model.config_files import read_config
from senna.model.loading import load_image_processor, open_model, quiet_transformers
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM
from senna.model.tokenizer import load_tokenizer
from senna.records import open_records
from senna.train import checkpoint
from senna.train.arguments import TrainArguments, parse_arguments
from senna.train.progress import LogFile, Progress, plot_losses
from senna.train.trainer import SennaTrainer

logger = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Entry point of `senna train`. Returns the exit code; raises SennaError for what a user can mend."""
    train(parse_arguments(argv))
    return 0


def check(args: TrainArguments) -> Path | None:
    """Everything that can be known to fail before work begins. Returns the checkpoint to continue from."""
    for name in ("model_name_or_path", "data_path"):
        if not getattr(args, name):
            raise UsageError(f"--{name} is not set; the training scripts set it from the environment (see README.md)")
    if not torch.cuda.is_available() and not args.use_cpu:
        raise UsageError(
            "no GPU here: set --use_cpu True to train on the CPU (PRESET=tiny does, with a model that fits)"
        )
    if not Path(args.data_path).is_file():
        raise UsageError(f"--data_path {args.data_path}: no such file")
    if args.image_folder is not None and not Path(args.image_folder).is_dir():
        raise UsageError(f"--image_folder {args.image_folder}: no such folder")
    read_config(args.model_name_or_path, args.vision_tower)
    return checkpoint.check_output_folder(Path(args.output_dir), checkpoint.run_settings(args))


def freeze(model: SennaLlavaLlamaForCausalLM, args: TrainArguments) -> None:
    """Leave a gradient to what the flags say is trained; the tower never is."""
    parts = model.model
    model.requires_grad_(not (args.tune_mm_mlp_adapter or args.freeze_backbone))
    parts.mm_projector.requires_grad_(not args.freeze_mm_mlp_adapter)
    parts.img_adapter.requires_grad_(not args.freeze_img_adapter)
    parts.vision_tower.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError("the flags freeze every part of the model: nothing would be trained")


def build_model(args: TrainArguments) -> SennaLlavaLlamaForCausalLM:
    """The model to train: frozen parts in the training precision, trained parts in fp32 (DeepSpeed keeps its own fp32)."""
    low = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    model, new = open_model(
        args.model_name_or_path,
        args.vision_tower,
        dtype=low,
        attn_implementation=args.attn_implementation,
        mm_adapter_tokens=args.mm_adapter_tokens,
        mm_vision_select_layer=args.mm_vision_select_layer,
        tokenizer_model_max_length=args.model_max_length,
        image_aspect_ratio=args.image_aspect_ratio,
    )
    model.config.tokenizer_padding_side = "right"
    model.config.use_cache = False
    if args.init_weight_img_adapter and "img_adapter" not in new:
        model.model.img_adapter.reset()
        new.append("img_adapter")
    if new and not args.tune_mm_mlp_adapter:
        logger.warning(
            "%s holds no %s: it starts untrained; stage 1 trains it", args.model_name_or_path, " and no ".join(new)
        )
    freeze(model, args)
    if not args.deepspeed:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return model


def build_trainer(args: TrainArguments) -> SennaTrainer:
    """Model, data and Trainer as the arguments say."""
    records = open_records(args.data_path)  # validates every record: a bad one is told of before the model is loaded
    set_seed(args.seed)  # new adapters start from the seed
    model = build_model(args)
    tokenizer = load_tokenizer(args.model_name_or_path, args.model_max_length)
    image_processor = load_image_processor(args.vision_tower or args.model_name_or_path, model.config)
    tokens_per_image = model.config.mm_adapter_tokens
    dataset = ConversationDataset(
        records,
        tokenizer,
        image_processor,
        args.image_folder,
        version=args.version,
        aspect_ratio=args.image_aspect_ratio,
        decode=args.image_decode,
        tokens_per_image=tokens_per_image,
    )
    trainer = SennaTrainer(
        model=model,
        args=args,
        train_dataset=dataset,
        data_collator=Collator(tokenizer.pad_token_id, args.model_max_length, tokens_per_image),
        callbacks=[Progress(), LogFile(Path(args.output_dir) / "train_log.jsonl")],
    )
    trainer.image_processor, trainer.tokenizer = image_processor, tokenizer
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    return trainer


def describe(trainer: SennaTrainer) -> str:
    """What is about to run, in a few lines."""
    args, model = trainer.args, trainer.model
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    samples = len(trainer.train_dataset)
    steps = args.max_steps if args.max_steps > 0 else -(-samples // args.global_batch_size) * args.num_train_epochs
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    return (
        f"model    {args.model_name_or_path}, tower {model.config.mm_vision_tower}\n"
        f"         {total:,} parameters, {trained:,} trained, {precision}, {model.config.mm_adapter_tokens} tokens a view\n"
        f"data     {args.data_path}: {samples:,} samples, format {args.version}\n"
        f"run      {steps:.0f} steps of {args.global_batch_size} samples ({args.per_device_train_batch_size} x "
        f"{args.gradient_accumulation_steps} x {args.world_size} processes), learning rate {args.learning_rate:g}\n"
        f"output   {args.output_dir}"
    )


def train(args: TrainArguments) -> None:
    """Check, train (or continue), and write the final folder, the log and the loss curve."""
    output_dir = Path(args.output_dir)
    start_from = check(args)
    if checkpoint.is_finished(output_dir):
        if args.process_index == 0:
            print(f"finished already: {output_dir} holds the trained model; choose another --output_dir for a new run")
        return
    trainer = build_trainer(args)
    is_main = trainer.is_world_process_zero()
    trained_bytes = sum(p.numel() * 12 for p in trainer.model.parameters() if p.requires_grad)  # weight and two moments
    final_bytes = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    checkpoint.check_free_space(output_dir, 2 * trained_bytes + final_bytes)
    if is_main:
        print(describe(trainer), flush=True)
        with checkpoint.saving(output_dir):
            output_dir.mkdir(parents=True, exist_ok=True)
            checkpoint.write_json(output_dir / checkpoint.RUN_FILE, checkpoint.run_settings(args))
        if start_from is not None:
            print(f"continue {start_from}", flush=True)
    trainer.train(resume_from_checkpoint=None if start_from is None else str(start_from))
    if is_main:
        with checkpoint.saving(output_dir):
            save_final(trainer, output_dir)
            report(trainer, output_dir)


def save_final(trainer: SennaTrainer, output_dir: Path) -> None:
    """Write the whole model, one precision throughout, with its tokenizer and image processor."""
    staging = output_dir / checkpoint.SAVING
    if staging.exists():
        shutil.rmtree(staging)
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    with quiet_transformers():
        model.to(model.lm_head.weight.dtype).save_pretrained(staging)
    trainer.tokenizer.save_pretrained(staging)
    trainer.image_processor.save_pretrained(staging)
    checkpoint.publish_files(staging, output_dir)


def report(trainer: SennaTrainer, output_dir: Path) -> None:
    """Draw the loss curve and say what the loss was and is."""
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    if not losses:
        raise SennaError("the run logged no loss: it took no step")
    drawn = plot_losses(history, output_dir / "loss.png", f"{output_dir.name}: training loss")
    last = losses[-max(len(losses) // 10, 1) :]
    print(f"loss     {losses[0]:.4f} at the start, {sum(last) / len(last):.4f} over the last {len(last)} log steps")
    print(f"curve    {output_dir / 'loss.png'}" if drawn else "curve    too few steps to draw one")
    print(f"model    {output_dir} (open it with senna.model.load_model, or give it as MODEL_PATH to the next stage)")
