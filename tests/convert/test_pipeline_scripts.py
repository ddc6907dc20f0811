"""The converter's entry points, started the way users start them."""

import importlib.util
import os
import subprocess
import sys

import pytest

from senna.record_file import open_records
from tests.helpers.paths import REPOSITORY

SHELL = REPOSITORY / "data_tools" / "senna_nusc_converter.sh"
PUBLISHED = REPOSITORY / "data_tools" / "senna_nusc_data_converter.py"


def sh(*flags, cwd, **environment):
    """Run the script with only the given variables of its own set."""
    variables = {"NUSCENES", "CANBUS", "OUT_DIR", "VERSION"}
    clean = {name: value for name, value in os.environ.items() if name not in variables}
    clean |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | {
        name: str(value) for name, value in environment.items()
    }
    return subprocess.run(["sh", SHELL, *flags], capture_output=True, text=True, cwd=cwd, env=clean)


def test_missing_variable_is_reported_and_nothing_is_written(tmp_path):
    result = sh(cwd=tmp_path, OUT_DIR=tmp_path / "out")
    assert result.returncode == 2
    assert "NUSCENES" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_script_works_in_any_folder_and_passes_flags_on(drawn_world, tmp_path):
    result = sh(
        "--limit", "3", cwd=tmp_path, NUSCENES=drawn_world, CANBUS=drawn_world, VERSION="v1.0-mini", OUT_DIR="out"
    )
    assert result.returncode == 0, result.stderr
    tokens = {record["token"] for record in open_records(tmp_path / "out" / "senna_nusc_train.jsonl")}
    assert len(tokens) == 3


@pytest.fixture
def published():
    spec = importlib.util.spec_from_file_location("published", PUBLISHED)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_published_arguments_are_translated(published):
    argv = "nuscenes --root-path R --out-dir O --extra-tag tag --version v1.0 --canbus C --limit 7".split()
    expected = "convert --nuscenes R --version v1.0-trainval --out O --canbus C --name tag --limit 7"
    assert published.translate(argv) == expected.split()
    assert "v1.0-mini" in published.translate("nuscenes --root-path R --version v1.0-mini".split())


def test_published_command_names_files_after_its_tag(drawn_world, tmp_path):
    flags = ["nuscenes", "--root-path", drawn_world, "--out-dir", "out", "--extra-tag", "mine"]
    command = [sys.executable, PUBLISHED, *flags, "--version", "v1.0-mini", "--limit", "2"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len({record["token"] for record in open_records(tmp_path / "out" / "mine_train.jsonl")}) == 2


def test_help_imports_no_heavy_packages():
    code = (
        "import sys\nfrom senna.cli import main\n"
        "try: main(['convert', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'nuscenes', 'transformers', 'yaml', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    assert "--allow-missing-images" in result.stdout
