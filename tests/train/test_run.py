"""Runs of stage 1 by `senna train` on the toy data: complete, killed, and stopped by errors."""

import json
import re
import signal
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from senna.cli import main
from senna.errors import UsageError
from senna.file_lock import LOCK, lock_folder
from senna.model import load_model
from senna.train import run
from senna.train.arguments import parse_arguments
from tests.helpers.paths import REPOSITORY
from tests.helpers.toy import losses

ZERO2 = REPOSITORY / "configs" / "deepspeed" / "zero2.json"


def error_of(result: subprocess.CompletedProcess, code: int) -> str:
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_the_final_folder_holds_the_base_the_tower_and_the_trained_weights(toy, finished):
    folder, _ = finished
    model, tokenizer, image_processor = load_model(folder)
    state = model.state_dict()
    for name, tensor in load_file(toy.llm / "model.safetensors").items():
        assert torch.equal(state[name], tensor), name
    for name, tensor in load_file(folder / "checkpoint-12" / "trained.safetensors").items():
        assert torch.equal(state[name], tensor), name
    tower = {name.removeprefix("vision_model."): t for name, t in load_file(toy.clip / "model.safetensors").items()}
    for name, tensor in model.model.vision_tower.vision_tower.vision_model.state_dict().items():
        assert torch.equal(tensor, tower[name]), name
    ids = torch.tensor([[1, -200]])
    image = torch.zeros(1, 1, 3, 28, 28)
    assert tokenizer.decode(model.generate(ids, images=image, max_new_tokens=3)[0])
    assert image_processor.crop_size["height"] == 28


def test_only_projector_and_adapter_are_trained(finished):
    folder, _ = finished
    weights = load_file(folder / "checkpoint-12" / "trained.safetensors")
    assert {name.split(".")[1] for name in weights} == {"mm_projector", "img_adapter"}
    before = load_file(folder / "checkpoint-8" / "trained.safetensors")
    assert all(not torch.equal(weights[name], before[name]) for name in weights)


def test_a_checkpoint_holds_the_entries_of_the_log_until_its_step(finished):
    folder, _ = finished
    log = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    state = json.loads((folder / "checkpoint-12" / "trainer_state.json").read_text())
    assert state["log_history"] == log[:12]


def test_a_run_prints_its_settings_and_logs_loss_learning_rate_and_throughput(finished):
    folder, printed = finished
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    for key in ("learning_rate", "grad_norm", "samples_per_second", "tokens_per_second"):
        assert all(line[key] >= 0 for line in steps)
    assert "12 steps of 4 samples" in printed
    assert f"loss     {steps[0]['loss']:.4f} at the start" in printed
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "runs").rglob("events.out.tfevents.*"))
    assert not (folder / LOCK).exists()


def test_the_last_step_is_logged_where_it_is_no_multiple_of_the_logging_steps(toy, tmp_path):
    result = toy.train(tmp_path / "out", max_steps=4, logging_steps=3)
    assert result.returncode == 0, result.stderr
    short = toy.train(tmp_path / "short", max_steps=2, logging_steps=10)
    assert short.returncode == 0, short.stderr
    assert [step for step, _ in losses(tmp_path / "out")] == [3, 4]
    assert [step for step, _ in losses(tmp_path / "short")] == [2]


def test_starting_a_finished_run_again_changes_nothing(toy, finished):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    result = toy.train(folder, save_total_limit=2)
    assert "finished already" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.slow
def test_a_run_that_was_killed_continues_with_identical_weights(toy, tmp_path):
    options = {"num_train_epochs": 4, "save_steps": 5, "dataloader_num_workers": 1, "group_by_modality_length": True}
    complete, killed = tmp_path / "complete", tmp_path / "killed"
    assert toy.train(complete, **options).returncode == 0
    for step in (8, 17):
        process = toy.start(killed, **options)
        for line in process.stdout:
            if line.startswith(f"step {step}/"):
                process.kill()
                break
        assert process.returncode == -signal.SIGKILL
    last = toy.train(killed, **options)
    assert f"continue {killed / 'checkpoint-15'}" in last.stdout
    assert re.search(r"^step (\d+)/", last.stdout, re.MULTILINE)[1] == "16"
    assert losses(killed) == losses(complete)
    actual, expected = (load_file(folder / "model.safetensors") for folder in (killed, complete))
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_two_processes_under_zero2_train_like_one_process_and_continue_after_a_kill(toy, tmp_path):
    assert toy.train(tmp_path / "one", num_train_epochs=3).returncode == 0
    options = {"processes": 2, "per_device_train_batch_size": 2, "deepspeed": ZERO2, "num_train_epochs": 3}
    process = toy.start(tmp_path / "two", **options)
    for line in process.stdout:
        if line.startswith("step 6/"):
            process.kill()
            break
    result = toy.train(tmp_path / "two", **options)
    assert result.returncode == 0, result.stderr
    assert "continue" in result.stdout
    single, double = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [step for step, _ in double] == [step for step, _ in single]
    assert [loss for _, loss in double] == pytest.approx([loss for _, loss in single], abs=1e-3)
    load_model(tmp_path / "two")


def test_gradient_accumulation_gives_the_losses_of_the_same_global_batch(toy, finished, tmp_path):
    folder, _ = finished
    result = toy.train(tmp_path / "out", per_device_train_batch_size=1, gradient_accumulation_steps=4)
    assert result.returncode == 0, result.stderr
    assert [loss for _, loss in losses(tmp_path / "out")] == pytest.approx(
        [loss for _, loss in losses(folder)], abs=1e-5
    )


