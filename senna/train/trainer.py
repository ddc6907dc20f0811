"""transformers' Trainer with Senna's batches, guards and checkpoints."""

import functools
import itertools
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from senna.data import LengthGroupedSampler
from senna.errors import DataError, SennaError
from senna.files import SAVING, publish
from senna.model.config import IGNORE_INDEX
from senna.train.checkpoint import TRAINED_WEIGHTS, checkpoints, prune, saving


class NotFiniteError(SennaError):
    """A loss or a gradient that is not a finite number."""


COUNTED = ("samples", "tokens", "positions", "unpacked_tokens", "cut")
"""What is counted of the batches for the log; all but the samples are the collator's."""


def records_with_targets(batch: dict) -> int:
    """How many of a batch's records have a target."""
    if "target_records" in batch:
        return len(batch["target_records"].unique())
    return int((batch["labels"][:, 1:] != IGNORE_INDEX).any(dim=1).sum())


def peak_memory() -> float:
    """This process's peak so far in GiB: of its GPU as torch counts it, without one of main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class _EpochOrder(TrainerCallback):
    """Tells the sampler which epoch begins; set here, since not every wrapper of a data loader passes it on."""

    def __init__(self, sampler: LengthGroupedSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(int(state.epoch or 0))


class SennaTrainer(Trainer):
    """Adds to the Trainer: the length-grouped order, a stop before a step that is not finite, bad samples counted in one
    place, throughput in the log, and checkpoints that are whole or absent and hold what is trained only."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.step_samples: list[str] = []
        self.bad_samples = 0
        self.started = time.perf_counter()
        self.counted = torch.zeros(len(COUNTED), dtype=torch.float64)  # since the last log entry
        kinds = len(self.train_dataset.records.kind_names)
        self.by_kind = torch.zeros(kinds + 1, 2, device=self.args.device)  # summed losses, targets; last: no kind

    # ---- order of the data

    def _get_train_sampler(self, train_dataset=None):
        data, args = self.train_dataset, self.args
        sampler = LengthGroupedSampler(
            data.lengths,
            data.multimodal,
            batch_size_per_device=args.per_device_train_batch_size,
            num_processes=args.world_size,
            accumulation=args.gradient_accumulation_steps,
            seed=args.seed if args.data_seed is None else args.data_seed,
            group=args.group_by_modality_length,
            draw=data.draw,
        )
        self.add_callback(_EpochOrder(sampler))
        return sampler

    # ---- the step

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of one step, their sample names set aside and their bad samples counted."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        counts = [batch.pop("counts") for batch in batches]
        self.step_samples = [name for count in counts for name in count.samples]
        for message in [message for count in counts for message in count.bad_samples]:
            self.bad_samples += 1
            if self.bad_samples > self.args.skip_bad_samples:
                raise DataError(self._bad_sample_message(message))
            print(f"skipped sample {self.bad_samples} of at most {self.args.skip_bad_samples}: {message}", flush=True)
        for batch, count in zip(batches, counts, strict=True):
            samples = int((batch["kinds"] >= 0).sum())
            self.counted += torch.tensor([samples, *(getattr(count, name) for name in COUNTED[1:])], dtype=torch.float64)
        return batches, self._get_num_items_in_batch(batches, device)

    def _get_num_items_in_batch(self, batch_samples, device):
        """What the step's summed loss is divided by, over all processes: its targets, or its records that have some."""
        if self.args.loss_weight == "token" or not batch_samples:
            return super()._get_num_items_in_batch(batch_samples, device)
        count = torch.tensor(sum(records_with_targets(batch) for batch in batch_samples), device=device)
        return self.accelerator.reduce(count, "sum") if self.args.world_size > 1 else count

    def _bad_sample_message(self, message: str) -> str:
        allowed = self.args.skip_bad_samples
        if allowed == 0:
            return f"{message}. Mend or remove it, or leave such samples out with --skip_bad_samples N"
        return f"{message}. This is one more than --skip_bad_samples {allowed}"

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss, refused before its backward pass where it is not finite: DeepSpeed steps within that pass."""
        kinds = inputs.pop("kinds")
        inputs["loss_weight"] = self.args.loss_weight
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if not torch.isfinite(loss.detach()):
            self._stop_not_finite("loss", float(loss.detach()))
        sums = torch.stack([outputs.sample_losses, outputs.sample_targets.float()], dim=1)  # (B, 2)
        self.by_kind.index_add_(0, kinds.where(kinds >= 0, len(self.by_kind) - 1), sums)
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # In fp16 an infinite gradient is how the loss scale is found: such a step is left out, and the scale is lowered.
        if norm is not None and not self.args.fp16 and not torch.isfinite(torch.as_tensor(norm)):
            # DeepSpeed has stepped by now (in bf16 it leaves such a step out by itself); nothing of it is saved.
            outcome = "nothing of the step was saved" if self.is_deepspeed_enabled else "the step was not taken"
            self._stop_not_finite("gradient norm", float(norm), outcome)
        return norm

    def _stop_not_finite(self, what: str, value: float, outcome: str = "the step was not taken"):
        kept = checkpoints(Path(self.args.output_dir))
        last = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        raise NotFiniteError(
            f"the {what} is {value} at step {self.state.global_step + 1} (process {self.args.process_index}); "
            f"{outcome}, and {last}. Samples of the step: {', '.join(self.step_samples)}. Look at these samples, or lower "
            "--learning_rate, or train in bf16 or fp32 rather than fp16"
        )

    # ---- optimizer

    def create_optimizer(self, model=None):
        """As in the Trainer, with `mm_projector_lr` for the projector and the driving vision adapter where it is set."""
        if self.optimizer is None and self.args.mm_projector_lr is not None:
            cls, kwargs = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = cls(self._parameter_groups(), **kwargs)
            return self.optimizer
        return super().create_optimizer(*([] if model is None else [model]))

    def _parameter_groups(self) -> list[dict]:
        decay = set(self.get_decay_parameter_names(self.model))
        groups: dict[tuple[bool, bool], dict] = {}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            is_adapter, decays = ("mm_projector." in name or "img_adapter." in name), name in decay
            group = groups.setdefault((is_adapter, decays), {"params": []})
            group["params"].append(parameter)
            group["weight_decay"] = self.args.weight_decay if decays else 0.0
            if is_adapter:
                group["lr"] = self.args.mm_projector_lr
        return list(groups.values())

    # ---- log

    def log(self, logs, start_time=None):
        """Adds, over all processes since the last entry: samples/s, tokens/s, which share of the places is padding, how many
        tokens one by one a packed token stands for, the loss of each kind, and peak memory."""
        if "loss" in logs:
            now = time.perf_counter()
            sums = self.accelerator.reduce(self.counted.float().to(self.args.device), "sum").tolist()
            counted = dict(zip(COUNTED, sums, strict=True))
            seconds = max(now - self.started, 1e-9)
            logs |= {
                "samples_per_second": counted["samples"] / seconds,
                "tokens_per_second": counted["tokens"] / seconds,
                "padding": 1 - counted["tokens"] / max(counted["positions"], 1),
                "memory_gb": peak_memory(),
            }
            if self.args.pack_frames:
                logs["packed"] = counted["unpacked_tokens"] / max(counted["tokens"], 1)
            if counted["cut"]:
                logs["cut_samples"] = counted["cut"]
            by_kind = self.accelerator.reduce(self.by_kind, "sum").tolist()
            names = self.train_dataset.records.kind_names
            if len(names) > 1:
                rows = zip(names, by_kind, strict=False)
                logs |= {f"loss_{name}": total / count for name, (total, count) in rows if count}
            self.counted.zero_()
            self.by_kind.zero_()
            self.started = now
        super().log(logs, start_time)

    # ---- checkpoints

    def trained_state(self) -> dict[str, torch.Tensor]:
        """The weights that this run trains, by name."""
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def gathered_weights(self, wanted: Callable[[str, nn.Parameter], bool]) -> dict[str, torch.Tensor]:
        """Weights by name, put together where ZeRO-3 has split them; for all processes to call, empty but on the main one."""
        weights = {}
        for name, parameter in self.model.named_parameters():
            if not wanted(name, parameter):
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
        """A checkpoint holds what is trained; what is frozen is where the run started from. DeepSpeed writes it itself."""
        if self.args.should_save and not self.is_deepspeed_enabled:
            folder = Path(output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            weights = {name: p.cpu().contiguous() for name, p in self.trained_state().items()}
            save_file(weights, folder / TRAINED_WEIGHTS, metadata={"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        weights = load_file(Path(resume_from_checkpoint) / TRAINED_WEIGHTS)
        trained = self.trained_state()
        if weights.keys() != trained.keys():
            raise SennaError(f"{resume_from_checkpoint}: holds other weights than this run trains")
        for name, parameter in trained.items():
            parameter.copy_(weights[name])

    def _save_checkpoint(self, model: nn.Module, trial):
        """Write under a temporary name and rename when all processes have written: whole or absent."""
        output_dir = Path(self.args.output_dir)
        staging = output_dir / SAVING
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save and staging.exists():
            shutil.rmtree(staging)  # what a killed run left half written
        self.accelerator.wait_for_everyone()
        started = time.perf_counter()
        self._get_output_dir = lambda trial: str(staging)  # where the Trainer puts checkpoints
        with saving(output_dir):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                publish(staging / name, output_dir / name)
                staging.rmdir()
                prune(output_dir, self.args.save_total_limit)
        del self._get_output_dir
        self.started += time.perf_counter() - started  # saving is not training: keep it out of the throughput
        self.accelerator.wait_for_everyone()

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        """As in the Trainer; DeepSpeed's part of a checkpoint leaves out what is frozen too."""
        self.started = time.perf_counter()
        if not self.is_deepspeed_enabled:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        engine = self.model_wrapped
        engine.save_checkpoint = functools.partial(engine.save_checkpoint, exclude_frozen_parameters=True)
        if resume_from_checkpoint is not None:
            deepspeed_load_checkpoint(engine, resume_from_checkpoint, load_module_strict=False)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared
