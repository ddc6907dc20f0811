"""The decision rule of a server: checked by `senna serve`, then read by the route in the process that becomes vLLM's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senna.decision import (
    BALANCED,
    DECISION_FILE,
    LIKELIEST,
    MOST_PROBABLE,
    Decision,
    open_decision,
    parse_calibration,
    read_calibration,
)
from senna.errors import UsageError

FLAG = "--decision"
RULE, FILE = "SENNA_DECISION", "SENNA_DECISION_FILE"
"""Environment variables of the server: the rule, and the calibration that has been checked. vLLM refuses unknown flags."""


@dataclass(frozen=True)
class ServedDecision:
    """The decision rule of a server.

    Attributes:
        rule: decides the meta-action of an answer.
        calibration: the contents of `DECISION_FILE` for clients that decide themselves; None without it.
    """

    rule: Decision = MOST_PROBABLE
    calibration: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the reply to ``GET /v1/meta_actions``."""
        return {"decision": self.rule.name, "calibration": self.calibration}


def take_decision(flags: Sequence[str]) -> tuple[str, list[str]]:
    """Return the rule that flags name, by default the most probable, and the other flags. Raises UsageError."""
    name, others, words = LIKELIEST, [], iter(flags)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag != FLAG:
            others.append(word)
        else:
            name = value if equals else next(words, "")
    if name != BALANCED:  # which needs the model
        open_decision(name)
    return name, others


def decision_variables(name: str, model: str) -> dict[str, str]:
    """Return the environment variables for a rule and a model.

    Raises:
        UsageError: the rule is ``balanced``, and the model's folder has no calibration of its weights.
    """
    try:
        calibration = open_decision(name, model).calibration or read_calibration(model)
    except UsageError as error:
        if name == BALANCED:
            raise
        print(f"note: {DECISION_FILE} is left out: {error}", flush=True)
        calibration = None
    return {RULE: name, FILE: "" if calibration is None else str(Path(model).resolve() / DECISION_FILE)}


def served_decision(environment: Mapping[str, str]) -> ServedDecision:
    """Return the decision that the variables of a server state; the default without them, as of a plain `vllm serve`."""
    name, path = environment.get(RULE, LIKELIEST), environment.get(FILE)
    if not path:
        return ServedDecision(Decision(name))
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return ServedDecision(Decision(name, parse_calibration(content)), content)
