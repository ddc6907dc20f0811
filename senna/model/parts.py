"""Names of the model's parts in a state dict."""

NOT_QUANTIZED = ["model.vision_tower", "model.mm_projector", "model.img_adapter", "lm_head"]


PARTS = {
    "vision_tower": "model.vision_tower.",
    "mm_projector": "model.mm_projector.",
    "img_adapter": "model.img_adapter.",
}


def is_adapter_weight(name: str) -> bool:
    """Whether a weight belongs to what a LoRA run trains in full: the projector and the driving vision adapter."""
    return name.startswith(("model.mm_projector.", "model.img_adapter."))
