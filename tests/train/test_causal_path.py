"""Runs of stages 1 and 3 never build a mask for their padded batches."""

import pytest

from senna.train.arguments import parse_arguments
from senna.train.run import build_trainer


@pytest.mark.parametrize("stage", [1, 3])
def test_a_run_without_packing_gives_every_layer_no_mask(toy, stage1, tmp_path, stage):
    options = {"per_device_train_batch_size": 6, "max_steps": 2, "save_steps": 100}
    if stage == 1:
        flags = toy.flags(tmp_path / "out", **options)
    else:
        flags = toy.driving_flags(tmp_path / "out", stage1, stage=3, **options)
    args = parse_arguments(flags)
    args.start()
    trainer = build_trainer(args)
    masks, has_padding = [], []
    for layer in trainer.model.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
        )
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: has_padding.append(not kwargs["attention_mask"].all()), with_kwargs=True
    )
    trainer.train()
    assert any(has_padding)
    assert masks == [None] * 2 * len(trainer.model.model.layers)
