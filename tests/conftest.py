"""Fixtures every test may use; torch runs on one thread, since on a busy machine two can be ten times slower."""

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
def _quick():
    torch.set_num_threads(1)
    gc.freeze()  # else each collection of garbage, of which a run makes several, goes through all that was imported


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """``once(name, make)``: a folder for all processes of the tests, which the first that asks has ``make(folder)`` fill."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # its own folder lies in that of all
        root = root.parent

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder, whole = root / name, root / f"{name}.whole"
        with FileLock(root / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data that lies beside the developers' checkout; users of the project do not have it."""
    if not SHARED.is_dir():
        pytest.skip(f"reference data not here ({SHARED.name}/ beside the checkout)")
    return SHARED


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder of numbers that the published code gives (CPU, fp32); part of the repository."""
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def shared_golden(shared: Path) -> Path:
    """Return the folder of the published code's results that may not be distributed: texts, token ids, a nuScenes sample."""
    return shared / "golden"


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    """Small real data sets."""
    return shared / "data"
