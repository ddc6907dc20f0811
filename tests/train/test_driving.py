"""Runs of stages 2 and 3 on the toy data: trained parts, chained stages, several processes, kills."""

import json
import random
import re
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from senna.cli import main
from senna.merge import probe
from senna.model import load_model
from senna.model.loading import open_model
from senna.train import run
from senna.train.arguments import parse_arguments
from tests.helpers.paths import ZERO2, ZERO3
from tests.helpers.toy import losses, run_to_end

BF16 = {"bf16": True, "gradient_checkpointing": True}


def first_loss(folder) -> float:
    return losses(folder)[0][1]


def changed_parts(folder, base) -> set[str]:
    """Return the parts of the model whose weights differ between two folders."""
    before, after = (open_model(str(path), dtype=torch.float32)[0].state_dict() for path in (base, folder))
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    parts = ("vision_tower", "mm_projector", "img_adapter")
    return {next((part for part in parts if part in name), "llm") for name in changed}


@pytest.fixture(scope="module")
def driven(toy, stage1, once):
    """Return the folder and the standard output of full training in stage 2."""
    folder = once("driven", lambda folder: run_to_end(toy.drive, folder, stage1))
    return folder / "out", (folder / "printed").read_text()


@pytest.fixture(scope="module")
def planned(toy, driven, once):
    """Return the folder and the standard output of LoRA training in stage 3, on the model of stage 2."""
    folder = once("planned", lambda folder: run_to_end(toy.drive, folder, driven[0], stage=3, how="lora"))
    return folder / "out", (folder / "printed").read_text()


# ---- trained parts and printed information


def test_full_training_changes_all_parts_but_the_tower_and_uses_all_kinds_but_the_plan(stage1, driven):
    folder, printed = driven
    assert changed_parts(folder, stage1) == {"mm_projector", "img_adapter", "llm"}
    assert "24 description, 8 front_only, 4 text" in printed
    assert re.search(r"vision tower +16,240 +-  fp32", printed)
    assert re.search(r"LLM +47,520 +47,520  fp32", printed)
    assert losses(folder)[-1][1] < 0.6 * first_loss(folder)


def test_lora_folders_hold_the_trained_weights_and_the_name_of_their_base(driven, planned):
    folder, printed = planned
    files = {path.name for path in folder.iterdir() if path.is_file()}
    assert {
        "adapter_model.safetensors",
        "adapter_config.json",
        "non_lora_trainables.safetensors",
        "config.json",
    } <= files
    assert not any(name.startswith("model") or name.endswith(".bin") for name in files)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(driven[0])
    assert "24 plan" in printed
    assert re.search(r"LLM +47,520 +-  fp32", printed)
    assert re.search(r"LoRA +4,352 +4,352  fp32", printed)
    assert "next     senna merge --adapter" in printed


def test_the_effect_of_packing_is_printed_before_the_first_step_and_logged(driven):
    folder, printed = driven
    assert re.search(
        r"packed +12 frames of 3\.0 samples: [\d,]+ tokens a frame instead of [\d,]+ \(3\.\d times fewer", printed
    )
    assert "24 steps of 2 frames" in printed
    steps = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()][:-1]
    assert all(0 <= entry["padding"] < 1 and entry["packed"] >= 1 for entry in steps)
    assert max(entry["packed"] for entry in steps) > 1.2


def test_the_log_has_the_loss_of_each_kind_and_the_peak_memory(driven):
    entries = [json.loads(line) for line in (driven[0] / "train_log.jsonl").read_text().splitlines()]
    steps = [entry for entry in entries if "loss" in entry]
    kinds = {key for entry in steps for key in entry if key.startswith("loss_")}
    assert kinds == {"loss_description", "loss_front_only", "loss_text"}
    for entry in steps:
        by_kind = [entry[key] for key in kinds if key in entry]
        assert min(by_kind) - 1e-4 <= entry["loss"] <= max(by_kind) + 1e-4
        assert entry["memory_gb"] > 0.1


