"""transformers' Trainer with Senna's batches, checks and checkpoints.

`SennaTrainer` overrides private methods of transformers' Trainer. They were read in transformers 5.17.0, 5.20.2 and 5.23.0;
tests/train/test_trainer_api.py fails for a version that changes a signature.
"""

import itertools
import time
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback

from senna.data import ConversationDataset, FrameDataset, LengthGroupedSampler
from senna.data.batch import BatchCounts
from senna.errors import DataError, SennaError
from senna.model import SennaLlavaLlamaForCausalLM
from senna.model.parts import is_adapter_weight, own_name
from senna.model.source import ModelSource
from senna.train.arguments import TrainArguments
from senna.train.best import best_validation
from senna.train.checkpoint import checkpoints
from senna.train.dropout import has_dropout, seed_micro_batch
from senna.train.log_history import drop_old
from senna.train.memory.peak import peak_resident
from senna.train.stop_signals import WorkerStart
from senna.train.trainer_checkpoint import CheckpointTrainer
from senna.train.validation import Validation


class NotFiniteError(SennaError):
    """A loss or a gradient norm that is not finite."""


COUNTED = ("records", "tokens", "positions", "unpacked_tokens", "cut", "targets", "images", "pairs")
"""The fields of `BatchCounts` that are summed up from one log entry to the next."""


