"""Liger's kernels: on by default where a trial works, with the loss and the gradients of the model without them."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from senna.train import liger
from senna.train.liger import liger_problem, wants_liger
from tests.helpers.paths import REPOSITORY

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")

# Triton reads TRITON_INTERPRET when it is imported, and Liger changes transformers' modules: a process of its own.
# The interpreter leaves numbers of Python unchanged, but compiled kernels get them as fp32, and Liger's rely on that.
PROGRAM = """
import numpy
import torch
import triton.language as tl
from triton.runtime import interpreter

convert = interpreter._implicit_cvt
interpreter._implicit_cvt = lambda value: (
    tl.tensor(interpreter.TensorHandle(numpy.array([value], numpy.float32), tl.float32), tl.float32)
    if isinstance(value, float)
    else convert(value)
)
from liger_kernel.ops import rms_norm

rms_norm.rsqrt = lambda value: tl.rsqrt(value)  # CUDA's own function has no interpretation

from senna.train.liger import liger_problem, use_liger_kernels
from tests.helpers.packing import step, tiny_model

assert liger_problem("cpu") is None, liger_problem("cpu")
model = tiny_model(50).train()
ids = torch.randint(1, 50, (2, 6), generator=torch.Generator().manual_seed(0))
batch = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
loss, gradients = step(model, [batch])
use_liger_kernels(model)
again, fused = step(model, [batch])
worst = max(float((fused[name] - g).norm() / g.norm().clamp(min=1e-12)) for name, g in gradients.items() if g.any())
print(abs(again - loss) / loss, worst)
assert abs(again - loss) < 1e-6 * loss and worst < 1e-5
"""


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("triton", "liger_kernel")),
    reason="triton and liger-kernel are not installed (sh scripts/test_serve.sh runs this test)",
)
def test_in_tritons_interpreter_loss_and_gradients_are_those_without_liger():
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)]),
        "CUDA_VISIBLE_DEVICES": "",
    }
    result = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("problem", "expected"), [(None, True), ("RuntimeError: no C compiler", False)])
def test_on_cuda_liger_is_used_by_default_if_the_trial_works(monkeypatch, caplog, problem, expected):
    monkeypatch.setattr(liger, "liger_problem", lambda device: problem)
    assert wants_liger(None, CUDA) is expected
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (problem is not None)
    assert all("Liger's kernels are off (RuntimeError: no C compiler)" in line for line in lines)


def test_a_given_flag_is_obeyed_without_a_trial_and_a_cpu_does_not_use_liger(monkeypatch):
    monkeypatch.setattr(liger, "liger_problem", lambda device: pytest.fail("there was a trial"))
    assert wants_liger(True, CUDA)
    assert not wants_liger(False, CUDA)
    assert not wants_liger(None, CPU)


def test_a_failing_trial_gives_its_reason_in_one_line(monkeypatch):
    monkeypatch.setattr(liger.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    problem = liger_problem.__wrapped__("cpu")
    assert problem.startswith("ModuleNotFoundError: ")
    assert "\n" not in problem
