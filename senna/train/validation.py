"""Validation while training: the held-out loss by kind, and the scores of the twenty meta-actions for plans.

Plans are scored and measured by the code of `senna evaluate`, so the figures are those that it computes for these weights.
Letters: P plans, R rows of records.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from senna.data import PackCollator
from senna.data.shared_memory import SharedCollate, worker_errors
from senna.evaluate.metrics.bootstrap import Scenes
from senna.evaluate.metrics.calibration import calibration
from senna.evaluate.metrics.meta_actions import codes, decide
from senna.evaluate.predict import SkipBudget
from senna.evaluate.score import PlanScorer
from senna.meta_actions import ALL_META_ACTIONS, MetaAction
from senna.model import SennaLlavaLlamaForCausalLM
from senna.model.packed_attention import packed_rows
from senna.train.fields import TrainArguments
from senna.train.held_out import HeldOut

Forward = Callable[..., Any]


@dataclass(frozen=True)
class Measured:
    """The results for the held-out records, in this process or in all of them; zero where there is none.

    Attributes:
        losses: float64 (R, 2), the summed loss of each record of `HeldOut.all_records` and its number of targets.
        log_probs: float64 (P, 20), see `senna.evaluate.score.PlanScores`.
        is_scored: float64 (P,), 1 for a plan that could be used.
    """

    losses: torch.Tensor
    log_probs: torch.Tensor
    is_scored: torch.Tensor

    def reduced(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> "Measured":
        """Return the results of all processes. Each row is of one process, so their sum is exact."""
        return Measured(reduce(self.losses), reduce(self.log_probs), reduce(self.is_scored))


class Validation:
    """Measures a model on held-out records. The batches do not depend on the number of processes.

    Attributes:
        measured: the results of the last validation in all processes; None before the first one.

    Args:
        baseline: the most frequent meta-action of the training plans; None takes that of the held-out plans.

    Raises:
        UsageError: the model's attention cannot keep packed records apart.
    """

    def __init__(
        self, data: HeldOut, args: TrainArguments, model: SennaLlavaLlamaForCausalLM, tokenizer: Any,
        baseline: MetaAction | None = None,
    ) -> None:  # fmt: skip
        self.data, self.args, self.tokenizer, self.baseline = data, args, tokenizer, baseline
        self.measured: Measured | None = None
        self._batches = data.batches(cast(int, args.per_device_eval_batch_size))
        lengths = (tokenizer.pad_token_id, args.model_max_length, model.config.mm_adapter_tokens)
        self._collate = PackCollator(*lengths, max(args.pack_max_tokens, args.model_max_length))
        rows = np.cumsum([len(data.plans), *(len(frame) for frame in data.frames)])
        self._first_rows = rows.tolist()
        with self._kept_as_it_is(model):
            pass

    def run(
        self, model: SennaLlavaLlamaForCausalLM, forward: Forward, reduce: Callable[[torch.Tensor], torch.Tensor]
    ) -> dict[str, float]:
        """Return the figures to log, the same in every process. All processes must call it.

        Neither weights nor random numbers of the training change.

        Args:
            forward: runs the model: itself, or DeepSpeed's engine around it.
            reduce: sums a tensor over the processes.

        Raises:
            DataError: more records cannot be used than ``skip_bad_samples``.
        """
        with self._kept_as_it_is(model), torch.no_grad():
            measured = self._measure(model, forward)
        self.measured = measured.reduced(reduce)
        return self.figures(self.measured)

    @contextmanager
    def _kept_as_it_is(self, model: SennaLlavaLlamaForCausalLM) -> Iterator[None]:
        """Set the model up for validation, and restore its mode, its attention and the random state at the end."""
        args, was_training = self.args, model.training
        devices = [args.device] if args.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices=devices),
            packed_rows(model, args.pack_attention, args.device, args.precision),
        ):
            model.eval()
            try:
                yield
            finally:
                model.train(was_training)

    def _measure(self, model: SennaLlavaLlamaForCausalLM, forward: Forward) -> Measured:
        """Measure every ``world_size``-th batch."""
        args, data = self.args, self.data
        own = self._batches[args.process_index :: args.world_size]
        rounds = -(-len(self._batches) // args.world_size)
        found = Measured(
            torch.zeros(len(data.all_records()), 2, dtype=torch.float64),
            torch.zeros(len(data.plans), len(ALL_META_ACTIONS), dtype=torch.float64),
            torch.zeros(len(data.plans), dtype=torch.float64),
        )
        scorer = PlanScorer(model, self.tokenizer, args.version, data.ending, None, forward)
        budget = SkipBudget(args.skip_bad_samples, flag="--skip_bad_samples")
        loader: Iterable[list[Any]] = DataLoader(
            data, batch_sampler=own, collate_fn=SharedCollate(list),
            num_workers=min(args.dataloader_num_workers, len(own)),
            generator=torch.Generator().manual_seed(0),  # else the loader draws from the generator of the training
        )  # fmt: skip
        with worker_errors("--dataloader_num_workers"):
            for batch, items in zip(own, loader, strict=True):
                if batch[0] < len(data.plans):
                    self._score(batch, items, scorer, forward, found, budget)
                else:
                    self._compute_losses(batch, items, forward, found, budget)
        for _ in range(rounds - len(own)):  # ZeRO-3 gathers weights in a forward pass of all processes
            self._forward(forward, [])
        return found

    def _score(
        self, numbers: Sequence[int], items: list[Any], scorer: PlanScorer, forward: Forward, found: Measured,
        budget: SkipBudget,
    ) -> None:  # fmt: skip
        usable = [(number, item) for number, item in zip(numbers, items, strict=True) if "error" not in item]
        for item in items:
            if "error" in item:
                budget.skip(item["error"])
        if not usable:
            self._forward(forward, [])
            return
        scores = scorer.score(scorer.collate([item for _, item in usable]))
        for (number, item), score in zip(usable, scores, strict=True):
            plan = self.data.plans[number]
            found.log_probs[number] = torch.from_numpy(score.log_probs)
            found.is_scored[number] = 1
            if plan.gives_loss:
                [code] = codes([plan.truth])
                found.losses[number] = torch.tensor([-score.log_probs[code], len(item["answers"][code])])

    def _compute_losses(
        self, numbers: Sequence[int], items: list[Any], forward: Forward, found: Measured, budget: SkipBudget
    ) -> None:
        rows = []
        for number, item in zip(numbers, items, strict=True):
            for row, sample in enumerate(item["records"], self._first_rows[number - len(self.data.plans)]):
                if "error" in sample:
                    budget.skip(str(sample["error"]))
                else:
                    rows.append(row)
        outputs = self._forward(forward, items)
        found.losses[rows] = torch.stack([outputs.sample_losses, outputs.sample_targets], dim=1).double().cpu()

    def _forward(self, forward: Forward, frames: Sequence[Any]) -> Any:
        """Run the model on frames; without frames on one token of padding."""
        batch = dict(self._collate(frames))
        del batch["counts"], batch["kinds"]
        device = self.args.device
        return forward(**{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()})

    def figures(self, measured: Measured) -> dict[str, float]:
        """Return the figures of all held-out records: losses, and for plans those of `plan_figures`."""
        data = self.data
        losses, targets = measured.losses.numpy().T  # (R,) each
        has_loss = targets > 0
        kinds = data.records.kinds[data.all_records()]  # (R,)
        by_record = losses[has_loss] / targets[has_loss]
        mean = by_record.mean() if self.args.loss_weight == "record" else losses.sum() / targets.sum()
        logs = {"eval_loss": float(mean)}
        if len(data.records.kind_names) > 1:
            for code, name in enumerate(data.records.kind_names):
                if total := targets[kinds == code].sum():
                    logs[f"eval_loss_{name}"] = float(losses[kinds == code].sum() / total)
        chosen = np.flatnonzero(measured.is_scored.numpy())
        if len(chosen):
            plans = [data.plans[number] for number in chosen]
            truth = [plan.truth for plan in plans]
            logs |= plan_figures(truth, measured.log_probs.numpy()[chosen], self.baseline)
        return logs | {"eval_records": int(has_loss.sum())}


def plan_figures(
    truth: Sequence[MetaAction], log_probs: NDArray[np.float64], baseline: MetaAction | None = None
) -> dict[str, float]:
    """Return accuracy, macro F1 and log loss of N plans, beside those of constant predictions.

    They are ``plan.decisions.sum``, ``plan.baselines["majority class"]`` and ``plan.calibration`` of metrics.json.

    Args:
        log_probs: (N, 20).
        baseline: the majority class; default: that of ``truth``.
    """
    scenes = Scenes([""] * len(truth))  # intervals, for which scenes are resampled, are not computed
    if baseline is None:
        baseline = ALL_META_ACTIONS[int(np.bincount(codes(truth)).argmax())]
    best = [ALL_META_ACTIONS[code] for code in log_probs.argmax(axis=1)]
    found, constant = (decide(truth, actions, scenes).parts["both"] for actions in (best, [baseline] * len(truth)))
    probabilities = calibration(log_probs, truth)
    return {
        "eval_plan_accuracy": float(found.accuracies[0]),
        "eval_plan_macro_f1": float(found.macro_f1s[0]),
        "eval_plan_log_loss": float("nan") if probabilities["log_loss"] is None else probabilities["log_loss"],
        "eval_plan_majority_accuracy": float(constant.accuracies[0]),
        "eval_plan_majority_macro_f1": float(constant.macro_f1s[0]),
        "eval_plan_majority_log_loss": probabilities["log_loss_frequencies"] + 0.0,  # not -0.0
        "eval_plans": len(truth),
    }
