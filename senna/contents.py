"""Hashes of the contents of files and models, by which a command recognizes its inputs when it continues a run.

A copy, another way to write the path and another modification time are the same input; other weights of the same size are
not. Files are read completely, which takes as long as reading 14 GB for a 7B model. Samples would be faster, but could miss
a projector, which has 0.3 % of the weights.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from senna.errors import UsageError
from senna.files import hashes_of
from senna.run_folder import RUN_FILE, read_settings

_MODEL_FILES = ("*.safetensors", "*.bin", "*.index.json", "*config.json", "*token*.json", "tokenizer.model")
"""The files that decide what a model answers. Logs and notes beside them do not."""

_PREFIX = "sha256:"


def absolute(path: str | Path) -> str:
    """Return the absolute path of a file or folder without symbolic links, and any other name, as of a hub, unchanged."""
    return str(Path(path).resolve()) if Path(path).exists() else str(path)


def file_content(path: str | Path) -> str:
    """Return a hash of a file's content; "" if there is no such file."""
    return _join(_hashes([Path(path)])) if Path(path).is_file() else ""


def model_content(model: str | Path, base: str | None = None) -> str:
    """Return a hash of the files of a model folder and, for a LoRA folder, of its bases; "" if it is not a folder.

    A base that is not a folder counts by its name.

    Args:
        base: the base, if it is not the one that the LoRA folder names.
    """
    folders: list[Path] = []
    name: str | None = str(model)
    while name and Path(name).is_dir() and Path(name).resolve() not in folders:
        folders.append(Path(name).resolve())
        name, base = base or _base_of(folders[-1]), None
    files = [_model_files(folder) for folder in folders]
    hashes = iter(_hashes([path for found in files for path in found]))
    parts = [repr([(path.name, next(hashes)) for path in found]) for found in files]
    return _join([*parts, name or ""]) if folders else ""


def _model_files(folder: Path) -> list[Path]:
    found = {path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in found if path.name != RUN_FILE)


def _base_of(folder: Path) -> str | None:
    """Return the base that a LoRA folder names, or the folder of that name beside it; None for another folder."""
    named = (read_settings(folder / "adapter_config.json") or {}).get("base_model_name_or_path")
    if not isinstance(named, str):
        return None
    neighbour = folder.parent / Path(named).name
    return str(neighbour) if neighbour.is_dir() and not Path(named).exists() else named


def _hashes(paths: list[Path]) -> list[str]:
    try:
        return hashes_of(paths)
    except OSError as error:
        raise UsageError(
            f"{error.filename} cannot be read: {error.strerror or error}", remedy="check its permissions and its disk"
        ) from error


def _join(parts: Iterable[str]) -> str:
    return _PREFIX + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
