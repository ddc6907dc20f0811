"""`senna train`: from arguments to a final folder that `load_model` opens."""

import functools
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from transformers import ProgressCallback, set_seed
from transformers.trainer_callback import PrinterCallback, TrainerState

from senna.data import Collator, ConversationDataset, FrameDataset, Mixture, PackCollator, open_mixture
from senna.data.shared_memory import SharedCollate, worker_errors
from senna.evaluate.training_data import count_plans
from senna.file_lock import lock_folder
from senna.model.config import SennaConfig
from senna.model.packed_attention import use_packed_attention
from senna.model.source import ModelSource
from senna.model.tokenizer import load_tokenizer
from senna.processes import call_in_first
from senna.run_folder import read_settings
from senna.train import checkpoint
from senna.train.arguments import TrainArguments
from senna.train.best import LogAtEnd, StopEarly, ValidateAtEnd, is_patience_over
from senna.train.build_model import build_model
from senna.train.export import save_final
from senna.train.hang import HangWatch
from senna.train.held_out import HeldOut, majority_plan, open_held_out
from senna.train.log_history import LOG_FILE, LogFile
from senna.train.out_of_memory import out_of_memory
from senna.train.partitions import check_processes
from senna.train.plan_loss import ChoiceCollator, ChoiceDataset, check_choice, class_bias
from senna.train.progress import EndEarly, Progress
from senna.train.stop_signals import StopSignals
from senna.train.summary import describe_results, describe_run
from senna.train.timed_trainer import TimedTrainer
from senna.train.tracked import before_trackers, set_up_trackers
from senna.train.trainer import SennaTrainer
from senna.train.validation import Validation


def build_trainer(args: TrainArguments, records: Mixture | None = None) -> SennaTrainer:
    """Build the model, the dataset and the Trainer that the arguments describe.

    Args:
        records: the records of ``args.data_path``, if they have been opened already.
    """
    args.start()
    if records is None:
        records = open_mixture(args.required("data_path"), args.stage, args.skip_bad_samples, kinds=args.chosen_kinds)
    check_choice(args, records)
    held_out = open_held_out(args, records)
    source = ModelSource.resolve(args.required("model_name_or_path"), args.model_base, args.vision_tower)
    set_seed(args.seed)  # new adapters are initialized from the seed
    model = build_model(args, source)
    tokenizer = load_tokenizer(source.tokenizer, args.model_max_length)
    image_processor = source.load_image_processor()
    tokens_per_image = cast(SennaConfig, model.config).mm_adapter_tokens
    samples = functools.partial(
        ConversationDataset,
        tokenizer=tokenizer,
        image_processor=image_processor,
        image_folder=args.image_folder,
        version=args.version,
        aspect_ratio=args.image_aspect_ratio,
        decode=args.image_decode,
        tokens_per_image=tokens_per_image,
    )
    dataset = samples(records)
    lengths = (cast(int, tokenizer.pad_token_id), args.model_max_length, tokens_per_image)
    # A caption directly follows its image, so captions share no tokens and each stays a frame of its own.
    together = args.pack_frames and args.version != "plain"
    train_dataset, collator = dataset, Collator(*lengths)
    if args.plan_loss == "choice":
        bias = class_bias(count_plans(records), args.class_balance)
        train_dataset = ChoiceDataset(dataset, together)
        collator = ChoiceCollator(*lengths, args.pack_max_tokens, bias)
    elif args.pack_frames:
        train_dataset, collator = FrameDataset(dataset, together), PackCollator(*lengths, args.pack_max_tokens)
    if args.packs_rows:
        use_packed_attention(model, args.pack_attention, args.device, args.precision)
    validation = None
    if held_out is not None:
        chosen = HeldOut(FrameDataset(samples(held_out), together=args.version != "plain"), args.eval_limit)
        validation = Validation(chosen, args, model, tokenizer, majority_plan(records))
    before_trackers(args)
    trainer = TimedTrainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        eval_dataset=validation and validation.data,
        data_collator=SharedCollate(collator),
        callbacks=[Progress(), LogFile(Path(args.output_dir) / LOG_FILE), LogAtEnd(), ValidateAtEnd()],
    )
    trainer.validation = validation
    set_up_trackers(trainer)
    if args.early_stopping_patience is not None:
        trainer.add_callback(StopEarly())
    trainer.source, trainer.image_processor, trainer.tokenizer = source, image_processor, tokenizer
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    return trainer


