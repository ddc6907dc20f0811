"""What is known of an asset's folder: its commit, and which of its files were checked. Kept in FOLDER/.senna-download.json."""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from senna.download.hub import RemoteFile
from senna.errors import SennaError
from senna.files import write_json

_STATE = ".senna-download.json"
_LOCK = ".senna-download.lock"
_CHUNK = 1 << 20


class Store:
    """An asset's folder, which need not exist yet.

    Attributes:
        revision: the commit of what is here, whole or in part; None at first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
            self.revision: str | None = state["revision"]
            self._wanted: dict[str, str] = state["wanted"]  # name -> digest
            self._checked: dict[str, list] = state["checked"]  # name -> [digest, size, mtime]
            self._unpacked: dict[str, str] = state["unpacked"]  # folder -> digest of its archive
        except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: everything is checked again
            self.revision, self._wanted, self._checked, self._unpacked = None, {}, {}, {}

    def begin(self, revision: str, files: Mapping[str, RemoteFile]) -> None:
        """Remember what is to be here."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.revision, self._wanted = revision, {name: file.digest for name, file in files.items()}
        self._save()

    def is_complete(self, revision: str | None, archives: Mapping[str, str]) -> bool:
        """Whether everything of that commit was checked and is unchanged since; tells without reading it."""
        if revision is None or revision != self.revision or not self._wanted:
            return False
        return all(
            self.is_unpacked(archives[name], digest) if name in archives else self.is_checked(name, digest)
            for name, digest in self._wanted.items()
        )

    def is_checked(self, name: str, digest: str) -> bool:
        """Whether a file had this digest when it was read last, and has not changed since."""
        return name in self._checked and self._checked[name] == _facts(self.folder / name, digest)

    def check(self, file: RemoteFile, advance: Callable[[int], None]) -> bool:
        """Read a file and compare it with the hub's; remembered where it is the same. False where it is not here."""
        path = self.folder / file.name
        if not path.is_file() or path.stat().st_size != file.size:
            return False
        digest = hasher(file)
        with path.open("rb") as stream:
            while block := stream.read(_CHUNK):
                digest.update(block)
                advance(len(block))
        if digest.hexdigest() != file.digest:
            return False
        self.remember(file)
        return True

    def remember(self, file: RemoteFile) -> None:
        """A file was read and is the hub's."""
        self._checked[file.name] = _facts(self.folder / file.name, file.digest)
        if self.revision is not None:
            self._save()

    def is_own(self, name: str) -> bool:
        """Whether a file is as it once came from the hub, of whatever commit: then nobody's work is lost with it."""
        return name in self._checked and self._checked[name] == _facts(self.folder / name, self._checked[name][0])

    def is_unpacked(self, folder: str, digest: str) -> bool:
        """Whether the archive of that digest was unpacked into ``folder``, which is still there."""
        return self._unpacked.get(folder) == digest and (self.folder / folder).is_dir()

    def remember_unpacked(self, folder: str, digest: str) -> None:
        """The archive of that digest is unpacked."""
        self._unpacked[folder] = digest
        self._save()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other downloads out of the folder. Raises SennaError where one is at work."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise SennaError(
                    f"{self.folder}: another senna download is at work there; wait until it ends"
                ) from error
            yield

    def _save(self) -> None:
        write_json(
            self.folder / _STATE,
            {
                "revision": self.revision,
                "wanted": self._wanted,
                "checked": self._checked,
                "unpacked": self._unpacked,
            },
        )


def hasher(file: RemoteFile):
    """The hash that a file's ``digest`` is of: sha256, or sha1 begun as git begins that of a file."""
    if len(file.digest) == 64:
        return hashlib.sha256()
    return hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)


def _facts(path: Path, digest: str) -> list | None:
    if not path.is_file():
        return None
    facts = path.stat()
    return [digest, facts.st_size, facts.st_mtime_ns]
