"""transformers' Trainer with Senna's checkpoints: atomic, with a manifest, and of the trained weights only.

The private methods of transformers' Trainer that are overridden here were read in transformers 5.17.0, 5.20.2 and 5.23.0;
tests/train/test_trainer_api.py fails for a version that changes a signature.
"""

import functools
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from senna.errors import SennaError
from senna.files import SAVING, publish
from senna.model import SennaLlavaLlamaForCausalLM
from senna.run_folder import RUN_FILE
from senna.train.arguments import TrainArguments
from senna.train.best import best_checkpoint
from senna.train.checkpoint import TRAINED_WEIGHTS, prune, saving
from senna.train.deepspeed import partition_weights
from senna.train.log_history import sync_log
from senna.train.manifest import write_manifest
from senna.train.partitions import load_checkpoint


class CheckpointTrainer(Trainer):
    """A Trainer that writes and loads the checkpoints of a run."""

    args: TrainArguments
    model: SennaLlavaLlamaForCausalLM
    started: float
    """The time from which the throughput of the next log entry is measured."""

    def unwrapped_model(self) -> SennaLlavaLlamaForCausalLM:
        """Return the model without the wrappers of accelerate and DeepSpeed."""
        return self.accelerator.unwrap_model(self.model_wrapped)  # type: ignore[arg-type]

    def trained_state(self) -> dict[str, torch.Tensor]:
        """Return the weights that this run trains, by name."""
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def gathered_weights(self, is_wanted: Callable[[str, nn.Parameter], bool]) -> dict[str, torch.Tensor]:
        """Return the wanted weights by name, gathered if ZeRO-3 has partitioned them.

        All processes must call it; the result is empty except in the main process.
        """
        weights = {}
        for name, parameter in self.model.named_parameters():
            if not is_wanted(name, parameter):
                continue
            if hasattr(parameter, "ds_id"):
                import deepspeed

                with deepspeed.zero.GatheredParameters([parameter]):
                    if self.is_world_process_zero():
                        weights[name] = parameter.detach().cpu().clone()
            elif self.is_world_process_zero():
                weights[name] = parameter.detach()
        return weights

    def save_model(self, output_dir=None, _internal_call=False):
        """Write the trained weights of a checkpoint. DeepSpeed writes them itself; frozen weights are those of the model that
        the run started from."""
        if self.args.should_save and not self.is_deepspeed_enabled:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            weights = {name: p.cpu().contiguous() for name, p in self.trained_state().items()}
            save_file(weights, folder / TRAINED_WEIGHTS, metadata={"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):  # read in transformers 5.17.0 to 5.23.0
        weights = load_file(Path(resume_from_checkpoint) / TRAINED_WEIGHTS)
        trained = self.trained_state()
        if weights.keys() != trained.keys():
            raise SennaError(
                f"{resume_from_checkpoint} does not hold the weights that this run trains",
                remedy="continue with the flags of the earlier run, or choose another --output_dir",
            )
        for name, parameter in trained.items():
            parameter.copy_(weights[name])

    def _save_checkpoint(self, model, trial):  # read in transformers 5.17.0 to 5.23.0
        """Write a checkpoint under a temporary name, and rename it when all processes have written their part."""
        output_dir = Path(self.args.output_dir)
        staging = output_dir / SAVING
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save and staging.exists():
            shutil.rmtree(staging)  # the unfinished checkpoint of a killed run
        self.accelerator.wait_for_everyone()
        started = time.perf_counter()
        self._get_output_dir = lambda trial: str(staging)  # the Trainer writes checkpoints below this folder
        with saving(output_dir):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                if (output_dir / RUN_FILE).is_file():  # a checkpoint that is copied elsewhere can be exported there
                    shutil.copyfile(output_dir / RUN_FILE, staging / name / RUN_FILE)
                sync_log(output_dir)
                write_manifest(staging / name)
                publish(staging / name, output_dir / name)
                staging.rmdir()
                best = best_checkpoint(self.state.log_history, self.args)
                prune(output_dir, self.args.save_total_limit, best)
        del self._get_output_dir
        self.started += time.perf_counter() - started  # the throughput excludes the time for saving
        self.accelerator.wait_for_everyone()

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):  # read in 5.17.0 to 5.23.0
        """Prepare the model and the optimizer. DeepSpeed saves and loads checkpoints without frozen weights."""
        self.started = time.perf_counter()
        if not self.is_deepspeed_enabled:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.args.zero_stage == 3:
            config = self.args.hf_deepspeed_config.config
            partition_weights(self.model, config, self.args.precision, self.args.device)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        engine: Any = self.model_wrapped
        engine.save_checkpoint = functools.partial(engine.save_checkpoint, exclude_frozen_parameters=True)
        if resume_from_checkpoint is not None:
            load_checkpoint(engine, Path(resume_from_checkpoint))
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def load_best(self) -> None:
        """Load the weights of the best checkpoint. All processes must call it.

        Raises:
            SennaError: it is not there, or no validation had a finite figure.
        """
        path = best_checkpoint(self.state.log_history, self.args)
        if path is None or not path.is_dir():
            raise SennaError(
                f"--load_best_model_at_end: the best checkpoint{f', {path},' if path else ''} is missing",
                remedy="put it back, or run the same command again with --load_best_model_at_end False",
            )
        if self.is_deepspeed_enabled:
            load_checkpoint(self.model_wrapped, path)
        else:
            self._load_from_checkpoint(str(path))