def test_bf16_with_gradient_checkpointing_trains_on_captions_and_text_only_samples(toy, finished, tmp_path):
    records = json.loads(toy.data.read_text())
    for record in records[::3]:
        del record["image"]
        record["conversations"][0]["value"] = "Say it."
    (tmp_path / "mixed.json").write_text(json.dumps(records))
    options = {"data_path": tmp_path / "mixed.json", "group_by_modality_length": True, "dataloader_num_workers": 2}
    result = toy.train(tmp_path / "out", bf16=True, gradient_checkpointing=True, **options)
    assert result.returncode == 0, result.stderr
    assert len(losses(tmp_path / "out")) == 12
    model, *_ = load_model(tmp_path / "out")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}


def test_a_loss_that_is_not_finite_stops_the_run_before_the_step_and_names_samples_and_checkpoint(toy, tmp_path):
    error = error_of(toy.train(tmp_path / "out", learning_rate=1e30, save_steps=1, max_grad_norm=0), 1)
    assert "the step was not taken" in error
    assert error.count("toy-") == 4
    [kept] = (tmp_path / "out").glob("checkpoint-*")
    assert str(kept) in error
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_step(toy, tmp_path, monkeypatch):
    build_model = run.build_model

    def build_with_nan_gradient(*arguments):
        model = build_model(*arguments)
        model.model.mm_projector[0].weight.register_hook(lambda gradient: gradient * float("nan"))
        return model

    monkeypatch.setattr(run, "build_model", build_with_nan_gradient)
    error = error_of(toy.train(tmp_path / "out", save_steps=1), 1)
    assert "the gradient norm is nan at step 1" in error
    assert "the step was not taken, and there is no checkpoint yet" in error
    assert error.count("toy-") == 4


def test_training_without_a_model_or_data_is_refused(toy, tmp_path):
    for name in ("model_name_or_path", "data_path"):
        args = parse_arguments(toy.flags(tmp_path / "out", **{name: None}))
        with pytest.raises(UsageError, match=f"--{name} is not set"):
            run.train(args)


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused_by_all_its_processes(toy, tmp_path):
    with lock_folder(tmp_path / "out", remedy=""):
        for processes in (1, 2):
            error = error_of(toy.start(tmp_path / "out", processes).result(), 2)
            assert error.count("another process is writing to it") == 1
            assert "choose another --output_dir" in error
        assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]


def test_training_checks_the_output_folder_without_preflight(toy, tmp_path):
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        run.train(parse_arguments(toy.flags(tmp_path)))


def change_record(toy, folder, number, **changes):
    """Write the toy's records with one record changed to ``folder``, and return the file."""
    records = json.loads(toy.data.read_text())
    records[number].update(changes)
    (folder / "changed.json").write_text(json.dumps(records))
    return folder / "changed.json"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "gone.png"}, "gone.png"),
        ({"image": "../captions.json"}, "captions.json"),
        ({"image": ["0.png", "1.png"]}, "1 <image>"),
    ],
    ids=["missing image", "not an image", "two images for one <image>"],
)
def test_a_bad_sample_stops_the_run_with_its_name_and_can_be_skipped(toy, tmp_path, changes, message):
    data = change_record(toy, tmp_path, 5, **changes)
    error = error_of(toy.train(tmp_path / "stopped", data_path=data, num_train_epochs=1), 1)
    assert "toy-5" in error
    assert message in error
    assert "--skip_bad_samples" in error
    result = toy.train(tmp_path / "skipped", data_path=data, num_train_epochs=1, skip_bad_samples=1)
    assert result.returncode == 0, result.stderr
    assert "skipped sample 1 of at most 1" in result.stdout


def test_a_record_with_half_a_character_stops_training_before_it_starts_and_can_be_skipped(toy, tmp_path):
    data = change_record(toy, tmp_path, 5, id="toy-5\ud83d")
    error = error_of(toy.train(tmp_path / "stopped", data_path=data), 2)
    assert "surrogate" in error
    assert "--skip_bad_samples" in error
    assert not (tmp_path / "stopped").exists()
    result = toy.train(tmp_path / "skipped", data_path=data, num_train_epochs=1, skip_bad_samples=1)
    assert result.returncode == 0, result.stderr
    assert "skipped sample 1 of at most 1" in result.stdout


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("data_path", "gone.json", "gone.json: no such file"),
        ("image_folder", "gone", "--image_folder gone"),
        ("model_name_or_path", "./gone", "gone: no such folder"),
        ("vision_tower", "./gone", "gone: no such folder"),
        ("model_name_or_path", "images", "no config.json"),
    ],
)
def test_a_missing_path_is_reported_before_anything_is_written(
    toy, tmp_path, monkeypatch, capsys, flag, value, message
):
    monkeypatch.chdir(toy.folder)
    assert main(["train", *toy.flags(tmp_path / "out", **{flag: value})]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{]", "changed.json"),
        ('[{"id": "a", "image": "0.png"}]', "conversations"),
        ("", "changed.json"),
    ],
    ids=["not JSON", "no conversations", "empty"],
)
def test_bad_records_are_reported_before_anything_is_written(toy, tmp_path, capsys, text, message):
    (tmp_path / "changed.json").write_text(text)
    assert main(["train", *toy.flags(tmp_path / "out", data_path=tmp_path / "changed.json")]) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_stops_the_run_and_it_continues_when_there_is_room(toy, tmp_path):
    small = tmp_path / "disk"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=420k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        options = {"save_steps": 1, "save_total_limit": 9, "report_to": "none"}
        error = error_of(toy.train(small / "out", **options), 1)
        assert "MB free now" in error
        assert "the last good checkpoint is" in error
        subprocess.run(["mount", "-o", "remount,size=4m", small], check=True)
        assert toy.train(small / "out", **options).returncode == 0
        assert [step for step, _ in losses(small / "out")] == list(range(1, 13))
    finally:
        subprocess.run(["umount", small], check=True)
