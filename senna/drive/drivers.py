"""The drivers of `senna drive`: a model, and drivers that it is compared with.

| name | decides by |
| --- | --- |
| ``model`` | the model's twenty probabilities |
| ``black`` | the same model with black images |
| ``expert`` | the driver of the drawn world, which knows all signals and vehicles: the upper bound |
| ``labels`` | the meta-actions of the expert, executed like those of a model: the bound of this form of plan |
| ``tree`` | a small decision tree on navigation command and speed, fitted on training records |
| ``keep`` | KEEP, STRAIGHT, always |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from senna.decision import GREEDY, LIKELIEST, Decision, decide, open_decision
from senna.drive.lanes import LaneFollower
from senna.drive.simulator import Motion, Observation
from senna.drive.town import TownSimulator
from senna.evaluate.metrics.baselines import BY_SITUATION, baselines
from senna.evaluate.metrics.plan_prompt import Situation
from senna.meta_actions import MetaAction
from senna.templates import load_templates
from senna.views import VIEWS, image_block

MODEL, BLACK, EXPERT, LABELS, TREE, KEEP = "model", "black", "expert", "labels", "tree", "keep"
DRIVERS = (MODEL, EXPERT, LABELS, TREE, KEEP, BLACK)
TITLES = {
    MODEL: "the model",
    BLACK: "the model, images black",
    EXPERT: "expert",
    LABELS: "expert's meta-actions",
    TREE: "small tree on command and speed",
    KEEP: "always KEEP, STRAIGHT",
}
KEEP_STRAIGHT = MetaAction("KEEP", "STRAIGHT")


@dataclass(frozen=True)
class Choice:
    """What a driver chose.

    Attributes:
        motion: of the next step.
        decision: the meta-action.
        probabilities: (20,) of the meta-actions, by the decision rule; None for a driver without probabilities.
    """

    motion: Motion
    decision: MetaAction
    probabilities: Sequence[float] | None = None


class Expert:
    """The driver of the drawn world."""

    def __init__(self, simulator: TownSimulator) -> None:
        self.simulator = simulator

    def start(self, observation: Observation) -> None:
        """Begin a drive."""

    def __call__(self, observation: Observation) -> Choice:
        """Choose the expert's own motion."""
        expert = self.simulator.expert()
        return Choice(expert.motion, expert.decision)


Decide = Callable[[Observation], tuple[MetaAction, Sequence[float] | None]]
"""An observation -> a meta-action, and probabilities if there are any."""


class Decider:
    """A driver that decides on meta-actions, which a `LaneFollower` carries out."""

    def __init__(self, simulator: TownSimulator, decide: Decide) -> None:
        self.simulator, self.decide = simulator, decide

    def start(self, observation: Observation) -> None:
        """Begin a drive."""
        self.follower = LaneFollower(self.simulator.start.speed_limit)
        self.follower.start(observation.ego)

    def __call__(self, observation: Observation) -> Choice:
        """Decide, and return the motion of the decision."""
        decision, probabilities = self.decide(observation)
        return Choice(self.follower(decision), decision, probabilities)


class PlanModel:
    """A model that is asked for a plan, with the question of the converter.

    Args:
        path: folder or hub name of a model.
        decision: one of ``senna.decision.DECISIONS``.
    """

    def __init__(
        self, path: str, base: str | None = None, device: str = "auto", dtype: Any = "auto", decision: str = LIKELIEST
    ) -> None:
        from senna.evaluate.score import PlanScorer
        from senna.model import load_model

        self.rule: Decision = open_decision(decision, path, base)
        self.model, tokenizer, self.processor = load_model(path, base, None, dtype, device)
        self.scorer = PlanScorer(self.model, tokenizer)
        self.templates = load_templates()

    def __call__(self, observation: Observation) -> tuple[MetaAction, Sequence[float] | None]:
        """Decide from the images."""
        images = observation.images()
        return self._decide(observation, [images[view] for view in VIEWS])

    def without_images(self, observation: Observation) -> tuple[MetaAction, Sequence[float] | None]:
        """Decide from speed and command, with black images."""
        return self._decide(observation, None)

    def _decide(
        self, observation: Observation, images: Sequence[Image.Image] | None
    ) -> tuple[MetaAction, Sequence[float] | None]:
        import torch

        from senna.data import load_image

        aspect_ratio = self.model.config.image_aspect_ratio or "pad"
        # A black image is black after padding too, as in `senna evaluate --blackout`.
        views = images or [Image.new("RGB", (1600, 900))]
        pixels = torch.stack([load_image(view, self.processor, aspect_ratio, dtype=torch.uint8) for view in views])
        if images is None:
            pixels = torch.zeros_like(pixels).repeat(len(VIEWS), 1, 1, 1)
        turns = [{"from": "human", "value": question(observation, self.templates)}]
        [scores] = self.scorer([turns], [pixels])
        chosen = decide(scores.log_probs, self.rule, scores.greedy if self.rule.name == GREEDY else None)
        return chosen, np.exp(self.rule.log_probs(scores.log_probs)).tolist()


def question(observation: Observation, templates: Any) -> str:
    """Return the plan question about an observation, as the converter writes it into records."""
    speed = templates["words"]["speed"].format(speed=f"{observation.speed:.1f}")
    return image_block() + templates["plan"]["question"].format(command=observation.command, speed=speed)


class Tree:
    """The baseline of `senna evaluate` that sees the navigation command and the speed.

    Args:
        situations, truth: of the training plans.
    """

    def __init__(self, situations: Sequence[Situation], truth: Sequence[MetaAction]) -> None:
        self.situations, self.truth = situations, truth

    def __call__(self, observation: Observation) -> tuple[MetaAction, None]:
        """Decide."""
        situation = Situation(observation.command, round(observation.speed, 1))
        return baselines(self.situations, self.truth, [situation])[BY_SITUATION][0], None