def peak_memory() -> float:
    """Return the peak memory of this process so far, in GiB: GPU memory as torch counts it, or without a GPU main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_resident() / 2**30


class _SetEpoch(TrainerCallback):
    """A callback that passes the epoch to the sampler, since not every data loader wrapper does."""

    def __init__(self, sampler: LengthGroupedSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(int(state.epoch or 0))


class SennaTrainer(CheckpointTrainer):
    """The Trainer of all stages.

    It adds to transformers' Trainer the length-grouped sampler, a stop before a step whose loss or gradient is not finite, a
    limit on skipped samples, throughput and per-kind losses in the log, and atomic checkpoints of the trained weights.
    """

    args: TrainArguments
    model: SennaLlavaLlamaForCausalLM
    train_dataset: ConversationDataset | FrameDataset
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource
    validation: Validation | None = None
    image_processor: Any

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.step_samples: list[str] = []
        self.step_losses: list[torch.Tensor] = []
        self.has_dropout = has_dropout(self.model)
        self.bad_samples = 0
        self.started = time.perf_counter()
        self.counted = torch.zeros(len(COUNTED), dtype=torch.float64)  # since the last log entry
        self.kind_keys = [f"loss_{name}" for name in self.train_dataset.records.kind_names]
        # (kinds + 1, 2): the summed loss and the number of targets of each kind; the last row is for records without a kind
        self.by_kind = torch.zeros(len(self.kind_keys) + 1, 2, device=self.args.device)

    # ---- order of the data

    def _get_train_sampler(self, train_dataset=None):  # read in transformers 5.17.0 to 5.23.0
        data, args = self.train_dataset, self.args
        sampler = LengthGroupedSampler(
            data.lengths,
            data.multimodal,
            batch_size_per_device=args.per_device_train_batch_size,
            num_processes=args.world_size,
            accumulation=args.gradient_accumulation_steps or 1,
            seed=args.seed if args.data_seed is None else args.data_seed,
            group=args.group_by_modality_length,
            draw=data.draw,
        )
        self.add_callback(_SetEpoch(sampler))
        return sampler

    # ---- the step

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Return the micro-batches of a step, on the host, after taking out sample names, bad samples and counts."""
        if self.control.should_training_stop:  # a run that continues from a checkpoint only to be ended there
            return [], None
        batches = list(itertools.islice(epoch_iterator, num_batches))
        counts: list[BatchCounts] = [batch.pop("counts") for batch in batches]
        self.step_losses.clear()
        self.step_samples = [name for count in counts for name in count.samples]
        for error in [error for count in counts for error in count.bad_samples]:
            self._skip_bad_sample(error)
        for count in counts:
            self.counted += torch.tensor([getattr(count, name) for name in COUNTED], dtype=torch.float64)
        return batches, self._number_of_items(counts, device) if batches else None

    def _skip_bad_sample(self, error: DataError) -> None:
        """Log a sample that cannot be used. Raise its error if there are more than ``skip_bad_samples``."""
        self.bad_samples += 1
        allowed = self.args.skip_bad_samples
        if self.bad_samples > allowed:
            skip = (
                f"raise --skip_bad_samples above {allowed}"
                if allowed
                else "skip such samples with --skip_bad_samples N"
            )
            remedy = f"{error.remedy or 'correct or remove the record'}; or {skip}"
            raise DataError(error.message, remedy=remedy, file=error.file, record=error.record, kind=error.kind)
        print(f"skipped sample {self.bad_samples} of at most {allowed}: {error}", flush=True)

    def _number_of_items(self, counts: list[BatchCounts], device: torch.device) -> torch.Tensor:
        """Return the divisor of the step's summed loss over all processes: its targets, or its records with targets."""
        by_token = self.args.loss_weight == "token"
        items = sum(count.targets if by_token else count.records_with_targets for count in counts)
        number = torch.tensor(items, device=device)
        if self.args.world_size > 1 and self.args.average_tokens_across_devices:
            number = self.accelerator.reduce(number, "sum")
        return number  # type: ignore[return-value]

    def get_train_dataloader(self):
        """Return a data loader whose batches stay on the host.

        The Trainer keeps all micro-batches of a step in a list, and accelerate would put every one of them on the device.
        """
        loader = super().get_train_dataloader()
        loader.device = None  # type: ignore[attr-defined]  # of accelerate's DataLoaderShard
        for part in {loader, getattr(loader, "base_dataloader", loader)}:
            part.worker_init_fn = WorkerStart(part.worker_init_fn)
        return loader

    def _prepare_input(self, data):  # read in transformers 5.17.0 to 5.23.0
        """Move a micro-batch to the device when its turn comes. From pinned memory, the host does not wait for the copy."""
        if isinstance(data, torch.Tensor):
            data = data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss.

        Raises:
            NotFiniteError: a loss of the step is not finite. All of them are checked together, since the host waits for the
                device here, and before the last backward pass, within which DeepSpeed takes the step.
        """
        if self.has_dropout:  # micro-batches alternate between the processes
            index = len(self.step_losses) * self.args.world_size + self.args.process_index
            seed_micro_batch(self.args.seed, self.state.global_step, index)
        kinds = inputs.pop("kinds")
        inputs["loss_weight"] = self.args.loss_weight
        result: Any = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss, outputs = result
        self.step_losses.append(loss.detach())
        if self.accelerator.sync_gradients:  # the last micro-batch of the step
            losses = torch.stack(self.step_losses)
            self.step_losses.clear()
            if not (finite := torch.isfinite(losses)).all():
                self._stop_not_finite("loss", float(losses[~finite][0]))
        sums = torch.stack([outputs.sample_losses, outputs.sample_targets.float()], dim=1)  # (B, 2)
        self.by_kind.index_add_(0, kinds.where(kinds >= 0, len(self.by_kind) - 1), sums)
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model, grad_norm=None):  # read in transformers 5.17.0 to 5.23.0
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # In fp16 an infinite gradient is expected: the loss scaler skips the step and lowers its scale.
        if norm is not None and not self.args.fp16 and not torch.isfinite(torch.as_tensor(norm)):
            # DeepSpeed has taken the step already, except in bf16.
            outcome = "nothing of the step was saved" if self.is_deepspeed_enabled else "the step was not taken"
            self._stop_not_finite("gradient norm", float(norm), outcome)
        return norm

    def _stop_not_finite(self, quantity: str, value: float, outcome: str = "the step was not taken") -> NoReturn:
        found = checkpoints(Path(self.args.output_dir))
        last = f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint yet"
        raise NotFiniteError(
            f"the {quantity} is {value} at step {self.state.global_step + 1} (process {self.args.process_index}); "
            f"{outcome}, and {last}. Samples of the step: {', '.join(self.step_samples)}",
            remedy="check these samples, lower --learning_rate, or train in bf16 or fp32 instead of fp16",
        )

    # ---- optimizer

    def create_optimizer(self, model=None):
        """Create the optimizer, with ``mm_projector_lr`` for projector and driving vision adapter if it is set."""
        if self.optimizer is None and self.args.mm_projector_lr is not None:
            optimizer, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer(self._parameter_groups(), **options)
            return self.optimizer
        return super().create_optimizer(*([] if model is None else [model]))

    def _parameter_groups(self) -> list[dict]:
        decay = set(self.get_decay_parameter_names(self.model))
        groups: dict[tuple[bool, bool], dict] = {}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            is_adapter, decays = is_adapter_weight(own_name(name)), name in decay
            group = groups.setdefault((is_adapter, decays), {"params": []})
            group["params"].append(parameter)
            group["weight_decay"] = self.args.weight_decay if decays else 0.0
            if is_adapter:
                group["lr"] = self.args.mm_projector_lr
        return list(groups.values())

    # ---- log

    def log(self, logs, start_time=None):
        """Log an entry. An entry with a loss also gets figures over all processes since the last one: samples and tokens per
        second, the fraction of padding, unpacked per packed tokens, the loss of each kind, and peak memory in GiB."""
        if "loss" in logs:
            now = time.perf_counter()
            counted = dict(zip(COUNTED, self._sum_over_processes(self.counted.float()), strict=True))
            seconds = max(now - self.started, 1e-9)
            logs |= {
                "samples_per_second": counted["records"] / seconds,
                "tokens_per_second": counted["tokens"] / seconds,
                "padding": 1 - counted["tokens"] / max(counted["positions"], 1),
                "memory_gb": peak_memory(),
            }
            if self.args.pack_frames:
                logs["packed"] = counted["unpacked_tokens"] / max(counted["tokens"], 1)
            if counted["cut"]:
                logs["cut_samples"] = counted["cut"]
            by_kind = self._sum_over_processes(self.by_kind)
            if len(self.kind_keys) > 1:
                rows = zip(self.kind_keys, by_kind, strict=False)
                logs |= {key: total / count for key, (total, count) in rows if count}
            self.counted.zero_()
            self.by_kind.zero_()
            self.started = now
        super().log(logs, start_time)
        drop_old(self.state.log_history)

    def _sum_over_processes(self, values: torch.Tensor) -> list:
        total = self.accelerator.reduce(values.to(self.args.device), "sum")
        return total.tolist()  # type: ignore[union-attr]

    # ---- validation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Validate, log the figures and return them. All processes must call it."""
        assert self.validation is not None
        started = time.perf_counter()
        forward: Any = self.model_wrapped if self.is_deepspeed_enabled else self.model
        figures = self.validation.run(self.unwrapped_model(), forward, self._reduced)
        self.log({**figures, "eval_seconds": time.perf_counter() - started})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        self.started += time.perf_counter() - started  # the throughput excludes the time for validations
        return figures

    def _reduced(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over the processes, on the host."""
        if self.args.world_size == 1:
            return values
        return self.accelerator.reduce(values.to(self.args.device), "sum").cpu()  # type: ignore[union-attr]

    def _determine_best_metric(self, metrics, trial):  # read in transformers 5.17.0 to 5.23.0
        """Return whether this validation is the best one, and let its checkpoint be saved then."""
        best = best_validation(self.state.log_history, self.args)
        is_best = best is not None and best["step"] == self.state.global_step
        self.control.should_save |= is_best
        return is_best
