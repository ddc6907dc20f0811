"""One global batch on any number of processes: the accumulation steps follow, or the run is refused with the nearest split."""

import shutil

import pytest

from senna.cli import main
from senna.doctor.dry_run import parse
from senna.errors import UsageError
from senna.launch.command import prepare
from senna.train.arguments import parse_arguments
from senna.train.global_batch import BatchSettings, nearest_divisors
from senna.train.memory.fit import batch_flags
from tests.helpers.paths import REPOSITORY
from tests.helpers.toy import losses

STAGES = {"stage1_pretrain": (256, 32), "stage2_driving": (16, 2), "stage3_planning": (192, 8)}

DRIVING = [("stage2_driving", "qlora"), ("stage3_planning", "qlora")]


def config(name: str) -> list[str]:
    return ["--config", str(REPOSITORY / "configs" / f"{name}.yaml")]


@pytest.mark.parametrize(
    ("rows", "processes", "steps"), [(8, 1, 24), (8, 8, 3), (24, 8, 1), (1, 3, 64), (192, 1, 1), (6, 32, 1)]
)
def test_the_accumulation_steps_follow_from_the_global_batch(rows, processes, steps):
    assert BatchSettings(rows, None, 192).accumulation_on(processes) == steps
    assert BatchSettings(rows, steps, 192).accumulation_on(processes) == steps
    assert BatchSettings(rows, steps).accumulation_on(processes) == steps


@pytest.mark.parametrize(
    ("rows", "processes", "named"),
    [
        (5, 8, ["is no multiple of 5 on 8 processes", "--global_batch_size 160 or 200", "batch_size 4 or 6"]),
        (7, 1, ["is no multiple of 7 on 1 process ", "--global_batch_size 189 or 196", "batch_size 6 or 8"]),
        (8, 5, ["is no multiple of 8 on 5 processes", "--global_batch_size 160 or 200"]),
        (500, 1, ["--global_batch_size 500", "batch_size 192"]),
        (64, 8, ["--global_batch_size 512", "batch_size 24"]),
    ],
)
def test_a_split_that_does_not_divide_names_the_nearest_that_do(rows, processes, named):
    with pytest.raises(UsageError) as error:
        BatchSettings(rows, None, 192, "a.yaml:7").accumulation_on(processes)
    assert all(text in str(error.value) for text in ["--global_batch_size 192 (a.yaml:7)", *named])
    assert named[-1].startswith("batch_size") == ("per_device" in error.value.remedy)


def test_the_nearest_split_of_an_enormous_batch_is_found_at_once():
    assert nearest_divisors(10**18, 1, 3) == [2, 4]
    assert nearest_divisors(10**18 + 7, 1, 10**9)


@pytest.mark.parametrize(("files", "number"), [((), 3), (("stage2_driving",), 16)])
def test_two_numbers_that_contradict_each_other_are_refused_wherever_they_come_from(files, number, capsys):
    flags = [word for name in files for word in config(name)] or ["--global_batch_size", "3"]
    flags += ["--per_device_train_batch_size", "1"]
    assert main(["train", *flags, "--gradient_accumulation_steps", "4", "--print"]) == 2
    error = capsys.readouterr().err
    source = "configs/stage2_driving.yaml:" if files else "command line"
    assert f"--global_batch_size {number} (" in error
    assert source in error
    assert "contradicts --gradient_accumulation_steps 4: 1 x 4 x 1 process is 4\n  -> omit" in error
    assert "--global_batch_size 4" in error
    assert parse_arguments([*flags, "--gradient_accumulation_steps", str(number)]).global_batch_size == number


@pytest.mark.parametrize("name", ["global_batch_size", "per_device_train_batch_size", "gradient_accumulation_steps"])
def test_numbers_below_1_are_refused(name):
    with pytest.raises(UsageError, match=f"--{name} -1 is below 1"):
        parse_arguments([f"--{name}=-1"])


