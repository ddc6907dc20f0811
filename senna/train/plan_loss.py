"""``--plan_loss choice``: plans whose loss is a cross-entropy among the twenty meta-actions.

A plan becomes twenty branches behind its question, as `senna.evaluate.score` encodes them, so that one packed forward pass
gives the probabilities by which `senna evaluate` decides. Letters are those of `senna.model.choices`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from senna.data import ConversationDataset, FrameDataset, Mixture, PackCollator
from senna.data.batch import FrameRecord, FrameSample, PackedBatch
from senna.decision import prior_of
from senna.errors import UsageError
from senna.evaluate.metrics.meta_actions import codes
from senna.evaluate.score import AnswerEncoder, answer_ending
from senna.kinds import PLAN
from senna.meta_actions import ALL_META_ACTIONS, parse_meta_action
from senna.model.choices import Choices
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.train.fields import TrainArguments


class PlanRecord(FrameRecord, total=False):
    """A record of a frame. A plan with a choice also has its answers; its other fields are those of the true answer."""

    branches: list[FrameRecord]  # one for each answer
    truth: int  # the number of the true answer


class ChoiceDataset(FrameDataset):
    """A `FrameDataset` whose plans are `PlanRecord` with answers.

    A plan keeps the loss of its text if its answer is not exactly a meta-action, or is not the answer to a single question.
    """

    def __init__(self, dataset: ConversationDataset, together: bool) -> None:
        super().__init__(dataset, together)
        self._is_plan = np.array([name == PLAN for name in self.records.kind_names])

    def sample(self, members: list[int]) -> FrameSample:
        """Return these records of one frame, one or more, as an item."""
        found = super().sample(members)
        for index, record in zip(members, found["records"], strict=True):
            if self._is_plan[self.records.kinds[index]] and "error" not in record:
                cast("dict[str, Any]", record).update(self._choice(index))
        return found

    def _choice(self, index: int) -> dict[str, Any]:
        """Return the fields of a `PlanRecord` that describe its answers; {} for a record without a choice."""
        turns: Any = self.records[index]["conversations"]
        answer = turns[-1]["value"]
        truth, ending = parse_meta_action(answer), answer_ending(answer)
        if truth is None or answer != f"{truth}{ending}" or len(turns) != 2:
            return {}
        samples = self.dataset
        encoder = AnswerEncoder(samples.tokenizer, samples.version, ending)
        return {"branches": encoder.records(turns[:-1]), "truth": codes([truth])[0]}


@dataclass(frozen=True)
class ChoiceCollator(PackCollator):
    """Pack the items of a `ChoiceDataset` into a `PackedBatch` with ``choices``, in which a choice counts as one target.

    The answers to a plan share its question, which shares the views with the frame's other records. A plan of which
    ``max_length`` cuts an answer has no loss, and is counted as cut.

    Attributes:
        bias: (A,), see `Choices`.
    """

    bias: tuple[float, ...] = (0.0,) * len(ALL_META_ACTIONS)

    def __call__(self, frames: Sequence[FrameSample]) -> PackedBatch:
        frames = [{**frame, "records": [self._without_cut(record) for record in frame["records"]]} for frame in frames]
        used = [
            cast(PlanRecord, record)
            for frame in frames
            for record in frame["records"]
            if "error" not in record and len(record["input_ids"])
        ]  # R
        batch = super().__call__([{**frame, "records": _expanded(frame["records"])} for frame in frames])
        owners = [number for number, record in enumerate(used) for _ in _expanded([record])]
        records = torch.tensor(owners, dtype=torch.long)[batch["target_records"]]  # (M,)
        choices = self._choices(used, batch["target_records"])
        others = choices["others"]  # (S,)
        samples = [record for frame in frames for record in frame["records"]]
        counts = replace(
            batch["counts"],
            samples=[record["sample"] for record in samples],
            records=len(used),
            targets=len(others) + len(choices["truth"]),
            records_with_targets=len(torch.cat([records[others], choices["records"]]).unique()),
            cut=batch["counts"].cut + sum(record.get("is_cut", False) for record in used),
        )
        kinds = torch.tensor([record["kind"] for record in used], dtype=torch.long)  # (R,)
        fields = {"target_records": records, "num_records": len(used), "kinds": kinds, "counts": counts}
        return cast(PackedBatch, {**batch, **fields, "choices": choices})

    def _without_cut(self, record: Any) -> Any:
        """Return a record; a plan of which an answer is cut becomes one without answers and targets."""
        if "branches" not in record:
            return record
        images = int((record["input_ids"] == IMAGE_TOKEN_INDEX).sum())
        longest = max(len(branch["input_ids"]) for branch in record["branches"])
        if longest + images * (self.tokens_per_image - 1) <= self.max_length:
            return record
        plain = {name: record[name] for name in ("input_ids", "labels", "kind", "sample")}
        return {**plain, "labels": torch.full_like(record["labels"], IGNORE_INDEX), "is_cut": True}

    def _choices(self, used: Sequence[PlanRecord], branches: torch.Tensor) -> Choices:
        """Return the choices of a batch.

        Args:
            branches: (M,), the branch of each target, where a record without answers is one branch.
        """
        plans = [number for number, record in enumerate(used) if "branches" in record]
        starts = np.cumsum(
            [0, *(len(_expanded([record])) for record in used)]
        )  # (R + 1,), the first branch of each record
        answer = np.full(starts[-1], -1)  # of each branch
        for choice, number in enumerate(plans):
            count = starts[number + 1] - starts[number]
            answer[starts[number] : starts[number + 1]] = choice * count + np.arange(count)
        answers = torch.from_numpy(answer)[branches]  # (M,)
        targets = (answers >= 0).nonzero()[:, 0]
        return {
            "targets": targets,
            "answers": answers[targets],
            "truth": torch.tensor([used[number].get("truth", -1) for number in plans], dtype=torch.long),
            "records": torch.tensor(plans, dtype=torch.long),
            "others": (answers < 0).nonzero()[:, 0],
            "bias": self.bias,
        }


def _expanded(records: Sequence[Any]) -> list[Any]:
    """Return records with a plan's branches in its place."""
    return [branch for record in records for branch in record.get("branches", [record])]


def class_bias(counts: np.ndarray, class_balance: float) -> tuple[float, ...]:
    """Return ``class_balance * log prior`` of the twenty meta-actions, from the counts (20,) of the training plans."""
    return tuple((class_balance * np.log(prior_of(counts))).tolist())


def check_choice(args: TrainArguments, records: Mixture) -> None:
    """Raise UsageError if ``--plan_loss choice`` has no plan to act on."""
    if args.plan_loss == "choice" and PLAN not in records.kind_names:
        raise UsageError(
            "--plan_loss choice: the training records have no plan",
            remedy="omit it; stage 2 takes every question but the plan",
        )
