"""`senna COMMAND --help` answers at once: without torch, transformers or a network."""

import subprocess
import sys

import pytest

from senna.cli import COMMANDS
from senna.train.arguments import build_parser
from tests.helpers.paths import REPOSITORY

PROBE = """
import socket, sys
def refuse(*_, **__): raise AssertionError("a connection")
socket.socket.connect = socket.getaddrinfo = refuse
from senna.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
heavy = {"torch", "transformers", "gradio", "openai", "matplotlib", "nuscenes"} & set(sys.modules)
sys.exit(code or (f"imported {heavy}" if heavy else 0))
"""


@pytest.mark.parametrize(("name", "flag"), [*((name, "--help") for name in COMMANDS), ("train", "-h")])
def test_help_imports_nothing_heavy_and_uses_no_network(name, flag):
    done = subprocess.run([sys.executable, "-c", PROBE, name, flag], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert f"usage: senna {name}" in done.stdout


def test_the_stored_help_of_senna_train_is_that_of_its_parser(monkeypatch):
    """After a change of a field: `senna train --help_all` is always new; this writes the short help again."""
    monkeypatch.setenv("COLUMNS", "120")
    stored = REPOSITORY / "senna" / "train" / "help.txt"
    renew = (
        "COLUMNS=120 python -c 'from senna.train.arguments import build_parser; print(build_parser().format_help(), end=\"\")' "
        ">senna/train/help.txt"
    )
    assert stored.read_text(encoding="utf-8") == build_parser().format_help(), renew
