"""The work that remains for an asset: files to download, archives to unpack, and the disk space that this takes.

Making a job asks the hub for its list of files and writes nothing but the store's state.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from senna.download.assets import Asset, required_files
from senna.download.digests import LockFile
from senna.download.endpoint import Endpoint
from senna.download.fetch import PartialFile
from senna.download.hub import RemoteFile, list_repository
from senna.download.store import Store
from senna.download.unpack import disk_usage, staging_folder

_UNPACKED_RATIO = 1.05  # disk space of unpacked JPEGs, relative to their zip: half a block is lost for each file


@dataclass
class Job:
    """The download of an asset into ``store``.

    Attributes:
        lock: the digests of its first download.
        files: all required files by name; empty if the asset is complete.
        missing: the required files that are not complete on the disk.
        unknown: names of the required files whose digests are known only from the endpoint that sends the files.
    """

    asset: Asset
    store: Store
    lock: LockFile
    revision: str
    files: dict[str, RemoteFile] = field(default_factory=dict)
    missing: list[RemoteFile] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def total_size(self) -> int:
        """Bytes of all required files."""
        return sum(file.size for file in self.files.values())

    @property
    def resumed_size(self) -> int:
        """Bytes of the missing files that an earlier run downloaded."""
        return sum(_size(PartialFile.path_of(self.store.folder / file.name, file)) for file in self.missing)

    @property
    def download_size(self) -> int:
        """Bytes that remain to be downloaded."""
        return sum(file.size for file in self.missing) - self.resumed_size

    @property
    def archives(self) -> list[tuple[RemoteFile, Path]]:
        """Pairs of (archive, folder) that remain to be unpacked."""
        return [
            (self.files[archive], self.store.folder / folder)
            for archive, folder in self.asset.archives
            if archive in self.files and not self.store.is_unpacked(folder, self.files[archive].digest)
        ]

    @property
    def required_space(self) -> int:
        """Bytes of disk space that the job needs; an archive is deleted only after it is unpacked."""
        unpacked = sum(
            max(0, int(archive.size * _UNPACKED_RATIO) - disk_usage(staging_folder(folder)))
            for archive, folder in self.archives
        )
        return self.download_size + unpacked


def make_job(
    asset: Asset, out: Path, endpoint: Endpoint, update: bool, checking: Callable[[RemoteFile], Callable[[int], None]]
) -> Job:
    """Return the job for ``asset``. A complete asset needs no network.

    Args:
        update: use the current commit of `main` for an asset without a pinned commit.
        checking: called with a file that is read to verify its hash; returns a function that is called with the number of
            bytes of each block read.

    Raises:
        UsageError: the hub cannot be reached, or refuses, or states other digests than the package or the first download.
        SennaError: the repository lacks a required file.
    """
    store = Store(out / asset.name)
    lock = LockFile(asset, out)
    revision = asset.revision or (None if update else store.revision or lock.revision)
    archives = dict(asset.archives)
    if revision is not None and store.is_complete(revision, archives):
        lock.check(revision, store.wanted, str(store.folder))
        return Job(asset, store, lock, revision)
    listing = list_repository(asset, revision, endpoint)
    files = {name: listing.files[name] for name in required_files(asset, listing.files)}
    job = Job(asset, store, lock, listing.revision, files)
    stated = {name: file.digest for name, file in files.items()}
    job.unknown = lock.check(listing.revision, stated, endpoint.address)
    for name, file in files.items():
        present = name in archives and store.is_unpacked(archives[name], file.digest)
        present = present or store.is_checked(name, file.digest)
        if not present and _size(store.folder / name) == file.size:
            present = store.check(file, checking(file))
        if not present:
            job.missing.append(file)
    return job


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
