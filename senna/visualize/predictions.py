"""Predictions for a key frame, from a model or from the predictions of an earlier `senna evaluate`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from senna.decision import LIKELIEST, MOST_PROBABLE, Decision, decide
from senna.kinds import TRAJECTORY
from senna.meta_actions import MetaAction, parse_meta_action
from senna.trajectory import parse_trajectory
from senna.visualize.key_frames import KeyFrame

if TYPE_CHECKING:
    from PIL import Image

Turns = list[dict[str, str]]


@dataclass(frozen=True)
class Answer:
    """A model's answers about a frame, None for what was not asked. The fields are those of ``facts.FrameFacts``."""

    predicted: MetaAction | None = None
    probabilities: Sequence[float] | None = None
    outside: float | None = None
    answer: str | None = None
    description: str | None = None
    path: Sequence[Sequence[float]] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """A conversation without its answer, and an image for each <image>, None where it cannot be read."""

    turns: Turns
    images: Sequence["Image.Image | None"]

    @property
    def unreadable(self) -> int:
        """Return the number of images that cannot be read."""
        return sum(image is None for image in self.images)


class Model:
    """A model that answers frame by frame. ``answer_ending`` is the ``ending`` of ``PlanScorer``."""

    def __init__(
        self,
        path: str,
        base: str | None = None,
        quantization: str | None = None,
        device: str = "auto",
        version: str = "v1",
        answer_ending: str = "\n",
        max_new_tokens: int = 256,
        decision: Decision = MOST_PROBABLE,
    ) -> None:
        from senna.evaluate.predict import TextGenerator
        from senna.evaluate.score import PlanScorer
        from senna.model import load_model

        self.model, self.tokenizer, self.processor = load_model(path, base, quantization, device=device)
        self.version, self.decision = version, decision
        self.scorer = PlanScorer(self.model, self.tokenizer, version, answer_ending)
        self.generator = TextGenerator(self.model, self.tokenizer, max_new_tokens)

    def __call__(self, frame: KeyFrame, plan: Question, description: Question | None) -> Answer:
        """Predict the plan, and a description where there is a question for it."""
        if plan.unreadable:
            count = f"{plan.unreadable} of {len(plan.images)}"
            return Answer(notes=(f"The model was not asked: {count} views cannot be read.",))
        [scores] = self.scorer([plan.turns], [self._pixels(plan)])
        answer = answer_from_scores(scores.log_probs, scores.greedy, scores.left_tree, self.decision)
        return answer if description is None else replace(answer, description=self.describe(description))

    def describe(self, question: Question) -> str | None:
        """Generate text greedily; None where an image cannot be read."""
        from senna.data import encode_prompt, prompt_for

        if question.unreadable:
            return None
        ids = encode_prompt(prompt_for(question.turns[-1]["value"], self.version), self.tokenizer)
        [text] = self.generator([ids], [self._pixels(question)])
        return text.strip()

    def _pixels(self, question: Question) -> Any:
        """Return the pixels of a question's images, uint8 (V, 3, H, W)."""
        import torch

        from senna.data import load_image

        aspect_ratio = self.model.config.image_aspect_ratio or "pad"
        return torch.stack(
            [load_image(image, self.processor, aspect_ratio, dtype=torch.uint8) for image in question.images]
        )


class Predictions:
    """The predictions of a file, looked up by the index and token of the plan record, or by the token alone."""

    def __init__(self, path: Path, decision: Decision = MOST_PROBABLE) -> None:
        """Read the file. Raises UsageError where it does not hold predictions."""
        from senna.evaluate.predictions import read_predictions

        self.path, self.decision = path, decision
        found = read_predictions(path)
        self._by_index = {prediction["index"]: prediction for prediction in found}
        plans = (prediction for prediction in found if prediction.get("kind") == "plan")
        paths = (prediction for prediction in found if prediction.get("kind") == TRAJECTORY)
        self._paths = {prediction["token"]: prediction for prediction in paths if prediction.get("token")}
        self._by_token = {prediction["token"]: prediction for prediction in plans if prediction.get("token")}

    def plan(self, frame: KeyFrame) -> Mapping[str, Any] | None:
        """Return the prediction of a frame's plan, None without one."""
        found = self._by_index.get(frame.plan)
        if found is not None and found.get("kind") == "plan" and found.get("token", "") == frame.token:
            return found
        return self._by_token.get(frame.token)

    def __call__(self, frame: KeyFrame, described: int | None) -> Answer:
        """Return the predictions of a frame. ``described`` is the index of its record with a description."""
        from senna.evaluate.report.frame_cards import decision

        plan, answer = self.plan(frame), Answer()
        if plan is None:
            answer = replace(answer, notes=(f"{self.path.name} has no prediction of this frame's plan.",))
        elif plan.get("log_probs"):
            log_probs = np.array(plan["log_probs"])
            greedy = parse_meta_action(plan.get("greedy") or "")
            answer = answer_from_scores(log_probs, greedy, plan.get("left_tree"), self.decision)
        elif "text" in plan:
            answer = replace(answer, predicted=decision(plan), answer=plan["text"])
        elif "error" in plan:
            answer = replace(answer, notes=(f"The model was not asked: {plan['error']}",))
        if path := self._paths.get(frame.token):
            answer = with_path(answer, path.get("text") or "")
            asked, shown = path.get("plan"), answer.predicted
            if asked is not None and shown is not None and asked != str(shown):
                answer = replace(answer, notes=(*answer.notes, f"The trajectory was asked for with the plan {asked}."))
        text = self._by_index.get(described, {}) if described is not None else {}
        if text.get("kind") == "description" and text.get("token", "") == frame.token:
            answer = replace(answer, description=text.get("text"))
        return answer


def with_path(answer: Answer, text: str) -> Answer:
    """Return an answer with the predicted trajectory in a generated text, or with a note that it is none."""
    xy = parse_trajectory(text)
    if xy is None:
        return replace(
            answer, notes=(*answer.notes, f"The predicted trajectory cannot be read: “{text.strip()[:60]}”.")
        )
    return replace(answer, path=xy.tolist())


def answer_from_scores(
    log_probs: np.ndarray, greedy: MetaAction | None, left_tree: str | None, decision: Decision
) -> Answer:
    """Return the answer for scored meta-actions: float64 (20,) log-probabilities, and the decisions derived from them."""
    notes, decided = [], decide(log_probs, decision, greedy)
    if decision.name != LIKELIEST and (likeliest := decide(log_probs)) != decided:
        notes.append(f"The most probable is {likeliest}.")
    if greedy is not None and greedy != decided:
        notes.append(f"Greedy decoding would give {greedy}.")
    if left_tree:
        notes.append(f"Free decoding would begin with “{left_tree.strip()}”, which is no meta-action.")
    outside = 1.0 - float(np.exp(log_probs).sum())
    return Answer(decided, np.exp(decision.log_probs(log_probs)).tolist(), outside, notes=tuple(notes))
