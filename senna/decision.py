"""The decision: from the log-probabilities of the twenty meta-actions to one of them, by one of three rules.

``likeliest`` takes the most probable meta-action, ``greedy`` that of greedy decoding. ``balanced`` takes the largest of
``log p / T - tau * log prior``: the prior is the distribution of the training plans, so that frequent ones do not outvote the
rare ones (Menon et al. 2021, arXiv 2007.07314). `senna calibrate` fits T and tau and writes them into the model's folder.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from senna.contents import model_content
from senna.errors import UsageError
from senna.files import write_json
from senna.meta_actions import ALL_META_ACTIONS, MetaAction

LIKELIEST, BALANCED, GREEDY = "likeliest", "balanced", "greedy"
DECISIONS = (LIKELIEST, BALANCED, GREEDY)
"""The decision rules, values of ``--decision``."""

DECISION_FILE = "decision.json"
"""The file in a model's folder that `senna calibrate` writes."""

VERSION = 1
"""The version of the format of `DECISION_FILE`."""

_MOST_NAMES = 3  # scenes that an error names


@dataclass(frozen=True)
class Calibration:
    """The contents of `DECISION_FILE`.

    Attributes:
        temperature: T, by which log-probabilities are divided; above 1 for an overconfident model.
        tau: strength of the correction by the prior, 0 for none.
        prior: (20,) distribution of the training plans, in the order of ``ALL_META_ACTIONS``; every entry is above 0.
        scenes: scenes that T and tau were fitted on.
        data, data_content: the file of these scenes, and the hash of its content.
        model_content: the hash of the model, see `senna.contents.model_content`.
        figures: measured figures before and after, for people.
        images: fingerprints of the front images, see `senna.evaluate.shared_frames`; none in files of earlier versions.
    """

    temperature: float
    tau: float
    prior: tuple[float, ...]
    scenes: tuple[str, ...]
    data: str
    data_content: str
    model_content: str
    figures: Mapping[str, Any]
    images: tuple[str, ...] = ()

    def calibrated(self, log_probs: ArrayLike) -> NDArray[np.float64]:
        """Return calibrated log-probabilities, float64 (..., 20), normalized over the twenty."""
        return log_softmax(np.asarray(log_probs, dtype=np.float64) / self.temperature)

    def balanced(self, log_probs: ArrayLike) -> NDArray[np.float64]:
        """Return the log-probabilities under balanced classes, float64 (..., 20), normalized over the twenty."""
        return log_softmax(self.calibrated(log_probs) - self.tau * np.log(self.prior))

    def as_correction(self) -> dict[str, Any]:
        """Return what decides: temperature, tau and prior, as JSON."""
        return {"temperature": self.temperature, "tau": self.tau, "prior": list(self.prior)}

    def overlap(self, scenes: Iterable[str]) -> list[str]:
        """Return the scenes among these that T and tau were fitted on."""
        return sorted(set(scenes) & set(self.scenes))


@dataclass(frozen=True)
class Decision:
    """A decision rule.

    Attributes:
        name: one of `DECISIONS`.
        calibration: T, tau and prior; None only if the rule is not ``balanced``.
    """

    name: str = LIKELIEST
    calibration: Calibration | None = None

    def log_probs(self, log_probs: ArrayLike) -> NDArray[np.float64]:
        """Return log-probabilities, float64 (..., 20), normalized over the twenty; their largest is the decision.

        For ``greedy``, which needs probabilities of tokens, they are those of ``likeliest``.
        """
        if self.name == BALANCED:
            assert self.calibration is not None
            return self.calibration.balanced(log_probs)
        return log_softmax(np.asarray(log_probs, dtype=np.float64))


MOST_PROBABLE = Decision()
"""The default rule."""


