r"""The request and the response of ``POST /v1/meta_actions``.

A request is a JSON object::

    {
      "images": {"front": URL, "front left": URL, "front right": URL, "back left": URL, "back right": URL, "back": URL},
      "speed": 3.1,
      "command": "turn left"
    }

=============  =================================================================================================
images         View -> URL of its image, in any order; keys may also be camera names (``CAM_FRONT_LEFT``). Or a list of
               URLs, in the order of the ``<image>`` of the question (without ``question``: of ``senna.views.VIEWS``).
               A URL is ``data:image/jpeg;base64,...`` or one that the server may fetch (vLLM's
               ``--allowed-media-domains`` and ``--allowed-local-media-path``).
speed          The ego vehicle's speed, m/s.
command        The navigation command, one of ``senna.navigation.COMMANDS``.
question       Instead of ``speed`` and ``command``: the complete text of the question, with its view tags and ``<image>``
               (the first turn of a record). As many images as ``<image>``; none is allowed.
ending         Text after the meta-action in an answer of the training data (`senna.evaluate.score`). Default: ``"\n"``.
version        Prompt format, a key of ``senna.data.conversation.TEMPLATES``. Default: ``"v1"``.
model          A name that the server serves. Default: its model.
=============  =================================================================================================

The response has status 200::

    {
      "id": "meta-actions-6f1c...",
      "object": "meta_actions",
      "created": 1795871234,
      "model": "senna",
      "meta_action": "KEEP, STRAIGHT",
      "decision": "likeliest",
      "meta_actions": [
        {"meta_action": "KEEP, STRAIGHT", "log_prob": -0.41, "probability": 0.71},
        ...
      ],
      "best": "KEEP, STRAIGHT",
      "greedy": "KEEP, STRAIGHT",
      "left_tree": null,
      "usage": {"prompt_tokens": 863, "completion_tokens": 0, "total_tokens": 863}
    }

``meta_action`` is the decision by the rule ``decision``, that of ``senna serve --decision`` (`senna.decision`).
``meta_actions`` has twenty entries in the order of ``senna.meta_actions.ALL_META_ACTIONS``. ``log_prob``, ``best``, ``greedy``
and ``left_tree`` are those of `senna.evaluate.score.PlanScores`, whatever the rule: ``log_prob`` is log P(answer and terminator
| prompt). ``probability`` is normalized over the twenty, and corrected by the rule ``balanced``.

``GET /v1/meta_actions`` returns ``{"decision": "likeliest", "calibration": {...}}``: the rule, and the contents of
``decision.json`` in the model's folder, null without it, for clients that decide themselves.

A request that cannot be answered gets the error of the OpenAI interface, ``{"error": {"message": ..., "type": ...,
"param": ..., "code": 400}}``: status 400 for a wrong body or a bad image (``param`` names the field or the view), 413 for a
body that is too large, 404 for an unknown model.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from senna.data.conversation import TEMPLATES, ChatTemplate
from senna.decision import Decision, decide
from senna.errors import DataError
from senna.evaluate.score import PlanScores
from senna.meta_actions import ALL_META_ACTIONS
from senna.navigation import COMMANDS
from senna.record_checks import has_surrogate
from senna.serve.views import ImageSource, check_count, check_views, view_named
from senna.templates import Templates
from senna.views import VIEWS, image_block, prompt_views

MOST_CHARACTERS = 20_000  # of a question; a plan question has 900
MOST_SPEED = 100.0  # m/s
_FIELDS = ("images", "speed", "command", "question", "ending", "version", "model")


@dataclass(frozen=True)
class MetaActionRequest:
    """A request that has been read.

    Attributes:
        question: the first turn of the conversation, with its ``<image>``.
        images: the images in the order of the question's ``<image>``.
        ending, version, model: see the module.
    """

    question: str
    images: list[ImageSource]
    ending: str
    version: str
    model: str | None


def read_request(body: Any, templates: Templates) -> MetaActionRequest:
    """Return the request that a JSON value states.

    Raises:
        DataError: it is none; ``record`` of the error is the name of the field.
    """
    if not isinstance(body, Mapping):
        raise DataError("the body is not a JSON object", remedy="send an object with images, speed and command")
    if unknown := next((name for name in body if name not in _FIELDS), None):
        raise DataError(
            f"the field {unknown!r:.40} is unknown", remedy=f"use {', '.join(_FIELDS)}", record=f"{unknown:.40}"
        )
    question = body.get("question")
    if question is None:
        question = image_block() + _plan_question(body.get("speed"), body.get("command"), templates)
    elif "speed" in body or "command" in body:
        raise DataError(
            "there is a question besides speed and command", remedy="send one or the other", record="question"
        )
    question = _text(question, "question")
    version = _text(body.get("version", "v1"), "version")
    if not isinstance(TEMPLATES.get(version), ChatTemplate):
        raise DataError(f"{version!r:.40} is not known", remedy="use v1 or llava_v1", record="version")
    model = body.get("model")
    ending = _text(body.get("ending", "\n"), "ending")
    return MetaActionRequest(
        question,
        _images(body.get("images"), question),
        ending,
        version,
        None if model is None else _text(model, "model"),
    )


def response(name: str, model: str, scores: PlanScores, tokens: int, rule: Decision) -> dict[str, Any]:
    """Return the response to a request.

    Args:
        name: the id of the request.
        tokens: the number of tokens of the prompt.
        rule: decides the meta-action.
    """
    shares = np.exp(rule.log_probs(scores.log_probs))
    return {
        "id": name,
        "object": "meta_actions",
        "created": int(time.time()),
        "model": model,
        "meta_action": str(decide(scores.log_probs, rule, scores.greedy)),
        "decision": rule.name,
        "meta_actions": [
            {"meta_action": str(action), "log_prob": float(log_prob), "probability": float(share)}
            for action, log_prob, share in zip(ALL_META_ACTIONS, scores.log_probs, shares, strict=True)
        ],
        "best": str(scores.best),
        "greedy": str(scores.greedy),
        "left_tree": scores.left_tree,
        "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
    }


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{value!r:.40} is not a text", remedy="send a string", record=name)
    if len(value) > MOST_CHARACTERS:
        raise DataError(f"{len(value)} characters", remedy=f"send at most {MOST_CHARACTERS}", record=name)
    if has_surrogate(value):
        raise DataError("a lone surrogate, half of a character", remedy="write it again", record=name)
    return value


def _plan_question(speed: Any, command: Any, templates: Templates) -> str:
    """Return the text of the plan question."""
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0 <= speed <= MOST_SPEED:
        reason = "it is missing" if speed is None else f"{speed!r:.40} is not a speed"
        raise DataError(reason, remedy=f"send a number from 0 to {MOST_SPEED:.0f}, in m/s", record="speed")
    if command not in COMMANDS:
        reason = "it is missing" if command is None else f"{command!r:.40} is not a navigation command"
        raise DataError(reason, remedy=f"use {', '.join(COMMANDS)}", record="command")
    words = templates["words"]["speed"].format(speed=f"{speed:.1f}")
    return templates["plan"]["question"].format(speed=words, command=command)


def _images(value: Any, question: str) -> list[ImageSource]:
    """Return the images in the order of the question's ``<image>``."""
    placeholders = prompt_views(question)
    if value is None:
        value = []
    if isinstance(value, Mapping):
        named = [
            ImageSource(_url(url, f"images.{key}"), f"images.{key}", view_named(key)) for key, url in value.items()
        ]
        check_views([str(image.view) for image in named])
        by_view = {image.view: image for image in named}
        if set(placeholders) != by_view.keys() or len(placeholders) != len(named):
            asked = ", ".join(str(view) for view in placeholders) or "no image"
            raise DataError(
                f"the question asks for {asked}, and the images are of {', '.join(map(str, by_view)) or 'no view'}",
                remedy="send one image for each view of the question",
                record="images",
            )
        return [by_view[view] for view in placeholders]
    if not isinstance(value, list):
        raise DataError(f"{value!r:.40} is neither an object nor a list", remedy="send view -> URL", record="images")
    images = [ImageSource(_url(url, f"images.{number}"), f"images.{number}") for number, url in enumerate(value)]
    if len(images) != len(placeholders):
        raise DataError(
            f"the question has {len(placeholders)} <image>, and there are {len(images)} images",
            remedy=f"send {len(placeholders)}" + (f": {', '.join(VIEWS)}" if len(placeholders) == len(VIEWS) else ""),
            record="images",
        )
    check_count(len(images))
    return images


def _url(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise DataError(f"{value!r:.40} is not a URL", remedy="send data:image/jpeg;base64,... or a URL", record=name)
    return value
