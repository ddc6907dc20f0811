"""What a model says of a key frame: from the model itself, or from the predictions of an earlier `senna evaluate`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from senna.meta_actions import MetaAction
from senna.visualize.key_frames import KeyFrame

if TYPE_CHECKING:
    from PIL import Image

Turns = list[dict[str, str]]


@dataclass(frozen=True)
class Answer:
    """What a model said; None for what it was not asked. The fields are those of ``facts.FrameFacts``."""

    predicted: MetaAction | None = None
    probabilities: Sequence[float] | None = None
    outside: float | None = None
    answer: str | None = None
    description: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """A conversation up to the answer, and the pictures of its <image>, in order; None for one that cannot be read."""

    turns: Turns
    pictures: Sequence["Image.Image | None"]

    @property
    def unreadable(self) -> int:
        """How many of its pictures there are not."""
        return sum(picture is None for picture in self.pictures)


class Model:
    """A model that is asked frame by frame. Opening it takes long; ``answer_ending`` as of ``PlanScorer``'s ``ending``."""

    def __init__(
        self,
        path: str,
        base: str | None = None,
        quantization: str | None = None,
        device: str = "auto",
        version: str = "v1",
        answer_ending: str = "\n",
        max_new_tokens: int = 256,
    ) -> None:
        from senna.evaluate.predict import TextGenerator
        from senna.evaluate.score import PlanScorer
        from senna.model import load_model

        self.model, self.tokenizer, self.processor = load_model(path, base, quantization, device=device)
        self.version = version
        self.scorer = PlanScorer(self.model, self.tokenizer, version, answer_ending)
        self.speaker = TextGenerator(self.model, self.tokenizer, max_new_tokens)

    def __call__(self, frame: KeyFrame, plan: Question, description: Question | None) -> Answer:
        """Ask for the plan, and where there is such a question, for a description."""
        if plan.unreadable:
            count = f"{plan.unreadable} of {len(plan.pictures)}"
            return Answer(notes=(f"The model was not asked: {count} views cannot be read.",))
        [scores] = self.scorer([plan.turns], [self._images(plan)])
        said = said_of_scores(scores.log_probs, scores.best, scores.greedy, scores.left_tree)
        return said if description is None else replace(said, description=self.describe(description))

    def describe(self, question: Question) -> str | None:
        """Greedy text; None where a picture cannot be read."""
        from senna.data import encode_prompt, prompt_for

        if question.unreadable:
            return None
        ids = encode_prompt(prompt_for(question.turns[-1]["value"], self.version), self.tokenizer)
        [text] = self.speaker([ids], [self._images(question)])
        return text.strip()

    def _images(self, question: Question) -> Any:
        """float32 (V, 3, H, W)."""
        import torch

        from senna.data import load_image

        aspect_ratio = self.model.config.image_aspect_ratio or "pad"
        pictures = question.pictures
        return torch.stack([load_image(picture, self.processor, aspect_ratio) for picture in pictures])


class Predictions:
    """The predictions of a file, found by the plan's place in the records and its token, or by the token alone."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError where the file is none of predictions."""
        from senna.evaluate.predictions import read_predictions

        self.path = path
        found = read_predictions(path)
        self._by_place = {one["index"]: one for one in found}
        self._by_token = {one["token"]: one for one in found if one.get("kind") == "plan" and one.get("token")}

    def plan(self, frame: KeyFrame) -> Mapping[str, Any] | None:
        """The prediction of a frame's plan, None without."""
        one = self._by_place.get(frame.plan)
        if one is not None and one.get("kind") == "plan" and one.get("token", "") == frame.token:
            return one
        return self._by_token.get(frame.token)

    def __call__(self, frame: KeyFrame, described: int | None) -> Answer:
        """What was predicted of a frame; ``described``: the place of its record with a description."""
        from senna.evaluate.report.frame_cards import decision

        one, said = self.plan(frame), Answer()
        if one is None:
            said = replace(said, notes=(f"{self.path.name} has no prediction of this frame's plan.",))
        elif one.get("log_probs"):
            greedy = one.get("greedy")
            said = said_of_scores(np.array(one["log_probs"]), decision(one), greedy, one.get("left_tree"))
        elif "text" in one:
            said = replace(said, predicted=decision(one), answer=one["text"])
        elif "error" in one:
            said = replace(said, notes=(f"The model was not asked: {one['error']}",))
        text = self._by_place.get(described, {}) if described is not None else {}
        if text.get("kind") == "description" and text.get("token", "") == frame.token:
            said = replace(said, description=text.get("text"))
        return said


def said_of_scores(
    log_probs: np.ndarray, best: MetaAction | None, greedy: MetaAction | str | None, left_tree: str | None
) -> Answer:
    """The answer of scored meta-actions: float64 (20,) log-probabilities and the decisions made of them."""
    weights = np.exp(log_probs - log_probs.max())
    notes = []
    if greedy is not None and str(greedy) != str(best):
        notes.append(f"Word by word the model would have ended at {greedy}.")
    if left_tree:
        notes.append(f"Free to say anything, it would have begun “{left_tree.strip()}”.")
    outside = 1.0 - float(np.exp(log_probs).sum())
    return Answer(best, (weights / weights.sum()).tolist(), outside, notes=tuple(notes))
