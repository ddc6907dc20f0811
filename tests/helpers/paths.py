"""Folders that tests read."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
GOLDEN = REPOSITORY / "tests" / "golden"
"""Results of the published code (CPU, fp32) and our own texts; part of the repository."""
SHARED = REPOSITORY.parent / "shared"
"""The developers' reference data, which may not be distributed."""
ZERO2, ZERO3 = (REPOSITORY / "configs" / "deepspeed" / f"zero{stage}.json" for stage in (2, 3))