def test_the_old_flags_alone_work_as_before():
    args = parse_arguments(["--per_device_train_batch_size", "3", "--gradient_accumulation_steps", "5"])
    assert (args.gradient_accumulation_steps, args.global_batch_size) == (5, 15)
    assert (parse_arguments([]).gradient_accumulation_steps, parse_arguments([]).global_batch_size) == (1, 8)


@pytest.mark.parametrize("processes", [1, 8])
@pytest.mark.parametrize(("stage", "overlay"), [*((stage, None) for stage in STAGES), *DRIVING])
def test_a_stage_has_the_published_global_batch_on_one_gpu_and_on_eight(stage, overlay, processes):
    flags = [*config(stage), *(config(overlay) if overlay else [])]
    args = parse_arguments(flags, count_processes=lambda _: processes)
    total, rows = STAGES[stage]
    rows = 1 if overlay else rows
    assert args.per_device_train_batch_size == rows
    assert args.gradient_accumulation_steps == total // (rows * processes)
    assert args.global_batch_size == total


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("stage", "rows"), [("stage1_pretrain", 4), ("stage2_driving", 1), ("stage3_planning", 2)])
def test_a_step_of_the_small_preset_is_one_forward_pass_on_each_of_two_cores(stage, rows, processes):
    overlay = [] if stage == "stage1_pretrain" else config("qlora")
    flags = [*config(stage), *overlay, *config(f"presets/tiny_{stage}")]
    args = parse_arguments(flags, count_processes=lambda _: processes)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (rows, 2 // processes)


def test_the_scripts_print_the_split_of_the_run_that_they_would_start(capsys, tmp_path):
    hostfile = tmp_path / "hosts"
    hostfile.write_text("a slots=8\nb slots=4\n")
    for environment, expected in (
        ({"NUM_GPUS": "8"}, "192 = 8 x 3 x 8 processes"),
        ({"NUM_GPUS": "1"}, "192 = 8 x 24 x 1 process"),
        ({"NUM_GPUS": "4", "NNODES": "2", "NODE_RANK": "0"}, "192 = 8 x 3 x 8 processes"),
        ({"HOSTFILE": str(hostfile)}, "192 = 8 x 2 x 12 processes"),
    ):
        words = prepare("full", ["--stage", "3", "--print"], {"CUDA_VISIBLE_DEVICES": "", **environment}).words
        with pytest.raises(SystemExit):
            main(words[words.index("senna") + 1 :])
        assert f"follows: {expected}\n" in capsys.readouterr().out


def test_a_number_of_processes_is_only_shown():
    with pytest.raises(UsageError, match="only goes with --print"):
        parse_arguments(["--processes", "2"])


def test_advice_names_only_the_batch_of_a_forward_pass_where_there_is_a_global_batch():
    stage, given, neither = config("stage2_driving"), ["--gradient_accumulation_steps", "8"], []
    advice = [
        batch_flags(parse(flags)[0], 1, 2, 8, is_script)
        for flags in (stage, [*stage, *given], neither)
        for is_script in (False, True)
    ]
    rows = "--per_device_train_batch_size 1"
    both = f"{rows} --gradient_accumulation_steps 2"
    assert advice == [rows, rows, both, both, both, f"{rows} --global_batch_size 16"]


def test_a_run_continues_with_another_split_of_its_global_batch_and_prints_it(toy, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "checkpoint-12")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "out" / name).unlink()
    options = {"save_total_limit": 2, "per_device_train_batch_size": 2}
    refused = toy.train(tmp_path / "out", global_batch_size=8, **options)
    assert refused.returncode == 2
    assert "global_batch_size was 4 and is 8" in refused.stderr
    result = toy.train(tmp_path / "out", global_batch_size=4, **options)
    assert result.returncode == 0, result.stderr
    assert "12 steps of 4 samples (2 x 2 x 1 processes)" in result.stdout
    expected = [loss for _, loss in losses(finished[0])]
    assert [loss for _, loss in losses(tmp_path / "out")] == pytest.approx(expected, abs=1e-5)
