"""Resolution of a checkpoint: its bases, configuration, vision tower, tokenizer and image processor."""

import functools
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionConfig, PretrainedConfig
from transformers.models.clip import CLIPImageProcessorPil
from transformers.utils.hub import cached_file

from senna.errors import UsageError, first_line
from senna.files import is_folder_name
from senna.model.config import CLIP_VIT_L_14_336, SennaConfig

DEFAULT_TOWER = "openai/clip-vit-large-patch14-336"
ADAPTER_CONFIG = "adapter_config.json"
NAME_THE_BASE = "name its base: --model_base in training, --base of senna merge, base=... of load_model"

Kind = Literal["llama", "llava", "senna", "lora"]
_KINDS: dict[str | None, Kind] = {"llama": "llama", "llava": "llava", "llava_llama": "senna"}  # by model_type
_MOST_FOLDERS = 300  # subfolders in which models are looked for
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint and the folders or hub names of its pieces. Resolve it once, with `ModelSource.resolve`, and pass it on.

    Properties that read a file compute their value at first use, keep it, and raise UsageError if the file is missing or
    unsuitable.

    Attributes:
        lineage: folders or hub names: the checkpoint; if it is a LoRA folder, then its base, the base's base, and so on to a
            complete model.
        given_base: the base that the caller named, if any.
        given_tower: the vision tower that the caller named, if any.
    """

    lineage: tuple[str, ...]
    given_base: str | None = None
    given_tower: str | None = None

    @classmethod
    def resolve(
        cls,
        path: str | PathLike[str],
        base: str | None = None,
        vision_tower: str | None = None,
        locate: Callable[[str], str] | None = None,
    ) -> "ModelSource":
        """Find a checkpoint and its bases.

        Args:
            path: a folder or hub name of a Llama (Vicuna), a Senna or LLaVA-1.5 checkpoint, or a LoRA folder.
            base: the base of a LoRA folder, if it has moved. For other checkpoints: the folder of the tokenizer.
            vision_tower: a CLIP model to use instead of the checkpoint's vision tower.
            locate: maps a hub name to its folder on this disk, and returns any other name unchanged. With it the lineage is
                found without asking the hub, and ends at the first model that is not on this disk.

        Raises:
            UsageError: a base is missing or unknown, or a LoRA folder is its own base.
        """
        on_disk = locate or str
        base, vision_tower = (None if name is None else on_disk(str(name)) for name in (base, vision_tower))
        return cls(_find_lineage(str(path), base, locate), base, vision_tower)

    @property
    def path(self) -> str:
        """The checkpoint's folder or hub name."""
        return self.lineage[0]

    @property
    def is_lora(self) -> bool:
        """True for a LoRA folder."""
        return len(self.lineage) > 1

    @property
    def base(self) -> str | None:
        """The model that a LoRA folder was trained on; None for other checkpoints."""
        return self.lineage[1] if self.is_lora else None

    @functools.cached_property
    def kind(self) -> Kind:
        """The kind of checkpoint: "llama" (a bare LLM), "senna", "llava" or "lora".

        A LLaVA checkpoint with model_type "llava_llama" has the same configuration as Senna's; it is "senna" here. Loading the
        weights shows that it has no driving vision adapter.
        """
        return "lora" if self.is_lora else _checkpoint_kind(self.path, _config_dict(self.path, "model"))

    @functools.cached_property
    def config(self) -> SennaConfig:
        """The complete configuration of the checkpoint, or of the model that a bare Llama and a vision tower make.

        Copy it before you change it. Raises UsageError if there is none or if it is not a Llama's.
        """
        return _read_config(self.lineage, self.given_tower)

    @functools.cached_property
    def vision_tower(self) -> str:
        """The folder or hub name of the vision tower. A checkpoint may hold the tower's weights itself."""
        return find_tower(self.config.mm_vision_tower, self.lineage)

    @functools.cached_property
    def tokenizer(self) -> str:
        """The folder or hub name of the tokenizer."""
        if not self.is_lora:
            return self.given_base or self.path
        *folders, complete = self.lineage
        has_tokenizer = (folder for folder in folders if any(find_file(folder, name) for name in _TOKENIZER_FILES))
        return next(has_tokenizer, complete)

    @property
    def image_processor_sources(self) -> tuple[str, ...]:
        """Folders or hub names that may have a preprocessor_config.json, the preferred one first."""
        return (*((self.given_tower,) if self.given_tower else self.lineage), self.vision_tower)

    def load_image_processor(self) -> CLIPImageProcessorPil:
        """Load the image processor of the given tower, else of the checkpoint, its bases or its tower.

        If none has one, and for OpenAI's tower, return CLIP's defaults for the tower's image size.
        """
        return _load_image_processor(self.image_processor_sources, self.config)


