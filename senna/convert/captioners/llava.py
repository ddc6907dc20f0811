"""LLaVA-1.6 (transformers' LlavaNext) on this machine: several pictures at a time, each picture encoded once.

Letters: B requests of a batch, T tokens of the longest prompt among them, N a picture's tokens, D the language model's width,
P the crops of a picture.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from senna.convert.captioners import PRECISIONS, Request, in_order
from senna.errors import DataError, SennaError, UsageError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

IMAGE_TOKEN = "<image>"
SHORT_ANSWER = 24  # tokens, where one word is asked for
_FIRST_BATCH = {"cuda": 32, "cpu": 8}  # what "auto" tries before it halves
_PICTURES = 8  # encoded at once: 40 crops of 336 x 336
_UNQUANTIZED = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
_NO_ROOM = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


@dataclass
class _Prompt:
    """A request as the model reads it."""

    place: int  # among the requests
    ids: list[int]
    most: int  # tokens of its answer
    image: Path


class LlavaCaptioner:
    """Greedy answers of a LlavaNext, which is loaded when the first one is asked for."""

    def __init__(
        self,
        model: str,
        quantization: str = "nf4",
        batch: str | int = "auto",
        max_tokens: int = 256,
        attn_implementation: str = "sdpa",
        device: str | None = None,
    ) -> None:
        """See ``make_captioner``; ``device`` is the first GPU where there is one, else the CPU.

        Raises UsageError for a batch that is no number and not "auto", and for an unknown quantization.
        """
        if quantization not in PRECISIONS:
            raise UsageError(f"--captioner-quantization {quantization}: it is one of {', '.join(PRECISIONS)}")
        if batch != "auto" and (not str(batch).isdigit() or int(batch) < 1):
            raise UsageError(f"--captioner-batch {batch}: a number of 1 or more, or auto")
        self.name, self.settings = f"llava:{model}:{quantization}", f"max_tokens={max_tokens}"
        self._path, self._quantization, self._attention = model, quantization, attn_implementation
        self._max_tokens, self._asked_device = max_tokens, device
        self._fixed = None if batch == "auto" else int(batch)
        self._shrunk: int | None = None  # what "auto" came down to

    @property
    def batch(self) -> int:
        """Requests at once."""
        return self._fixed or self._shrunk or _FIRST_BATCH[self._device]

    @property
    def window(self) -> int:
        """Four batches: enough to put prompts of like length together."""
        return 4 * self.batch

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """One text a request, in their order. Raises DataError for a picture that cannot be read."""
        return in_order(self.stream(requests))

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """(place, text), a batch at a time, in the order of the batches."""
        window = self.window  # of now: a batch that shrinks on the way must not skip requests
        for start in range(0, len(requests), window):
            part = requests[start : start + window]
            features = self._encode_pictures(part)
            waiting = self._prompts(part, features)
            while waiting:
                taken = _alike(waiting, self.batch)
                texts = self._try(taken, features)
                if texts is None:
                    continue
                waiting = waiting[len(taken) :]
                for prompt, text in zip(taken, texts, strict=True):
                    yield start + prompt.place, text

    def _try(self, prompts: list[_Prompt], features: dict[Path, torch.Tensor]) -> list[str] | None:
        """The texts, or None where memory ran out and the batch is smaller now."""
        texts, reason = _unless_full(lambda: self._generate(prompts, features))
        if texts is not None:
            return texts
        if self._fixed or len(prompts) == 1:
            raise self._full(reason, len(prompts))
        self._shrunk = (len(prompts) + 1) // 2
        logger.warning("memory ran out; the captioner goes on with %d requests at once", self._shrunk)
        return None

    def _full(self, reason: str, count: int) -> SennaError:
        smaller = "--captioner-batch auto, " if self._fixed and count > 1 else ""
        return SennaError(
            f"--captioner-batch {count}: memory ran out ({reason}); try {smaller}a smaller model (--captioner-model) or "
            "--captioner-quantization nf4; the answers so far are kept"
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
                here = (ids[row] == self._image_id) & (mask[row] == 1)
                embedded[row, here.to(device)] = features[prompt.image].to(device, embedded.dtype)
            out = self._model.generate(
                inputs_embeds=embedded,
                attention_mask=mask.to(device),
                max_new_tokens=max(prompt.most for prompt in prompts),
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=_padding(tokenizer),
            )
        return [text.strip() for text in tokenizer.batch_decode(out, skip_special_tokens=True)]

    def _prompts(self, requests: Sequence[Request], features: dict[Path, torch.Tensor]) -> list[_Prompt]:
        """Like ones together: first those with short answers, then by length; a longer answer makes the others wait."""
        tokenizer = self._processor.tokenizer
        prompts = []
        for place, request in enumerate(requests):
            before, after = self._turn(request.question).split(IMAGE_TOKEN, 1)
            text = before + IMAGE_TOKEN * len(features[request.image]) + after.replace(IMAGE_TOKEN, "")
            starts = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
            ids = tokenizer(text, add_special_tokens=not starts)["input_ids"]
            short = request.kind == "traffic_light"
            most = min(SHORT_ANSWER, self._max_tokens) if short else self._max_tokens
            prompts.append(_Prompt(place, ids, most, request.image))
        return sorted(prompts, key=lambda prompt: (prompt.most, len(prompt.ids), prompt.place))

    def _turn(self, question: str) -> str:
        """The prompt's text, by the chat template of the model where it has one."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        if not self._processor.chat_template:
            return f"USER: {IMAGE_TOKEN}\n{question} ASSISTANT:"
        turns = [{"role": "user", "content": content}]
        return self._processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)

    def _encode_pictures(self, requests: Sequence[Request]) -> dict[Path, torch.Tensor]:
        """Each picture once, whatever is asked about it: its tokens (N, D), held in the machine's memory."""
        waiting, count = sorted({request.image for request in requests}), _PICTURES
        features: dict[Path, torch.Tensor] = {}
        prepare = self._processor.image_processor
        with ThreadPoolExecutor(4) as readers:
            while waiting:
                some = waiting[:count]
                pictures = list(readers.map(lambda path: _pixels(path, prepare), some))
                encoded, reason = _unless_full(partial(self._encode, pictures))
                if encoded is not None:
                    features.update(zip(some, encoded, strict=True))
                    waiting = waiting[len(some) :]
                elif len(some) == 1:
                    raise self._full(reason, 1)
                else:
                    count = len(some) // 2
        return features

    def _encode(self, pictures: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
        import torch

        model, most = self._model, max(len(pixels) for pixels, _ in pictures)
        device, dtype = model.get_input_embeddings().weight.device, model.model.image_newline.dtype
        stacked = torch.zeros(len(pictures), most, *pictures[0][0].shape[1:], dtype=dtype)  # (pictures, P, 3, H, W)
        for row, (pixels, _) in enumerate(pictures):
            stacked[row, : len(pixels)] = pixels
        sizes = torch.stack([size for _, size in pictures])
        with torch.inference_mode():
            found = model.get_image_features(pixel_values=stacked.to(device), image_sizes=sizes.to(device))
        return [one.to("cpu") for one in getattr(found, "pooler_output", found)]

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

        try:
            config = AutoConfig.from_pretrained(self._path)
        except (OSError, ValueError) as error:
            raise self._unopened(error) from error
        if config.model_type != "llava_next":
            raise UsageError(
                f"--captioner-model {self._path} is a {config.model_type}, and this captioner runs a llava_next (LLaVA-1.6); "
                "serve the model with vLLM and use --captioner openai"
            )
        return config

    @cached_property
    def _processor(self):
        from transformers import AutoTokenizer, LlavaNextProcessor
        from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

        _ = self._config  # the first to be looked at: it says best what is wrong with a folder
        try:
            # Put together by hand: the ready-made way asks for torchvision where it finds none.
            settings = LlavaNextProcessor.get_processor_dict(self._path)[0]
            return LlavaNextProcessor(
                image_processor=LlavaNextImageProcessorPil.from_pretrained(self._path),
                tokenizer=AutoTokenizer.from_pretrained(self._path),
                patch_size=settings.get("patch_size", 14),
                vision_feature_select_strategy=settings.get("vision_feature_select_strategy", "default"),
                chat_template=settings.get("chat_template"),
            )
        except (OSError, ValueError) as error:
            raise self._unopened(error) from error

    @cached_property
    def _model(self):
        import torch
        from transformers import LlavaNextForConditionalGeneration

        try:
            model = LlavaNextForConditionalGeneration.from_pretrained(
                self._path, config=self._config, attn_implementation=self._attention, **self._form(torch)
            )
        except (OSError, ImportError, ValueError) as error:
            raise self._unopened(error) from error
        return model.eval()

    def _form(self, torch) -> dict:
        """What ``from_pretrained`` is told about precision and place."""
        from transformers import BitsAndBytesConfig

        whole = {"fp16": torch.float16, "fp32": torch.float32}.get(self._quantization, torch.bfloat16)
        several = self._device == "cuda" and torch.cuda.device_count() > 1 and self._quantization not in ("nf4", "int8")
        form = {"dtype": whole, "device_map": "auto" if several else {"": self._device}}
        if self._quantization == "nf4":
            form["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=whole,
                llm_int8_skip_modules=_UNQUANTIZED,
            )
        if self._quantization == "int8":
            logging.getLogger("bitsandbytes").setLevel(
                logging.ERROR
            )  # a warning a layer and token, about a cast it means
            form["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_UNQUANTIZED)
        return form

    def _unopened(self, error: Exception) -> UsageError:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        missing = "; pip install 'senna[gpu]'" if isinstance(error, ImportError) else ""
        return UsageError(
            f"--captioner-model {self._path} cannot be opened: {reason}{missing}; give a folder or a hub name of a LlavaNext "
            "model, as llava-hf/llava-v1.6-34b-hf"
        )


def _pixels(path: Path, prepare) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture's crops (P, 3, H, W) and its height and width (2,)."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            out = prepare(images=[picture.convert("RGB")], return_tensors="pt")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"image {path} cannot be read ({error}); copy it again") from error
    return out["pixel_values"][0], out["image_sizes"][0]


def _unless_full(work: Callable[[], Result]) -> tuple[Result | None, str]:
    """What ``work`` returns; None and the reason where memory ran out, with the memory that it took free again."""
    import torch

    try:
        return work(), ""
    except RuntimeError as error:  # torch.OutOfMemoryError is one, the CPU's allocator raises a bare one
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not isinstance(error, torch.OutOfMemoryError) and not any(word in reason.lower() for word in _NO_ROOM):
            raise
    # Here the exception, which held the tensors, is gone.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, reason


def _alike(prompts: list[_Prompt], count: int) -> list[_Prompt]:
    """The first prompts, at most ``count``, whose answers may be of one length."""
    return [prompt for prompt in prompts[:count] if prompt.most == prompts[0].most]


def _padding(tokenizer) -> int:
    """Any id that exists will do: the attention mask hides it."""
    return next(one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if one is not None)