def decide(log_probs: ArrayLike, decision: Decision = MOST_PROBABLE, greedy: MetaAction | None = None) -> MetaAction:
    """Return the decision for a frame.

    Args:
        log_probs: (20,), in the order of ``ALL_META_ACTIONS``, as `senna.evaluate.score.PlanScores` has them.
        greedy: the meta-action of greedy decoding, which the rule ``greedy`` returns.

    Raises:
        ValueError: the rule is ``greedy``, and ``greedy`` is not given.
    """
    if decision.name == GREEDY:
        if greedy is None:
            raise ValueError("the rule greedy needs the meta-action of greedy decoding")
        return greedy
    return ALL_META_ACTIONS[int(decision.log_probs(log_probs).argmax())]


def open_decision(name: str, model: str | Path | None = None, base: str | None = None) -> Decision:
    """Return a decision rule for a model.

    Args:
        name: one of `DECISIONS`.
        model: the model's folder; only ``balanced`` reads it.
        base: the base of a LoRA folder, if it is not the one that the folder names.

    Raises:
        UsageError: the name is unknown; or ``balanced`` finds no usable `DECISION_FILE` of this model.
    """
    if name not in DECISIONS:
        raise UsageError(f"--decision {name} is unknown", remedy=f"use one of {', '.join(DECISIONS)}")
    if name != BALANCED:
        return Decision(name)
    found = None if model is None else read_calibration(model, base)
    if found is None:
        missing = (
            "the model's folder is not known" if model is None else f"{Path(model) / DECISION_FILE} does not exist"
        )
        raise UsageError(f"--decision {BALANCED}: {missing}", remedy=_calibrate(model))
    return Decision(BALANCED, found)


def read_calibration(model: str | Path, base: str | None = None) -> Calibration | None:
    """Return the calibration in a model's folder; None if there is none.

    Raises:
        UsageError: the file is damaged, has another version, or belongs to other weights than those in the folder.
    """
    path = Path(model) / DECISION_FILE
    if not path.is_file():
        return None
    try:
        found = parse_calibration(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path} cannot be used: {error}", remedy=_calibrate(model)) from None
    if found.model_content != model_content(model, base):
        raise UsageError(f"{path} was fitted for other weights than those in {model}", remedy=_calibrate(model))
    return found


def write_calibration(model: str | Path, calibration: Calibration) -> Path:
    """Write `DECISION_FILE` into a model's folder, atomically, and return its path. Raises SennaError."""
    path = Path(model) / DECISION_FILE
    write_json(path, {"version": VERSION, **asdict(calibration)})
    return path


def parse_calibration(content: Any) -> Calibration:
    """Return the calibration in parsed JSON. Raises ValueError, TypeError, KeyError or AttributeError."""
    if content["version"] != VERSION:
        raise ValueError(f"its version is {content['version']}, and this version of Senna reads {VERSION}")
    temperature, tau, prior = float(content["temperature"]), float(content["tau"]), tuple(map(float, content["prior"]))
    if not (math.isfinite(temperature) and temperature > 0 and math.isfinite(tau)):
        raise ValueError(f"temperature {temperature} and tau {tau} are not valid")
    if len(prior) != len(ALL_META_ACTIONS) or not all(0 < share < 1 for share in prior):
        raise ValueError(f"the prior must have {len(ALL_META_ACTIONS)} entries between 0 and 1")
    texts = {name: str(content[name]) for name in ("data", "data_content", "model_content")}
    scenes, images = (tuple(map(str, names)) for names in (content["scenes"], content.get("images", ())))
    return Calibration(temperature, tau, prior, scenes, figures=dict(content["figures"]), images=images, **texts)


def prior_of(counts: ArrayLike) -> NDArray[np.float64]:
    """Return the distribution (20,) of plans from their counts (20,), with one added to each, so that none is 0."""
    smoothed = np.asarray(counts, dtype=np.float64) + 1.0
    return smoothed / smoothed.sum()


def log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores (..., 20) as log-probabilities over the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def some(names: list[str]) -> str:
    """Return the first names of a list, for a message."""
    return ", ".join([*names[:_MOST_NAMES], *(["..."] if len(names) > _MOST_NAMES else [])])


def _calibrate(model: str | Path | None) -> str:
    return f"run `senna calibrate --model {model or 'MODEL'} --data FILE` on records that are neither trained on nor evaluated"
