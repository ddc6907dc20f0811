"""The decision rules of an evaluation: which of them its predictions allow, and which one is the headline.

A prediction in score mode has its log-probabilities, so that a decision is computed from them and never stored.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senna.contents import file_content
from senna.decision import (
    BALANCED,
    DECISION_FILE,
    GREEDY,
    LIKELIEST,
    Calibration,
    open_decision,
    read_calibration,
    some,
)
from senna.errors import UsageError
from senna.evaluate.predictions import RECORDED, Prediction
from senna.kinds import PLAN, TRAJECTORY
from senna.meta_actions import ALL_META_ACTIONS, parse_meta_action
from senna.run_folder import RUN_FILE, read_settings

if TYPE_CHECKING:
    from senna.evaluate.shared_frames import FrameSet

FIELDS = {LIKELIEST: "sum", BALANCED: "balanced", GREEDY: "greedy"}
"""Decision rule -> the field of a prediction, and key of metrics.json, that has its meta-action."""


@dataclass(frozen=True)
class Rules:
    """The decision rules of an evaluation.

    Attributes:
        headline: the name of the rule whose figures come first.
        calibration: of the rule ``balanced``; None if it is not reported.
        note: why it is not reported, although the model's folder has one.
    """

    headline: str = LIKELIEST
    calibration: Calibration | None = None
    note: str = ""

    def decide(self, predictions: Iterable[Prediction]) -> list[Prediction]:
        """Return predictions whose scored plans have ``balanced`` and ``headline``."""
        return [self._decided(row) if row.get("log_probs") else row for row in predictions]

    def plans(self, predictions: Iterable[Prediction]) -> dict[str, str]:
        """Return frame token -> plan by the rule of the headline, of the plans whose answer is a meta-action."""
        found = {}
        for row in self.decide(predictions):
            if row.get("kind") == PLAN and row.get("token"):
                action = parse_meta_action(str(row.get(row.get("headline", "text"), "")))
                found |= {row["token"]: str(action)} if action else {}
        return found

    def is_stale(self, predictions: Iterable[Prediction]) -> Callable[[Prediction], bool]:
        """Return a function that tells the trajectories whose question states another plan than that of `plans`."""
        plans = self.plans(predictions)

        def is_stale(row: Prediction) -> bool:
            if row.get("kind") != TRAJECTORY or "error" in row:
                return False
            return plans.get(row["token"]) != (None if row.get("plan_source") == RECORDED else row.get("plan"))

        return is_stale

    def _decided(self, row: Prediction) -> Prediction:
        found: Prediction = {**row, "headline": FIELDS[self.headline]}
        if self.calibration is not None:
            scores = self.calibration.balanced(row["log_probs"])
            found["balanced"] = str(ALL_META_ACTIONS[int(scores.argmax())])
        return found


DEFAULT_RULES = Rules()
"""The rules of a model without a calibration."""


def open_rules(name: str, model: str | None, base: str | None, evaluated: "FrameSet") -> Rules:
    """Return the rules of an evaluation.

    Args:
        name: the rule of the headline, ``--decision``.
        model: the model's folder; None if it is not known.
        evaluated: the evaluated plans, of one file.

    Raises:
        UsageError: the name is unknown; or ``balanced`` has no usable calibration, or one that was fitted on these plans.
    """
    if name == BALANCED:
        return separate_rules(name, open_decision(name, model, base).calibration, evaluated)
    open_decision(name)  # raises UsageError for an unknown name
    try:
        found = None if model is None else read_calibration(model, base)
    except UsageError as error:
        return Rules(name, note=str(error))
    return separate_rules(name, found, evaluated)


def separate_rules(name: str, calibration: Calibration | None, evaluated: "FrameSet") -> Rules:
    """Return the rules of an evaluation with a calibration, which is left out if it was fitted on evaluated plans.

    Raises:
        UsageError: it was, and ``name`` is ``balanced``.
    """
    reason = None if calibration is None else _overlap(calibration, evaluated)
    if reason is None:
        return Rules(name, calibration)
    if name == BALANCED:
        raise UsageError(
            f"--decision {BALANCED}: {reason}, so that its figures there would be too good",
            remedy="evaluate other scenes, or run `senna calibrate` with other --data",
        )
    return Rules(name, note=reason)


def _overlap(calibration: Calibration, evaluated: "FrameSet") -> str | None:
    """Return which of the evaluated plans a calibration was fitted on, as text; None if it was fitted on none."""
    path = evaluated.records.files[0].path
    if shared := calibration.overlap(evaluated.scenes()):
        return f"{DECISION_FILE} was fitted on {len(shared)} of the scenes of {path} ({some(shared)})"
    if calibration.data_content == file_content(path):  # its records may have lost their scenes
        return f"{DECISION_FILE} was fitted on {path} itself"
    if image := evaluated.find(calibration.images):
        return f"{DECISION_FILE} was fitted on an image of {path}, {image}, under this or another name"
    return None


def rules_of(plan: Mapping[str, Any] | None) -> Rules:
    """Return the rules by which ``plan`` of metrics.json was computed."""
    headline = (plan or {}).get("headline") or FIELDS[LIKELIEST]
    name = next((name for name, field in FIELDS.items() if field == headline), LIKELIEST)
    found = (plan or {}).get("correction")
    if not found:
        return Rules(name)
    return Rules(name, Calibration(found["temperature"], found["tau"], tuple(found["prior"]), (), "", "", "", {}))


def predicting_model(predictions: Path) -> str | None:
    """Return the model that made predictions, by the settings in their folder; None if they are missing."""
    return _setting(predictions, "model")


def predicting_base(predictions: Path) -> str | None:
    """Return the base of the LoRA folder that made predictions, if it was given; None otherwise."""
    return _setting(predictions, "base")


def _setting(predictions: Path, name: str) -> str | None:
    folder = predictions if predictions.is_dir() else predictions.parent
    found = (read_settings(folder / RUN_FILE) or {}).get(name)
    return found if isinstance(found, str) else None
