"""The model of a run as it is built before the first step."""

import pytest

from senna.model.source import ModelSource
from senna.train.arguments import parse_arguments
from senna.train.build_model import build_model


@pytest.mark.parametrize("how", ["lora", "qlora"])
def test_lora_layers_leave_the_casts_of_their_inputs_to_autocast(toy, stage1, tmp_path, how):
    if how == "qlora":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    args = parse_arguments(toy.driving_flags(tmp_path / "out", stage1, how=how, bf16=True))
    args.start()
    model = build_model(args, ModelSource.resolve(stage1))
    adapted = [module for module in model.modules() if hasattr(module, "lora_A")]
    assert len(adapted) == 2 * 7
    assert not any(module.cast_input_dtype_enabled for module in adapted)
