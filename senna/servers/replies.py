"""Replies of a server: the answer or why there is none, failures, and parameters that the server refuses."""

import json
import re
from typing import Any

from senna.errors import SennaError
from senna.servers.address import Server

REFUSAL_STATUS = (400, 413, 415, 422)  # the server rejects this request, and may accept the next one

_REFUSES = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|extra|unexpected|not permitted|not allowed|not accept|deprecated"
)


class NoAnswer(str):
    """An empty answer with the reason why it is empty.

    Attributes:
        reason: a few words for people.
        is_refused: whether the server rejected the request, so that asking again is useless.
    """

    reason: str
    is_refused: bool

    def __new__(cls, reason: str, is_refused: bool = False) -> "NoAnswer":
        """Return an empty text with a reason."""
        text = super().__new__(cls, "")
        text.reason, text.is_refused = reason, is_refused
        return text


class NoReply(SennaError):
    """A request without a usable reply in any attempt, while the server may answer later.

    Attributes:
        reason: the last failure, in a few words.
        about: what the request was about, for the message; "" for none.
        status: the HTTP status of the last reply; None where there was no complete reply.
        wanted_pause: the seconds after which the server wants to be asked again; None if it did not say so.
    """

    def __init__(
        self,
        server: Server,
        attempts: int,
        reason: str,
        about: str = "",
        status: int | None = None,
        wanted_pause: float | None = None,
    ) -> None:
        super().__init__(
            f"--server {server}{server.through}: no answer{about} after {attempts} attempt{'s' * (attempts > 1)} ({reason}); "
            "the answers so far are saved",
            remedy=f"check that the server is running and run the same command again{server.around_proxy}",
        )
        self.reason, self.about, self.status, self.wanted_pause = reason, about, status, wanted_pause


def read_answer(reply: Any, limit: int) -> str:
    """Return the answer in a chat completion as it is, or ``NoAnswer`` with the reason why it has no text.

    Args:
        limit: the maximum length that was asked for, in tokens.
    """
    choice = reply.choices[0]
    message, content = choice.message, choice.message.content
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content)
    text = (content or "").strip()
    is_unfinished_reasoning = text.startswith("<think>") and "</think>" not in text
    if text and not is_unfinished_reasoning:
        return content
    reached = f", and reached the limit of {limit} tokens (finish_reason: length)" if is_truncated(reply) else ""
    reasoning = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    if reasoning or is_unfinished_reasoning:
        return NoAnswer(f"the model wrote its reasoning but no answer{reached}")
    if reached:
        return NoAnswer(f"the model wrote no text{reached}")
    if refusal := getattr(message, "refusal", None):
        return NoAnswer(f"the model refused: {str(refusal)[:200]}")
    return NoAnswer(f"the server sent an empty text (finish_reason: {choice.finish_reason})")


def is_truncated(reply: Any) -> bool:
    """Return whether the answer reached the maximum length."""
    return reply.choices[0].finish_reason == "length"


def without_refused_parameter(parameters: dict[str, Any], body: object) -> dict[str, Any] | None:
    """Return the parameters that a server may take instead, None where the refusal is about something else.

    Newer models want ``max_completion_tokens`` instead of ``max_tokens``, and some take no ``temperature``.

    Args:
        body: the body of the server's refusal.
    """
    text = json.dumps(body).lower()
    rest = {name: value for name, value in parameters.items() if name not in ("max_tokens", "temperature")}
    refuses_limit = "max_completion_tokens" in text or ("max_tokens" in text and _REFUSES.search(text))
    if "max_tokens" in parameters and refuses_limit:
        kept = {"temperature": parameters["temperature"]} if "temperature" in parameters else {}
        return {**rest, **kept, "max_completion_tokens": parameters["max_tokens"]}
    if "temperature" in parameters and "temperature" in text:
        kept = {"max_tokens": parameters["max_tokens"]} if "max_tokens" in parameters else {}
        return {**rest, **kept}
    return None
