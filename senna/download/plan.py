"""What is to be fetched and unpacked, and what room that needs. Asks the hub, and changes nothing but what it remembers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from senna.download.assets import Asset, needed
from senna.download.fetch import Partial
from senna.download.hub import RemoteFile, list_repository
from senna.download.store import Store
from senna.download.unpack import bytes_in, staging

_PER_PICTURE = 1.05  # unpacked, jpegs take as much as their zip, and the last block of each half of itself


@dataclass
class Job:
    """An asset to bring into ``store``.

    Attributes:
        files: all that is needed, by name; empty where everything is here.
        missing: those of them that are not here whole.
    """

    asset: Asset
    store: Store
    revision: str
    files: dict[str, RemoteFile] = field(default_factory=dict)
    missing: list[RemoteFile] = field(default_factory=list)

    @property
    def whole(self) -> int:
        """Bytes of all that is needed."""
        return sum(file.size for file in self.files.values())

    @property
    def came(self) -> int:
        """Bytes of the missing files that an earlier run brought."""
        return sum(_size(Partial.path_of(self.store.folder / file.name, file)) for file in self.missing)

    @property
    def to_fetch(self) -> int:
        """Bytes that are to come."""
        return sum(file.size for file in self.missing) - self.came

    @property
    def to_unpack(self) -> list[tuple[RemoteFile, Path]]:
        """(archive, folder) of what is not unpacked yet."""
        return [
            (self.files[archive], self.store.folder / folder)
            for archive, folder in self.asset.archives
            if archive in self.files and not self.store.is_unpacked(folder, self.files[archive].digest)
        ]

    @property
    def room(self) -> int:
        """Bytes that the disk must still take; an archive is removed only when it is unpacked."""
        pictures = sum(
            max(0, int(archive.size * _PER_PICTURE) - bytes_in(staging(folder))) for archive, folder in self.to_unpack
        )
        return self.to_fetch + pictures


def plan(
    asset: Asset, out: Path, endpoint: str, update: bool, checking: Callable[[RemoteFile], Callable[[int], None]]
) -> Job:
    """What is to be done for ``asset``; without the network where everything is here.

    Args:
        update: for an asset without a commit of its own, take what `main` names now.
        checking: is told of a file that is here and must be read; gives what is told of its bytes.

    Raises:
        UsageError: the hub cannot be asked, or refuses.
    """
    store = Store(out / asset.name)
    revision = asset.revision or (None if update else store.revision)
    archives = dict(asset.archives)
    if revision is not None and store.is_complete(revision, archives):
        return Job(asset, store, revision)
    listing = list_repository(asset, revision, endpoint)
    job = Job(asset, store, listing.revision, {name: listing.files[name] for name in needed(asset, listing.files)})
    for name, file in job.files.items():
        here = name in archives and store.is_unpacked(archives[name], file.digest)
        here = here or store.is_checked(name, file.digest)
        if not here and _size(store.folder / name) == file.size:
            here = store.check(file, checking(file))
        if not here:
            job.missing.append(file)
    return job


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
