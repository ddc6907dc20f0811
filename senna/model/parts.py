"""Names of the model's parts in a state dict. No other module should spell them."""

VISION_TOWER, PROJECTOR, DRIVING_ADAPTER = "vision_tower", "mm_projector", "img_adapter"
LLM, LORA = "llm", "lora"

PARTS = {part: f"model.{part}." for part in (VISION_TOWER, PROJECTOR, DRIVING_ADAPTER)}
"""Vision part -> prefix of its parameter names. All other parameters belong to the LLM."""

CLIP_PREFIX = PARTS[VISION_TOWER] + "vision_tower.vision_model."
"""Prefix of CLIP's own parameter names inside the vision tower."""

NOT_QUANTIZED = [*(prefix.removesuffix(".") for prefix in PARTS.values()), "lm_head"]
"""Modules that stay in 16 or 32 bits when the LLM is quantized."""

PEFT_PREFIX = "base_model.model."
"""Prefix that PEFT adds to every name of the model that it wraps."""

LORA_TARGETS = r"model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
"""Pattern of the modules that get LoRA: every Linear of the LLM except lm_head. It matches no layer of the vision tower."""

_LORA_MARK = "lora_"


def is_adapter_weight(name: str) -> bool:
    """Return True for a weight of the projector or the driving vision adapter, which a LoRA run trains in full."""
    return name.startswith((PARTS[PROJECTOR], PARTS[DRIVING_ADAPTER]))


def is_lora_weight(name: str) -> bool:
    """Return True for a LoRA matrix (``...q_proj.lora_A.default.weight``)."""
    return _LORA_MARK in name


def lora_module(name: str) -> str:
    """Return the name of the Linear that a LoRA matrix belongs to."""
    return name.partition(f".{_LORA_MARK}")[0]


def own_name(name: str) -> str:
    """Return a weight's name in this model: without the prefixes of PEFT and LLaVA."""
    name = name.removeprefix(PEFT_PREFIX)
    return name.removeprefix("model.") if name.startswith("model.model.") else name


def part_of(name: str) -> str:
    """Return the part that a parameter belongs to: a key of `PARTS`, `LLM` or `LORA`."""
    if is_lora_weight(name):
        return LORA
    return next((part for part, prefix in PARTS.items() if name.startswith(prefix)), LLM)
