"""The loopback hub, with small repositories that have the names and commits of the real ones."""

import io
import os
import random
import zipfile

import pytest

from senna.download import assets, digests, fetch
from senna.download.command import main
from tests.conftest import REPOSITORY
from tests.download.loopback_hub import Hub, Repository

BIG = 300_000


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


IMAGES = {f"{index // 10:05d}/{index:09d}.jpg": noise(1000 + index, index) for index in range(40)}


@pytest.fixture
def hub(monkeypatch):
    """A hub that holds the assets; the environment has no ``HF_*`` variables, and retries have no delay.

    Its files are not the real ones, so the package knows no digests of them.
    """
    monkeypatch.setattr(digests, "PACKAGED", {})
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere/token")
    monkeypatch.setattr(fetch, "RETRY_DELAYS", (0, 0, 0, 0, 0))
    hub = Hub()
    hub.repositories = {
        assets.VICUNA.repo: Repository(
            {
                "README.md": b"# Vicuna",
                ".gitattributes": b"*.bin filter=lfs",
                "config.json": b'{"model_type": "llama"}',
                "generation_config.json": b"{}",
                "pytorch_model-00001-of-00002.bin": noise(BIG, 1),
                "pytorch_model-00002-of-00002.bin": noise(2000, 2),
                "pytorch_model.bin.index.json": b'{"weight_map": {}}',
                "special_tokens_map.json": b"{}",
                "tokenizer.model": noise(500, 3),
                "tokenizer_config.json": b"{}",
            },
            commit=assets.VICUNA.revision,
            large=frozenset(
                {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "tokenizer.model"}
            ),
        ),
        assets.CLIP.repo: Repository(
            {
                "config.json": b'{"model_type": "clip"}',
                "merges.txt": noise(900, 4),
                "preprocessor_config.json": b"{}",
                "pytorch_model.bin": noise(5000, 5),
                "tf_model.h5": noise(5000, 6),
                "tokenizer.json": b"{}",
            },
            commit=assets.CLIP.revision,
            large=frozenset({"pytorch_model.bin", "tf_model.h5"}),
        ),
        assets.LLAVA_PRETRAIN.repo: Repository(
            {
                "README.md": b"# LLaVA-Pretrain",
                "blip_laion_cc_sbu_558k.json": b"[]",
                "blip_laion_cc_sbu_558k_meta.json": noise(700, 7),
                "images.zip": zipped(IMAGES),
            },
            kind="dataset",
            commit=assets.LLAVA_PRETRAIN.revision,
            large=frozenset({"blip_laion_cc_sbu_558k.json", "images.zip"}),
        ),
        assets.SENNA.repo: Repository(
            {
                "config.json": b'{"model_type": "llava_llama"}',
                "model-00001-of-00001.safetensors": noise(4000, 8),
                "model.safetensors.index.json": b"{}",
                "pytorch_model.bin": noise(4000, 9),
                "training_args.bin": noise(300, 10),
                "trainer_state.json": noise(300, 11),
                "tokenizer.model": noise(500, 3),
            },
            commit="5" * 40,
            large=frozenset({"model-00001-of-00001.safetensors"}),
        ),
    }
    yield hub
    hub.close()


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
