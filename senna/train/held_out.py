"""The held-out records of a run's validations: which they are, and the items that data loader workers read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from senna.data import ConversationDataset, FrameDataset, Mixture, open_mixture
from senna.data.dataset import find_image
from senna.errors import UsageError
from senna.evaluate.predict import PromptDataset
from senna.evaluate.score import AnswerEncoder, answer_ending
from senna.evaluate.training_data import count_plans, plan_answer
from senna.image_file import check_image_file
from senna.kinds import PLAN
from senna.meta_actions import ALL_META_ACTIONS, MetaAction, parse_meta_action
from senna.records import HUMAN, prompt_images
from senna.train.fields import TrainArguments
from senna.views import prompt_views

_MOST_NAMES = 3  # scenes that an error names


def open_held_out(args: TrainArguments, training: Mixture) -> Mixture | None:
    """Open the held-out records of a run; None without validation.

    Raises:
        UsageError, DataError: see `senna.data.mixture.open_mixture` and `check_separate`; or ``metric_for_best_model`` needs
            plans, and there are none.
    """
    if args.eval_strategy == "no":
        return None
    records = open_mixture(
        args.required("eval_data_path"), args.stage, args.skip_bad_samples, "--eval_data_path", args.chosen_kinds
    )
    check_separate(training, records)
    if args.metric_for_best_model == "eval_plan_macro_f1" and PLAN not in records.kind_names:
        raise UsageError(
            f"--metric_for_best_model {args.metric_for_best_model}: the held-out records have no plan",
            remedy="use --metric_for_best_model eval_loss; stage 2 takes every question but the plan",
        )
    return records


def check_separate(training: Mixture, held_out: Mixture) -> None:
    """Raise UsageError if a file or a scene is in both the training records and the held-out records."""
    files = {file.path.resolve() for file in training.files} & {file.path.resolve() for file in held_out.files}
    if files:
        raise UsageError(
            f"--eval_data_path and --data_path both name {min(files)}",
            remedy="give a file that the run does not train on",
        )
    known = set(training.scenes())
    if shared := [scene for scene in held_out.scenes() if scene and scene in known]:
        listed = ", ".join([*shared[:_MOST_NAMES], *(["..."] if len(shared) > _MOST_NAMES else [])])
        raise UsageError(
            f"--eval_data_path: {len(shared)} of its scenes are in --data_path too ({listed}), so they are not held out",
            remedy="remove them from one of the files; senna_nusc_train.jsonl and senna_nusc_val.jsonl share no scene",
        )


def has_unknown_scenes(training: Mixture, held_out: Mixture) -> bool:
    """Return whether records have no ``scene_token``, so that `check_separate` cannot tell whether they are separate."""
    return "" in held_out.scenes() or "" in training.scenes()


@dataclass(frozen=True)
class HeldOutPlan:
    """A plan question whose twenty answers are scored.

    Attributes:
        record: index of the record.
        truth: the true meta-action.
        scene: the scene of the record.
        gives_loss: whether the record's loss follows from the scores, since its only answer is one of the twenty.
    """

    record: int
    truth: MetaAction
    scene: str
    gives_loss: bool


class HeldOut(Dataset):
    """Map-style dataset: the plan questions, as items of a `PromptDataset`, then the frames, as items of a `FrameDataset`.

    Attributes:
        plans: the plans that are scored.
        frames: for each frame, the records whose loss does not follow from the score of a plan.
        ending: the text after the meta-action in the recorded answers.
    """

    def __init__(self, dataset: FrameDataset, limit: int | None = None) -> None:
        """Choose whole scenes with at most ``limit`` records together, at least one scene; None takes all records.

        Raises:
            UsageError: the tokenizer cannot end an answer.
        """
        self._frames = dataset
        self.records: Mixture = dataset.records
        chosen = choose_frames(dataset, limit)
        self.plans, self.ending = _find_plans(self.records, sorted(record for frame in chosen for record in frame))
        scored = {plan.record for plan in self.plans if plan.gives_loss}
        others = [[record for record in frame if record not in scored] for frame in chosen]
        self.frames = [frame for frame in others if frame]
        samples: ConversationDataset = dataset.dataset
        self._prompts = PromptDataset(samples, AnswerEncoder(samples.tokenizer, samples.version, self.ending))

    def __len__(self) -> int:
        return len(self.plans) + len(self.frames)

    def __getitem__(self, number: int) -> Any:
        if number < len(self.plans):
            return self._prompts[self.plans[number].record]
        return self._frames.sample(self.frames[number - len(self.plans)])

    def all_records(self) -> list[int]:
        """Return the records whose loss is computed, the plans of ``plans`` first; one may occur in both parts."""
        return [*(plan.record for plan in self.plans), *(record for frame in self.frames for record in frame)]

    def view_paths(self, number: int) -> dict[str, Path]:
        """Return the image file of each view that the question of a plan shows. Raises DataError."""
        samples, record = self._frames.dataset, self.plans[number].record
        turns, beside = self.records[record]["conversations"], self.records.folder(record)
        folders = [samples.image_folder, beside] if samples.image_folder else [beside]
        views = prompt_views("".join(turn["value"] for turn in turns if turn["from"] == HUMAN))
        paths = prompt_images(self.records[record])
        files = {view: find_image(path, folders) for view, path in zip(views, paths, strict=False) if view}
        for path in files.values():
            check_image_file(path)
        return files

    def batches(self, size: int) -> list[list[int]]:
        """Return batches of at most ``size`` items, either plans or frames."""
        parts = [(0, len(self.plans)), (len(self.plans), len(self))]
        return [list(range(i, min(i + size, stop))) for start, stop in parts for i in range(start, stop, size)]


def choose_frames(dataset: FrameDataset, limit: int | None) -> list[list[int]]:
    """Return the records of each frame to validate on, in the order of the files; weights count as in an epoch.

    The order in which scenes are taken follows from a hash of their names, so that a part of the scenes is a sample of all
    of them, and a larger limit adds scenes. A frame without a scene counts as a scene of its own.
    """
    frames = [dataset.draw.members(frame).tolist() for frame in dataset.draw.epoch(0, 0).tolist()]
    if limit is None:
        return frames
    scenes: dict[str, list[int]] = {}
    for number, members in enumerate(frames):
        name = dataset.records.scene(members[0]) or f"frame {members[0]} of {dataset.records.path(members[0]).name}"
        scenes.setdefault(name, []).append(number)
    taken: list[int] = []
    count = 0
    for name in sorted(scenes, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()):
        count += sum(len(frames[number]) for number in scenes[name])
        if taken and count > limit:
            break
        taken += scenes[name]
    return [frames[number] for number in sorted(taken)]


def _find_plans(records: Mixture, indices: Sequence[int]) -> tuple[list[HeldOutPlan], str]:
    """Return those of the records that are plans with a true meta-action, and the text after the first meta-action."""
    plans, ending = [], None
    for index in indices:
        answer = plan_answer(records, index)
        truth = parse_meta_action(answer) if answer is not None else None
        if answer is None or truth is None:
            continue
        ending = answer_ending(answer) if ending is None else ending
        is_one_of_twenty = answer == f"{truth}{ending}" and len(records[index]["conversations"]) == 2
        plans.append(HeldOutPlan(index, truth, records.scene(index), is_one_of_twenty))
    return plans, "\n" if ending is None else ending


def majority_plan(records: Mixture) -> MetaAction | None:
    """Return the most frequent true meta-action of the plans among these records; None if there is none."""
    counts = count_plans(records)
    return ALL_META_ACTIONS[int(counts.argmax())] if counts.any() else None
