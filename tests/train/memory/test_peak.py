"""The peak memory that a run logs is its own."""

import resource
import subprocess
import sys

import pytest

from senna.train import trainer
from senna.train.memory.peak import peak_resident
from tests.helpers.paths import REPOSITORY

MIB = 1 << 20


def test_the_peak_of_a_process_is_not_that_of_the_process_that_started_it():
    held = b"x" * (300 * MIB)
    code = "from senna.train.memory.peak import peak_resident; print(peak_resident())"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert 4 * MIB < int(done.stdout) < 100 * MIB
    assert peak_resident() > len(held)


@pytest.mark.parametrize("text", [None, "Name:\tpython\n", "no field\n", "VmHWM:\tmuch\n"])
def test_without_the_field_of_linux_the_peak_of_getrusage_is_returned(tmp_path, monkeypatch, text):
    status = tmp_path / "status"
    if text is not None:
        status.write_text(text)
    monkeypatch.setattr(sys, "platform", "linux")
    assert peak_resident(status) == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    status.write_text("Name:\tpython\nVmHWM:\t    2048 kB\n")
    assert peak_resident(status) == 2 * MIB


def test_a_run_without_a_gpu_logs_the_peak_of_its_main_memory(monkeypatch):
    monkeypatch.setattr(trainer, "peak_resident", lambda: 3 << 30)
    assert trainer.peak_memory() == 3
