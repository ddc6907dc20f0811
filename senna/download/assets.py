"""The models and data sets that can be downloaded: repository, commit, required files and the variables of the scripts."""

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
_MOVED = "check on the repository's page whether it was moved"


@dataclass(frozen=True)
class Asset:
    """A repository of the hub.

    Attributes:
        repo: name on the hub.
        kind: "model" or "dataset".
        revision: the commit to download. The commits of Vicuna and LLaVA-Pretrain are those that their pages on the hub show,
            those of CLIP and LLaVA-1.6-34B are pinned in public code. None: the commit of `main` at the first download, which
            is then kept.
        gigabytes: approximate download size, for the listing, which does not ask the hub.
        files: name patterns of the required files in the top folder, besides the weights.
        has_weights: whether weights are required: safetensors, or PyTorch's pickles if there are none.
        exports: pairs of (variable of the scripts, path in the asset's folder).
        archives: pairs of (zip file, folder for its content).
        hint: a command that uses the asset, if no variable does; "{folder}" is replaced by the asset's folder.
    """

    repo: str
    kind: str
    revision: str | None
    purpose: str
    licence: str
    gigabytes: float
    files: tuple[str, ...] = _MODEL_FILES
    has_weights: bool = True
    exports: tuple[tuple[str, str], ...] = ()
    archives: tuple[tuple[str, str], ...] = ()
    hint: str = ""

    @property
    def name(self) -> str:
        """Name without the owner, which is also the name of the asset's folder."""
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
    files=("config.json", "preprocessor_config.json"),  # the text model's tokenizer is not required
    exports=(("VISION_TOWER", ""),),
)
LLAVA_PRETRAIN = Asset(
    repo="liuhaotian/LLaVA-Pretrain",
    kind="dataset",
    revision="70f9d1e5e1a697fe35830875cfc7de1dd590d727",
    purpose="558k images with captions, for stage 1",
    licence="the licences of its sources LAION, CC-3M and SBU; see its page",
    gigabytes=27.5,
    files=("blip_laion_cc_sbu_558k.json", "images.zip"),
    has_weights=False,
    exports=(("DATA", "blip_laion_cc_sbu_558k.json"), ("IMAGE_DATA", "images")),
    archives=(("images.zip", "images"),),
)
SENNA = Asset(
    repo="rb93dett/Senna",
    kind="model",
    revision=None,
    purpose="the published Senna, for evaluation or further training",
    licence="see its page; built on Vicuna",
    gigabytes=14.1,
    exports=(("MODEL_PATH", ""),),
)
CAPTIONER = Asset(
    repo="llava-hf/llava-v1.6-34b-hf",
    kind="model",
    revision="84e4488fffae48f9da316ec31288b7c03f102ec7",
    purpose="the captioner of nuScenes images: senna convert --captioner llava",
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
    """Return the assets of several presets, without duplicates.

    Raises:
        UsageError: the name of a preset is unknown.
    """
    chosen: list[Asset] = []
    for preset in presets:
        if preset not in PRESETS:
            raise UsageError(f"--preset {preset} is unknown", remedy=f"choose one or more of {', '.join(PRESETS)}")
        chosen += [asset for asset in PRESETS[preset] if asset not in chosen]
    return chosen


def required_files(asset: Asset, names: Iterable[str]) -> list[str]:
    """Return the names of the required files among the `names` of all files of a repository.

    Raises:
        SennaError: the repository lacks a required file or has no weights.
    """
    top = sorted(name for name in names if "/" not in name)
    if not asset.has_weights:
        missing = [name for name in asset.files if name not in top]
        if missing:
            raise SennaError(f"{asset.repo} has no file {missing[0]} on the hub", remedy=_MOVED)
        return list(asset.files)
    chosen = [name for name in top if any(fnmatchcase(name, pattern) for pattern in asset.files)]
    for weights, index in (("*.safetensors", "model.safetensors"), ("pytorch_model*.bin", "pytorch_model.bin")):
        if found := [name for name in top if fnmatchcase(name, weights)]:
            return sorted({*chosen, *found, *({f"{index}.index.json"} & set(top))})
    raise SennaError(f"{asset.repo} has neither safetensors nor pytorch_model.bin in its top folder", remedy=_MOVED)
