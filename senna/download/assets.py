"""What can be fetched: repositories of the hub, the commit of each, what is needed of it, and what the scripts call it."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from senna.errors import SennaError, UsageError

_MODEL_FILES = (
    "config.json",
    "*_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)


@dataclass(frozen=True)
class Asset:
    """A repository of the hub.

    Attributes:
        repo, kind: its name there, and "model" or "dataset".
        revision: the commit that is fetched (Vicuna's and LLaVA-Pretrain's as their pages on the hub show it, CLIP's and
            LLaVA-1.6-34B's as public code pins it). None: the one that `main` names at the first download, which is kept.
        gigabytes: about what is fetched, before the hub has told the exact size.
        files: patterns of what is needed in its top folder, beside the weights.
        weights: whether weights are needed: safetensors, or where it has none, PyTorch's own.
        exports: (variable of the scripts, path in the asset's folder).
        archives: (zip, the folder in which its content belongs).
        hint: how it is used, where no variable says it; "{folder}" stands for its folder.
    """

    repo: str
    kind: str
    revision: str | None
    purpose: str
    licence: str
    gigabytes: float
    files: tuple[str, ...] = _MODEL_FILES
    weights: bool = True
    exports: tuple[tuple[str, str], ...] = ()
    archives: tuple[tuple[str, str], ...] = ()
    hint: str = ""

    @property
    def name(self) -> str:
        """Also that of its folder."""
        return PurePosixPath(self.repo).name


VICUNA = Asset(
    repo="lmsys/vicuna-7b-v1.5",
    kind="model",
    revision="3321f76e3f527bd14065daf69dad9344000a201d",
    purpose="the language model that stage 1 starts from",
    licence="Llama 2 community licence",
    gigabytes=13.5,
    exports=(("MODEL_PATH", ""),),
)
CLIP = Asset(
    repo="openai/clip-vit-large-patch14-336",
    kind="model",
    revision="ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
    purpose="the vision tower",
    licence="not stated on its page; OpenAI's CLIP is MIT",
    gigabytes=1.7,
    files=("config.json", "preprocessor_config.json"),  # the text half's tokenizer is not needed
    exports=(("VISION_TOWER", ""),),
)
LLAVA_PRETRAIN = Asset(
    repo="liuhaotian/LLaVA-Pretrain",
    kind="dataset",
    revision="70f9d1e5e1a697fe35830875cfc7de1dd590d727",
    purpose="558k pictures with captions, for stage 1",
    licence="that of its sources, LAION, CC-3M and SBU; see its page",
    gigabytes=27.5,
    files=("blip_laion_cc_sbu_558k.json", "images.zip"),
    weights=False,
    exports=(("DATA", "blip_laion_cc_sbu_558k.json"), ("IMAGE_DATA", "images")),
    archives=(("images.zip", "images"),),
)
SENNA = Asset(
    repo="rb93dett/Senna",
    kind="model",
    revision=None,
    purpose="the published Senna, to evaluate or to train further",
    licence="see its page; built on Vicuna",
    gigabytes=14.1,
    exports=(("MODEL_PATH", ""),),
)
CAPTIONER = Asset(
    repo="llava-hf/llava-v1.6-34b-hf",
    kind="model",
    revision="84e4488fffae48f9da316ec31288b7c03f102ec7",
    purpose="describes nuScenes' pictures: senna convert --captioner llava",
    licence="see its page; built on Nous-Hermes-2-Yi-34B",
    gigabytes=69.5,
    hint="senna convert ... --captioner llava --captioner-model {folder}",
)

PRESETS: dict[str, tuple[Asset, ...]] = {
    "7b": (VICUNA, CLIP),
    "pretrain-data": (LLAVA_PRETRAIN,),
    "senna": (SENNA, CLIP),
    "captioner": (CAPTIONER,),
    "all": (VICUNA, CLIP, LLAVA_PRETRAIN, SENNA, CAPTIONER),
}


def assets_of(presets: Iterable[str]) -> list[Asset]:
    """The assets of some presets, each once. Raises UsageError for a name that is none."""
    chosen: list[Asset] = []
    for preset in presets:
        if preset not in PRESETS:
            raise UsageError(f"--preset {preset} is not known; it is one or more of {', '.join(PRESETS)}")
        chosen += [asset for asset in PRESETS[preset] if asset not in chosen]
    return chosen


def needed(asset: Asset, names: Iterable[str]) -> list[str]:
    """Which of a repository's files are needed, sorted. Raises SennaError where it lacks what it must have."""
    top = sorted(name for name in names if "/" not in name)
    if not asset.weights:
        missing = [name for name in asset.files if name not in top]
        if missing:
            raise SennaError(f"{asset.repo} has no {missing[0]} on the hub; was it moved?")
        return list(asset.files)
    chosen = [name for name in top if any(fnmatchcase(name, pattern) for pattern in asset.files)]
    for weights, index in (("*.safetensors", "model.safetensors"), ("pytorch_model*.bin", "pytorch_model.bin")):
        if found := [name for name in top if fnmatchcase(name, weights)]:
            return sorted({*chosen, *found, *({f"{index}.index.json"} & set(top))})
    raise SennaError(f"{asset.repo} has neither safetensors nor pytorch_model.bin in its top folder; were they moved?")
