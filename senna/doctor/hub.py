"""Where a model is: a folder, the hub's cache on this disk, or only on the hub."""

from pathlib import Path

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import RepositoryNotFoundError

from senna.doctor.findings import FAIL, WARN, Finding, size
from senna.doctor.weights import read_weights
from senna.download.hub import patiently
from senna.files import free_space
from senna.model.lora import LORA_WEIGHTS
from senna.model.source import ADAPTER_CONFIG

_PATIENCE = 5.0  # seconds for the hub's answer
_DESCRIBES = {"config.json": ("model", "pytorch_model"), ADAPTER_CONFIG: (LORA_WEIGHTS, LORA_WEIGHTS)}


def is_hub_name(name: str) -> bool:
    """Whether ``name`` can only be a hub's ("owner/model"): no folder of that name is here."""
    path = Path(name)
    return not path.exists() and not path.is_absolute() and not name.startswith((".", "~")) and name.count("/") <= 1


def locate(name: str) -> Path | None:
    """The folder of a model: ``name`` itself, or the hub's in the cache, if with all weights; None where neither is here."""
    if Path(name).exists():
        return Path(name)
    if not is_hub_name(name):
        return None
    for file, stems in _DESCRIBES.items():
        found = try_to_load_from_cache(name, file)
        if isinstance(found, str) and not read_weights(Path(found).parent, stems).problems:
            return Path(found).parent
    return None


def is_cached(folder: Path) -> bool:
    """Whether a folder is the cache's, to which a run fetches what lacks."""
    return folder.resolve().is_relative_to(Path(constants.HF_HUB_CACHE).resolve())


def here(name: str) -> str:
    """``name`` as a folder of this disk where it is one, so that reading it asks no network."""
    folder = locate(name)
    return name if folder is None else str(folder)


def not_here(topic: str, name: str) -> Finding:
    """What is to be said of a hub model that this disk does not hold. Asks the hub once, for a few seconds at most."""
    if constants.HF_HUB_OFFLINE:
        return Finding(
            FAIL,
            topic,
            f"{name} is neither a folder here nor whole in the cache, and HF_HUB_OFFLINE forbids to fetch it",
            "unset HF_HUB_OFFLINE, or `senna download` where there is a network and give the folder's path",
        )
    try:
        info = patiently(lambda: HfApi().model_info(name, files_metadata=True, timeout=_PATIENCE), _PATIENCE)
    except RepositoryNotFoundError:
        return Finding(
            FAIL,
            topic,
            f"{name}: no such folder here, and the hub ({constants.ENDPOINT}) has no such model, or hides it",
            "check the name; `hf auth login` for a model that needs an account",
        )
    except Exception as error:  # the client lets every failure of the network through as it is
        return Finding(
            FAIL,
            topic,
            f"{name}: neither a folder here nor whole in the cache, and {constants.ENDPOINT} does not answer: {error}",
            "HF_ENDPOINT=URL names a mirror; or `senna download` where there is a network, and give the folder's path",
        )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    weights = [name for name in sizes if name.endswith(".safetensors")] or [n for n in sizes if n.endswith(".bin")]
    needed = sum(sizes[name] for name in weights)
    cache = Path(constants.HF_HUB_CACHE)
    says = f"{name} is not on this disk: {size(needed)} will be downloaded to {cache} when a run starts"
    free = free_space(cache)
    if free < needed:
        return Finding(FAIL, topic, f"{says}, which has {size(free)} free", "HF_HOME=DIR names a cache on another disk")
    return Finding(WARN, topic, says, "senna download   (goes on where it was cut off, and checks what came)")
