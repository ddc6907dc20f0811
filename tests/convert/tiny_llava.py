"""A folder with a tiny LlavaNext: random weights and a real processor, loadable with transformers."""

from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from tests.helpers.small_tokenizers import llama_folder

SIDE, PATCH = 28, 14
TEMPLATE = (
    "{% for turn in messages %}{{ turn['role'].upper() }}: {% for part in turn['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>\n{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tiny_llava(folder: Path, hidden: int = 64, layers: int = 2) -> Path:
    """Write the model. Its weights are large enough that answers depend on image and question."""
    folder.mkdir(parents=True)
    tokenizer = AutoTokenizer.from_pretrained(llama_folder(folder / "words"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"], "pad_token": "<unk>"})
    tokenizer.chat_template = TEMPLATE
    pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    size = {"height": SIDE, "width": SIDE}
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=size, image_grid_pinpoints=pinpoints, do_pad=True
    )
    LlavaNextProcessor(images, tokenizer, PATCH, "default", TEMPLATE, num_additional_image_tokens=1).save_pretrained(
        folder
    )
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=PATCH
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048, pad_token_id=0,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_grid_pinpoints=pinpoints,
        vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlavaNextForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3 if "language_model" in name else 0.15)
    model.save_pretrained(folder)
    return folder
