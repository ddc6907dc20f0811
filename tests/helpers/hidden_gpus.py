"""Hide GPUs from the tests that are not marked `gpu`. They feed CPU tensors to models that choose their device themselves."""

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from _pytest.mark.expression import Expression

VARIABLE = "CUDA_VISIBLE_DEVICES"


def selects_gpu(expression: str) -> bool:
    """Return whether ``-m expression`` asks for tests that are marked `gpu`. "gpu or slow" does, "not slow" does not."""
    words = set(re.findall(r"\w+", expression))
    if "gpu" not in words:
        return False
    others = sorted(words - {"gpu", "and", "or", "not"})
    selections = itertools.product((False, True), repeat=len(others))
    compiled = Expression.compile(expression)

    def is_selected(marks: set[str]) -> bool:
        return compiled.evaluate(lambda name, **_: name in marks)

    return any(is_selected({"gpu", *itertools.compress(others, selection)}) for selection in selections)


@contextmanager
def hidden_gpus() -> Iterator[None]:
    """Hide the GPUs from torch, which may have found them already, and from processes that are started."""
    with (
        mock.patch.dict(os.environ, {VARIABLE: ""}),
        mock.patch("torch.cuda.is_available", return_value=False),
        mock.patch("torch.cuda.device_count", return_value=0),
    ):
        yield
