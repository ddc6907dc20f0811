import inspect
import json
import os
import re
import subprocess
import sys
import time

import pytest

from senna.cli import main
from senna.errors import UsageError
from senna.train.arguments import build_parser, parse_arguments
from senna.train.fields import HEADINGS, OWN_FIELDS, TrainArguments, grouped_fields
from tests.conftest import REPOSITORY

CPU = ["--use_cpu", "True", "--bf16", "False"]
PUBLISHED_STAGE1 = """--model_name_or_path vicuna --version plain --data_path a.json --image_folder images
--vision_tower clip --mm_projector_type mlp2x_gelu --tune_mm_mlp_adapter True --mm_vision_select_layer -2
--mm_use_im_start_end False --mm_use_im_patch_token False --bf16 False --output_dir out --num_train_epochs 1
--per_device_train_batch_size 32 --per_device_eval_batch_size 4 --gradient_accumulation_steps 1 --evaluation_strategy no
--save_strategy steps --save_steps 24000 --save_total_limit 1 --learning_rate 1e-3 --weight_decay 0. --warmup_ratio 0.03
--lr_scheduler_type cosine --logging_steps 1 --tf32 True --model_max_length 2048 --gradient_checkpointing True
--dataloader_num_workers 4 --lazy_preprocess True --report_to tensorboard --freeze_img_adapter False
--init_weight_img_adapter True --group_by_modality_length False""".split()


def test_the_flags_of_the_published_stage_one_mean_what_they_meant():
    args = parse_arguments([*PUBLISHED_STAGE1, "--use_cpu", "True"])
    assert args.warmup_steps == 0.03
    assert args.eval_strategy == "no"
    assert args.learning_rate == 1e-3
    assert args.version == "plain"
    assert args.tune_mm_mlp_adapter
    assert not args.freeze_img_adapter
    assert args.mm_vision_select_layer == -2


def test_later_files_win_over_earlier_ones_and_flags_over_all(tmp_path):
    (tmp_path / "a.yaml").write_text("learning_rate: 1e-4\nseed: 1\nwarmup_ratio: 0.5\n")
    (tmp_path / "b.yaml").write_text("seed: 2\nmodel_max_length: 77\n")
    flags = ["--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml"), "--seed", "3", *CPU]
    args = parse_arguments(flags)
    assert (args.learning_rate, args.seed, args.model_max_length, args.warmup_steps) == (1e-4, 3, 77, 0.5)


def test_an_unknown_flag_is_refused_with_the_nearest_known_one():
    with pytest.raises(UsageError, match=r"--per_device_train_batchsize .did you mean --per_device_train_batch_size\?"):
        parse_arguments(["--per_device_train_batchsize", "8", *CPU])


def test_a_shortened_flag_is_not_guessed_at():
    with pytest.raises(UsageError, match="unknown argument --learning"):
        parse_arguments(["--learning", "1", *CPU])


def test_an_unknown_yaml_key_is_refused_with_the_file_and_the_nearest_known_one(tmp_path):
    (tmp_path / "a.yaml").write_text("learning_rat: 1\n")
    with pytest.raises(UsageError, match=r"a\.yaml, line 1: unknown key learning_rat \(did you mean learning_rate\?\)"):
        parse_arguments(["--config", str(tmp_path / "a.yaml"), *CPU])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nversion: v7\n", "line 2: version: invalid choice: 'v7'"),
        ("learning_rate: fast\n", "line 1: learning_rate: invalid float value: 'fast'"),
        ("\nstage: 2.5\n", "line 2: stage: invalid int value: '2.5'"),
        ("pack_frames: maybe\n", "line 1: pack_frames: Truthy value expected"),
        ("learning_rate:\n", "line 1: learning_rate: has no value"),
        ("bits: [4, 8]\n", "line 1: bits: one value expected, not [4, 8]"),
        ("evaluation_strategy: no\n", "line 1: evaluation_strategy: text expected, not False"),
        (
            "seed: 1\nwarmup_steps: 9\nwarmup_ratio: 0.1\n",
            "line 3: warmup_ratio is set a second time (first in line 2)",
        ),
        ("seed: 1\nbits 4\nstage: 2\n", "not YAML: could not find expected ':'"),
        ("just words\n", "expected 'key: value' lines"),
        ("? [1, 2]\n: 3\n", "not YAML: found unhashable key"),
        ("1: 2\n", "line 1: unknown key 1"),
    ],
)
def test_a_yaml_mistake_is_one_line_with_the_file_and_its_line(tmp_path, capsys, text, message):
    (tmp_path / "a.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "a.yaml"), *CPU]) == 2
    error = capsys.readouterr().err.strip()
    assert f"--config {tmp_path / 'a.yaml'}" in error
    assert message in error
    assert "\n" not in error


def test_a_yaml_value_means_what_the_flag_of_its_name_means(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "learning_rate: 1e-4\nnum_train_epochs: 2\nseed: '7'\nbf16: no\nmodel_base:\nreport_to: [none]\n"
        "eval_strategy: 'no'\ndeepspeed: none\nuse_cpu: true\n"
    )
    args = parse_arguments(["--config", str(tmp_path / "a.yaml")])
    assert (args.learning_rate, args.num_train_epochs, args.seed, args.bf16) == (1e-4, 2.0, 7, False)
    assert (args.model_base, args.report_to, args.deepspeed, args.use_cpu) == (None, [], None, True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--version", "v7"], "invalid choice: 'v7'"),
        (["--mm_use_im_start_end", "True"], "only False is supported"),
        (["--deepspeed", "nowhere.json"], "nowhere.json: cannot be read"),
    ],
)
def test_wrong_use_ends_with_code_two_and_one_line(flags, message, capsys):
    assert main(["train", *flags, *CPU]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_help_explains_every_flag_of_our_own():
    text = build_parser().format_help()
    for name in OWN_FIELDS:
        assert f"--{name}" in text
    assert "--hub_token" not in text
    assert "default: None" not in text
    assert "--print" in text.partition("examples:")[2]
    assert "--hub_token" in build_parser(every_field=True).format_help()


def test_help_has_the_headings_and_the_order_of_the_dataclass():
    source, text = inspect.getsource(TrainArguments), build_parser().format_help()
    assert [name for names in grouped_fields().values() for name in names] == OWN_FIELDS
    assert re.findall(r"^    # (.+)", source, flags=re.MULTILINE) == list(HEADINGS.values())
    for heading, first in HEADINGS.items():
        assert re.search(rf"^    # {re.escape(first)}\n    {heading}:", source, flags=re.MULTILINE)
    places = [
        text.index(word)
        for heading, names in grouped_fields().items()
        for word in (f"\n{heading}:", f"\n  --{names[0]} ")
    ]
    assert places == sorted(places)


def test_every_config_of_the_repository_is_read():
    for path in (REPOSITORY / "configs").rglob("*.yaml"):
        parse_arguments(["--config", str(path), *CPU])
    for path in (REPOSITORY / "configs" / "deepspeed").glob("*.json"):
        assert json.loads(path.read_text())["zero_optimization"]["stage"] in (2, 3)


def test_help_answers_at_once_without_importing_torch():
    command = [
        sys.executable,
        "-c",
        "import sys; from senna.cli import main; main(['--help']); print('torch' in sys.modules)",
    ]
    start = time.perf_counter()
    answer = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env={**os.environ}, check=True)
    assert time.perf_counter() - start < 0.5
    assert answer.stdout.endswith("False\n")
    assert "train" in answer.stdout


def test_an_unknown_command_is_refused_with_the_nearest_known_one(capsys):
    assert main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err
