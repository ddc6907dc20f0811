"""The complete configuration of any checkpoint: ours, the published ones, or a bare Llama with a CLIP tower."""

from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionConfig, PretrainedConfig

from senna.errors import UsageError
from senna.model.config import CLIP_VIT_L_14_336, SennaConfig
from senna.model.lora import base_of, is_lora, lineage

DEFAULT_TOWER = "openai/clip-vit-large-patch14-336"
_DEFAULT_NAME = Path(DEFAULT_TOWER).name


def _config_dict(path: str, what: str) -> dict:
    """config.json of a folder or hub name. Raises UsageError where there is none."""
    folder = Path(path)
    if folder.exists() and not (folder / "config.json").is_file():
        raise UsageError(f"{what} {path}: no config.json there; give a folder that holds one model, or a hub name")
    if not folder.exists() and (folder.is_absolute() or path.count("/") > 1 or path.startswith(".")):
        raise UsageError(f"{what} {path}: no such folder")
    try:
        return PretrainedConfig.get_config_dict(path)[0]
    except (OSError, ValueError) as error:
        if folder.exists():
            raise UsageError(f"{what} {path}: its config.json cannot be read: {str(error).splitlines()[0]}") from error
        raise UsageError(
            f"{what} {path}: neither a folder here nor a model that the hub could give ({str(error).splitlines()[0]})"
        ) from error


def resolve_tower(name: str | None, checkpoint: str | None = None, base: str | None = None) -> str:
    """Where the tower called ``name`` is: a folder, also inside the checkpoint's, or beside it (of a LoRA folder, its base's)
    under the same last name; else the hub name.

    The published Senna names a folder of its authors' machine: by its last name it is told to be the default tower.
    """
    name = name or DEFAULT_TOWER
    last, places = Path(name).name, [Path(name)]
    for one in lineage(checkpoint, base) if checkpoint is not None else ():
        beside = Path(one).resolve().parent
        places += [beside / last] if Path(name).is_absolute() else [Path(one) / name, beside / name, beside / last]
    found = next((str(place) for place in places if (place / "config.json").is_file()), name)
    return DEFAULT_TOWER if Path(found).is_absolute() and not Path(found).exists() and last == _DEFAULT_NAME else found


def read_config(path: str, vision_tower: str | None = None, base: str | None = None) -> SennaConfig:
    """The complete configuration of a checkpoint, or of the model that a bare Llama and ``vision_tower`` make.

    A LoRA folder without one has that of its base. Raises UsageError where ``path`` is missing or is no Llama, and where the
    base of a LoRA folder is missing.
    """
    if is_lora(path):
        of_base = read_config(base_of(path, base), vision_tower)  # also so that a missing base is told here
        if Path(path).exists() and not (Path(path) / "config.json").is_file():
            return of_base
    raw = _config_dict(path, "model")
    kind, published = raw.pop("model_type", None), "mm_vision_tower" in raw
    if kind not in ("llava_llama", "llama") and not (kind == "llava" and published):
        raise UsageError(
            f"model {path}: model_type {kind!r}; Senna is built on a Llama (or is a Senna or LLaVA-1.5 checkpoint)"
        )
    if kind == "llama":
        raw["mm_vision_tower"] = vision_tower or DEFAULT_TOWER
    if "vision_config" not in raw or vision_tower is not None:
        name = vision_tower or raw.get("mm_vision_tower")
        tower = resolve_tower(name, path, base)
        if tower == DEFAULT_TOWER:  # known by heart, so that a published checkpoint opens without the hub
            raw["vision_config"] = dict(CLIP_VIT_L_14_336)
        else:
            _config_dict(tower, "vision tower")
            raw["vision_config"] = CLIPVisionConfig.from_pretrained(tower).to_dict()
        raw["mm_vision_tower"] = tower if vision_tower else name
        raw["mm_hidden_size"] = None if kind == "llama" else raw.get("mm_hidden_size")
    raw.pop("architectures", None)
    if (raw.get("quantization_config") or {}).get("quant_method") == "gguf":
        del raw["quantization_config"]  # says where the weights came from; saved again, they are plain
    try:
        config = SennaConfig.from_dict(raw)
        config.check_tower()
        return config
    except (StrictDataclassError, ValueError) as error:
        raise UsageError(f"model {path}: {error.__cause__ or error}") from error
