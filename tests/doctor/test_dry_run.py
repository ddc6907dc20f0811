"""The checks of a run: flags that are wrong hide nothing else, and a card may be elsewhere."""

from pathlib import Path

import torch

from senna.doctor.dry_run import mend_files, run_findings
from senna.doctor.findings import Finding
from tests.doctor.conftest import the_fail


def fails(found: dict[str, list[Finding]]) -> list[Finding]:
    return [finding for findings in found.values() for finding in findings if finding.level == "fail"]


def test_typing_errors_in_a_yaml_file_are_each_told_with_the_line_and_the_key_meant(tmp_path, examined, refused):
    typo = tmp_path / "mine.yaml"
    typo.write_text("# mine\nlearning_rat: 1.0e-3\nlora_enable: false\nper_device_train_batchsize: 8\n")
    found = examined(["--config", str(typo)])
    first, second = fails(found)
    assert first.says == f"--config {typo}, line 2: unknown key learning_rat"
    assert first.remedy == "write learning_rate:"
    assert "line 4" in second.says
    assert second.remedy == "write per_device_train_batch_size:"
    assert found["model"][0].level == found["disk"][0].level == found["images"][0].level == "ok"
    assert "unknown key learning_rat (did you mean learning_rate?)" in refused(configs=["stage1_pretrain.yaml", typo])


def test_the_other_keys_of_a_mended_file_count_and_its_deepspeed_file_is_found(tmp_path):
    (tmp_path / "zero.json").write_text("{}")
    (tmp_path / "a.yaml").write_text("seeed: 1\nseed: 7\ndeepspeed: zero.json\n")
    (tmp_path / "mended").mkdir()
    problems = []
    [_, file] = mend_files(["--config", str(tmp_path / "a.yaml")], tmp_path / "mended", problems)
    assert len(problems) == 1
    assert Path(file).read_text() == f"deepspeed: {tmp_path}/zero.json\nseed: 7\n"


def test_unknown_flags_are_each_told_and_hide_nothing(examined):
    found = examined(["nonsense", "--lora_rr", "8", "--seeed", "1"])
    assert [one.says for one in fails(found)] == [
        "unknown argument nonsense",
        "unknown argument --lora_rr (did you mean --lora_r?)",
        "unknown argument --seeed (did you mean --seed?)",
    ]
    assert found["model"][0].level == "ok"


def test_flags_that_contradict_each_other_are_one_fail(examined):
    found = the_fail(examined(bits=4), "arguments")
    assert "quantised weights cannot be trained" in found.says


def of_a_card(toy, tmp_path, gpu_memory):
    flags = toy.flags(tmp_path / "out", use_cpu=False, bf16=True)
    return [said for said in run_findings(flags, gpu_memory=gpu_memory) if isinstance(said, Finding)]


def test_a_card_that_is_elsewhere_is_judged_and_that_none_is_here_is_no_fail(toy, tmp_path):
    found = of_a_card(toy, tmp_path, 24)
    assert [one for one in found if one.level == "fail"] == []
    [memory] = [one for one in found if one.topic == "memory"]
    assert "of each card, which has 23.6 GiB" in memory.says


def test_without_a_card_here_or_named_the_run_is_refused_and_checked_all_the_same(toy, tmp_path):
    if torch.cuda.is_available():
        return
    found = of_a_card(toy, tmp_path, None)
    [fail] = [one for one in found if one.level == "fail"]
    assert "no GPU here: set --use_cpu True" in fail.says
    assert "memory" in {one.topic for one in found}


def test_a_folder_that_holds_another_run_is_told(tmp_path, examined):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    assert "holds something else (thesis.tex" in the_fail(examined(), "output").says
