"""LLaVA-1.6 (transformers' LlavaNext) on this machine, in batches; each image is encoded once.

Letters: B requests in a batch, T tokens of the longest prompt in it, N tokens of an image, D width of the language model,
P crops of an image.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from senna.convert.captioners import PRECISIONS, Request, in_order
from senna.errors import DataError, SennaError, UsageError
from senna.files import is_folder_name
from senna.image_file import check_image_file
from senna.kinds import kind_named

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

IMAGE_TOKEN = "<image>"
SHORT_ANSWER = 24  # maximum tokens of an answer that is one word
_FIRST_BATCH = {"cuda": 32, "cpu": 8}  # the first batch size of "auto"
_IMAGES = 8  # images encoded at a time: 40 crops of 336 x 336
_UNQUANTIZED = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
# The allocators of the CPU and of CUDA libraries raise a bare RuntimeError, which only its text identifies.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


@dataclass
class _Prompt:
    """A tokenized request."""

    index: int  # of the request
    ids: list[int]
    max_tokens: int  # maximum length of the answer
    image: Path


class LlavaCaptioner:
    """Answers questions with greedy decoding of a LlavaNext, which is loaded on the first request."""

    def __init__(
        self,
        model: str,
        quantization: str = "nf4",
        batch: str | int = "auto",
        max_tokens: int = 256,
        attn_implementation: str = "sdpa",
        device: str | None = None,
    ) -> None:
        """Initialize the captioner; see ``make_captioner`` for the arguments.

        Args:
            device: default: the first GPU, or the CPU where there is none.

        Raises:
            UsageError: ``batch`` is neither a positive number nor "auto", or the quantization is unknown.
        """
        if quantization not in PRECISIONS:
            raise UsageError(
                f"--captioner-quantization {quantization} is unknown", remedy=f"use one of {', '.join(PRECISIONS)}"
            )
        if batch != "auto" and (not str(batch).isdigit() or int(batch) < 1):
            raise UsageError(f"--captioner-batch {batch} is not a batch size", remedy="give auto or a number from 1")
        self.name, self.settings = f"llava:{model}:{quantization}", f"max_tokens={max_tokens}"
        self._path, self._quantization, self._attention = model, quantization, attn_implementation
        self._max_tokens, self._asked_device = max_tokens, device
        self._fixed = None if batch == "auto" else int(batch)
        self._reduced: int | None = None  # the batch size of "auto" after memory ran out

    @property
    def batch(self) -> int:
        """The current batch size."""
        return self._fixed or self._reduced or _FIRST_BATCH[self._device]

    @property
    def window(self) -> int:
        """Four batches, so that prompts of similar length can be grouped."""
        return 4 * self.batch

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """Return one text for each request, in order. Raises DataError for an image that cannot be read."""
        return in_order(self.stream(requests))

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """Yield (index, text), batch by batch."""
        window = self.window  # fixed here: the batch size may shrink during the loop
        for start in range(0, len(requests), window):
            group = requests[start : start + window]
            features = self._encode_images(group)
            waiting = self._prompts(group, features)
            while waiting:
                taken = _same_limit(waiting, self.batch)
                texts = self._generate_or_shrink(taken, features)
                if texts is None:
                    continue
                waiting = waiting[len(taken) :]
                for prompt, text in zip(taken, texts, strict=True):
                    yield start + prompt.index, text

    def _generate_or_shrink(self, prompts: list[_Prompt], features: dict[Path, torch.Tensor]) -> list[str] | None:
        """Return the texts, or reduce the batch size and return None where memory ran out."""
        texts, reason = _unless_out_of_memory(lambda: self._generate(prompts, features))
        if texts is not None:
            return texts
        if self._fixed or len(prompts) == 1:
            raise self._out_of_memory(reason, len(prompts))
        self._reduced = (len(prompts) + 1) // 2
        logger.warning("memory ran out; the captioner continues with batches of %d requests", self._reduced)
        return None

    def _out_of_memory(self, reason: str, count: int) -> SennaError:
        smaller = "--captioner-batch auto, " if self._fixed and count > 1 else ""
        return SennaError(
            f"--captioner-batch {count}: memory ran out ({reason}); the answers so far are saved",
            remedy=f"try {smaller}a smaller model (--captioner-model) or --captioner-quantization nf4",
        )

    def _generate(self, prompts: list[_Prompt], features: dict[Path, torch.Tensor]) -> list[str]:
        import torch

        tokenizer, embed = self._processor.tokenizer, self._model.get_input_embeddings()
        longest = max(len(prompt.ids) for prompt in prompts)
        ids = torch.full((len(prompts), longest), _padding(tokenizer))  # (B, T)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt.ids) :] = torch.tensor(prompt.ids)
            mask[row, longest - len(prompt.ids) :] = 1
        device = embed.weight.device
        with torch.inference_mode():
            embedded = embed(ids.to(device))  # (B, T, D)
            for row, prompt in enumerate(prompts):
                is_image = (ids[row] == self._image_id) & (mask[row] == 1)  # (T,)
                embedded[row, is_image.to(device)] = features[prompt.image].to(device, embedded.dtype)
            out = self._model.generate(
                inputs_embeds=embedded,
                attention_mask=mask.to(device),
                max_new_tokens=max(prompt.max_tokens for prompt in prompts),
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=_padding(tokenizer),
            )
        return [text.strip() for text in tokenizer.batch_decode(out, skip_special_tokens=True)]

    def _prompts(self, requests: Sequence[Request], features: dict[Path, torch.Tensor]) -> list[_Prompt]:
        """Return the tokenized requests, sorted by maximum answer length and prompt length.

        Answers of a batch are generated together, so similar prompts are grouped.
        """
        tokenizer = self._processor.tokenizer
        prompts = []
        for index, request in enumerate(requests):
            before, after = self._turn(request.question).split(IMAGE_TOKEN, 1)
            text = before + IMAGE_TOKEN * len(features[request.image]) + after.replace(IMAGE_TOKEN, "")
            has_bos = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
            ids = tokenizer(text, add_special_tokens=not has_bos)["input_ids"]
            limit = min(SHORT_ANSWER, self._max_tokens) if _is_one_word(request.kind) else self._max_tokens
            prompts.append(_Prompt(index, ids, limit, request.image))
        return sorted(prompts, key=lambda prompt: (prompt.max_tokens, len(prompt.ids), prompt.index))

    def _turn(self, question: str) -> str:
        """Return the prompt's text in the model's chat template, or in LLaVA's format where it has none."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        if not self._processor.chat_template:
            return f"USER: {IMAGE_TOKEN}\n{question} ASSISTANT:"
        turns = [{"role": "user", "content": content}]
        return self._processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)

    def _encode_images(self, requests: Sequence[Request]) -> dict[Path, torch.Tensor]:
        """Encode each image once and return its tokens (N, D) in CPU memory."""
        waiting, count = sorted({request.image for request in requests}), _IMAGES
        features: dict[Path, torch.Tensor] = {}
        prepare = self._processor.image_processor
        with ThreadPoolExecutor(4) as readers:
            while waiting:
                paths = waiting[:count]
                images = list(readers.map(lambda path: _pixels(path, prepare), paths))
                encoded, reason = _unless_out_of_memory(partial(self._encode, images))
                if encoded is not None:
                    features.update(zip(paths, encoded, strict=True))
                    waiting = waiting[len(paths) :]
                elif len(paths) == 1:
                    raise self._out_of_memory(reason, 1)
                else:
                    count = len(paths) // 2
        return features

    def _encode(self, images: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
        import torch

        model, most = self._model, max(len(pixels) for pixels, _ in images)
        device, dtype = model.get_input_embeddings().weight.device, model.model.image_newline.dtype
        stacked = torch.zeros(len(images), most, *images[0][0].shape[1:], dtype=dtype)  # (images, P, 3, H, W)
        for row, (pixels, _) in enumerate(images):
            stacked[row, : len(pixels)] = pixels
        sizes = torch.stack([size for _, size in images])
        with torch.inference_mode():
            features = model.get_image_features(pixel_values=stacked.to(device), image_sizes=sizes.to(device))
        return [tokens.to("cpu") for tokens in getattr(features, "pooler_output", features)]

    @property
    def _image_id(self) -> int:
        return self._processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    @cached_property
    def _device(self) -> str:
        import torch

        return self._asked_device or ("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def _config(self):
        from transformers import AutoConfig

        is_missing = not Path(self._path).exists() and is_folder_name(self._path)
        try:  # a missing folder is not asked of the hub; its cache may hold a model of that name
            config = AutoConfig.from_pretrained(self._path, trust_remote_code=False, local_files_only=is_missing)
        except (OSError, ValueError) as error:
            raise self._cannot_open(FileNotFoundError("no such folder") if is_missing else error) from error
        if config.model_type != "llava_next":
            raise UsageError(
                f"--captioner-model {self._path} is a {config.model_type}, but this captioner runs a llava_next (LLaVA-1.6)",
                remedy="serve the model with vLLM and use --captioner openai",
            )
        return config

    @cached_property
    def _processor(self):
        from transformers import AutoTokenizer, LlavaNextProcessor
        from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

        _ = self._config  # first, because its errors explain best what is wrong with a folder
        try:
            # Composed from its parts, because LlavaNextProcessor.from_pretrained needs torchvision.
            settings = LlavaNextProcessor.get_processor_dict(self._path)[0]
            return LlavaNextProcessor(
                image_processor=LlavaNextImageProcessorPil.from_pretrained(self._path, trust_remote_code=False),
                tokenizer=AutoTokenizer.from_pretrained(self._path, trust_remote_code=False),
                patch_size=settings.get("patch_size", 14),
                vision_feature_select_strategy=settings.get("vision_feature_select_strategy", "default"),
                chat_template=settings.get("chat_template"),
            )
        except (OSError, ValueError) as error:
            raise self._cannot_open(error) from error

    @cached_property
    def _model(self) -> Any:  # a LlavaNextForConditionalGeneration, whose stubs lack `generate`
        import torch
        from transformers import LlavaNextForConditionalGeneration

        try:
            model = LlavaNextForConditionalGeneration.from_pretrained(
                self._path,
                config=self._config,
                attn_implementation=self._attention,
                trust_remote_code=False,
                **self._load_options(torch),
            )
        except (OSError, ImportError, ValueError) as error:
            raise self._cannot_open(error) from error
        return model.eval()

    def _load_options(self, torch) -> dict:
        """Return the arguments of ``from_pretrained`` for precision and device."""
        from transformers import BitsAndBytesConfig

        dtype = {"fp16": torch.float16, "fp32": torch.float32}.get(self._quantization, torch.bfloat16)
        several = self._device == "cuda" and torch.cuda.device_count() > 1 and self._quantization not in ("nf4", "int8")
        options = {"dtype": dtype, "device_map": "auto" if several else {"": self._device}}
        if self._quantization == "nf4":
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
                llm_int8_skip_modules=_UNQUANTIZED,
            )
        if self._quantization == "int8":
            # It warns about an intended cast for each layer and token.
            logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
            options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_UNQUANTIZED)
        return options

    def _cannot_open(self, error: Exception) -> UsageError:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = "give a folder or a hub name of a LlavaNext model, for example llava-hf/llava-v1.6-34b-hf"
        if isinstance(error, ImportError):
            remedy = "install the missing package: pip install -c constraints.txt -e '.[gpu]'"
        return UsageError(f"--captioner-model {self._path} cannot be opened: {reason}", remedy=remedy)


