"""The manifest of a checkpoint: the size and SHA-256 of every file, to notice damage before a run continues from it."""

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from senna.files import hashes_of, write_json

MANIFEST = "manifest.json"
TRAINED_WEIGHTS = "trained.safetensors"


def write_manifest(folder: Path) -> None:
    """Write the size and hash of every file of a checkpoint into its ``manifest.json``. Raises SennaError."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if name != MANIFEST]
    hashes = _hashes(folder, names)
    sizes = {name: (folder / name).stat().st_size for name in names}
    files = {name: {"size": sizes[name], "sha256": hashes[name]} for name in names}
    write_json(folder / MANIFEST, {"files": files})


def damage(folder: Path, read_everything: bool = True) -> str | None:
    """Return what is wrong with a checkpoint; None if it is intact.

    A checkpoint without a manifest, of an earlier version of Senna, is checked as far as its file formats allow.

    Args:
        read_everything: compare hashes too; False compares names and sizes only.
    """
    try:
        if not (folder / MANIFEST).is_file():
            return _damage_without_manifest(folder)
        files = _read_manifest(folder)
        if files is None:
            return f"{MANIFEST} is damaged"
        for name, facts in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if (size := path.stat().st_size) != facts["size"]:
                return f"{name} has {size:,} bytes instead of {facts['size']:,}"
        found = _hashes(folder, files) if read_everything else {}
        changed = [name for name, digest in found.items() if digest != files[name]["sha256"]]
        return f"{changed[0]} has changed since it was written" if changed else None
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"


def has_manifest(folder: Path) -> bool:
    """Return whether a checkpoint has a readable manifest that matches the names and sizes of its files."""
    return (folder / MANIFEST).is_file() and damage(folder, read_everything=False) is None


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Return name -> {"size", "sha256"}; None if the manifest is damaged."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        valid = all(isinstance(facts["size"], int) and isinstance(facts["sha256"], str) for facts in files.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return files if files and valid else None


def _hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    names = list(names)
    return dict(zip(names, hashes_of([folder / name for name in names]), strict=True))


def _damage_without_manifest(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint of an earlier version of Senna; None if its files are there and not cut off."""
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "trainer_state.json is missing"
    except ValueError:
        return "trainer_state.json is damaged"
    if not isinstance(state, dict) or "global_step" not in state:
        return "trainer_state.json is damaged"
    tag = folder / "latest"  # DeepSpeed's name of the subfolder with weights and optimizer
    parts = ["optimizer.pt", TRAINED_WEIGHTS]
    if tag.is_file():
        parts = [tag.read_text(encoding="utf-8", errors="replace").strip() or "latest"]
    for name in ["scheduler.pt", *parts]:
        if not (folder / name).exists():
            return f"{name} is missing"
    if not any(folder.glob("rng_state*.pth")):
        return "rng_state.pth is missing"
    for path in [*folder.rglob("*.pt"), *folder.rglob("*.pth")]:
        if not _is_intact_zip(path):
            return f"{path.relative_to(folder)} is damaged"
    weights = folder / TRAINED_WEIGHTS
    return None if tag.is_file() or _is_intact_safetensors(weights) else f"{TRAINED_WEIGHTS} is damaged"


def _is_intact_zip(path: Path) -> bool:
    """Return whether a file that torch has written is a complete zip archive with the right checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError):
        return False


def _is_intact_safetensors(path: Path) -> bool:
    """Return whether the size of a safetensors file is the one that its header states."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length < path.stat().st_size:
            return False
        try:
            header = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
    return path.stat().st_size == 8 + length + max(ends, default=0)
