"""The command line of `senna train`: flags, YAML files and their errors."""

import inspect
import json
import os
import re
import subprocess
import sys
import time

import pytest
from accelerate.state import AcceleratorState
from transformers.training_args import ParallelMode

from senna.cli import COMMANDS, main
from senna.errors import UsageError
from senna.train.arguments import ArgumentError, UnknownArgument, build_parser, parse_arguments
from senna.train.field_groups import HEADINGS, OWN_FIELDS, grouped_fields
from senna.train.fields import TrainArguments
from senna.train.options import options_of
from tests.helpers.paths import REPOSITORY

CPU = ["--use_cpu", "True", "--bf16", "False"]
PUBLISHED_STAGE1 = """--model_name_or_path vicuna --version plain --data_path a.json --image_folder images
--vision_tower clip --mm_projector_type mlp2x_gelu --tune_mm_mlp_adapter True --mm_vision_select_layer -2
--mm_use_im_start_end False --mm_use_im_patch_token False --bf16 False --output_dir out --num_train_epochs 1
--per_device_train_batch_size 32 --per_device_eval_batch_size 4 --gradient_accumulation_steps 1 --evaluation_strategy no
--save_strategy steps --save_steps 24000 --save_total_limit 1 --learning_rate 1e-3 --weight_decay 0. --warmup_ratio 0.03
--lr_scheduler_type cosine --logging_steps 1 --tf32 True --model_max_length 2048 --gradient_checkpointing True
--dataloader_num_workers 4 --lazy_preprocess True --report_to tensorboard --freeze_img_adapter False
--init_weight_img_adapter True --group_by_modality_length False""".split()


def test_the_flags_of_the_published_stage_one_script_are_accepted():
    args = parse_arguments([*PUBLISHED_STAGE1, "--use_cpu", "True"])
    assert args.warmup_steps == 0.03
    assert args.eval_strategy == "no"
    assert args.learning_rate == 1e-3
    assert args.version == "plain"
    assert args.tune_mm_mlp_adapter
    assert not args.freeze_img_adapter
    assert args.mm_vision_select_layer == -2


def test_later_files_override_earlier_ones_and_flags_override_files(tmp_path):
    (tmp_path / "a.yaml").write_text("learning_rate: 1e-4\nseed: 1\nwarmup_ratio: 0.5\n")
    (tmp_path / "b.yaml").write_text("seed: 2\nmodel_max_length: 77\n")
    flags = ["--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml"), "--seed", "3", *CPU]
    args = parse_arguments(flags)
    assert (args.learning_rate, args.seed, args.model_max_length, args.warmup_steps) == (1e-4, 3, 77, 0.5)


def test_hyphens_and_underscores_in_a_flag_are_the_same():
    args = parse_arguments(["--image-folder", "a", "--model_max-length=77", "--warmup-ratio", "0.5", "--lora-enable"])
    assert (args.image_folder, args.model_max_length, args.warmup_steps, args.lora_enable) == ("a", 77, 0.5, True)
    assert not parse_arguments(["--no-average-tokens-across-devices"]).average_tokens_across_devices


def test_arguments_are_built_without_side_effects_and_without_a_gpu():
    before = dict(os.environ)
    zero3 = str(REPOSITORY / "configs" / "deepspeed" / "zero3.json")
    args = parse_arguments(["--bf16", "True", "--tf32", "True", "--deepspeed", zero3])
    assert (args.bf16, args.tf32, args.use_cpu, args.zero_stage, args.world_size) == (True, True, False, 3, 1)
    assert dict(os.environ) == before
    assert args.device.type == "cpu"
    assert args.distributed_state is None


def test_starting_twice_is_the_same_as_starting_once():
    args = parse_arguments([*CPU, "--gradient_checkpointing", "True"])
    args.start()
    state = args.distributed_state
    args.start()
    assert args.distributed_state is state
    assert args.device.type == "cpu"


def test_starting_without_a_gpu_and_without_use_cpu_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="no GPU") as error:
        parse_arguments(["--bf16", "True"]).start()
    assert "--use_cpu True" in error.value.remedy


def test_every_field_is_a_flag_and_a_yaml_key():
    text, options = build_parser(every_field=True).format_help(), options_of(TrainArguments)
    assert set(OWN_FIELDS) <= set(options)
    assert all(f"--{name} " in text for name in options)


def test_an_unknown_flag_is_refused_with_the_most_similar_flag():
    with pytest.raises(UnknownArgument) as error:
        parse_arguments(["--per_device_train_batchsize", "8", *CPU])
    assert (error.value.name, error.value.file) == ("--per_device_train_batchsize", None)
    assert error.value.suggestion == "--per_device_train_batch_size"
    assert error.value.suggestion in error.value.remedy


def test_abbreviated_flags_are_refused():
    with pytest.raises(UnknownArgument) as error:
        parse_arguments(["--learning", "1", *CPU])
    assert error.value.name == "--learning"


