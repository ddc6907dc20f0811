"""A Llama and a CLIP tower with random weights that train in milliseconds."""

from pathlib import Path


def write_small_models(folder: Path, positions: int = 256) -> None:
    """Write FOLDER/llm, with a tokenizer, and FOLDER/clip, whose images have four patches.

    Args:
        positions: the maximum length of a sample in tokens.
    """
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    from senna.synthetic.tiny.tokenizer import make_tokenizer

    torch.manual_seed(0)
    vocabulary = len(make_tokenizer(folder / "llm"))
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    llm = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=positions, tie_word_embeddings=False, **sizes)
    LlamaForCausalLM(llm).save_pretrained(folder / "llm")
    CLIPVisionModel(CLIPVisionConfig(image_size=28, patch_size=14, **sizes)).save_pretrained(folder / "clip")
