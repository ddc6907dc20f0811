"""`SennaTrainer` with the times of its steps in the log, and their MFU."""

from typing import Any

import torch
from transformers import TrainerCallback

from senna.model.parts import DRIVING_ADAPTER, LLM, LORA, PROJECTOR, part_of
from senna.train.flops import TrainedParts, Work, card_peak, training_flops
from senna.train.memory.model_shape import ModelShape
from senna.train.step_times import TIME_KEYS, Clock, CudaClock, HostClock, StepTimes, shares
from senna.train.timed_deepspeed import time_deepspeed
from senna.train.trainer import COUNTED, SennaTrainer


class _StepEnd(TrainerCallback):
    """Ends the optimizer's phase."""

    def __init__(self, times: StepTimes):
        self.times = times

    def on_step_end(self, args, state, control, **kwargs):
        self.times.begin("other")


class TimedTrainer(SennaTrainer):
    """A `SennaTrainer` that marks the phases of its steps; see `senna.train.step_times`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.times = StepTimes(_clock(self.args.device))
        self.add_callback(_StepEnd(self.times))
        self.shape = ModelShape.from_config(self.model.config)
        self.trained_parts = trained_parts(self.model, self.args.lora_r)
        self.peak_tflops = peak_tflops(self.args)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        with self.times.inside("data"):
            return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _number_of_items(self, counts, device):
        with self.times.inside("communication"):  # here a process waits for others that still wait for data
            return super()._number_of_items(counts, device)

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.times.begin("copy")
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.times.begin("optimizer" if self.accelerator.sync_gradients else "other")
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.times.begin("forward")
        result: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = result[0] if return_outputs else result
        if self.args.world_size > 1 and loss.requires_grad and not self.is_deepspeed_enabled:
            loss.register_hook(self._await_end_of_backward)
        self.times.begin("backward")
        return result

    def _await_end_of_backward(self, gradient: torch.Tensor) -> None:
        """Let communication begin when the last gradient is computed.

        DistributedDataParallel reduces gradients during the backward pass. What of it is left after the last gradient, which
        it waits for then, is what communication costs. Autograd runs callbacks in the order in which they were queued, and
        this one, queued by the first gradient, runs before that of DistributedDataParallel.
        """
        engine: Any = torch.autograd.Variable._execution_engine
        engine.queue_callback(lambda: self.times.begin("communication"))

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        with self.times.inside("validation"):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def _save_checkpoint(self, model, trial):  # read in transformers 5.17.0 to 5.23.0
        with self.times.inside("saving"):
            super()._save_checkpoint(model, trial)

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):  # read in 5.17.0 to 5.23.0
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.is_deepspeed_enabled:
            time_deepspeed(self.model_wrapped, self.times)
        return prepared

    def log(self, logs, start_time=None):
        """Log an entry. An entry with a loss also gets the figures of `_time_figures`."""
        if "loss" in logs:
            logs |= self._time_figures()
        super().log(logs, start_time)

    def _time_figures(self) -> dict[str, float]:
        """Return the seconds of training since the last entry, the share of each phase in them, and the MFU where the peak is
        known: means over the processes."""
        counted = dict(zip(COUNTED, self.counted.tolist(), strict=True))
        work = Work(counted["tokens"], counted["targets"], counted["images"], counted["pairs"])
        seconds = self.times.take()
        tflops = training_flops(self.shape, self.trained_parts, work) / 1e12
        *sums, tflops = self._sum_over_processes(torch.tensor([*seconds.values(), tflops]))
        seconds = dict(zip(seconds, sums, strict=True))
        saving = seconds["saving"] / self.args.world_size
        found = shares(seconds)
        total = sum(seconds[phase] for phase in found)
        figures = {"step_seconds": total / self.args.world_size}
        figures |= {TIME_KEYS[phase]: round(share, 4) for phase, share in found.items()}
        if saving:
            figures["save_seconds"] = saving
        if self.peak_tflops and total:
            figures["mfu"] = tflops / (total * self.peak_tflops)
        return figures


def _clock(device: torch.device) -> Clock:
    return CudaClock(torch.cuda.current_stream(device)) if device.type == "cuda" else HostClock()


def trained_parts(model: torch.nn.Module, rank: int) -> TrainedParts:
    """Return the parts of a model that require a gradient. ``rank`` is that of its LoRA, if it has any."""
    trained = [(name, part_of(name)) for name, parameter in model.named_parameters() if parameter.requires_grad]
    parts = {part for _, part in trained}
    return TrainedParts(
        llm=any(name.endswith("_proj.weight") for name, part in trained if part == LLM),
        lm_head=any(name.startswith("lm_head.") for name, _ in trained),
        projector=PROJECTOR in parts,
        adapter=DRIVING_ADAPTER in parts,
        rank=rank if LORA in parts else 0,
    )


def peak_tflops(args: Any) -> float | None:
    """Return the peak TFLOP/s of a run's card: ``--peak_tflops``, or that of its data sheet; None if it is not known."""
    if args.peak_tflops is not None or args.device.type != "cuda":
        return args.peak_tflops
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    if precision == "fp32" and torch.backends.cuda.matmul.allow_tf32:
        precision = "tf32"
    return card_peak(torch.cuda.get_device_name(args.device), precision)
