"""The model behind the page where a server of `senna serve` has it: the same questions, with images as data URLs."""

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from senna.decision import Decision
from senna.demo.questions import Refusal
from senna.errors import DataError, UsageError
from senna.evaluate.score import PlanScores
from senna.evaluate.server import ServedModel
from senna.evaluate.server_questions import Question, pixels_url
from senna.meta_actions import parse_meta_action
from senna.servers.replies import NoAnswer
from senna.views import image_block


class RemoteAnswerer:
    """A served model with the interface of `senna.demo.answer.Answerer`; the server takes several visitors at a time."""

    def __init__(self, served: ServedModel, decision: Decision) -> None:
        if not served.scores:
            raise UsageError(
                f"--server {served.connection.server} does not score meta-actions",
                remedy="give a server of `senna serve`",
            )
        self.served, self.decision = served, decision

    def close(self) -> None:
        """Do nothing: requests end by themselves."""

    def pixels(self, images: Iterable[Image.Image]) -> list[str]:
        """Return the images as data URLs. The iterable may decode one image at a time."""
        return [pixels_url(image) for image in images]

    def plan(self, question: str, views: tuple[str, ...], images: list[str]) -> PlanScores:
        """Score the meta-actions for a question without its image block. Raises Refusal or SennaError."""
        text = image_block(views) + question
        try:
            found = self.served.connection.call(lambda client: self.served.score(client, text, images))
        except DataError as error:
            raise Refusal(error.message) from None
        greedy = parse_meta_action(found["greedy"])
        assert greedy is not None
        return PlanScores(np.array(found["log_probs"]), greedy, found["left_tree"])

    def stream(self, question: str, views: tuple[str, ...], images: list[str], max_new_tokens: int) -> Iterator[str]:
        """Yield the greedy answer. Its greatest length is that of the connection. Raises Refusal or SennaError."""
        served, content = self.served, Question({}, image_block(views) + question, images).senna_content()
        text = served.connection.call(lambda client: served.connection.chat(client, served.name, content))
        if isinstance(text, NoAnswer) and text.is_refused:
            raise Refusal(text.reason)
        yield text
