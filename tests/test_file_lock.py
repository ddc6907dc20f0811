"""Locks of folders: between processes, after a kill, in forked children, and on file systems without them."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from senna import file_lock
from senna.convert.journal import open_journal
from senna.download.store import Store
from senna.errors import SennaError, UsageError
from senna.file_lock import LOCK, lock_folder
from tests.helpers.paths import REPOSITORY

REMEDY = "wait until it ends"
HOLD = "import sys, time; from pathlib import Path; from senna.file_lock import lock_folder; \
lock = lock_folder(Path(sys.argv[1]), remedy=''); print('locked', flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def _nothing_reported(monkeypatch):
    monkeypatch.setattr(file_lock, "_reported", set())


@pytest.fixture
def holder(tmp_path):
    """Return another process that has locked ``tmp_path``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert process.stdout.readline() == b"locked\n"
    yield process
    process.kill()
    process.communicate()


def fail_with(monkeypatch, number: int) -> None:
    """Let every lock fail with an error number."""

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def use_all_locks(folder) -> None:
    """Lock folders as the commands do."""
    open_journal(folder / "frames").close()
    with lock_folder(folder / "work", "lock", remedy=REMEDY, wait=True), Store(folder / "model").lock():
        pass


def test_a_folder_that_another_process_works_in_is_refused_with_its_number_and_host(tmp_path, holder):
    with pytest.raises(UsageError, match=rf"another process is writing to it \(process {holder.pid} on ") as error:
        lock_folder(tmp_path, remedy=REMEDY)
    assert error.value.remedy == REMEDY
    assert error.value.exit_code == 2


def test_a_lock_ends_with_its_process_even_if_that_is_killed(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with lock_folder(tmp_path, remedy=REMEDY):
        pass
    assert not list(tmp_path.iterdir())


def test_children_do_not_keep_the_lock_of_a_parent_that_was_killed(tmp_path):
    lock = lock_folder(tmp_path, remedy=REMEDY)
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    try:
        os.close(lock._descriptor)  # what the end of the parent would do
        file_lock._descriptors.clear()
        deadline = time.monotonic() + 10  # the child closes its copy as soon as it runs
        while True:
            try:
                lock_folder(tmp_path, remedy=REMEDY).release()
                break
            except UsageError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_folder_that_was_made_for_a_lock_is_deleted_with_it_unless_it_is_used(tmp_path):
    with lock_folder(tmp_path / "unused", remedy=REMEDY), lock_folder(tmp_path / "used", remedy=REMEDY):
        (tmp_path / "used" / "file").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["used"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL])
def test_a_file_system_without_locks_gives_one_warning_and_work_goes_on(tmp_path, monkeypatch, capsys, number):
    fail_with(monkeypatch, number)
    use_all_locks(tmp_path)
    printed = capsys.readouterr().err
    assert printed.count("has no locks") == 1
    assert os.strerror(number) in printed
    assert "another process" not in printed


def test_frames_and_downloads_are_locked(tmp_path):
    journal = open_journal(tmp_path / "frames")
    with pytest.raises(UsageError, match="another process is writing"):
        open_journal(tmp_path / "frames")
    journal.close()
    use_all_locks(tmp_path)
    with Store(tmp_path / "model").lock(), pytest.raises(SennaError, match="is running there"):
        Store(tmp_path / "model").lock().__enter__()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_another_failure_is_an_error_that_blames_no_other_process(tmp_path, monkeypatch, number):
    fail_with(monkeypatch, number)
    with pytest.raises(SennaError) as error:
        lock_folder(tmp_path, remedy=REMEDY)
    assert os.strerror(number) in error.value.message
    assert "process" not in str(error.value)
    assert error.value.remedy


def test_every_lock_of_senna_goes_through_one_function():
    users = [path.name for path in (REPOSITORY / "senna").rglob("*.py") if "fcntl" in path.read_text()]
    assert users == ["file_lock.py"]
