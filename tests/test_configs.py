"""The configuration files document every key, and the tables of settings agree with the memory model and the files."""

import json
import re
import shlex
from dataclasses import dataclass

import pytest

from senna.doctor.dry_run import USABLE, parse
from senna.doctor.verdict import memory_findings
from senna.train.arguments import read_yaml
from senna.train.memory.estimate import estimate
from senna.train.memory.fit import RELATIVE_ERROR, training_setup
from senna.train.memory.model_shape import ModelShape, published_config
from tests.helpers.paths import REPOSITORY

CONFIGS = REPOSITORY / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
PAGE = (CONFIGS / "README.md").read_text(encoding="utf-8")
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SENNA_7B = ModelShape.from_config(published_config())
STAGE_FILES = {1: "stage1_pretrain.yaml", 2: "stage2_driving.yaml", 3: "stage3_planning.yaml"}
GLOBAL_BATCH = {1: 256, 2: 16, 3: 192}
METHOD_FILES = {"LoRA": ["lora.yaml"], "QLoRA": ["qlora.yaml"]}
SCRIPTS = {"train_senna_llava.sh": "full", "train_senna_llava_lora.sh": "LoRA", "train_senna_llava_qlora.sh": "QLoRA"}
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


def test_the_page_names_every_file_and_every_json_key():
    for path in FILES:
        assert path.name in PAGE or path.name.startswith("tiny_")
    for path in CONFIGS.glob("deepspeed/*.json"):
        content = json.loads(path.read_text())
        assert f"`deepspeed/{path.name}`" in PAGE
        for key in [*content, *content.pop("zero_optimization")]:
            assert f"`{key}`" in PAGE or f".{key}`" in PAGE or key == "zero_optimization", f"{path}: {key}"


@dataclass(frozen=True)
class Cell:
    """A cell of the tables of settings. ``gb`` is the memory of the smallest card of its row."""

    gpus: int
    gb: int
    stage: int
    method: str
    rank: int | None
    rows: int
    accumulation: int
    gib: float

    @property
    def flags(self) -> list[str]:
        """Flags of `senna train` for the settings."""
        files = [STAGE_FILES[self.stage], *METHOD_FILES.get(self.method, [])]
        words = [word for name in files for word in ("--config", str(CONFIGS / name))]
        words += ["--per_device_train_batch_size", str(self.rows), "--output_dir", "out"]
        if self.rank:
            words += ["--lora_r", str(self.rank), "--lora_alpha", str(2 * self.rank)]
        if self.method == "offload":
            words += ["--deepspeed", str(CONFIGS / "deepspeed" / "zero3_offload.json")]
        return words


def section(text: str, heading: str) -> str:
    """Return the text below a heading, up to the next heading."""
    _, _, rest = text.partition(f"{heading}\n")
    return re.split(r"^#+ ", rest, flags=re.MULTILINE)[0]


def table(text: str) -> list[list[str]]:
    """Return the cells of the rows of a table, without the header."""
    rows = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def cells() -> list[Cell]:
    """Return all cells of both tables of settings."""
    found = []
    for gpus, heading in ((1, "### One GPU"), (8, "### Eight GPUs of one machine")):
        for card, *settings in table(section(PAGE, heading)):
            for stage, text in enumerate(settings, 1):
                match = CELL.fullmatch(text)
                assert match, f"{heading}, {card}: {text}"
                rank = int(match["rank"]) if match["rank"] else None
                found.append(
                    Cell(
                        gpus, int(card.split()[0]), stage, match["method"], rank, int(match["rows"]),
                        int(match["accumulation"]), float(match["gib"]),
                    )
                )  # fmt: skip
    return found


CELLS = cells()


def arguments(flags: list[str]):
    args, problems = parse(flags)
    assert problems == []
    return args


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.gpus}x{cell.gb}GB-stage{cell.stage}")
def test_settings_fit_keep_the_global_batch_and_need_the_memory_in_the_table(cell):
    args = arguments(cell.flags)
    assert cell.gpus * cell.rows * cell.accumulation == args.batch.global_batch == GLOBAL_BATCH[cell.stage]
    needed = estimate(SENNA_7B, training_setup(args, SENNA_7B, cell.gpus)).total / 2**30
    assert needed == pytest.approx(cell.gib, abs=0.06)
    assert needed * (1 + RELATIVE_ERROR) <= USABLE * cell.gb


def test_the_tables_cover_cards_from_12_to_80_gb():
    assert len(CELLS) == 3 * (7 + 4)
    assert [cell.gb for cell in CELLS if cell.gpus == 1 and cell.stage == 1] == [12, 16, 24, 32, 40, 48, 80]


def command_arguments(command: str):
    """Return the script's method and the arguments of a stage 2 command."""
    shell, script, *flags = shlex.split(command.strip("`"))
    method = SCRIPTS[script.removeprefix("train_tools/")]
    files = [STAGE_FILES[2], *METHOD_FILES.get(method, [])]
    words = [word for name in files for word in ("--config", str(CONFIGS / name))]
    assert shell == "sh"
    return method, arguments([*words, "--output_dir", "out", *flags])


def test_the_commands_by_card_in_the_readme_are_the_stage_2_settings_of_the_table():
    heading = "## Which command for my card"
    if heading not in README:
        return
    rows = table(section(README, heading))
    expected = {f"{cell.gb} GB": cell for cell in CELLS if cell.gpus == 1 and cell.stage == 2}
    assert [card for card, *_ in rows] == list(expected)
    for card, command, *_ in rows:
        cell, (method, args) = expected[card], command_arguments(command)
        settings = arguments(cell.flags)
        assert method == cell.method, card
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "lora_r", "lora_alpha", "bits"):
            assert getattr(args, name) == getattr(settings, name), f"{card}: {name}"


def test_the_page_shows_the_output_of_senna_doctor():
    [example] = re.findall(r"^```\n(ok .*?)\n```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    [cell] = [cell for cell in CELLS if (cell.gpus, cell.gb, cell.stage) == (1, 16, 2)]
    findings, chart = memory_findings(arguments(cell.flags), published_config(), round(USABLE * 24 * 2**30), 1)
    assert findings[0].message in example
    shown = [line for line in example.splitlines()[1:] if line.strip() != "..."]
    assert [line for line in shown if line not in chart.splitlines()] == []


@pytest.mark.parametrize(
    ("stage", "gib"),
    [
        (2, "batch 2 x 8, 7.0 GiB"),
        (1, "13 GiB in stage 1 and 114 GiB for full"),
    ],
)
def test_the_figures_for_offloading_are_those_of_the_memory_model(stage, gib):
    assert gib in PAGE.replace("\n", " ")
    offload = ["--deepspeed", str(CONFIGS / "deepspeed" / "zero3_offload.json"), "--output_dir", "out"]
    args = arguments(["--config", str(CONFIGS / STAGE_FILES[stage]), *offload])
    findings, _ = memory_findings(args, published_config(), None, 1)
    figures = [float(re.search(r"([\d.]+) GiB", finding.message)[1]) for finding in findings]
    assert figures == pytest.approx([7.0, 114] if stage == 2 else [6.1, 13], abs=0.55)
