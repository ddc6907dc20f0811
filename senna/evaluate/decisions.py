"""The decision rules of an evaluation: which of them its predictions allow, and which one is the headline.

A prediction in score mode has its log-probabilities, so that a decision is computed from them and never stored.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from senna.evaluate.predictions import Prediction
from senna.meta_actions import ALL_META_ACTIONS
from senna.run_folder import RUN_FILE, read_settings

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

    def decide(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Return predictions whose scored plans have ``balanced`` and ``headline``."""
        return [self._decided(row) if row.get("log_probs") else row for row in predictions]

    def _decided(self, row: Prediction) -> Prediction:
        found: Prediction = {**row, "headline": FIELDS[self.headline]}
        if self.calibration is not None:
            scores = self.calibration.balanced(row["log_probs"])
            found["balanced"] = str(ALL_META_ACTIONS[int(scores.argmax())])
        return found


DEFAULT_RULES = Rules()
"""The rules of a model without a calibration."""


def open_rules(name: str, model: str | None, base: str | None, scenes: Collection[str], data: str | Path) -> Rules:
    """Return the rules of an evaluation.

    Args:
        name: the rule of the headline, ``--decision``.
        model: the model's folder; None if it is not known.
        scenes: the scenes of the evaluated plans.
        data: their file.

    Raises:
        UsageError: the name is unknown; or ``balanced`` has no usable calibration, or one that was fitted on these scenes.
    """
    found = open_decision(name, model, base).calibration
    if name == BALANCED and found is not None:
        found.check_separate(scenes, data)
        _check_other_file(found, data)
        return Rules(name, found)
    if model is None:
        return Rules(name)
    try:
        found = read_calibration(model, base)
    except UsageError as error:
        return Rules(name, note=str(error))
    if found is None:
        return Rules(name)
    if shared := found.overlap(scenes):
        return Rules(name, note=f"{DECISION_FILE} was fitted on {len(shared)} of these scenes ({some(shared)})")
    return Rules(name, found)


def _check_other_file(calibration: Calibration, data: str | Path) -> None:
    """Raise UsageError if a calibration was fitted on a file of these contents; its records may have lost their scenes."""
    if calibration.data_content == file_content(data):
        raise UsageError(
            f"--decision {BALANCED}: {DECISION_FILE} was fitted on {data} itself", remedy="evaluate other scenes"
        )


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
