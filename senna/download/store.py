"""The state of an asset's folder: its commit and its verified files. It is kept in FOLDER/.senna-download.json."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from senna.download.hub import RemoteFile
from senna.file_lock import lock_folder
from senna.files import write_json
from senna.run_folder import read_settings

_STATE = ".senna-download.json"
_LOCK = ".senna-download.lock"
_CHUNK = 1 << 20


class Store:
    """The folder of an asset, which may not exist yet.

    Attributes:
        revision: the commit of the complete or partial content; None before the first download.
        wanted: name -> digest of the required files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        state = read_settings(folder / _STATE) or {}
        try:
            self.revision: str | None = state["revision"]
            self.wanted: dict[str, str] = state["wanted"]
            self._checked: dict[str, list] = state["checked"]  # name -> [digest, size, mtime]
            self._unpacked: dict[str, str] = state["unpacked"]  # folder -> digest of its archive
        except KeyError:  # missing or damaged: every file is verified again
            self.revision, self.wanted, self._checked, self._unpacked = None, {}, {}, {}

    def begin(self, revision: str, files: Mapping[str, RemoteFile]) -> None:
        """Store the commit and the digests of the required files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.revision, self.wanted = revision, {name: file.digest for name, file in files.items()}
        self._save()

    def is_complete(self, revision: str | None, archives: Mapping[str, str]) -> bool:
        """Return whether all files of that commit were verified and have not changed since. No file is read.

        Args:
            archives: archive -> the folder for its content.
        """
        if revision is None or revision != self.revision or not self.wanted:
            return False
        return all(
            self.is_unpacked(archives[name], digest) if name in archives else self.is_checked(name, digest)
            for name, digest in self.wanted.items()
        )

    def is_checked(self, name: str, digest: str) -> bool:
        """Return whether a file had this digest when it was last verified, and has not changed since."""
        return name in self._checked and self._checked[name] == _file_state(self.folder / name, digest)

    def check(self, file: RemoteFile, advance: Callable[[int], None]) -> bool:
        """Read a file and return whether it is the hub's; if so, store it as verified.

        Args:
            advance: called with the size of each block read.
        """
        path = self.folder / file.name
        if not path.is_file() or path.stat().st_size != file.size:
            return False
        digest = new_hash(file)
        with path.open("rb") as stream:
            while block := stream.read(_CHUNK):
                digest.update(block)
                advance(len(block))
        if digest.hexdigest() != file.digest:
            return False
        self.mark_checked(file)
        return True

    def mark_checked(self, file: RemoteFile) -> None:
        """Store that a file was verified."""
        self._checked[file.name] = _file_state(self.folder / file.name, file.digest)
        if self.revision is not None:
            self._save()

    def is_unmodified(self, name: str) -> bool:
        """Return whether a file is as it was downloaded, from any commit, so that replacing it loses no work of the user."""
        return name in self._checked and self.is_checked(name, self._checked[name][0])

    def is_unpacked(self, folder: str, digest: str) -> bool:
        """Return whether the archive of that digest was unpacked into ``folder``, and the folder still exists."""
        return self._unpacked.get(folder) == digest and (self.folder / folder).is_dir()

    def mark_unpacked(self, folder: str, digest: str) -> None:
        """Store that the archive of that digest was unpacked into ``folder``."""
        self._unpacked[folder] = digest
        self._save()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude other downloads from the folder.

        Raises:
            UsageError: another download is running there, or the folder cannot be written.
        """
        busy = "another senna download is running there"
        with lock_folder(self.folder, _LOCK, remedy="wait until it ends", busy=busy):
            yield

    def _save(self) -> None:
        write_json(
            self.folder / _STATE,
            {
                "revision": self.revision,
                "wanted": self.wanted,
                "checked": self._checked,
                "unpacked": self._unpacked,
            },
        )


def new_hash(file: RemoteFile):
    """Return an empty hash object for a file's ``digest``: sha256, or sha1 with the header of a git blob."""
    if len(file.digest) == 64:
        return hashlib.sha256()
    return hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)


def _file_state(path: Path, digest: str) -> list | None:
    """Return [digest, size, modification time]; None without such a file."""
    if not path.is_file():
        return None
    status = path.stat()
    return [digest, status.st_size, status.st_mtime_ns]
