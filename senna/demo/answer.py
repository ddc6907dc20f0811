"""The model behind the page: images and a question in; probabilities, or text token by token, out.

Shapes: V views, H and W the input height and width of the vision tower.
"""

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from PIL import Image
from transformers import StoppingCriteria, TextIteratorStreamer

from senna.data import encode_prompt, load_image, prompt_for
from senna.decision import MOST_PROBABLE, Decision
from senna.evaluate.score import PlanScorer, PlanScores
from senna.views import image_block


class Answerer:
    """A model that serves one visitor at a time; others wait."""

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, decision: Decision = MOST_PROBABLE) -> None:
        self.decision = decision
        self.model, self.tokenizer, self.image_processor = model, tokenizer, image_processor
        self.scorer = PlanScorer(model, tokenizer)
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def close(self) -> None:
        """Stop every running generation, so that the process can end."""
        self._closing.set()

    def pixels(self, images: Iterable[Image.Image]) -> torch.Tensor:
        """Return uint8 (V, 3, H, W). The iterable may decode one image at a time."""
        aspect_ratio = self.model.config.image_aspect_ratio or "pad"
        return torch.stack(
            [load_image(image, self.image_processor, aspect_ratio, dtype=torch.uint8) for image in images]
        )

    def plan(self, question: str, views: tuple[str, ...], images: torch.Tensor) -> PlanScores:
        """Score the meta-actions for a question without its image block and ``images`` (V, 3, H, W)."""
        with self._lock:
            return self.scorer([[{"from": "human", "value": image_block(views) + question}]], [images])[0]

    def stream(self, question: str, views: tuple[str, ...], images: torch.Tensor, max_new_tokens: int) -> Iterator[str]:
        """Yield the growing greedy answer. Closing the iterator stops the model."""
        # Prompts are passed as embeddings, so the streamer never sees prompt tokens to skip.
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=False, skip_special_tokens=True)
        halt, failures = _Halt(self._closing), []
        ids = encode_prompt(prompt_for(image_block(views) + question), self.tokenizer)

        def generate() -> None:
            try:
                with self._lock:
                    self.model.generate(
                        ids[None].to(self.model.device),
                        images=images[None].to(self.model.device),
                        max_new_tokens=max_new_tokens,
                        do_sample=False,
                        pad_token_id=self.tokenizer.pad_token_id or 0,
                        eos_token_id=self.tokenizer.eos_token_id,
                        stopping_criteria=[halt],
                        streamer=streamer,
                    )
            except Exception as error:
                failures.append(error)
                streamer.end()  # otherwise the reader below would wait forever

        worker = threading.Thread(target=generate)
        worker.start()
        text = ""
        try:
            for piece in streamer:
                if piece:
                    text += piece
                    yield text
        finally:
            halt.wanted = True
        worker.join()
        if failures:
            raise failures[0]


class _Halt(StoppingCriteria):
    """A criterion that stops a generation when its reader has gone or the server shuts down."""

    def __init__(self, closing: threading.Event) -> None:
        self.wanted, self._closing = False, closing

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        ends = self.wanted or self._closing.is_set()
        return torch.full((len(input_ids),), ends, dtype=torch.bool, device=input_ids.device)