def test_an_unknown_yaml_key_is_refused_with_its_line_and_the_most_similar_key(tmp_path):
    path = str(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("learning_rat: 1\n")
    with pytest.raises(UnknownArgument) as error:
        parse_arguments(["--config", path, *CPU])
    assert (error.value.name, error.value.file, error.value.line) == ("learning_rat", path, 1)
    assert error.value.suggestion == "learning_rate"


def test_errors_can_be_collected_and_the_other_arguments_are_used(tmp_path):
    (tmp_path / "a.yaml").write_text("learning_rat: 1\nseed: 7\nstage: 2.5\n")
    (tmp_path / "b.yaml").write_text("bits 4\nseed: 8\n")
    files = ["--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml")]
    errors = []
    args = parse_arguments([*files, "--sed", "3", "4", "--stag=2", "--max_steps", "5", *CPU], on_error=errors.append)
    assert [error.name for error in errors] == ["--sed", "--stag", "learning_rat", "stage", None]
    assert [type(error) is UnknownArgument for error in errors] == [True, True, True, False, False]
    assert all(isinstance(error, ArgumentError) for error in errors)
    assert (args.seed, args.stage, args.max_steps) == (7, None, 5)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("seed: 1\nversion: v7\n", 2, "version: 'v7' is not one of plain, v1"),
        ("learning_rate: fast\n", 1, "learning_rate: 'fast' is not a number"),
        ("\nstage: 2.5\n", 2, "stage: '2.5' is not an integer"),
        ("pack_frames: maybe\n", 1, "pack_frames: 'maybe' is not True or False"),
        ("learning_rate:\n", 1, "learning_rate: the key has no value"),
        ("bits: [4, 8]\n", 1, "bits: a single value is expected, not [4, 8]"),
        ("evaluation_strategy: no\n", 1, "evaluation_strategy: text is expected, not False"),
        ("seed: 1\nwarmup_steps: 9\nwarmup_ratio: 0.1\n", 3, "warmup_ratio is set a second time (first in line 2)"),
        ("seed: 1\nbits 4\nstage: 2\n", 3, "not YAML: could not find expected ':'"),
        ("just words\n", None, "not a YAML mapping"),
        ("? [1, 2]\n: 3\n", 1, "not YAML: found unhashable key"),
        ("1: 2\n", 1, "unknown key 1"),
    ],
)
def test_an_error_in_a_yaml_file_names_the_file_and_the_line(tmp_path, capsys, text, line, message):
    path = str(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ArgumentError) as error:
        parse_arguments(["--config", path, *CPU])
    assert (error.value.file, error.value.line) == (path, line)
    assert message in error.value.message
    assert main(["train", "--config", path, *CPU]) == 2
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith(f"senna train: error: --config {path}")
    assert message in first
    assert others == ([f"  -> {error.value.remedy}"] if error.value.remedy else [])


def test_a_yaml_value_has_the_meaning_of_its_flag(tmp_path):
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
        (["--version", "v7"], "--version: 'v7' is not one of plain, v1"),
        (["--mm_use_im_start_end", "True"], "--mm_use_im_start_end True is not supported"),
        (["--deepspeed", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--lr_scheduler_type", "cosin"], "cosin"),
        (["--lora_enable", "True", "--lora_r", "0"], "--lora_r 0"),
    ],
)
def test_wrong_use_ends_with_exit_code_two_and_the_message_and_the_remedy(flags, message, capsys):
    assert main(["train", *flags, *CPU]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("senna train: error: ")
    assert message in first
    assert second.startswith("  -> ")


def test_help_shows_every_own_field():
    text = build_parser().format_help()
    for name in OWN_FIELDS:
        assert f"--{name}" in text
    assert "--hub_token" not in text
    assert "default: None" not in text
    assert "--print" in text.partition("examples:")[2]


def test_help_has_the_headings_and_the_order_of_the_dataclass():
    source, text = inspect.getsource(TrainArguments), build_parser().format_help()
    assert [name for names in grouped_fields().values() for name in names] == OWN_FIELDS
    assert re.findall(r"^    # (.+)", source, flags=re.MULTILINE) == list(HEADINGS.values())
    for heading, first in HEADINGS.items():
        assert re.search(rf"^    # {re.escape(first)}\n    {heading}:", source, flags=re.MULTILINE)
    positions = [
        text.index(word)
        for heading, names in grouped_fields().items()
        for word in (f"\n{heading}:", f"\n  --{names[0]} ")
    ]
    assert positions == sorted(positions)


def test_every_config_of_the_repository_can_be_read():
    for path in (REPOSITORY / "configs").rglob("*.yaml"):
        parse_arguments(["--config", str(path), *CPU])
    for path in (REPOSITORY / "configs" / "deepspeed").glob("*.json"):
        assert json.loads(path.read_text())["zero_optimization"]["stage"] in (2, 3)


def test_help_takes_less_than_half_a_second_and_does_not_import_torch():
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


def test_an_unknown_command_is_refused_with_the_most_similar_one(capsys):
    assert main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


def test_help_lists_every_command_with_its_description(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, command in COMMANDS.items():
        assert any(line.split()[:1] == [name] and command.help in line for line in lines)


def test_a_single_process_trains_on_one_gpu_however_many_are_visible(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: None)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_: True)
    args = parse_arguments(["--per_device_train_batch_size", "3", "--report_to", "none"])
    try:
        args.start()
        assert (args.device.type, args._n_gpu, args.n_gpu, args.train_batch_size) == ("cuda", 1, 1, 3)
        assert args.parallel_mode == ParallelMode.NOT_PARALLEL
        assert args.global_batch_size == 3
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)  # the state that claims a GPU
