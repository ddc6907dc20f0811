"""`senna train`: from arguments to a final folder that `load_model` opens."""

import importlib.util
from pathlib import Path

import torch
from transformers import ProgressCallback, set_seed
from transformers.trainer_callback import PrinterCallback

from senna.data import Collator, ConversationDataset, FrameDataset, PackCollator
from senna.data.mixture import open_mixture, parse_data_path
from senna.errors import UsageError
from senna.files import check_free_space, write_json
from senna.model.config_files import read_config
from senna.model.loading import load_image_processor, tokenizer_source
from senna.model.packed_attention import use_packed_attention
from senna.model.tokenizer import load_tokenizer
from senna.train import checkpoint
from senna.train.arguments import TrainArguments, parse_arguments
from senna.train.finish import save_final
from senna.train.prepare import build_model
from senna.train.progress import LogFile, Progress
from senna.train.summary import describe, report
from senna.train.trainer import SennaTrainer


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
    parse_data_path(args.data_path)
    if args.quantization and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(f"--bits {args.bits}: bitsandbytes is not installed: pip install -e '.[gpu]', or --bits 16")
    if args.use_liger_kernel and (args.use_cpu or importlib.util.find_spec("liger_kernel") is None):
        raise UsageError(
            "--use_liger_kernel: Liger's kernels are for CUDA, and come with pip install -e '.[gpu]'; leave the flag out here"
        )
    if args.image_folder is not None and not Path(args.image_folder).is_dir():
        raise UsageError(f"--image_folder {args.image_folder}: no such folder")
    read_config(args.model_name_or_path, args.vision_tower, args.model_base)
    return checkpoint.check_output_folder(Path(args.output_dir), checkpoint.run_settings(args))


def build_trainer(args: TrainArguments) -> SennaTrainer:
    """Model, data and Trainer as the arguments say."""
    # Validates every record: a bad one is told of before the model is loaded.
    records = open_mixture(args.data_path, args.stage)
    set_seed(args.seed)  # new adapters start from the seed
    model = build_model(args)
    tokenizer = load_tokenizer(tokenizer_source(args.model_name_or_path, args.model_base), args.model_max_length)
    image_processor = load_image_processor(
        args.vision_tower or args.model_name_or_path, model.config, None if args.vision_tower else args.model_base
    )
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
    layout = (tokenizer.pad_token_id, args.model_max_length, tokens_per_image)
    if args.pack_frames:
        use_packed_attention(model, args.pack_attention, args.device)
    trainer = SennaTrainer(
        model=model,
        args=args,
        # A caption follows its picture at once: there is no question that others could share one with.
        train_dataset=FrameDataset(dataset, together=args.version != "plain") if args.pack_frames else dataset,
        data_collator=PackCollator(*layout, args.pack_max_tokens) if args.pack_frames else Collator(*layout),
        callbacks=[Progress(), LogFile(Path(args.output_dir) / "train_log.jsonl")],
    )
    trainer.image_processor, trainer.tokenizer = image_processor, tokenizer
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    return trainer


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
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    trained_bytes = 12 * trained  # weight and two moments
    whole = trained if args.lora_enable else sum(p.numel() for p in trainer.model.parameters())
    final_bytes = whole * args.precision.itemsize
    check_free_space(output_dir, 2 * trained_bytes + final_bytes)
    if is_main:
        print(describe(trainer), flush=True)
        with checkpoint.saving(output_dir):
            output_dir.mkdir(parents=True, exist_ok=True)
            write_json(output_dir / checkpoint.RUN_FILE, checkpoint.run_settings(args))
        if start_from is not None:
            print(f"continue {start_from}", flush=True)
    trainer.train(resume_from_checkpoint=None if start_from is None else str(start_from))
    save_final(trainer)
    if is_main:
        with checkpoint.saving(output_dir):
            print(report(trainer), flush=True)
