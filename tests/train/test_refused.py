"""Flags of transformers' Trainer are obeyed, or refused with the reason and what to do instead."""

import shutil

import pytest

from senna.cli import main
from senna.errors import UsageError
from senna.train.arguments import parse_arguments
from senna.train.checkpoint import RUN_FILE, checkpoints
from senna.train.fields import TrainArguments
from senna.train.options import options_of
from senna.train.refused import REFUSED


@pytest.mark.parametrize(
    "flags",
    """--save_only_model|--save_on_each_node True|--enable_jit_checkpoint|--push_to_hub|--hub_model_id me/model|
    --do_eval|--do_predict True|--eval_strategy steps|--evaluation_strategy epoch|--eval_delay 5|--eval_on_start|
    --load_best_model_at_end|--metric_for_best_model eval_loss|--label_names a|--train_sampling_strategy sequential|
    --accelerator_config {"split_batches":true}|--fsdp full_shard|--auto_find_batch_size|--label_smoothing_factor 0.1|
    --neftune_noise_alpha 5|--liger_kernel_config {"rope":true}|--use_cache|--bf16_full_eval|--save_strategy best|
    --prediction_loss_only|--loss_weight record --average_tokens_across_devices False""".replace("\n", "").split("|"),
)
def test_a_trainer_flag_that_a_run_would_ignore_is_refused(flags):
    words = flags.split()
    if words[0] not in ("--evaluation_strategy",) and words[0][2:] not in options_of(TrainArguments):
        pytest.skip(f"this transformers has no {words[0]}")
    with pytest.raises(UsageError, match="is not supported") as error:
        parse_arguments(words)
    assert error.value.exit_code == 2
    assert error.value.remedy


def test_flags_that_are_obeyed_and_those_of_the_published_scripts_are_accepted():
    parse_arguments([])
    parse_arguments(
        """--do_train True --evaluation_strategy no --save_strategy steps --per_device_eval_batch_size 4 --optim adamw_torch
        --adam_beta2 0.98 --dataloader_drop_last True --max_grad_norm 0.5 --logging_strategy epoch --full_determinism
        --data_seed 3 --label_smoothing_factor 0 --use_cache False --push_to_hub False""".split()
    )
    parse_arguments(["--save_strategy", "no"])
    assert all(reason and remedy for reason, remedy in REFUSED.values())


@pytest.fixture
def stopped(finished, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(finished[0], folder)
    (folder / "config.json").unlink()
    return folder


def test_resume_from_checkpoint_is_obeyed_or_refused_and_nothing_is_lost(toy, stopped, tmp_path, capsys):
    def train(folder, value):
        code = main(["train", *toy.flags(folder, save_total_limit=2), "--resume_from_checkpoint", str(value)])
        return code, capsys.readouterr()

    before = sorted(stopped.rglob("*"))
    for value in ("False", stopped / "checkpoint-8", tmp_path / "other" / "checkpoint-12", stopped):
        code, printed = train(stopped, value)
        assert code == 2, value
        assert "--resume_from_checkpoint" in printed.err
        assert "Traceback" not in printed.err
    assert sorted(stopped.rglob("*")) == before
    for value in ("True", tmp_path / "out" / "checkpoint-12"):
        code, printed = train(tmp_path / "new", value)
        assert code == 2
        assert not (tmp_path / "new" / RUN_FILE).exists()
    code, printed = train(stopped, stopped / "checkpoint-12")
    assert code == 0
    assert f"continue {stopped / 'checkpoint-12'}" in printed.out
    assert [path.name for path in checkpoints(stopped)] == ["checkpoint-8", "checkpoint-12"]
