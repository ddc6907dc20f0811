import pytest

from senna.download.command import main


@pytest.fixture
def download(hub, tmp_path):
    """Return a function that runs `senna download` against the loopback hub, into tmp_path / "assets"."""

    def run(*flags) -> int:
        return main(["--endpoint", hub.endpoint, "--out", str(tmp_path / "assets"), *map(str, flags)])

    return run


@pytest.fixture
def subprocess_environment(tmp_path_factory):
    """Return variables for a process that downloads from the loopback hub, whose files are not the real ones."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text("from senna.download import digests\n\ndigests.PACKAGED.clear()\n")
    return os.environ | {"PYTHONPATH": f"{folder}:{REPOSITORY}", "HF_HUB_OFFLINE": "0"}
