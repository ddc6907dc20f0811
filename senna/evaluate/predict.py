"""Prediction of an evaluation's records: fixed batches, distributed over the processes, each stored when it is done."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from senna.data.conversation import prompt_for
from senna.data.dataset import ConversationDataset
from senna.data.shared_memory import SharedCollate, worker_errors
from senna.data.tokenize import encode_prompt
from senna.errors import DataError
from senna.evaluate.predictions import RECORDED, Store
from senna.evaluate.score import AnswerEncoder, PlanScorer, answer_ending
from senna.kinds import TRAJECTORY
from senna.meta_actions import parse_meta_action
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM
from senna.record_file import RecordFile
from senna.records import Record, record_kind, record_name, record_scene
from senna.trajectory import follows_plan, with_plan
from senna.views import IMAGE_TOKEN

Item = dict[str, Any]
"""An item of a `PromptDataset`."""

Fields = dict[str, Any]
"""Some of the fields of a `senna.evaluate.predictions.Prediction`."""


class PromptDataset(Dataset):
    """Map-style dataset: item ``i`` is the prompt of record ``i``, without its last answer.

    An item is ``{"facts": Fields, "images": uint8 (V, 3, H, W)}`` and either the output of the `AnswerEncoder` or,
    if ``encoder`` is None, ``"input_ids"``, the prompt, LongTensor (T,). The item of a record that cannot be used is
    ``{"facts": {"index"}, "error": message}``.

    Args:
        blackout: make every image black instead of reading it.
        plans: frame token -> predicted plan, which the question about a trajectory states.
    """

    def __init__(
        self,
        dataset: ConversationDataset,
        encoder: AnswerEncoder | None,
        blackout: bool = False,
        plans: Mapping[str, str] | None = None,
    ) -> None:
        self.dataset, self.encoder, self.blackout, self.plans = dataset, encoder, blackout, plans or {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        sample = self.dataset.text(index)
        if "error" in sample:
            return {"facts": {"index": index}, "error": str(sample["error"])}
        paths = sample["paths"]
        try:
            record = state_predicted_plan(self.dataset.records[index], self.plans)
            facts = {"index": index, **facts_of(record, paths)}
            images = self._black(len(paths)) if self.blackout else self.dataset.load(paths, index)
            return {"facts": facts, "images": images, **self._encode(record)}
        except DataError as error:
            return {"facts": {"index": index}, "error": f"{sample['sample']}: {error}"}

    def _encode(self, record: Record) -> Item:
        turns = record["conversations"][:-1]
        if self.encoder is not None:
            return self.encoder(turns)
        if len(turns) != 1:
            raise DataError(
                f"there are {len(turns)} turns before the last answer",
                remedy="use records with a single question; text is generated for those only",
            )
        return {"input_ids": encode_prompt(prompt_for(turns[0]["value"], self.dataset.version), self.dataset.tokenizer)}

    def _black(self, views: int) -> torch.Tensor:
        """Return black images, uint8 (V, 3, H, W)."""
        return torch.zeros(views, *self.dataset.no_images().shape[1:], dtype=torch.uint8)


def facts_of(record: Record, paths: Sequence[str]) -> Fields:
    """Return the fields of a prediction, without ``index``, that come from its record.

    Raises:
        DataError: the record does not end with a question and its answer.
    """
    turns = record["conversations"]
    if len(turns) < 2 or turns[-1]["from"] != "gpt" or turns[-2]["from"] != "human":
        raise DataError(
            "the record does not end with a question and its answer", remedy="evaluate on records with recorded answers"
        )
    return {
        "id": record_name(record, ""),
        "token": str(record.get("token") or ""),
        "scene": record_scene(record),
        "kind": record_kind(record),
        "images": list(paths),
        "question": turns[-2]["value"].rpartition(IMAGE_TOKEN)[2].strip(),
        "truth": turns[-1]["value"],
        "trajectory": record.get("ego_fut_trajs") or [],
        **stated_facts(record),
    }


def stated_facts(record: Mapping[str, Any]) -> Fields:
    """Return those of the fields view, command, speed (m/s) and plan that a record has."""
    keys = ("view", "command", "speed", "plan", "plan_source")
    return {key: record[key] for key in keys if record.get(key) is not None}


def state_predicted_plan(record: Record, plans: Mapping[str, str]) -> Record:
    """Return the record of a trajectory with the predicted plan of its frame in the question; other records unchanged.

    The recorded plan stays where there is no predicted one. ``plan_source`` says which it is, "predicted" or "recorded".

    Raises:
        DataError: the record does not say where its question states the plan.
    """
    if record_kind(record) != TRAJECTORY:
        return record
    plan = plans.get(str(record.get("token") or ""))
    if plan is None:
        return cast(Record, {**record, "plan_source": RECORDED})
    return cast(Record, {**with_plan(record, plan), "plan_source": "predicted"})


@dataclass(frozen=True)
class TextGenerator:
    """Generation of answers, up to the terminator or ``max_new_tokens``: greedily, or at random."""

    model: SennaLlavaLlamaForCausalLM
    tokenizer: Any
    max_new_tokens: int = 256

    def __call__(self, prompts: Sequence[torch.Tensor], images: Sequence[torch.Tensor]) -> list[str]:
        """Return the most probable answers to B prompts, LongTensor (T,) each, with their images, (V, 3, H, W) each."""
        return self._generate(prompts, images, do_sample=False)

    def draw(
        self, prompts: Sequence[torch.Tensor], images: Sequence[torch.Tensor], count: int, seed: int
    ) -> list[list[str]]:
        """Return ``count`` answers to each of B prompts, whose tokens are drawn with their probabilities.

        Args:
            prompts, images: LongTensor (T,) and (V, 3, H, W) each.
            seed: the same seed gives the same answers to the same batch.
        """
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            texts = self._generate(prompts, images, do_sample=True, top_k=0, num_return_sequences=count)
        return [texts[start : start + count] for start in range(0, len(texts), count)]

    def _generate(self, prompts: Sequence[torch.Tensor], images: Sequence[torch.Tensor], **sampling: Any) -> list[str]:
        pad = self.tokenizer.pad_token_id or 0
        longest = max(len(prompt) for prompt in prompts)
        device = self.model.device
        input_ids = torch.full((len(prompts), longest), pad)
        mask = torch.zeros((len(prompts), longest), dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            input_ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, True
        ids = self.model.generate(
            input_ids=input_ids.to(device),
            attention_mask=mask.to(device),
            images=[views.to(device) for views in images],
            max_new_tokens=self.max_new_tokens,
            max_length=None,
            pad_token_id=pad,
            eos_token_id=self.tokenizer.eos_token_id,
            **sampling,
        )
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in ids]


def scored_fields(scorer: PlanScorer) -> Callable[[list[Item]], list[Fields]]:
    """Return a function from a batch of plan questions to the scored fields of their predictions."""

    def fields(items: list[Item]) -> list[Fields]:
        return [
            {
                "log_probs": [float(value) for value in scores.log_probs],
                "sum": str(scores.best),
                "greedy": str(scores.greedy),
                "left_tree": scores.left_tree,
            }
            for scores in scorer.score(scorer.collate(items))
        ]

    return fields


def generated_fields(generator: TextGenerator) -> Callable[[list[Item]], list[Fields]]:
    """Return a function from a batch of questions to the generated fields of their predictions."""

    def fields(items: list[Item]) -> list[Fields]:
        texts = generator([item["input_ids"] for item in items], [item["images"] for item in items])
        return [{"text": text} for text in texts]

    return fields


def trajectory_fields(generator: TextGenerator, tries: int) -> Callable[[list[Item]], list[Fields]]:
    """Return a function from a batch of questions for trajectories to the generated fields of their predictions.

    Args:
        tries: an answer that does not follow the stated plan is replaced by the first of ``tries - 1`` answers, drawn at
            random, that does. If none does, it stays. The same batch gives the same answers.
    """

    def fields(items: list[Item]) -> list[Fields]:
        prompts, images = [item["input_ids"] for item in items], [item["images"] for item in items]
        found: list[Fields] = [{"text": text, "tries": 1} for text in generator(prompts, images)]
        plans = [item["facts"].get("plan", "") for item in items]
        again = [row for row, plan in enumerate(plans) if not follows_plan(found[row]["text"], plan)]
        if not again or tries == 1:
            return found
        seed = items[0]["facts"]["index"]
        drawn = generator.draw([prompts[row] for row in again], [images[row] for row in again], tries - 1, seed)
        for row, texts in zip(again, drawn, strict=True):
            number = next((number for number, text in enumerate(texts) if follows_plan(text, plans[row])), None)
            if number is None:
                found[row]["tries"] = tries
            else:
                found[row] = {"text": texts[number], "tries": number + 2}
        return found

    return fields


@dataclass
class SkipBudget:
    """The number of records that may be skipped because they cannot be used, and the flag that sets it."""

    allowed: int
    skipped: int = 0
    flag: str = "--skip-bad-samples"

    def skip(self, error: str) -> None:
        """Count a skipped record. Raises DataError if more are skipped than allowed."""
        self.skipped += 1
        if self.skipped <= self.allowed:
            return
        if self.allowed:
            raise DataError(
                f"more than {self.flag} {self.allowed} records cannot be used, the last one: {error}",
                remedy=f"repair the records, or give a larger {self.flag}",
            )
        raise DataError(error, remedy=f"repair the record, or skip up to N such records with {self.flag} N")


@dataclass(frozen=True)
class RankShare:
    """The batches of this process: every ``world``-th, from number ``rank`` on, loaded by ``workers`` processes."""

    rank: int = 0
    world: int = 1
    workers: int = 2


def predict(
    store: Store,
    prompts: PromptDataset,
    batches: Sequence[Sequence[int]],
    answer: Callable[[list[Item]], list[Fields]],
    share: RankShare,
    budget: SkipBudget,
    description: str,
) -> None:
    """Compute the batches of this process that the store lacks, and append each to it.

    Args:
        answer: usable items of a batch -> the fields that the model adds to their predictions.
        budget: a record that cannot be used becomes a prediction with an ``error`` as long as the budget allows.
        description: the name of the progress bar.
    """
    # Batches are assigned by their number among all batches, not among the missing ones: another process that has already
    # started changes which are missing.
    own = batches[share.rank :: share.world]
    missing = [list(batch) for batch in store.missing(own)]
    loader: Iterable[list[Item]] = DataLoader(
        prompts, batch_sampler=missing, collate_fn=SharedCollate(list), num_workers=min(share.workers, len(missing))
    )
    left, total = sum(map(len, missing)), sum(map(len, own))
    bar = tqdm(total=total, initial=total - left, desc=description, unit="record", disable=share.rank > 0)
    with worker_errors("--workers"), bar:
        for items in loader:
            usable = [item for item in items if "error" not in item]
            answers = iter(answer(usable) if usable else [])
            lines = []
            for item in items:
                if "error" in item:
                    budget.skip(item["error"])
                    lines.append({**item["facts"], "error": item["error"]})
                else:
                    lines.append({**item["facts"], **next(answers)})
            store.append(share.rank, lines)
            bar.update(len(items))


def find_answer_ending(records: RecordFile, plans: Sequence[int]) -> str:
    """Return the `answer_ending` of the first of these records whose answer is a meta-action, a newline by default."""
    for index in plans:
        if index in records.bad:
            continue
        answer = records[index]["conversations"][-1]["value"]
        if parse_meta_action(answer):
            return answer_ending(answer)
    return "\n"


def split_trajectories(records: RecordFile, indices: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the indices of other records, and of trajectories, whose questions state the predicted plan."""
    is_last = [records.kind_names[records.kinds[index]] == TRAJECTORY for index in indices]
    pairs = list(zip(indices, is_last, strict=True))
    return [index for index, last in pairs if not last], [index for index, last in pairs if last]


def cut_into_batches(indices: Sequence[int], size: int) -> list[list[int]]:
    """Return consecutive batches of ``size`` indices; the last one may be smaller."""
    return [list(indices[start : start + size]) for start in range(0, len(indices), size)]
