"""What a picture says of a key frame: plain values, so that drawing needs neither a model nor a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from senna.meta_actions import ALL_META_ACTIONS, MetaAction
from senna.visualize.road import N015, Camera


@dataclass(frozen=True)
class FrameFacts:
    """A key frame in words and numbers; what is not known is None or empty, and the picture says so.

    Attributes:
        title: large, above everything.
        subtitle: small, beside it.
        predicted: the model's plan.
        truth: the record's plan.
        probabilities: of the twenty, in the order of ``ALL_META_ACTIONS``; they sum to 1.
        outside: the probability that the model gives to answers that are no meta-action.
        answer: what the model wrote, where it wrote instead of scoring.
        speed: m/s, now.
        command: where the route leads.
        descriptions: (heading, text) of the front view.
        trajectory: (T, 2) metres, the drive to come, 0.5 s apart (``road.ribbon``).
        camera: what it is projected with.
        reasons: why the picture of a view is not there.
        notes: sentences for below the views.
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
    camera: Camera = N015
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def correct(self) -> bool | None:
        """Whether the model said what the record says; None where one of the two is not known."""
        if self.truth is None or (self.predicted is None and self.answer is None):
            return None
        return self.predicted == self.truth

    def probability(self, action: MetaAction | None) -> float | None:
        """Of a meta-action, None where it is not known."""
        if self.probabilities is None or action is None:
            return None
        return float(self.probabilities[ALL_META_ACTIONS.index(action)])
