"""Command-line flags from a dataclass."""

from dataclasses import dataclass

import pytest

from senna.errors import UsageError
from senna.flags import flag, parse_flags


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
