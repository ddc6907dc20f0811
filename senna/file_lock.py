"""Locks of folders between processes. A lock ends with its process, however that ends, and needs no cleaning up.

File systems without locks (Lustre without ``flock``, some NFS, FUSE and 9p mounts) are no reason to stop: a warning is
printed, and the command goes on without protection.
"""

import errno
import fcntl
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from senna.errors import SennaError, UsageError

LOCK = ".senna.lock"
"""The name of the lock file in an output folder. It exists while a run works there."""

_HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}
_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOTTY}
_ATTEMPTS = 10  # each fails only if another process releases the lock at that moment
_descriptors: set[int] = set()  # of the locks that this process holds
_reported: set[int] = set()  # device numbers of the file systems without locks


class Lock:
    """A lock that this process holds until `release`, the end of a ``with`` block or the end of the process."""

    def __init__(self, path: Path, descriptor: int, has_made_folder: bool = False) -> None:
        self._path, self._descriptor, self._has_made_folder = path, descriptor, has_made_folder
        _descriptors.add(descriptor)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Delete the lock file, and the folder if it was made for it and is empty, and let other processes have the lock."""
        if self._descriptor in _descriptors:
            with suppress(OSError):
                self._path.unlink()
                if self._has_made_folder:
                    self._path.parent.rmdir()  # fails if it is not empty
            _close(self._descriptor)


def lock_folder(
    folder: Path, name: str = LOCK, *, remedy: str, wait: bool = False, busy: str = "another process is writing to it"
) -> Lock:
    """Lock a folder, which is made if it does not exist, against other processes that lock it under the same name.

    Args:
        remedy: what the user can do if another process has the lock, as an imperative.
        wait: wait until no other process has the lock.
        busy: what another process does that has the lock, for the message.

    Raises:
        UsageError: another process has the lock, or the folder cannot be written.
        SennaError: the file system fails.
    """
    path, attempts = folder / name, _ATTEMPTS
    while True:
        is_new = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(
                f"{folder} cannot be written: {reason}", remedy="make room, or choose a folder that you can write"
            ) from error
        lock, attempts = Lock(path, descriptor, is_new), attempts - 1
        try:
            if not _lock(descriptor, folder, wait):
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
                raise UsageError(f"{folder}: {busy}{f' ({holder})' if holder else ''}", remedy=remedy)
            if _is_same_file(descriptor, path) or not attempts:
                _write_holder(descriptor)
                return lock
        except BaseException:
            _close(descriptor)
            raise
        _close(descriptor)  # the process that had the lock has deleted the file


def _lock(descriptor: int, folder: Path, wait: bool) -> bool:
    """Lock an open file. Return False if another process has the lock; True too if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno not in _UNSUPPORTED:
            raise SennaError(
                f"{folder}: the lock file cannot be locked ({error.strerror or error})",
                remedy="check the file system, and run the same command again",
            ) from error
        _warn_once(descriptor, folder, error)
    return True


def _warn_once(descriptor: int, folder: Path, error: OSError) -> None:
    device = os.fstat(descriptor).st_dev
    if device not in _reported:
        _reported.add(device)
        print(
            f"WARNING {folder}: this file system has no locks ({error.strerror or error}); make sure that no other run "
            "writes to this folder at the same time",
            file=sys.stderr,
            flush=True,
        )


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _write_holder(descriptor: int) -> None:
    """Write the name of this process into its lock file, for the message that other processes print."""
    holder = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
    with suppress(OSError):  # the lock holds without it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
        os.fsync(descriptor)


def _close(descriptor: int) -> None:
    _descriptors.discard(descriptor)
    with suppress(OSError):
        os.close(descriptor)


def _close_in_child() -> None:
    # Otherwise a data loader's worker would keep the lock for some seconds after its parent was killed.
    for descriptor in list(_descriptors):
        _close(descriptor)


os.register_at_fork(after_in_child=_close_in_child)
