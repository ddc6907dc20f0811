"""Prompt formats: from the turns of a conversation to one text, with the character spans of the targets.

This module does not know tokens; ``senna.data.tokenize`` turns the spans into labels.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from senna.errors import DataError, UsageError
from senna.records import GPT, HUMAN
from senna.views import IMAGE_TOKEN


@dataclass(frozen=True)
class Rendered:
    """The text of a prompt, and its targets as half-open character spans ``(start, stop)`` in ascending order."""

    text: str
    targets: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ChatTemplate:
    """A system text, then ``USER: question ASSISTANT: answer<eos>`` for each pair of turns (Vicuna v1)."""

    system: str

    def render(self, turns: Sequence[tuple[str, str]], eos: str) -> Rendered:
        """Render ``[(role, text)]``; the target of an answer reaches from after ``ASSISTANT:`` to the end of its ``eos``.

        As in the published code, a turn with an empty text is only its role: an empty answer has no ``eos`` and no target.
        """
        text, targets = f"{self.system} ", []
        for role, value in _alternating(turns):
            text += "USER:" if role == HUMAN else "ASSISTANT:"
            if not value:
                continue
            start = len(text)
            text += f" {value}" + (" " if role == HUMAN else eos)
            if role == GPT:
                targets.append((start, len(text)))
        return Rendered(text, tuple(targets))

    def prompt(self, question: str) -> str:
        """Return the text that the model continues with its answer."""
        return f"{self.system} USER: {question} ASSISTANT:"


@dataclass(frozen=True)
class PlainTemplate:
    """The images, then the answer and a newline, without the question (stage 1 of LLaVA)."""

    def render(self, turns: Sequence[tuple[str, str]], eos: str) -> Rendered:
        """Render one question and one answer; the target is the answer with its newline, which replaces ``eos``."""
        roles = [role for role, _ in turns]
        if roles != [HUMAN, GPT]:
            raise DataError(
                f"the format plain takes one question and one answer, got turns from {roles}",
                remedy="use the format v1 for conversations",
            )
        images = IMAGE_TOKEN * turns[0][1].count(IMAGE_TOKEN)
        text = f"{images}{turns[1][1]}\n"
        return Rendered(text, ((len(images), len(text)),))

    def prompt(self, question: str) -> str:
        """Return the published evaluation prompt, which contains the text of the question."""
        return f"{question}\n"


_VICUNA_SYSTEM = (
    "A chat between a curious {user} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {user}'s questions."
)
_VICUNA_V1 = ChatTemplate(_VICUNA_SYSTEM.format(user="user"))

TEMPLATES: Mapping[str, ChatTemplate | PlainTemplate] = {
    "plain": PlainTemplate(),
    "v1": _VICUNA_V1,
    "vicuna_v1": _VICUNA_V1,
    "senna": _VICUNA_V1,
    "llava_v1": ChatTemplate(_VICUNA_SYSTEM.format(user="human")),
}
"""Prompt formats by their published names (``--version``, ``--conv-mode``)."""


def template_for(version: str) -> ChatTemplate | PlainTemplate:
    """Return the format of that name. Raises ``UsageError`` with the nearest known name if there is none."""
    if version in TEMPLATES:
        return TEMPLATES[version]
    near = difflib.get_close_matches(version, TEMPLATES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(TEMPLATES)}"
    raise UsageError(f"unknown prompt format {version!r}", remedy=hint)


def render(conversations: Sequence[Mapping[str, Any]], version: str, eos: str) -> Rendered:
    """Return a record's ``conversations`` as one text. Raises ``DataError`` with the number of a turn that does not fit."""
    return template_for(version).render(read_turns(conversations), eos)


def prompt_for(question: str, version: str = "v1") -> str:
    """Return the prompt for generating an answer to ``question``; in the chat formats it ends with ``ASSISTANT:``."""
    return template_for(version).prompt(question)


def read_turns(conversations: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return ``[(role, text)]`` from ``[{"from": ..., "value": ...}]``. Raises ``DataError`` with the number of a bad turn."""
    turns = []
    for number, turn in enumerate(conversations):
        role, value = (turn.get("from"), turn.get("value")) if isinstance(turn, Mapping) else (None, None)
        if role not in (HUMAN, GPT):
            raise DataError(f"turn {number} is from {role!r}", remedy=f"its 'from' must be {HUMAN!r} or {GPT!r}")
        if not isinstance(value, str):
            raise DataError(f"turn {number} has no text: its 'value' is {value!r}", remedy="give it a text")
        turns.append((role, value))
    return turns


def _alternating(turns: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """Return the turns from the first question on. Raises ``DataError`` if questions and answers do not alternate."""
    # The published format also leaves out an answer before the first question.
    skipped = 1 if turns and turns[0][0] == GPT else 0
    for number, (role, _) in enumerate(turns[skipped:]):
        expected = GPT if number % 2 else HUMAN
        if role != expected:
            raise DataError(
                f"turn {number + skipped} is from {role!r}, must be from {expected!r}",
                remedy="let questions and answers alternate",
            )
    if len(turns) == skipped:
        raise DataError("the conversation has no question", remedy=f"begin it with a turn from {HUMAN!r}")
    return turns[skipped:]
