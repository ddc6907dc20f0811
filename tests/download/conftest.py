import pytest

from senna.download.command import main


@pytest.fixture
def download(hub, tmp_path):
    """Return a function that runs `senna download` against the loopback hub, into tmp_path / "assets"."""

    def run(*flags) -> int:
        return main(["--endpoint", hub.endpoint, "--out", str(tmp_path / "assets"), *map(str, flags)])

    return run
