"""Fixtures for all tests. torch runs on one thread: on a busy machine two threads can be ten times slower."""

import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def _single_thread():
    torch.set_num_threads(1)
    gc.freeze()  # so that garbage collections, of which there are many, skip all that has been imported


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Return ``once(name, make)``: a folder that all test processes share; the first caller fills it with ``make(folder)``."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the folder of a worker is inside the folder of the run
        root = root.parent

    def make_once(name: str, make: Callable[[Path], None]) -> Path:
        folder, complete = root / name, root / f"{name}.complete"
        with FileLock(root / f"{name}.lock"):
            if not complete.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                complete.touch()
        return folder

    return make_once


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the developers' folder of reference data beside the checkout; tests that need it are skipped without it."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data ({SHARED.name}/ beside the checkout)")
    return SHARED


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder of results of the published code (CPU, fp32) and of our own texts; part of the repository."""
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def shared_golden(shared: Path) -> Path:
    """Return the folder of results of the published code that may not be distributed: texts, token ids, a nuScenes sample."""
    return shared / "golden"


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    """Return the folder of small real datasets."""
    return shared / "data"
