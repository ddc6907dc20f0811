"""The check that an output folder holds the same run, for every command that can be interrupted and continued.

A command writes its settings into its output folder. When it is started again, the settings are compared: equal settings
continue the run, other settings are refused with the name and both values of each setting that differs. A folder is free
for a run if it holds nothing but bystanders (`content`).
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from senna.errors import SennaError, UsageError
from senna.file_lock import LOCK, lock_folder
from senna.files import SAVING

RUN_FILE = "run.json"

_BYSTANDER_FILES = (
    r"(.*[._-])?(log|logs|stdout|stderr)",  # tee
    r".+\.(log|out|err|stdout|stderr)(\.\d+)?",  # nohup, SLURM
    *(r".+\.log\.[^/]*", r"log[^/]*\.txt", r".*(log|stdout|stderr)\.txt"),
    r".+\.p?[oe]\d+(-\d+|\.\d+)?",  # PBS and Grid Engine: name.o123
    *(r"core(\.\d+)?", r"events\.out\.tfevents\..*", r".+\.wandb"),
    *(r".*~", r"\..+\.sw[a-z]", r"#.*#", r"\.#.*"),  # editors
    *(
        r"\.nfs.*",
        r"\.fuse_hidden.*",
        r"\._.*",
        r"\.ds_store",
        r"\.directory",
        r"\.localized",
    ),  # file systems, desktops
    *(r"(eh)?thumbs\.db", r"desktop\.ini", r"\.(git)?keep", r"\.git(ignore|attributes)", r"\.nomedia"),
    *(re.escape(LOCK), rf"\.{re.escape(RUN_FILE)}\.\d+", r"\..+\.\d+\.partial(\..+)?"),  # of a run that was killed
)
_BYSTANDER_FOLDERS = (
    *(r"lost\+found", r"__pycache__", r"\.ipynb_checkpoints", r"\.vscode", r"\.idea"),
    *(r"wandb", r"trackio", r"swanlog", r"mlruns"),  # trackers
    *(r"\.snapshots?", r"\.zfs", r"\.trash.*", r"\$recycle\.bin", r"system volume information", r"@eadir"),
)
_is_bystander_file = re.compile("|".join(_BYSTANDER_FILES), re.IGNORECASE | re.DOTALL).fullmatch
_is_bystander_folder = re.compile("|".join(_BYSTANDER_FOLDERS), re.IGNORECASE).fullmatch


def is_bystander(path: Path) -> bool:
    """Return whether something in an output folder belongs to no run and is no data.

    Bystanders are logs of shells and clusters, files of editors, desktops and file systems, empty files, files that this
    process prints to, and folders that hold nothing else. A link counts by its name. A run ignores them and leaves them in
    place.
    """
    if path.is_symlink():
        return bool(_is_bystander_file(path.name))
    if path.is_dir():
        return bool(_is_bystander_folder(path.name)) or not content(path)
    if _is_bystander_file(path.name):
        return True
    with suppress(OSError):
        status = path.stat()
        return status.st_size == 0 or any(os.path.samestat(status, stream) for stream in _own_streams())
    return False


def content(folder: Path) -> list[Path]:
    """Return what a folder holds apart from bystanders (`is_bystander`), sorted; [] if there is no such folder."""
    try:
        return sorted(path for path in folder.iterdir() if not is_bystander(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be read: {error.strerror or error}", remedy="choose a folder that you can read and write"
        ) from error


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Lock a folder that a command makes at once, and yield the path in it under which its files are written first.

    What is under that path at the end is deleted, and so is the folder if it is empty and new.

    Raises:
        UsageError: it exists and is not empty, it cannot be written, or another process makes it.
    """
    taken = UsageError(f"--out {out}: exists already", remedy="name a new folder")
    if out.exists() and not out.is_dir():
        raise taken
    if any(path.name != SAVING for path in content(out)):
        raise taken
    with lock_folder(out, remedy="wait until it ends, or name another --out"):
        if any(path.name != SAVING for path in content(out)):  # another process has made it meanwhile
            raise taken
        staging = out / SAVING
        shutil.rmtree(staging, ignore_errors=True)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _own_streams() -> list[os.stat_result]:
    """Return the files that standard output and standard error of this process are redirected to."""
    found = []
    for descriptor in (1, 2):
        with suppress(OSError):
            found.append(os.fstat(descriptor))
    return found


def fingerprint(*contents: bytes) -> str:
    """Return a short hash of contents, for settings that are too long to store."""
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]


def read_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings in a JSON file; None if there is no such file, an empty dict if it is damaged."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str] | None = None
) -> dict[str, tuple[Any, Any]]:
    """Return name -> (value before, value now) of the settings that differ.

    Args:
        names: the settings to compare; by default all, in the order of ``now`` and then of ``before``.
    """
    compared = [*now, *(name for name in before if name not in now)] if names is None else names
    return {name: (before.get(name), now.get(name)) for name in compared if before.get(name) != now.get(name)}


def describe(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Return the differences as text: "limit was 5 and is 6; seed was 1 and is 2"."""
    return "; ".join(f"{name} was {before!r} and is {now!r}" for name, (before, now) in changed.items())


def check_same_run(
    where: object, before: Mapping[str, Any] | None, now: Mapping[str, Any], *, remedy: str,
    names: Iterable[str] | None = None, shown: Collection[str] = (),
) -> None:  # fmt: skip
    """Raise UsageError with every setting that differs if ``before`` are the settings of another run.

    Args:
        where: the folder or file that holds the earlier run, for the message.
        before: the settings of the earlier run; None if no run has begun.
        now: the settings of this run.
        remedy: what the user can do, as an imperative.
        names: the settings to compare; by default all.
        shown: settings that may differ, but are named in the message if others do, for example paths of files whose
            contents are compared.
    """
    changed = {} if before is None else differences(before, now, names)
    if not changed.keys() <= set(shown):
        raise UsageError(f"{where} holds another run: {describe(changed)}", remedy=remedy)


def claim(
    folder: Path, settings: Mapping[str, Any], *, remedy: str, where: object = None, shown: Collection[str] = ()
) -> None:
    """Write the settings of a run into its folder, or check that the run already there has the same settings.

    Several processes may claim a folder at the same time: the first one writes, and the others compare.

    Args:
        where: the name of the folder in messages; by default ``folder``.
        shown: as in `check_same_run`.

    Raises:
        UsageError: the folder holds a run with other settings.
        SennaError: the folder cannot be written.
    """
    # Not `atomic_write`, which would replace the settings of another run.
    temporary = folder / f".{RUN_FILE}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")
        _rename_unless_present(temporary, folder / RUN_FILE)
    except OSError as error:
        if isinstance(error, FileExistsError) and folder.is_dir():
            now = json.loads(json.dumps(dict(settings)))
            before = read_settings(folder / RUN_FILE)
            return check_same_run(where or folder, before, now, remedy=remedy, shown=shown)
        reason = error.strerror or str(error)
        raise SennaError(
            f"{folder} cannot be written: {reason}", remedy="make room, or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _rename_unless_present(temporary: Path, path: Path) -> None:
    """Give a file its final name. Raises FileExistsError if ``path`` exists."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:  # a file system without hard links
        if path.exists():
            raise FileExistsError(path) from error
        temporary.rename(path)