def _pixels(path: Path, prepare) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an image's crops (P, 3, H, W) and its height and width (2,)."""
    from PIL import Image

    check_image_file(path)
    try:
        with Image.open(path) as image:
            out = prepare(images=[image.convert("RGB")], return_tensors="pt")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        kind = DataError.MISSING_IMAGE if isinstance(error, FileNotFoundError) else None
        raise DataError(f"the image cannot be read ({error})", remedy="copy it again", file=path, kind=kind) from error
    return out["pixel_values"][0], out["image_sizes"][0]


def _unless_out_of_memory(work: Callable[[], Result]) -> tuple[Result | None, str]:
    """Return the result of ``work`` and ""; or None and the reason where memory ran out, after freeing the memory."""
    import torch

    try:
        return work(), ""
    except RuntimeError as error:  # the base class of torch.OutOfMemoryError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not isinstance(error, torch.OutOfMemoryError) and not any(word in reason.lower() for word in _OUT_OF_MEMORY):
            raise
    # The exception, which referenced the tensors, no longer exists here.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, reason


def _is_one_word(kind: str) -> bool:
    """Return whether the answer to a kind of question is one of a few fixed words."""
    registered = kind_named(kind)
    return bool(registered and registered.caption and registered.caption.words)


def _same_limit(prompts: list[_Prompt], count: int) -> list[_Prompt]:
    """Return the first prompts, at most ``count``, that have the same maximum answer length."""
    return [prompt for prompt in prompts[:count] if prompt.max_tokens == prompts[0].max_tokens]


def _padding(tokenizer) -> int:
    """Return an id to pad with. The attention mask hides padding, so any valid id works."""
    return next(token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token is not None)
