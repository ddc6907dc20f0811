"""The model of a run as it is built before the first step."""

import pytest
import torch

from senna.model.source import ModelSource
from senna.train.arguments import parse_arguments
from senna.train.build_model import build_model
from senna.train.deepspeed import partition_weights
from tests.helpers.forks import Run
from tests.helpers.paths import REPOSITORY
from tests.train import partition_spy


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


@pytest.mark.parametrize("how", [None, "lora"])
def test_zero3_never_holds_more_than_one_unpartitioned_weight_on_a_device(toy, stage1, tmp_path, how):
    options = {"deepspeed": REPOSITORY / "configs" / "deepspeed" / "zero3.json", "max_steps": 1, "bf16": True}
    flags = toy.driving_flags(tmp_path / "out", stage1, how=how, **options)
    result = Run(partition_spy.train, [str(tmp_path / "peak"), *flags], toy.folder, processes=2).result()
    assert result.returncode == 0, result.stderr
    for process in range(2):
        peak, largest = (tmp_path / f"peak-{process}").read_text().split()
        assert peak == largest


def test_buffers_follow_the_partitioned_weights_to_the_device(monkeypatch):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    monkeypatch.setattr("deepspeed.zero.Init", lambda **_: None)
    monkeypatch.setattr("deepspeed.init_distributed", lambda: None)
    model = torch.nn.BatchNorm1d(3)
    partition_weights(model, {}, torch.bfloat16, torch.device("meta"))
    assert {buffer.device.type for buffer in model.buffers()} == {"meta"}
    assert model.running_mean.dtype == torch.float32
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
