"""Records to predictions: batches that are cut once and for all, shared out over processes, each on disk when it is done."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from senna.data.conversation import prompt_for
from senna.data.dataset import ConversationDataset
from senna.data.images import PixelRules
from senna.data.tokenize import encode_prompt
from senna.errors import DataError
from senna.evaluate.predictions import Prediction, Store
from senna.evaluate.score import AnswerEncoder, PlanScorer, answer_ending
from senna.meta_actions import parse_meta_action
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM
from senna.record_file import RecordFile
from senna.records import Record, record_kind, record_name
from senna.views import IMAGE_TOKEN

Item = dict[str, Any]


class PromptDataset(Dataset):
    """Map-style: record ``i`` as what a model is asked, without its last answer.

    An item is ``{"facts": of `facts_of`, "images": float32 (V, 3, H, W)}`` and either what an `AnswerEncoder`
    returns or, where ``encoder`` is None, ``"input_ids"`` LongTensor (T,), the prompt. A record that cannot be used
    is ``{"facts": {"index"}, "error": message}``. ``blackout``: every image is black, and none is read.
    """

    def __init__(self, dataset: ConversationDataset, encoder: AnswerEncoder | None, blackout: bool = False) -> None:
        self.dataset, self.encoder, self.blackout = dataset, encoder, blackout

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        sample = self.dataset.text(index)
        if "error" in sample:
            return {"facts": {"index": index}, "error": sample["error"]}
        record, paths = self.dataset.records[index], sample["paths"]
        try:
            facts = {"index": index, **facts_of(record, paths)}
            images = self._black(len(paths)) if self.blackout else self.dataset.load(paths, index)
            return {"facts": facts, "images": images, **self._asked(record)}
        except DataError as error:
            return {"facts": {"index": index}, "error": f"{sample['sample']}: {error}"}

    def _asked(self, record: Record) -> Item:
        turns = record["conversations"][:-1]
        if self.encoder is not None:
            return self.encoder(turns)
        if len(turns) != 1:
            raise DataError(f"has {len(turns)} turns before its last answer; text is generated for a single question")
        return {"input_ids": encode_prompt(prompt_for(turns[0]["value"], self.dataset.version), self.dataset.tokenizer)}

    def _black(self, views: int) -> torch.Tensor:
        """float32 (V, 3, H, W): level 0 everywhere."""
        rules = PixelRules.from_processor(self.dataset.image_processor)
        level = -torch.tensor(rules.mean) / torch.tensor(rules.std)
        return level[:, None, None].expand(self.dataset.no_images().shape[1:]).repeat(views, 1, 1, 1)


def facts_of(record: Record, paths: Sequence[str]) -> Prediction:
    """What a prediction says of its record, whatever the model answers.

    Raises DataError where the record does not end with an answer to a question.
    """
    turns = record["conversations"]
    if len(turns) < 2 or turns[-1]["from"] != "gpt" or turns[-2]["from"] != "human":
        raise DataError("it does not end with a question and its answer: there is nothing to compare with")
    return {
        "id": record_name(record, ""),
        "token": str(record.get("token") or ""),
        "scene": str(record.get("scene_token") or ""),
        "kind": record_kind(record),
        "images": list(paths),
        "question": turns[-2]["value"].rpartition(IMAGE_TOKEN)[2].strip(),
        "truth": turns[-1]["value"],
        "trajectory": record.get("ego_fut_trajs") or [],
    }


@dataclass(frozen=True)
class TextGenerator:
    """Greedy text: to prompts (T,) with images (V, 3, H, W), up to the terminator or ``max_new_tokens``."""

    model: SennaLlavaLlamaForCausalLM
    tokenizer: Any
    max_new_tokens: int = 256

    def __call__(self, prompts: Sequence[torch.Tensor], images: Sequence[torch.Tensor]) -> list[str]:
        pad = self.tokenizer.pad_token_id or 0
        longest = max(len(prompt) for prompt in prompts)
        device, dtype = self.model.device, self.model.dtype
        input_ids = torch.full((len(prompts), longest), pad)
        mask = torch.zeros((len(prompts), longest), dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            input_ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, True
        ids = self.model.generate(
            input_ids=input_ids.to(device),
            attention_mask=mask.to(device),
            images=[views.to(device, dtype) for views in images],
            max_new_tokens=self.max_new_tokens,
            max_length=None,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=self.tokenizer.eos_token_id,
        )
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in ids]


def scored_fields(scorer: PlanScorer) -> Callable[[list[Item]], list[Prediction]]:
    """What to do with a batch of plan questions: the fields of their predictions."""

    def fields(items: list[Item]) -> list[Prediction]:
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


def generated_fields(speaker: TextGenerator) -> Callable[[list[Item]], list[Prediction]]:
    """The same for questions that are answered with text."""

    def fields(items: list[Item]) -> list[Prediction]:
        texts = speaker([item["input_ids"] for item in items], [item["images"] for item in items])
        return [{"text": text} for text in texts]

    return fields


@dataclass
class SkipBudget:
    """How many records may be left out because they cannot be used; then it is an error."""

    left: int
    out_of: int = 0

    def __post_init__(self) -> None:
        self.out_of = self.left

    def lose(self, error: str) -> None:
        self.left -= 1
        if self.left < 0:
            allowed = f"more than --skip-bad-samples {self.out_of} cannot be used; the last: " if self.out_of else ""
            advice = "" if self.out_of else "; mend it, or leave up to N out with --skip-bad-samples N"
            raise DataError(f"{allowed}{error}{advice}")


@dataclass(frozen=True)
class RankShare:
    """Which of the batches are this process's, and how they are loaded."""

    rank: int = 0
    world: int = 1
    workers: int = 2


def predict(
    store: Store,
    questions: PromptDataset,
    batches: Sequence[Sequence[int]],
    answer: Callable[[list[Item]], list[Prediction]],
    share: RankShare,
    patience: SkipBudget,
    what: str,
) -> None:
    """Compute this process's share of the batches as far as the store lacks them, and append each to it.

    A record that cannot be used becomes a prediction with an ``error``, as long as there is patience.
    """
    # A batch is a process's by its place among all of them, not among those that are missing: how many are, another process
    # that has begun already is changing.
    mine = store.missing(batches[share.rank :: share.world])
    loader: Iterable[list[Item]] = DataLoader(
        questions, batch_sampler=mine, collate_fn=list, num_workers=min(share.workers, len(mine))
    )
    left, whole = sum(map(len, mine)), sum(map(len, batches[share.rank :: share.world]))
    with tqdm(total=whole, initial=whole - left, desc=what, unit="record", disable=share.rank > 0) as bar:
        for items in loader:
            usable = [item for item in items if "error" not in item]
            answers = iter(answer(usable) if usable else [])
            lines = []
            for item in items:
                if "error" in item:
                    patience.lose(item["error"])
                    lines.append({**item["facts"], "error": item["error"]})
                else:
                    lines.append({**item["facts"], **next(answers)})
            store.append(share.rank, lines)
            bar.update(len(items))


def find_answer_ending(records: RecordFile, plans: Sequence[int]) -> str:
    """What follows the meta-action in the file's own answers (see `PlanScorer`): of the first that is one."""
    for index in plans:
        answer = records[index]["conversations"][-1]["value"]
        if parse_meta_action(answer):
            return answer_ending(answer)
    return "\n"


def cut_into_batches(indices: Sequence[int], size: int) -> list[list[int]]:
    return [list(indices[start : start + size]) for start in range(0, len(indices), size)]
