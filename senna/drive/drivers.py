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
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from senna.decision import GREEDY, LIKELIEST, Decision, decide, open_decision
from senna.drive.lanes import LaneFollower
from senna.drive.simulator import Motion, Observation
from senna.drive.town import TownSimulator
from senna.drive.waypoints import TrajectoryFollower
from senna.evaluate.metrics.baselines import fit_tree
from senna.evaluate.metrics.plan_prompt import Situation
from senna.meta_actions import MetaAction
from senna.templates import Templates, load_templates
from senna.trajectory import parse_trajectory
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
META_ACTION, TRAJECTORY = "meta-action", "trajectory"
FOLLOWS = (META_ACTION, TRAJECTORY)
"""The values of ``--follow``: the output of the model that the car carries out."""


@dataclass(frozen=True)
class Choice:
    """The choice of a driver.

    Attributes:
        motion: of the next step.
        decision: the meta-action.
        probabilities: (20,) of the meta-actions, by the decision rule; None for a driver without probabilities.
        trajectory: (6, 2) waypoints that were followed; None where the meta-action was carried out.
    """

    motion: Motion
    decision: MetaAction
    probabilities: Sequence[float] | None = None
    trajectory: np.ndarray | None = None


class Plan(NamedTuple):
    """A decision, and what belongs to it: see `Choice`."""

    decision: MetaAction
    probabilities: Sequence[float] | None = None
    trajectory: np.ndarray | None = None


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


class Decider:
    """A driver whose decisions a `LaneFollower` carries out, or whose trajectories a `TrajectoryFollower` follows.

    Args:
        decide: an observation -> a decision.
        follow: META_ACTION or TRAJECTORY.
    """

    def __init__(
        self, simulator: TownSimulator, decide: Callable[[Observation], Plan], follow: str = META_ACTION
    ) -> None:
        self.simulator, self.decide, self.follow = simulator, decide, follow

    def start(self, observation: Observation) -> None:
        """Begin a drive."""
        self.lanes, self.path = LaneFollower(self.simulator.start.speed_limit), TrajectoryFollower()
        (self.path if self.follow == TRAJECTORY else self.lanes).start(observation.ego)

    def __call__(self, observation: Observation) -> Choice:
        """Decide, and return the motion of the decision."""
        plan = self.decide(observation)
        motion = (
            self.path(plan.trajectory) if self.follow == TRAJECTORY else self.lanes(plan.decision, plan.probabilities)
        )
        return Choice(motion, *plan)


class PlanModel:
    """A model that is asked for a plan, with the question of the converter, and for a trajectory if one is followed.

    Args:
        path: folder or hub name of a model.
        decision: one of ``senna.decision.DECISIONS``.
        follow: META_ACTION or TRAJECTORY.
    """

    def __init__(
        self,
        path: str,
        base: str | None = None,
        device: str = "auto",
        decision: str = LIKELIEST,
        follow: str = META_ACTION,
    ) -> None:
        from senna.evaluate.predict import TextGenerator
        from senna.evaluate.score import PlanScorer
        from senna.model import load_model

        self.rule: Decision = open_decision(decision, path, base)
        self.model, self.tokenizer, self.processor = load_model(path, base, device=device)
        self.scorer, self.generator = PlanScorer(self.model, self.tokenizer), TextGenerator(self.model, self.tokenizer)
        self.templates, self.follow = load_templates(), follow

    def __call__(self, observation: Observation) -> Plan:
        """Decide from the images."""
        images = observation.images()
        return self._decide(observation, self._pixels([images[view] for view in VIEWS]))

    def without_images(self, observation: Observation) -> Plan:
        """Decide from speed and command, with images that are black after padding too, as in `senna evaluate --blackout`."""
        return self._decide(observation, self._pixels([Image.new("RGB", (16, 9))] * len(VIEWS)) * 0)

    def _pixels(self, images: Sequence[Image.Image]) -> Any:
        """Return uint8 (V, 3, H, W)."""
        import torch

        from senna.data import load_image

        aspect_ratio = self.model.config.image_aspect_ratio or "pad"
        return torch.stack([load_image(image, self.processor, aspect_ratio, dtype=torch.uint8) for image in images])

    def _decide(self, observation: Observation, pixels: Any) -> Plan:
        from senna.data import encode_prompt, prompt_for

        turns = [{"from": "human", "value": question(observation, self.templates)}]
        [scores] = self.scorer([turns], [pixels])
        chosen = decide(scores.log_probs, self.rule, scores.greedy if self.rule.name == GREEDY else None)
        probabilities = np.exp(self.rule.log_probs(scores.log_probs)).tolist()
        if self.follow != TRAJECTORY:
            return Plan(chosen, probabilities)
        prompt = prompt_for(question(observation, self.templates, chosen))
        [text] = self.generator([encode_prompt(prompt, self.tokenizer)], [pixels])
        return Plan(chosen, probabilities, parse_trajectory(text))


def question(observation: Observation, templates: Templates, plan: MetaAction | None = None) -> str:
    """Return the question about an observation, as the converter writes it into records.

    Args:
        plan: the plan that the question for a trajectory states; None for the question for a plan.
    """
    speed = templates["words"]["speed"].format(speed=f"{observation.speed:.1f}")
    text = templates["plan" if plan is None else "trajectory"]["question"]
    return image_block() + text.format(command=observation.command, speed=speed, plan=plan)


class Tree:
    """The baseline of `senna evaluate` that sees the navigation command and the speed.

    Args:
        situations, truth: of the training plans.
    """

    def __init__(self, situations: Sequence[Situation], truth: Sequence[MetaAction]) -> None:
        self.predict = fit_tree(situations, truth)

    def __call__(self, observation: Observation) -> Plan:
        """Decide."""
        [action] = self.predict([Situation(observation.command, round(observation.speed, 1))])
        return Plan(action)