def find_file(path: str, name: str) -> Path | None:
    """Return a file of a folder or of a hub repository; None if there is none.

    The hub is not asked for a name that is that of a folder (`is_folder_name`); a model of that name in its cache is found.
    """
    if Path(path).exists():
        return Path(path) / name if (Path(path) / name).is_file() else None
    try:
        found = cached_file(
            path, name, local_files_only=is_folder_name(path), _raise_exceptions_for_missing_entries=False
        )
    except (OSError, ValueError):
        return None
    return None if found is None else Path(found)


def training_checkpoint(folder: Path) -> Path | None:
    """Return ``folder`` if it is a checkpoint of `senna train`, or the newest checkpoint in it; None if there is none."""
    if (folder / "trainer_state.json").is_file():
        return folder
    found = {
        path.parent: path.parent.name.removeprefix("checkpoint-")
        for path in folder.glob("checkpoint-*/trainer_state.json")
    }
    steps = {path: int(step) for path, step in found.items() if step.isascii() and step.isdigit()}
    return max(steps, key=lambda path: steps[path], default=None)


def describe_checkpoint(folder: Path, checkpoint: Path) -> str:
    """Return why a folder in which `training_checkpoint` found something is no model."""
    if folder == checkpoint:
        return "a checkpoint of a run holds only what the run trains, and is no model"
    return f"the folder of a run that has not ended holds no model; its newest checkpoint is {checkpoint.name}"


def export_command(checkpoint: Path) -> str:
    """Return the remedy for a checkpoint that was given instead of a model."""
    source, out = shlex.quote(str(checkpoint)), shlex.quote(f"{checkpoint}-model")
    return f"make a model or LoRA folder of it: senna export --checkpoint {source} --out {out}"


def _find_lineage(path: str, base: str | None, locate: Callable[[str], str] | None = None) -> tuple[str, ...]:
    """Return the checkpoint and its bases. Raises UsageError for a base that is missing, or for a cycle."""
    on_disk = locate or str
    lineage = [on_disk(path)]
    while not (locate and not Path(lineage[-1]).exists()) and (file := find_file(lineage[-1], ADAPTER_CONFIG)):
        lineage.append(on_disk(_base_of(lineage[-1], file, base)))
        base = None
        if lineage[-1] in lineage[:-1]:
            raise UsageError(
                f"LoRA folder {lineage[-1]} is its own base, by way of {lineage[-2]}", remedy=NAME_THE_BASE
            )
    return tuple(lineage)


