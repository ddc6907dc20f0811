"""Command-line flags from a dataclass."""

import ast
from dataclasses import dataclass

import pytest

import senna.flags
from senna.errors import UsageError
from senna.flags import flag, parse_flags, shared_flag
from tests.helpers.paths import REPOSITORY


@dataclass
class Flags:
    image_folder: str = flag("folder of the images")
    limit: int | None = flag("records to use", None)
    share: float = flag("share of the records", 0.5)
    overwrite: bool = flag("replace what is there", False)
    views: list[str] | None = flag("views to use", None)


def parse(*argv: str) -> Flags:
    return parse_flags(Flags, list(argv), "senna test", "A command.")


@pytest.mark.parametrize("argv", [["--image-folder", "a"], ["--image_folder", "a"], ["--image_folder=a"]])
def test_hyphens_and_underscores_are_the_same(argv):
    assert parse(*argv) == Flags(image_folder="a")


def test_values_have_the_types_of_the_fields():
    flags = parse("--image-folder=a_b", "--limit", "3", "--share", "1", "--overwrite", "--views", "front", "back_left")
    assert flags == Flags("a_b", 3, 1.0, True, ["front", "back_left"])


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        ([], "--image-folder"),
        (["--image-folder", "a", "--limit", "x"], "--limit"),
        (["--image-folder", "a", "--what", "x"], "--what"),
    ],
)
def test_a_missing_flag_a_wrong_value_and_an_unknown_flag_raise_an_error(argv, name):
    with pytest.raises(UsageError) as error:
        parse(*argv)
    assert error.value.remedy == "see senna test --help"
    assert name in error.value.message


def test_the_help_shows_defaults(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "share of the records (default: 0.5)" in text
    assert "records to use --" in text


OWN_MEANING = {
    "base": {"train/export_command.py"},  # of the model that a run started from
    "decision": {"evaluate/export.py"},  # which has no greedy
    "model": {
        "evaluate/calibrate.py",
        "evaluate/export.py",
        "train/export_command.py",
    },  # for decision.json, or of a run
    "version": {"convert/command.py"},  # of nuScenes' tables
    "workers": {"convert/command.py", "drive/command.py"},  # that convert, or drive
}
"""Flags whose name several commands share, and the commands in which they mean something else."""


def helps_of_flags():
    """Return flag -> file -> source of its help, of the fields of all dataclasses that are written as ``flag(...)``."""
    found = {}
    for path in (REPOSITORY / "senna").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source) if " flag(" in source and path.name != "fields.py" else ast.Module([])
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and getattr(getattr(node.value, "func", None), "id", None) == "flag":
                file = str(path.relative_to(REPOSITORY / "senna"))
                found.setdefault(node.target.id, {})[file] = ast.unparse(node.value.args[0])
    return found


def test_a_flag_that_several_commands_have_is_defined_once():
    defined = helps_of_flags()
    for name in senna.flags._SHARED:
        assert defined.get(name, {}).keys() <= OWN_MEANING.get(name, set()), f"--{name} is a shared_flag"
    for name, helps in defined.items():
        assert len(set(helps.values())) == len(helps), f"--{name} has the same help in several commands: {helps}"


def test_a_shared_flag_may_have_more_help_and_another_default():
    @dataclass
    class Shared:
        model: str | None = shared_flag("model", "; or none", default=None)
        workers: int = shared_flag("workers")

    assert parse_flags(Shared, [], "senna test", "A command.") == Shared(None, 2)
    assert (
        Shared.__dataclass_fields__["model"].metadata["help"] == "a model folder, a LoRA folder or a hub name; or none"
    )
