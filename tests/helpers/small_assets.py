"""Small repositories that have the names and commits of the real ones, for the loopback hub."""

import io
import random
import zipfile

from senna.download import assets
from tests.helpers.loopback_hub import Repository

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


def small_repositories() -> dict[str, Repository]:
    """Return a small repository for each asset, by its name."""
    return {
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
