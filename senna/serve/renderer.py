"""From the prompts and messages of requests to token ids and pixels, by the code that training uses.

vLLM knows it as the renderer of ``--tokenizer-mode senna``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.renderers.hf import HfRenderer

from senna.data.serving import add_image_token
from senna.errors import DataError
from senna.model.source import ModelSource
from senna.model.tokenizer import load_tokenizer
from senna.record_checks import has_surrogate
from senna.serve.chat import Chat, read_messages
from senna.serve.images import ImageFetcher
from senna.serve.refusal import refusal
from senna.serve.tokenizer import encode_with_placeholders, image_token_id
from senna.views import IMAGE_TOKEN


class SennaRenderer(HfRenderer):
    """Writes chats in the model's prompt format, and encodes every text as `encode_prompt` does."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        model_config = config.model_config
        self._mm_processor_only_cache = None  # it would keep what is sent each time anyway
        # vLLM's own tokenizer is a wrapper for several threads; encoding needs the plain one.
        self.plain_tokenizer = add_image_token(load_tokenizer(model_config.tokenizer))
        self.fetcher = ImageFetcher(model_config, ModelSource.resolve(model_config.model).load_image_processor())

    def render_messages(self, messages: Sequence[Any], params: Any) -> tuple[list, Any]:
        """Return the messages as text, and the prompt with its images. Raises VLLMValidationError."""
        chat = self._read(messages)
        return self._rendered(messages, chat, self.fetcher.fetch_now(chat.images))

    async def render_messages_async(self, messages: Sequence[Any], params: Any) -> tuple[list, Any]:
        """Do the same, and fetch the images at the same time."""
        chat = self._read(messages)
        return self._rendered(messages, chat, await self.fetcher.fetch(chat.images))

    def render_chat(self, *args: Any, **options: Any) -> Any:
        """Render conversations, always with their pixels.

        vLLM would leave out pixels that it has rendered before, even those of a request that never reached the engine because
        its prompt was too long or its client left. The engine then fails.
        """
        return super().render_chat(*args, **{**options, "skip_mm_cache": True})

    async def render_chat_async(self, *args: Any, **options: Any) -> Any:
        """Do the same for a server."""
        return await super().render_chat_async(*args, **{**options, "skip_mm_cache": True})

    def _read(self, messages: Sequence[Any]) -> Chat:
        try:
            return read_messages(messages, str(self.plain_tokenizer.eos_token))
        except DataError as error:
            raise refusal(error) from error

    def _rendered(self, messages: Sequence[Any], chat: Chat, images: list) -> tuple[list, Any]:
        conversation = [{"role": message["role"], "content": ""} for message in messages]
        return conversation, {"prompt": chat.prompt, **({"multi_modal_data": {"image": images}} if images else {})}

    def _tokenize_prompt(self, prompt: Any, params: Any) -> Any:
        if has_surrogate(prompt["prompt"]):
            raise VLLMValidationError("the prompt has a lone surrogate, half of a character", parameter="prompt")
        return self._build_tokens_prompt(encode_with_placeholders(prompt["prompt"], self.plain_tokenizer), prompt)

    def _process_tokens(self, prompt: Any, *, skip_mm_cache: bool = False) -> Any:
        self._check_placeholders(prompt)
        return super()._process_tokens(prompt, skip_mm_cache=skip_mm_cache)

    async def _process_tokens_async(self, prompt: Any, *, skip_mm_cache: bool = False) -> Any:
        self._check_placeholders(prompt)
        return await super()._process_tokens_async(prompt, skip_mm_cache=skip_mm_cache)

    def _check_placeholders(self, prompt: Mapping[str, Any]) -> None:
        """Raise VLLMValidationError if a prompt has another number of ``<image>`` than of images."""
        images = (prompt.get("multi_modal_data") or {}).get("image")
        count = 0 if images is None else len(images) if isinstance(images, list) else 1
        found = list(prompt["prompt_token_ids"]).count(image_token_id(self.plain_tokenizer))
        if found != count:
            raise VLLMValidationError(f"the prompt has {found} {IMAGE_TOKEN}, and there are {count} images")
