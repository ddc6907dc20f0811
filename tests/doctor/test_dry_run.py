"""Checks of a run with wrong flags, and of a run for a GPU in another machine."""

import pytest
import torch

from senna.doctor.dry_run import parse, run_findings
from senna.doctor.findings import Finding
from tests.helpers.findings import failures, only_failure


def test_each_unknown_yaml_key_is_reported_with_its_line_and_the_similar_key(tmp_path, check_run, refusal):
    file = tmp_path / "mine.yaml"
    file.write_text("# mine\nlearning_rat: 1.0e-3\nlora_enable: false\nper_device_train_batchsize: 8\n")
    found = check_run(["--config", str(file)])
    first, second = failures(found)
    assert f"{file}, line 2" in first.message
    assert "unknown key learning_rat" in first.message
    assert "learning_rate" in first.remedy
    assert "line 4" in second.message
    assert "per_device_train_batch_size" in second.remedy
    assert found["model"][0].level == found["disk"][0].level == found["images"][0].level == "ok"
    message = refusal(configs=["stage1_pretrain.yaml", file])
    assert "unknown key learning_rat" in message
    assert "did you mean learning_rate?" in message


def test_the_other_keys_of_a_file_with_an_unknown_key_are_used(tmp_path):
    (tmp_path / "zero.json").write_text('{"zero_optimization": {"stage": 2}}')
    (tmp_path / "a.yaml").write_text("seeed: 1\nseed: 7\ndeepspeed: zero.json\nuse_cpu: true\n")
    args, problems = parse(["--config", str(tmp_path / "a.yaml")])
    assert len(problems) == 1
    assert args.seed == 7
    assert args.zero_stage == 2


def test_each_unknown_flag_is_reported_and_the_run_is_checked_without_it(check_run):
    found = check_run(["nonsense", "--lora_rr", "8", "--seeed", "1"])
    fails = failures(found)
    assert [finding.message for finding in fails] == [
        f"unknown argument {word}" for word in ("nonsense", "--lora_rr", "--seeed")
    ]
    assert "--lora_r?" in fails[1].remedy
    assert "--seed?" in fails[2].remedy
    assert found["model"][0].level == "ok"


def test_flags_that_exclude_each_other_are_one_failed_check(check_run):
    found = only_failure(check_run(bits=4), "arguments")
    assert "quantized weights cannot be trained" in found.message


def gpu_run_findings(toy, tmp_path, gpu_memory):
    flags = toy.flags(tmp_path / "out", use_cpu=False, bf16=True)
    return [result for result in run_findings(flags, gpu_memory=gpu_memory) if isinstance(result, Finding)]


def test_a_run_for_a_gpu_in_another_machine_needs_no_gpu_here(toy, tmp_path):
    found = gpu_run_findings(toy, tmp_path, 24)
    assert [finding for finding in found if finding.level == "fail"] == []
    [memory] = [finding for finding in found if finding.topic == "memory"]
    assert "of each GPU, which has 23.6 GiB" in memory.message


@pytest.mark.skipif(torch.cuda.is_available(), reason="checks the findings of a machine without a GPU")
def test_a_missing_gpu_is_a_failed_check_and_the_other_checks_are_made(toy, tmp_path):
    found = gpu_run_findings(toy, tmp_path, None)
    [fail] = [finding for finding in found if finding.level == "fail"]
    assert fail.topic == "gpu"
    assert "--use_cpu True" in fail.remedy
    assert "memory" in {finding.topic for finding in found}


def test_an_output_folder_that_holds_something_else_is_a_failed_check(tmp_path, check_run):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    assert "thesis.tex" in only_failure(check_run(), "output").message