def train(args: TrainArguments, records: Mixture | None = None) -> None:
    """Start or continue a run, and write the final folder, the log and the loss curve. A finished run is left as it is.

    Args:
        records: the records of ``args.data_path``, if they have been opened already.

    Raises:
        UsageError: a required argument is missing, or ``args.output_dir`` holds something other than this run.
        SystemExit: SIGTERM or SIGUSR1 stopped the run, which has written a checkpoint; with 128 and the signal's number.
    """
    args.required("model_name_or_path")
    args.required("data_path")
    args.start()
    settings = checkpoint.run_settings(args)
    if _is_finished(args, settings):
        return
    with ExitStack() as held:
        call_in_first(lambda: _lock(args, held))
        if not _is_finished(args, settings):  # by a run that had the lock a moment ago
            _start_or_continue(args, settings, records)


def _is_finished(args: TrainArguments, settings: dict[str, Any]) -> bool:
    """Check the output folder, and return whether it holds the trained model already; the first process prints that."""
    output_dir = Path(args.output_dir)
    checkpoint.check_output_folder(output_dir, settings)
    if not checkpoint.is_finished(output_dir):
        return False
    if args.process_index == 0:
        step = (read_settings(output_dir / checkpoint.RUN_FILE) or {}).get(checkpoint.ENDED_EARLY)
        note = "" if step is None else f", which was ended early at step {step}"
        print(
            f"finished already: {output_dir} holds the trained model{note}; choose another --output_dir for a new run"
        )
    return True


def _lock(args: TrainArguments, held: ExitStack) -> None:
    """Lock the output folder until ``held`` is closed."""
    remedy = "wait until it ends, stop it, or choose another --output_dir"
    held.enter_context(lock_folder(Path(args.output_dir), remedy=remedy))


def _start_or_continue(args: TrainArguments, settings: dict[str, Any], records: Mixture | None) -> None:
    output_dir = Path(args.output_dir)
    start_from, end = checkpoint.check_output_folder(output_dir, settings), checkpoint.early_end(output_dir, settings)
    if end is not None:
        # The schedule of the learning rate stays.
        args.max_steps = (read_settings(output_dir / checkpoint.RUN_FILE) or {}).get("max_steps", -1)
    damaged: dict[Path, str] = {}
    if start_from is not None:  # its files, which may be large, are read by the first process only
        start_from, damaged = call_in_first(lambda: _newest_for_this_run(args))
    checkpoint.check_resume(args.resume_from_checkpoint, output_dir, start_from)
    with out_of_memory(args), worker_errors("--dataloader_num_workers"):
        trainer = build_trainer(args, records)
        if end is not None:
            trainer.add_callback(EndEarly(end))
        _train(args, trainer, start_from, damaged)


def _newest_for_this_run(args: TrainArguments) -> tuple[Path | None, dict[Path, str]]:
    """Return `newest_intact`, and check that it can be continued on this number of processes."""
    start_from, damaged = checkpoint.newest_intact(Path(args.output_dir))
    if start_from is not None and isinstance(args.deepspeed, dict):
        check_processes(start_from, args.deepspeed, args.world_size)
    return start_from, damaged


def _train_until_stopped(
    args: TrainArguments, trainer: SennaTrainer, start_from: Path | None
) -> tuple[StopSignals, TrainerState]:
    """Train to the end, or until a signal stops the run."""
    stop = StopSignals()
    trainer.add_callback(stop)
    if args.hang_timeout:
        trainer.add_callback(HangWatch(args.hang_timeout))
    with stop.listening():
        trainer.train(resume_from_checkpoint=None if start_from is None else str(start_from))
    return stop, trainer.state


def _train(args: TrainArguments, trainer: SennaTrainer, start_from: Path | None, damaged: dict[Path, str]) -> None:
    output_dir = Path(args.output_dir)
    is_main = trainer.is_world_process_zero()
    if is_main:
        print(describe_run(trainer), flush=True)
        checkpoint.claim_output_folder(output_dir, checkpoint.run_settings(args), start_from)
        for message in checkpoint.set_aside(damaged):
            print(message, flush=True)
        if start_from is not None:
            print(f"continue {start_from}", flush=True)
    stop, state = _train_until_stopped(args, trainer, start_from)
    if stop.agreed:
        if is_main:
            done = f"after step {state.global_step} of {state.max_steps}, with a checkpoint"
            print(f"stopped  by {stop.name} {done}; run the same command again to continue", flush=True)
        trainer.accelerator.wait_for_everyone()  # a launcher stops all processes when the first one ends
        raise SystemExit(stop.exit_code)
    if is_main and state.global_step < state.max_steps:
        checkpoint.note_early_end(output_dir, state.global_step)
        flag = "--early_stopping_patience" if is_patience_over(state.log_history, args) else "--max_steps"
        print(f"ended    early, after step {state.global_step} of {state.max_steps}, as {flag} asks", flush=True)
    if args.load_best_model_at_end:
        trainer.load_best()
    save_final(trainer)
    if is_main:
        print(describe_results(trainer), flush=True)