def test_truncated_answers_are_warned_of(toy, stage1, tmp_path):
    result = toy.drive(tmp_path / "out", stage1, stage=3, model_max_length=224, max_steps=1)
    assert re.search(r"the limit of 224 truncates (?!0\.0)", result.stdout)
    assert "WARNING" in result.stdout
    assert "answers that --model_max_length 224 truncates" in result.stdout


def test_files_are_mixed_by_their_weights(toy, stage1, tmp_path):
    lines = toy.driving.read_text().splitlines(keepends=True)
    for name, half in (("a", lines[::2]), ("b", lines[1::2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(half))
    halves = f"{tmp_path}/a.jsonl:2.0,{tmp_path}/b.jsonl:0.5"
    result = toy.drive(tmp_path / "out", stage1, stage=3, data_path=halves, max_steps=1)
    plans = [sum('"plan"' in line for line in half) for half in (lines[::2], lines[1::2])]
    assert f"{2 * plans[0] + round(plans[1] / 2)} samples an epoch" in result.stdout


def test_images_are_also_found_in_the_folder_of_the_records(toy, stage1, tmp_path):
    shutil.copytree(toy.images / "views", tmp_path / "views")
    shutil.copy(toy.driving, tmp_path / "driving.jsonl")
    (tmp_path / "empty").mkdir()
    options = {"data_path": tmp_path / "driving.jsonl", "image_folder": tmp_path / "empty", "max_steps": 1}
    result = toy.drive(tmp_path / "out", stage1, **options)
    assert result.returncode == 0, result.stderr


# ---- chained stages


@pytest.mark.parametrize("how", [None, "lora", "qlora"])
@pytest.mark.parametrize("precision", [{}, BF16], ids=["fp32", "bf16"])
def test_the_final_folder_computes_the_same_logits_as_the_model_in_memory(
    toy, stage1, tmp_path, monkeypatch, how, precision
):
    if how == "qlora":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    logits = []

    def save_and_probe(trainer):
        save_final(trainer)
        logits.append(probe(trainer.model))

    save_final = run.save_final
    monkeypatch.setattr(run, "save_final", save_and_probe)
    run.train(parse_arguments(toy.driving_flags(tmp_path / "out", stage1, how=how, max_steps=3, **precision)))
    quantization = {"qlora": "nf4"}.get(how)
    dtype = torch.bfloat16 if precision else torch.float32
    opened, new = open_model(str(tmp_path / "out"), quantization=quantization, dtype=dtype, merge=False)
    assert new == []
    if precision:  # trained weights are fp32 in memory and bf16 in the folder
        assert float((probe(opened) - logits[0]).abs().max() / logits[0].std()) < 0.1
    else:
        # The weights are equal, but products with 4-bit weights round differently on some processors (Intel Xeon: 7e-8).
        rounding = 1e-5 if how == "qlora" else 0.0
        assert float((probe(opened) - logits[0]).abs().max() / logits[0].std()) <= rounding


@pytest.mark.slow
def test_a_stage_continues_from_a_lora_folder_and_from_its_merge_alike(toy, driven, planned, tmp_path):
    folder, _ = planned
    assert changed_parts(folder, driven[0]) == {"mm_projector", "img_adapter", "llm"}
    assert main(["merge", "--adapter", str(folder), "--out", str(tmp_path / "merged")]) == 0
    load_model(tmp_path / "merged")
    on_lora = toy.drive(tmp_path / "on_lora", folder, stage=3, max_steps=2)
    on_merged = toy.drive(tmp_path / "on_merged", tmp_path / "merged", stage=3, max_steps=2)
    assert f"LoRA on {driven[0]}: merged in memory" in on_lora.stdout
    assert "merged in memory" not in on_merged.stdout
    assert first_loss(tmp_path / "on_lora") == pytest.approx(first_loss(tmp_path / "on_merged"), abs=1e-4)
    assert first_loss(tmp_path / "on_lora") == pytest.approx(losses(folder)[-1][1], abs=0.5)
    assert first_loss(folder) - first_loss(tmp_path / "on_lora") > 0.2


@pytest.mark.slow
def test_a_stage_continues_from_a_qlora_folder_in_bf16_and_a_merge_is_close(toy, stage1, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    stage2, stage3 = tmp_path / "stage2", tmp_path / "stage3"
    assert toy.drive(stage2, stage1, how="qlora", **BF16).returncode == 0
    result = toy.drive(stage3, stage2, stage=3, how="qlora", **BF16)
    assert result.returncode == 0, result.stderr
    assert "merged in memory, then quantized to nf4 again" in result.stdout
    assert re.search(r"LLM +47,520 +-  .*nf4", result.stdout)
    assert losses(stage3)[-1][1] < first_loss(stage3)
    assert main(["merge", "--adapter", str(stage3), "--out", str(tmp_path / "merged")]) == 0
    merged, *_ = load_model(tmp_path / "merged")
    as_trained, _ = open_model(str(stage3), quantization="nf4", dtype=torch.bfloat16, merge=False)
    assert float((probe(merged) - probe(as_trained)).abs().max() / probe(merged).std()) < 0.2
    again = toy.drive(tmp_path / "again", stage3, stage=3, how="qlora", max_steps=1, **BF16)
    assert again.returncode == 0, again.stderr
    assert first_loss(tmp_path / "again") == pytest.approx(losses(stage3)[-1][1], abs=0.5)


def test_a_bare_llama_starts_with_new_adapters_and_a_warning(toy, tmp_path, caplog):
    result = toy.drive(tmp_path / "out", toy.llm, vision_tower=toy.clip, mm_adapter_tokens=3, max_steps=1)
    assert result.returncode == 0, result.stderr
    assert "holds no mm_projector and no img_adapter: training starts from new weights" in caplog.text


def test_another_tower_is_refused_under_lora_because_its_folder_cannot_hold_a_tower(toy, stage1, tmp_path):
    shutil.copytree(toy.clip, tmp_path / "clip")
    weights = load_file(toy.clip / "model.safetensors")
    name = next(name for name in weights if name.endswith("position_embedding.weight"))
    from safetensors.torch import save_file

    save_file({**weights, name: weights[name] + 1}, tmp_path / "clip" / "model.safetensors", metadata={"format": "pt"})
    result = toy.drive(tmp_path / "out", stage1, how="lora", vision_tower=tmp_path / "clip", max_steps=1)
    assert result.returncode == 2
    assert "holds another tower" in result.stderr
    same = toy.drive(tmp_path / "same", stage1, how="lora", vision_tower=toy.clip, max_steps=1)
    assert same.returncode == 0, same.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": 3, "data": "text"}, "nothing to use: stage 3 takes the kind plan alone"),
        ({"bits": 4}, "quantized weights cannot be trained"),
        ({"how": "qlora", "deepspeed": ZERO3}, "ZeRO-3 cannot partition quantized weights"),
        ({"how": "lora", "tune_mm_mlp_adapter": True}, "--lora_enable"),
        ({"how": "lora", "bits": 3}, "use one of 16, 8, 4"),
        ({"pack_max_tokens": 200}, "--pack_max_tokens 200 is below --model_max_length 256"),
        ({"pack_attention": "flex"}, "split or dense"),
        ({"use_liger_kernel": True}, "--use_liger_kernel"),
    ],
)
def test_arguments_that_cannot_be_trained_are_refused_before_anything_is_written(
    toy, stage1, tmp_path, capsys, options, message
):
    options = dict(options)
    if options.pop("data", None):
        lines = [line for line in toy.driving.read_text().splitlines(keepends=True) if '"plan"' not in line]
        (tmp_path / "records.jsonl").write_text("".join(lines))
        options["data_path"] = tmp_path / "records.jsonl"
    assert main(["train", *toy.driving_flags(tmp_path / "out", stage1, **options)]) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- several processes

TWO = {"processes": 2, "per_device_train_batch_size": 1}
MIXED = {"group_by_modality_length": False}  # one process has text-only samples while the other has six views


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "zero", "options"),
    [
        (None, ZERO3, {}),
        (None, ZERO3, BF16),
        ("lora", ZERO2, {"lora_dropout": 0.0}),
        ("lora", ZERO3, {"lora_dropout": 0.0}),
        ("qlora", ZERO2, {"lora_dropout": 0.0}),
    ],
    ids=["full ZeRO-3", "full ZeRO-3 bf16", "LoRA ZeRO-2", "LoRA ZeRO-3", "QLoRA ZeRO-2"],
)
def test_two_processes_train_like_one_process_and_write_the_same_folder(toy, stage1, tmp_path, how, zero, options):
    options = {**MIXED, **options, "max_steps": 6}
    assert toy.drive(tmp_path / "one", stage1, how=how, **options).returncode == 0
    result = toy.drive(tmp_path / "two", stage1, how=how, deepspeed=zero, **TWO, **options)
    assert result.returncode == 0, result.stderr
    assert f"2 processes, {'ZeRO-3' if zero is ZERO3 else 'ZeRO-2'}" in result.stdout
    tolerance = 0.05 if "bf16" in options else 1e-4
    expected, actual = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [step for step, _ in actual] == [step for step, _ in expected]
    assert [loss for _, loss in actual] == pytest.approx([loss for _, loss in expected], abs=tolerance)
    weights, others = (open_model(str(tmp_path / name))[0].state_dict() for name in ("one", "two"))
    assert weights.keys() == others.keys()
    for name, tensor in others.items():
        assert torch.allclose(tensor.float(), weights[name].float(), atol=tolerance), name


