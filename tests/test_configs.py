"""The files in configs/ explain themselves, and what their page says of them is so."""

import json
import re

import pytest

from senna.doctor.dry_run import USABLE
from senna.train.arguments import read_yaml
from senna.train.fields import PlannedArguments
from senna.train.memory.estimate import estimate
from senna.train.memory.fit import ERROR, setup_of
from senna.train.memory.model_shape import ModelShape, published_config
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
PAGE = (CONFIGS / "README.md").read_text(encoding="utf-8")
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SEVEN = ModelShape.of(published_config())
STAGE_FILES = {1: "stage1_pretrain.yaml", 2: "stage2_driving.yaml", 3: "stage3_planning.yaml"}
GLOBAL_BATCH = {1: 256, 2: 16, 3: 192}
CELL = re.compile(
    r"(?P<method>offload|full|LoRA|QLoRA|)(?: of rank (?P<rank>\d+),)? ?"
    r"(?P<rows>\d+) x (?P<accumulation>\d+): (?P<gib>[\d.]+)"
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_is_known_and_has_a_comment(path):
    assert read_yaml(str(path))
    lines = path.read_text(encoding="utf-8").splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        if re.match(r"\w+:", line):
            assert re.search(r" # \S", line) or above.startswith("#"), f"{path}: {line}"


def test_the_page_names_every_file_and_every_key_of_json():
    for path in FILES:
        assert path.name in PAGE or path.name.startswith("tiny_")
    for path in CONFIGS.glob("deepspeed/*.json"):
        content = json.loads(path.read_text())
        assert f"`deepspeed/{path.name}`" in PAGE
        for key in [*content, *content.pop("zero_optimization")]:
            assert f"`{key}`" in PAGE or f".{key}`" in PAGE or key == "zero_optimization", f"{path}: {key}"


def cells(page: str) -> list[tuple[int, int, int, re.Match]]:
    """(GPUs, smallest GB of the card, stage, cell) of a page's two tables."""
    one, eight = page.split("**One card")[1].split("**Eight cards")
    return [
        (gpus, int(size), stage, CELL.search(text))
        for gpus, part in ((1, one), (8, eight))
        for size, row in re.findall(r"^\| (\d+)[^|]* GB \|(.*)\|$", part, flags=re.MULTILINE)
        for stage, text in enumerate(row.split("|"), 1)
    ]


@pytest.mark.parametrize(("gpus", "card", "stage", "cell"), [*cells(PAGE), *cells(README)])
def test_what_a_page_recommends_fits_keeps_the_global_batch_and_takes_what_it_says(gpus, card, stage, cell):
    given = {}
    for name in [STAGE_FILES[stage], *([f"{cell['method'].lower()}.yaml"] if "LoRA" in cell["method"] else [])]:
        given |= {key: one.value for key, one in read_yaml(str(CONFIGS / name)).items()}
    given |= {
        "per_device_train_batch_size": int(cell["rows"]),
        "gradient_accumulation_steps": int(cell["accumulation"]),
    }
    if cell["rank"]:
        given |= {"lora_r": int(cell["rank"]), "lora_alpha": 2 * int(cell["rank"])}
    if cell["method"] == "offload":
        given["deepspeed"] = str(CONFIGS / "deepspeed" / "zero3_offload.json")
    assert gpus * int(cell["rows"]) * int(cell["accumulation"]) == GLOBAL_BATCH[stage]
    needed = estimate(SEVEN, setup_of(PlannedArguments(**given), SEVEN, gpus)).total / 2**30
    assert needed == pytest.approx(float(cell["gib"]), abs=0.06)
    assert needed * (1 + ERROR) <= USABLE * card
