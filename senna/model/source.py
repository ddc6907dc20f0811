"""Where a checkpoint's pieces are: its bases, configuration, vision tower, tokenizer and image processor."""

import json
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionConfig, PretrainedConfig
from transformers.models.clip import CLIPImageProcessorPil
from transformers.utils import cached_file

from senna.errors import UsageError
from senna.model.config import CLIP_VIT_L_14_336, SennaConfig

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


ADAPTER_CONFIG = "adapter_config.json"


HOW_TO_NAME = "--model_base in training, --base of senna merge, base=... of load_model"


def _find(path: str, name: str) -> Path | None:
    """A file of a folder or of a hub repository, None where there is none."""
    if Path(path).exists():
        return Path(path) / name if (Path(path) / name).is_file() else None
    try:
        found = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):
        return None
    return None if found is None else Path(found)


def is_lora(path: str) -> bool:
    """Whether ``path`` (a folder or a hub name) is a LoRA folder."""
    return _find(path, ADAPTER_CONFIG) is not None


def holds_tokenizer(path: str) -> bool:
    """Whether ``path`` has a tokenizer of its own."""
    return any(_find(path, name) is not None for name in ("tokenizer.json", "tokenizer.model"))


def base_of(path: str, base: str | None = None) -> str:
    """The model that a LoRA folder was trained on: ``base`` where given, else as the folder says, beside it if it has moved.

    Raises UsageError where it is not there.
    """
    named = base or json.loads(_find(path, ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not named:
        raise UsageError(f"LoRA folder {path}: does not say what its base is; name it ({HOW_TO_NAME})")
    neighbour = Path(path).resolve().parent / Path(named).name
    if Path(named).exists():
        return named
    if base is None and (neighbour / "config.json").is_file():
        return str(neighbour)
    if Path(named).is_absolute() or named.startswith("."):
        raise UsageError(f"LoRA folder {path}: its base {named} is not there; say where it is ({HOW_TO_NAME})")
    return named


def lineage(path: str, base: str | None = None) -> list[str]:
    """A checkpoint, and of a LoRA folder its base, that one's base, and so on to a whole model."""
    found = [path]
    while is_lora(found[-1]):
        found.append(base_of(found[-1], base))
        base = None
        if found[-1] in found[:-1]:
            raise UsageError(f"LoRA folder {found[-1]}: is its own base, by way of {found[-2]}")
    return found


def load_image_processor(path: str, config: SennaConfig, base: str | None = None) -> CLIPImageProcessorPil:
    """The preprocessing of ``path`` (a checkpoint or a tower), else of a LoRA folder's base, else of the tower that the
    configuration names. Where none has one, and for OpenAI's own tower, CLIP's constants at the tower's size.
    """
    for source in (*lineage(path, base), resolve_tower(config.mm_vision_tower, path, base)):
        folder = Path(source)
        lacks_one = folder.is_dir() and not (folder / "preprocessor_config.json").is_file()
        if lacks_one or source == DEFAULT_TOWER:
            continue
        try:
            return CLIPImageProcessorPil.from_pretrained(source)
        except OSError:
            continue  # a hub name without one, as that of a language model
    side = config.vision_config.image_size
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def tokenizer_source(path: str, base: str | None = None) -> str:
    """Where the tokenizer of a checkpoint is: ``base`` where given; of a LoRA folder without one, down its bases."""
    if not is_lora(path):
        return base or path
    *folders, whole = lineage(path, base)
    return next((folder for folder in folders if holds_tokenizer(folder)), whole)
