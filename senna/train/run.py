"""`senna train`: from arguments to a final folder that `load_model` opens."""

from pathlib import Path

from transformers import ProgressCallback, set_seed
from transformers.trainer_callback import PrinterCallback

from senna.data import Collator, ConversationDataset, FrameDataset, Mixture, PackCollator, open_mixture
from senna.doctor.preflight import before_training
from senna.files import write_json
from senna.model.packed_attention import use_packed_attention
from senna.model.source import load_image_processor, tokenizer_source
from senna.model.tokenizer import load_tokenizer
from senna.train import checkpoint
from senna.train.arguments import TrainArguments, parse_arguments
from senna.train.build_model import build_model
from senna.train.export import save_final
from senna.train.out_of_memory import out_of_memory
from senna.train.progress import LogFile, Progress
from senna.train.summary import describe, report
from senna.train.trainer import SennaTrainer


def main(argv: list[str]) -> int:
    """Entry point of `senna train`. Returns the exit code; raises SennaError for what a user can mend."""
    train(parse_arguments(argv))
    return 0


def build_trainer(args: TrainArguments, records: Mixture | None = None) -> SennaTrainer:
    """Model, data and Trainer as the arguments say; ``records`` where they have been read already."""
    if records is None:
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
    start_from, records = before_training(args)
    if checkpoint.is_finished(output_dir):
        if args.process_index == 0:
            print(f"finished already: {output_dir} holds the trained model; choose another --output_dir for a new run")
        return
    with out_of_memory(args):
        _train(args, build_trainer(args, records), start_from)


def _train(args: TrainArguments, trainer: SennaTrainer, start_from: Path | None) -> None:
    output_dir = Path(args.output_dir)
    is_main = trainer.is_world_process_zero()
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
