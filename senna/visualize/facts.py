"""The content of a picture as plain values, so that drawing needs neither a model nor a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from senna.meta_actions import ALL_META_ACTIONS, MetaAction
from senna.visualize.road import N015, Camera


@dataclass(frozen=True)
class FrameFacts:
    """The facts about a key frame. Unknown values are None or empty, and the picture says so.

    Attributes:
        title: heading of the picture.
        subtitle: small text next to the title.
        predicted: the model's plan.
        truth: the ground-truth plan.
        truth_name, path_name: what the ground truth and the trajectory are called in the picture.
        probabilities: of the twenty meta-actions, in the order of ``ALL_META_ACTIONS``; they sum to 1.
        outside: the probability that the model gives to answers that are no meta-action.
        answer: the generated text, where the model generated text instead of scoring.
        speed: current speed in m/s.
        command: the navigation command.
        descriptions: (heading, text) pairs about the front view.
        trajectory: (T, 2) metres, future ego positions 0.5 s apart (see ``road.ribbon``).
        predicted_path: (T, 2) metres, the predicted trajectory.
        camera: the camera that the trajectory is projected with.
        reasons: view -> why its image is missing.
        notes: sentences that are printed below the views.
    """

    title: str
    subtitle: str = ""
    predicted: MetaAction | None = None
    truth: MetaAction | None = None
    probabilities: Sequence[float] | None = None
    outside: float | None = None
    answer: str | None = None
    speed: float | None = None
    command: str | None = None
    descriptions: Sequence[tuple[str, str]] = ()
    trajectory: Sequence[Sequence[float]] = ()
    predicted_path: Sequence[Sequence[float]] = ()
    camera: Camera = N015
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    truth_name: str = "true"
    path_name: str = "driven path"

    @property
    def correct(self) -> bool | None:
        """Return whether the prediction equals the ground truth; None where one of them is unknown."""
        if self.truth is None or (self.predicted is None and self.answer is None):
            return None
        return self.predicted == self.truth

    def probability(self, action: MetaAction | None) -> float | None:
        """Return the probability of a meta-action, None where it is unknown."""
        if self.probabilities is None or action is None:
            return None
        return float(self.probabilities[ALL_META_ACTIONS.index(action)])
