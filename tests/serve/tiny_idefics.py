"""A tiny Idefics3, a vision-language model that vLLM itself knows: random weights, and answers of one word or meta-action."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from senna.meta_actions import ALL_META_ACTIONS
from tests.convert.tiny_llava import TEMPLATE
from tests.helpers.small_tokenizers import llama_folder

SIDE, PATCH, SCALE = 56, 14, 2
PER_IMAGE = (SIDE // PATCH // SCALE) ** 2
ANSWERS = [*map(str, ALL_META_ACTIONS[::4]), "I would keep going.", "A wet road.", "STOP"]
SPECIAL = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]


def tiny_idefics(folder: Path) -> None:
    """Write the model to a folder."""
    tokenizer = _tokenizer(folder)
    _processor(tokenizer).save_pretrained(folder)
    text_config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=2048, pad_token_id=0, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vision_config = Idefics3VisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
    )
    config = Idefics3Config(
        vision_config=vision_config, text_config=text_config, scale_factor=SCALE, pad_token_id=0,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    torch.manual_seed(0)
    model = Idefics3ForConditionalGeneration(config)
    _draw_weights(model, torch.tensor(tokenizer.convert_tokens_to_ids(ANSWERS)), tokenizer.eos_token_id)
    model.save_pretrained(folder)


def _draw_weights(model: Idefics3ForConditionalGeneration, answers: torch.Tensor, eos: int) -> None:
    """Draw weights with which every text is one of the answers. Channel 0 marks their tokens; after them the text ends."""
    text = model.model.text_model
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.4)
        writers = [model.model.connector.modality_projection.proj]
        for layer in text.layers:
            writers += [layer.self_attn.o_proj, layer.mlp.down_proj]
        for writer in writers:
            writer.weight[0] = 0
        text.embed_tokens.weight[:, 0] = 0
        text.embed_tokens.weight[answers, 0] = 20
        head = model.lm_head.weight
        chosen = head[answers].clone()
        head.zero_()
        head[answers] = chosen
        head[answers, 0] = 0
        head[eos, 0] = 100


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(llama_folder(folder / "words"))
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL, "pad_token": "<unk>"})
    tokenizer.add_tokens(ANSWERS)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _processor(tokenizer: PreTrainedTokenizerBase) -> Idefics3Processor:
    edge = {"longest_edge": SIDE}
    images = Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    return Idefics3Processor(images, tokenizer, PER_IMAGE, TEMPLATE)


class Reference:
    """The same model in transformers. A call returns the greedy text of a message, its parts being texts and images."""

    def __init__(self, folder: Path):
        self._processor = _processor(AutoTokenizer.from_pretrained(folder))
        self._model = Idefics3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)

    def __call__(self, parts: Sequence[str | Image.Image]) -> str:
        content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts]
        turns = [{"role": "user", "content": content}]
        prompt = self._processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        images = [part.convert("RGB") for part in parts if not isinstance(part, str)]
        inputs = self._processor(images=[images] if images else None, text=prompt, return_tensors="pt")
        with torch.inference_mode():
            ids = self._model.generate(**inputs, max_new_tokens=8, do_sample=False)
        return self._processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
