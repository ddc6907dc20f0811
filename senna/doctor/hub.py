"""Locate a model: a folder, the hub's cache on this disk, or only on the hub."""

from pathlib import Path

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import RepositoryNotFoundError

from senna.doctor.findings import FAIL, WARN, Finding, size
from senna.doctor.weights import read_weights
from senna.download.hub import call_with_timeout
from senna.files import free_space
from senna.model.lora import LORA_WEIGHTS
from senna.model.source import ADAPTER_CONFIG

_TIMEOUT = 5.0  # seconds for the hub's answer
_WEIGHT_FILES = {"config.json": ("model", "pytorch_model"), ADAPTER_CONFIG: (LORA_WEIGHTS, LORA_WEIGHTS)}
"""The file that describes a model or a LoRA folder, and the names of its weight files without extension."""


def is_hub_name(name: str) -> bool:
    """Return True for a name like "owner/model" for which there is no folder."""
    path = Path(name)
    return not path.exists() and not path.is_absolute() and not name.startswith((".", "~")) and name.count("/") <= 1


def locate(name: str) -> Path | None:
    """Return the folder of a model on this disk: ``name`` itself, or its folder in the cache if all weights are there."""
    if Path(name).exists():
        return Path(name)
    if not is_hub_name(name):
        return None
    for file, stems in _WEIGHT_FILES.items():
        cached = try_to_load_from_cache(name, file)
        if isinstance(cached, str) and not read_weights(Path(cached).parent, stems).problems:
            return Path(cached).parent
    return None


def is_cached(folder: Path) -> bool:
    """Return True for a folder of the hub's cache; a run downloads the files that it lacks."""
    return folder.resolve().is_relative_to(Path(constants.HF_HUB_CACHE).resolve())


def local_name(name: str) -> str:
    """Return the folder of a model if it is on this disk, so that reading it needs no network; otherwise ``name``."""
    folder = locate(name)
    return name if folder is None else str(folder)


def check_download(topic: str, name: str) -> Finding:
    """Check that a model that is not on this disk can be downloaded. Asks the hub once, for at most five seconds."""
    absent = f"{name} is neither a folder nor complete in the cache"
    if constants.HF_HUB_OFFLINE:
        remedy = "unset HF_HUB_OFFLINE, or run `senna download` on a machine with a network and use the folder's path"
        return Finding(FAIL, topic, f"{absent}, and HF_HUB_OFFLINE forbids a download", remedy)
    try:
        info = call_with_timeout(lambda: HfApi().model_info(name, files_metadata=True, timeout=_TIMEOUT), _TIMEOUT)
    except RepositoryNotFoundError:
        message = f"{name} is not a folder, and the hub ({constants.ENDPOINT}) has no such model or hides it"
        return Finding(FAIL, topic, message, "check the name; run `hf auth login` for a model that needs an account")
    except Exception as error:  # the client passes on every kind of network failure
        remedy = "set HF_ENDPOINT=URL of a mirror, or run `senna download` on a machine with a network and use the "
        return Finding(
            FAIL, topic, f"{absent}, and {constants.ENDPOINT} does not answer: {error}", f"{remedy}folder's path"
        )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    weights = [name for name in sizes if name.endswith(".safetensors")] or [n for n in sizes if n.endswith(".bin")]
    needed = sum(sizes[name] for name in weights)
    cache = Path(constants.HF_HUB_CACHE)
    message = f"{name} is not on this disk: a run will download {size(needed)} to {cache}"
    free = free_space(cache)
    if free < needed:
        return Finding(FAIL, topic, f"{message}, which has {size(free)} free", "set HF_HOME=DIR to use another disk")
    return Finding(WARN, topic, message, "senna download   (continues an interrupted download and verifies the files)")