# ---- kills


def start_and_kill(toy, folder, options, step=None, while_saving=False) -> bool:
    """Start a run and kill it after a step, or while a checkpoint is being written. Return whether one was half written."""
    process = toy.start(folder, **options)
    if while_saving:
        while not list((folder / ".saving").glob("checkpoint-*")) and process.poll() is None:
            time.sleep(0.0002)
    else:
        for line in process.stdout:
            if line.startswith(f"step {step}/"):
                break
    process.kill()
    assert process.returncode == -signal.SIGKILL
    return (folder / ".saving").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["full", "lora", "zero2", "zero3"])
def test_a_run_killed_twice_once_while_saving_ends_with_identical_weights(toy, stage1, tmp_path, how):
    options = {"max_steps": 12, "save_steps": 3, "dataloader_num_workers": 1, "num_train_epochs": 9}
    if how.startswith("zero"):
        options |= {"deepspeed": ZERO2 if how == "zero2" else ZERO3, **TWO}
    settings = toy.driving_options(stage1, how="lora" if how in ("lora", "zero2") else None, **options)
    complete, killed = tmp_path / "complete", tmp_path / "killed"
    assert toy.train(complete, **settings).returncode == 0
    start_and_kill(toy, killed, settings, step=random.Random(how).randint(4, 7))
    was_saving = start_and_kill(toy, killed, {**settings, "save_steps": 1}, while_saving=True)
    newest = max(int(path.name.split("-")[1]) for path in killed.glob("checkpoint-*"))
    for path in killed.glob("checkpoint-*"):
        assert (path / "trainer_state.json").is_file()
    last = toy.train(killed, **settings)
    assert last.returncode == 0, last.stderr
    assert was_saving
    assert f"continue {killed / f'checkpoint-{newest}'}" in last.stdout
    assert re.search(r"^step (\d+)/", last.stdout, re.MULTILINE)[1] == str(newest + 1)
    assert losses(killed) == losses(complete)
    assert not (killed / ".saving").exists()
    actual, expected = (open_model(str(folder))[0].state_dict() for folder in (killed, complete))
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