def _base_of(path: str, adapter_config: Path, base: str | None) -> str:
    """Return the base of a LoRA folder: ``base`` if given, else the one it names, or a folder of that name beside it."""
    named = base or json.loads(adapter_config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not named:
        raise UsageError(f"LoRA folder {path} does not name its base", remedy=NAME_THE_BASE)
    if Path(named).exists():
        return named
    neighbour = Path(path).resolve().parent / Path(named).name
    if base is None and (neighbour / "config.json").is_file():
        return str(neighbour)
    if Path(named).is_absolute() or named.startswith("."):
        raise UsageError(f"LoRA folder {path}: its base {named} is not there", remedy=NAME_THE_BASE)
    return named


def find_tower(name: str | None, lineage: Sequence[str] = ()) -> str:
    """Return the vision tower called ``name``: a folder inside or beside one of the checkpoints, else the hub name.

    The published Senna names a folder of its authors' machine. Its last component shows that it is the default tower.
    """
    name = name or DEFAULT_TOWER
    tower = Path(name)
    candidates = [tower]
    for folder in map(Path, lineage):
        parent = folder.resolve().parent
        inside = [] if tower.is_absolute() else [folder / name, parent / name]
        candidates += [*inside, parent / tower.name]
    for candidate in candidates:
        if (candidate / "config.json").is_file():
            return str(candidate)
    is_default = tower.is_absolute() and not tower.exists() and tower.name == Path(DEFAULT_TOWER).name
    return DEFAULT_TOWER if is_default else name


def _config_dict(path: str, label: str) -> dict[str, Any]:
    """Read config.json of a folder or hub name. ``label`` names the path in a message. Raises UsageError."""
    folder = Path(path)
    if folder.exists() and not (folder / "config.json").is_file():
        if checkpoint := training_checkpoint(folder):
            raise UsageError(
                f"{label} {path}: {describe_checkpoint(folder, checkpoint)}", remedy=export_command(checkpoint)
            )
        raise UsageError(f"{label} {path}: no config.json there", remedy=_right_folder(folder))
    is_path = not folder.exists() and is_folder_name(path)
    if is_path and not find_file(path, "config.json"):
        raise UsageError(f"{label} {path}: no such folder", remedy=_right_folder(folder))
    try:
        return PretrainedConfig.get_config_dict(path, local_files_only=is_path)[0]
    except (OSError, ValueError) as error:
        reason = first_line(error)
        if folder.exists():
            raise UsageError(
                f"{label} {path}: its config.json cannot be read: {reason}", remedy="copy it again"
            ) from error
        raise UsageError(
            f"{label} {path}: neither a folder here nor a model that the hub could give ({reason})",
            remedy=_wanted_form(path, {"model_type": "llava" if "v1.5" in path or "1.5" in path else "llava_next"})
            if path.startswith("llava-hf/")
            else "correct the name, or download the model first",
        ) from error


def _checkpoint_kind(path: str, values: dict[str, Any]) -> Kind:
    """Return the kind of a complete model from its config.json. Raises UsageError for a model that Senna cannot use."""
    model_type = values.get("model_type")
    kind = _KINDS.get(model_type)
    # Other LLaVA ports have the model_type "llava" too, but not LLaVA's own keys.
    if kind is None or (kind == "llava" and "mm_vision_tower" not in values):
        raise UsageError(f"model {path}: model_type {model_type!r} is not supported", remedy=_wanted_form(path, values))
    return kind


def _right_folder(given: Path) -> str:
    """Return a remedy that names the folders of models at or near a path that is none."""
    if given.is_file():
        near = [given.parent]
    elif not given.exists():
        near = sorted(given.parent.glob("*/"))[:_MOST_FOLDERS]
    else:
        near = sorted(folder for pattern in ("*/", "*/*/") for folder in given.glob(pattern))[:_MOST_FOLDERS]
        near.append(given.resolve().parent)
    found = [str(folder) for folder in near if (folder / "config.json").is_file()]
    named = f": {' or '.join(found[:3])}" if found else ", or a hub name"
    return f"give a folder that holds one model{named}"


def _wanted_form(path: str, values: dict[str, Any]) -> str:
    """Return a remedy that names the form of checkpoint that is wanted in place of a known other one."""
    model_type = str(values.get("model_type"))
    if model_type == "llava":
        name = Path(path).name
        size = "13b" if "13b" in name.lower() else "7b"
        return (
            "this is transformers' form of LLaVA (llava-hf/...), whose weights have other names; give the original form, "
            f"for example liuhaotian/llava-v1.5-{size}"
        )
    if "llava" in model_type:
        return (
            f"{model_type} is another architecture; give LLaVA-1.5 in its original form, for example "
            "liuhaotian/llava-v1.5-7b, or a Vicuna, for example lmsys/vicuna-7b-v1.5"
        )
    if "clip" in model_type:
        return "this is a vision tower: give it as --vision_tower, and a Llama (as Vicuna) as the model"
    return "give a Llama (as Vicuna), or a Senna or LLaVA-1.5 checkpoint, for example lmsys/vicuna-7b-v1.5"


def _read_config(lineage: Sequence[str], vision_tower: str | None) -> SennaConfig:
    """Return the configuration of the first model of a lineage. A LoRA folder without one has that of its base."""
    path, *bases = lineage
    base_config = _read_config(bases, vision_tower) if bases else None
    if base_config and Path(path).exists() and not (Path(path) / "config.json").is_file():
        return base_config
    values = _config_dict(path, "model")
    is_llama = _checkpoint_kind(path, values) == "llama"
    if is_llama:
        values["mm_vision_tower"] = vision_tower or DEFAULT_TOWER
    if "vision_config" not in values or vision_tower is not None:
        name = vision_tower or values.get("mm_vision_tower")
        tower = find_tower(name, lineage)
        values["vision_config"] = _tower_geometry(tower)
        values["mm_vision_tower"] = tower if vision_tower else name
        values["mm_hidden_size"] = None if is_llama else values.get("mm_hidden_size")
    for key in ("model_type", "architectures"):
        values.pop(key, None)
    if (values.get("quantization_config") or {}).get("quant_method") == "gguf":
        del values["quantization_config"]  # the source format of weights that are read as plain tensors
    try:
        config = SennaConfig.from_dict(values)
        config.check_tower()
    except (StrictDataclassError, ValueError) as error:
        raise UsageError(
            f"model {path}: {error.__cause__ or error}",
            remedy="correct its config.json, or give the vision tower it was trained with",
        ) from error
    return config


def _tower_geometry(tower: str) -> dict[str, Any]:
    if tower == DEFAULT_TOWER:  # known here, so that a published checkpoint opens without the hub
        return dict(CLIP_VIT_L_14_336)
    _config_dict(tower, "vision tower")  # for its messages
    return CLIPVisionConfig.from_pretrained(tower, trust_remote_code=False).to_dict()


def _load_image_processor(sources: Sequence[str], config: SennaConfig) -> CLIPImageProcessorPil:
    for source in sources:
        folder = Path(source)
        has_none = folder.is_dir() and not (folder / "preprocessor_config.json").is_file()
        if has_none or source == DEFAULT_TOWER:
            continue
        try:
            return CLIPImageProcessorPil.from_pretrained(source, trust_remote_code=False)
        except OSError:
            continue  # a hub model without an image processor, such as a bare LLM
    side = config.image_side
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
