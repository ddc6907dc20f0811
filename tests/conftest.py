"""Fixtures every test may use; torch runs on one thread, since on a busy machine two can be ten times slower."""

from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data that lies beside the developers' checkout; users of the project do not have it."""
    if not SHARED.is_dir():
        pytest.skip(f"reference data not here ({SHARED.name}/ beside the checkout)")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Numbers that the published code gives (CPU, fp32)."""
    return shared / "golden"


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    """Small real data sets."""
    return shared / "data"
