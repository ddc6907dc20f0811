"""Validation while training: its figures, the best checkpoint, early stopping, kills and several processes."""

import json
import re
import shutil
import signal
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from senna.cli import main
from senna.data import Collator, ConversationDataset, FrameDataset, open_mixture
from senna.errors import UsageError
from senna.model import load_model
from senna.train import run
from senna.train.arguments import parse_arguments
from senna.train.best import best_validation, is_patience_over
from senna.train.curve import plot_losses
from senna.train.held_out import HeldOut, check_separate, choose_frames, majority_plan
from tests.helpers.paths import ZERO2, ZERO3
from tests.helpers.toy import driving_records, losses, run_to_end

STEPS = {"max_steps": 24, "save_steps": 6, "num_train_epochs": 9, "logging_steps": 1}
TWENTY = ("accuracy", "macro_f1", "log_loss")


def held_out_entries(folder) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return [line for line in lines if "eval_loss" in line]


def write_held_out(path, answer=None):
    """Write the toy's driving records as those of four other scenes, with other plans if ``answer`` is given."""
    records = driving_records()
    for record in records:
        if "scene_token" in record:
            record["scene_token"] = f"held-out-{int(record['token'].removeprefix('frame-')) % 4}"
        if answer and record["kind"] == "plan":
            record["conversations"][-1]["value"] = answer(record["conversations"][-1]["value"])
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    return write_held_out(tmp_path_factory.mktemp("held-out") / "val.jsonl")


@pytest.fixture(scope="module")
def opposite(tmp_path_factory):
    """The opposite of the plans that a run learns: their loss first falls and then rises."""
    swap = {"KEEP, STRAIGHT\n": "STOP, STRAIGHT\n", "STOP, STRAIGHT\n": "KEEP, STRAIGHT\n"}
    return write_held_out(tmp_path_factory.mktemp("opposite") / "val.jsonl", swap.get)


@pytest.fixture(scope="module")
def opposing(planner, opposite) -> dict:
    """Return the options of a run that is validated every three steps on the opposite plans."""
    validation = {"eval_data_path": opposite, "eval_steps": 3, "metric_for_best_model": "eval_loss"}
    return {"model": planner, "stage": 3, "save_total_limit": 1, **validation, **STEPS}


@pytest.fixture(scope="module")
def opposed(toy, opposing, once):
    """Return the folder and the output of such a run."""
    folder = once("opposed", lambda folder: run_to_end(toy.drive, folder, **opposing))
    return folder / "out", (folder / "printed").read_text()


def evaluated(toy, model, data, out) -> dict:
    """Return ``plan`` of metrics.json of `senna evaluate`."""
    code = main(
        ["evaluate", "--model", str(model), "--data", str(data), "--out", str(out), "--image-folder", str(toy.images),
         "--train-data", str(toy.driving), "--device", "cpu", "--workers", "0"]
    )  # fmt: skip
    assert code == 0
    return json.loads((out / "metrics.json").read_text())["plan"]


def check_same_figures(entry: dict, plan: dict) -> None:
    decided, majority = plan["decisions"]["sum"], plan["baselines"]["majority class"]
    expected = {
        "eval_plan_accuracy": decided["accuracy"]["both"]["value"],
        "eval_plan_macro_f1": decided["macro_f1"]["both"]["value"],
        "eval_plan_log_loss": plan["calibration"]["log_loss"],
        "eval_plan_majority_accuracy": majority["accuracy"]["both"]["value"],
        "eval_plan_majority_macro_f1": majority["macro_f1"]["both"]["value"],
        "eval_plan_majority_log_loss": plan["calibration"]["log_loss_frequencies"],
        "eval_plans": plan["records"],
    }
    assert {key: entry[key] for key in expected} == pytest.approx(expected, abs=1e-6)


# ---- figures and the best checkpoint


def test_the_figures_are_those_of_senna_evaluate_for_the_final_model_and_for_the_exported_best_checkpoint(
    toy, opposed, opposite, tmp_path
):
    folder, _ = opposed
    entries = held_out_entries(folder)
    assert [entry["step"] for entry in entries] == list(range(3, 25, 3))
    check_same_figures(entries[-1], evaluated(toy, folder, opposite, tmp_path / "last"))
    best = min(entries, key=lambda entry: entry["eval_loss"])
    assert 3 < best["step"] < 24
    assert {path.name for path in folder.glob("checkpoint-*")} == {f"checkpoint-{best['step']}", "checkpoint-24"}
    exported = ["--checkpoint", str(folder / f"checkpoint-{best['step']}"), "--out", str(tmp_path / "best")]
    assert main(["export", *exported]) == 0
    check_same_figures(best, evaluated(toy, tmp_path / "best", opposite, tmp_path / "best-evaluation"))


def test_a_run_prints_and_draws_its_validations(opposed):
    folder, printed = opposed
    best = min(held_out_entries(folder), key=lambda entry: entry["eval_loss"])
    assert re.search(
        r"step 3, held out: loss \d\.\d{4}, accuracy .* \(majority .*macro F1 .* \(majority .*24 records", printed
    )
    assert "24 samples of 4 scenes, of which 24 plans are scored; every 3 steps and after the last" in printed
    command = f"senna export --checkpoint {folder}/checkpoint-{best['step']} --out DIR"
    assert f"best     eval_loss {best['eval_loss']:.4f} at step {best['step']}: {command}" in printed
    assert any(b"eval/plan_macro_f1" in file.read_bytes() for file in (folder / "runs").rglob("events.out.tfevents.*"))
    history = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert Image.open(folder / "loss.png").height == 780  # two panels
    assert plot_losses([entry for entry in history if "loss" in entry], folder / "losses.png", "")
    assert Image.open(folder / "losses.png").height == 540
    (folder / "losses.png").unlink()


def test_the_final_folder_is_made_of_the_best_checkpoint_on_request(toy, opposing, opposed, tmp_path):
    result = toy.drive(tmp_path / "out", **opposing, load_best_model_at_end=True)
    assert result.returncode == 0, result.stderr
    assert "the final folder is made of it" in result.stdout
    assert losses(tmp_path / "out") == losses(opposed[0])
    best = min(held_out_entries(opposed[0]), key=lambda entry: entry["eval_loss"])
    weights = load_file(tmp_path / "out" / "model.safetensors")
    trained = load_file(opposed[0] / f"checkpoint-{best['step']}" / "trained.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in trained.items())
    last = load_file(opposed[0] / "model.safetensors")
    assert not all(torch.equal(last[name], tensor) for name, tensor in trained.items())


def test_a_run_that_improves_no_more_ends_and_stays_ended(toy, opposing, opposed, tmp_path):
    folder, options = tmp_path / "out", {**opposing, "early_stopping_patience": 2}
    best = min(held_out_entries(opposed[0]), key=lambda entry: entry["eval_loss"])["step"]
    last = best + 2 * 3
    assert last < 24
    result = toy.drive(folder, **options)
    assert result.returncode == 0, result.stderr
    assert f"early, after step {last} of 24, as --early_stopping_patience asks" in result.stdout
    assert losses(folder) == losses(opposed[0])[:last]
    assert f"ended early at step {last}" in toy.drive(folder, **options).stdout
    # As if the run had been killed after its checkpoint of the last step, before its final folder.
    assert last % STEPS["save_steps"] == 0
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    result = toy.drive(folder, **options)
    assert f"early, after step {last} of 24" in result.stdout
    assert losses(folder) == losses(opposed[0])[:last]


def test_the_losses_of_stage_2_by_kind_are_those_of_the_records_by_themselves(toy, stage1, held_out, tmp_path):
    result = toy.drive(tmp_path / "out", stage1, eval_data_path=held_out, eval_strategy="epoch", num_train_epochs=1)
    assert result.returncode == 0, result.stderr
    [entry] = held_out_entries(tmp_path / "out")
    assert not any("plan" in key for key in entry)
    model, tokenizer, processor = load_model(tmp_path / "out", dtype=torch.float32)
    records = open_mixture(str(held_out), 2)
    data = ConversationDataset(records, tokenizer, processor, toy.images, tokens_per_image=3)
    sums = torch.zeros(len(records.kind_names), 2)
    for index in range(len(data)):
        batch = Collator(tokenizer.pad_token_id, 256, 3)([data[index]])
        batch.pop("counts")
        kind = batch.pop("kinds")
        with torch.no_grad():
            found = model.eval()(**batch)
        sums.index_add_(0, kind, torch.stack([found.sample_losses, found.sample_targets], 1).float())
    expected = {f"eval_loss_{name}": float(row[0] / row[1]) for name, row in zip(records.kind_names, sums, strict=True)}
    expected |= {"eval_loss": float(sums[:, 0].sum() / sums[:, 1].sum()), "eval_records": len(records)}
    assert {key: entry[key] for key in expected} == pytest.approx(expected, rel=1e-5)


# ---- nothing of the training changes


@pytest.mark.slow
@pytest.mark.parametrize("how", ["lora", "full packed"])
def test_losses_and_weights_are_bit_for_bit_those_without_validation_even_after_a_kill_inside_a_validation(
    toy, stage1, held_out, tmp_path, how
):
    """LoRA has dropout, which draws random numbers in every step."""
    options = {"stage": 3, "how": "lora" if how == "lora" else None, "pack_frames": how != "lora", **STEPS}
    options |= {"max_steps": 12, "save_steps": 3}
    options |= {"dataloader_num_workers": 1, "attn_implementation": "eager" if how == "lora" else "sdpa"}
    if how != "lora":
        options["stage"] = 2
    validated = {**options, "eval_data_path": held_out, "eval_steps": 2}
    plain, killed = tmp_path / "plain", tmp_path / "killed"
    assert toy.drive(plain, stage1, **options).returncode == 0
    process = toy.start(killed, **toy.driving_options(stage1, **validated))
    log = killed / "train_log.jsonl"
    while process.poll() is None and not (log.is_file() and '"step": 6}\n' in log.read_text()):
        time.sleep(0.001)
    process.kill()  # the validation of this step has just begun
    assert process.returncode == -signal.SIGKILL
    assert [entry["step"] for entry in held_out_entries(killed)] == [2, 4]
    assert losses(killed)[-1][0] == 6
    result = toy.drive(killed, stage1, **validated)
    assert result.returncode == 0, result.stderr
    assert f"continue {killed / 'checkpoint-3'}" in result.stdout
    assert [entry["step"] for entry in held_out_entries(killed)] == [2, 4, 6, 8, 10, 12]
    assert losses(killed) == losses(plain)
    [name] = {path.name for path in plain.glob("*model.safetensors")}
    actual, expected = (load_file(folder / name) for folder in (killed, plain))
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "zero", "stage"),
    [(None, ZERO3, 2), (None, ZERO3, 3), ("lora", ZERO2, 3)],
    ids=["full ZeRO-3 stage 2", "full ZeRO-3", "LoRA ZeRO-2"],
)
def test_two_processes_share_a_validation_and_agree_with_one(toy, stage1, held_out, tmp_path, how, zero, stage):
    """In stage 2, one process has text-only records while the other gathers the adapters for six views; in stage 3, there are
    five batches, so that one process has a batch more than the other."""
    options = {"stage": stage, "how": how, "max_steps": 4, "eval_data_path": held_out, "eval_steps": 2}
    options |= {
        "per_device_eval_batch_size": 1 if stage == 2 else 5,
        "metric_for_best_model": "eval_loss",
        "load_best_model_at_end": True,
    }
    options |= {"lora_dropout": 0.0} if how else {}
    assert toy.drive(tmp_path / "one", stage1, **options).returncode == 0
    several = {"processes": 2, "per_device_train_batch_size": 1, "deepspeed": zero}
    result = toy.drive(tmp_path / "two", stage1, **options, **several)
    assert result.returncode == 0, result.stderr
    expected, actual = held_out_entries(tmp_path / "one"), held_out_entries(tmp_path / "two")
    assert [entry["step"] for entry in actual] == [entry["step"] for entry in expected] == [2, 4]
    for one, two in zip(expected, actual, strict=True):
        for name in ("eval_seconds", "epoch"):
            one.pop(name), two.pop(name)
        assert two == pytest.approx(one, rel=1e-4)
    assert [loss for _, loss in losses(tmp_path / "two")] == pytest.approx(
        [loss for _, loss in losses(tmp_path / "one")], rel=1e-4
    )


# ---- which records


def test_scenes_and_files_that_are_trained_on_are_refused_with_their_names(toy, stage1, held_out, tmp_path):
    records = [json.loads(line) for line in held_out.read_text().splitlines()]
    for record in records[-6:]:
        record["scene_token"] = "toy"
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    result = toy.drive(tmp_path / "out", stage1, stage=3, eval_data_path=tmp_path / "val.jsonl")
    assert result.returncode == 2
    assert "1 of its scenes are in --data_path too (toy), so they are not held out" in result.stderr
    result = toy.drive(tmp_path / "out", stage1, stage=3, eval_data_path=toy.driving)
    assert result.returncode == 2
    assert f"--eval_data_path and --data_path both name {toy.driving}" in result.stderr
    assert not (tmp_path / "out").exists()


def test_only_the_first_shared_scenes_are_named():
    class Scenes:
        files = ()

        def __init__(self, *names):
            self.names = names

        def scenes(self):
            return list(self.names)

    with pytest.raises(UsageError, match=r"4 of its scenes .*\(b, c, d, \.\.\.\)"):
        check_separate(Scenes("", *"abcde"), Scenes("", "x", *"bcde"))
    check_separate(Scenes("", "a"), Scenes("", "b"))


def test_records_without_a_scene_are_allowed_with_a_warning(toy, stage1, held_out, tmp_path):
    records = [json.loads(line) for line in held_out.read_text().splitlines()]
    for record in records:
        record.pop("scene_token", None)
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    result = toy.drive(tmp_path / "out", stage1, stage=3, eval_data_path=tmp_path / "val.jsonl", max_steps=1)
    assert result.returncode == 0, result.stderr
    assert "without a scene_token" in result.stderr
    assert len(held_out_entries(tmp_path / "out")) == 1


@pytest.fixture(scope="module")
def samples(toy, stage1):
    _, tokenizer, processor = load_model(stage1)
    return lambda path, stage=None: ConversationDataset(
        open_mixture(str(path), stage), tokenizer, processor, toy.images
    )


LIMITS = (1, 6, 11, 12, 23, 24, 100, None)


def test_a_limit_takes_whole_scenes_always_the_same_and_at_least_one(samples, held_out):
    data = FrameDataset(samples(held_out, 3))
    chosen = {limit: choose_frames(data, limit) for limit in LIMITS}
    scenes = {limit: {data.records.scene(frame[0]) for frame in frames} for limit, frames in chosen.items()}
    assert [len(scenes[limit]) for limit in LIMITS] == [1, 1, 1, 2, 3, 4, 4, 4]
    for limit, frames in chosen.items():
        records = [record for frame in frames for record in frame]
        assert sorted(records) == [i for i in range(len(data.records)) if data.records.scene(i) in scenes[limit]]
    assert scenes[1] < scenes[12] < scenes[23]
    again = FrameDataset(samples(held_out, 3))
    assert choose_frames(again, 12) == chosen[12]


def test_items_are_plans_and_frames_without_the_plans_whose_loss_follows_from_their_scores(samples, tmp_path):
    records = driving_records(6)
    plans = [record for record in records if record["kind"] == "plan"]
    plans[1]["conversations"][-1]["value"] = "keep, straight"  # not one of the twenty texts, but read as one
    plans[2]["conversations"][-1]["value"] = "I do not know"
    path = tmp_path / "val.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    data = HeldOut(FrameDataset(samples(path)))
    assert [plan.gives_loss for plan in data.plans] == [True, False, True, True, True]
    assert data.ending == "\n"
    lost = {record for frame in data.frames for record in frame}
    kept = [number for number, record in enumerate(records) if record["kind"] == "plan" and number in lost]
    assert [records[number]["id"] for number in kept] == ["toy-1-plan", "toy-2-plan"]
    sizes = [[number >= len(data.plans) for number in batch] for batch in data.batches(2)]
    assert all(len(set(batch)) == 1 and len(batch) <= 2 for batch in sizes)
    assert sum(map(len, sizes)) == len(data)
    assert str(majority_plan(data.records)) == "KEEP, STRAIGHT"


def test_a_held_out_record_that_cannot_be_used_ends_the_run_or_is_skipped(toy, stage1, held_out, tmp_path):
    records = [json.loads(line) for line in held_out.read_text().splitlines()]
    plan = next(record for record in records if record["kind"] == "plan")
    plan["images"] = [path.replace("views", "gone") for path in plan["images"]]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    options = {"stage": 3, "eval_data_path": tmp_path / "val.jsonl", "max_steps": 2, "eval_steps": 1}
    result = toy.drive(tmp_path / "out", stage1, **options)
    assert result.returncode == 1
    assert "val.jsonl" in result.stderr
    assert "--skip_bad_samples N" in result.stderr
    result = toy.drive(tmp_path / "skipped", stage1, **options, skip_bad_samples=1)
    assert result.returncode == 0, result.stderr
    assert [entry["eval_records"] for entry in held_out_entries(tmp_path / "skipped")] == [23, 23]


# ---- flags


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--eval_strategy steps", "--eval_data_path"),
        ("--evaluation_strategy epoch", "--eval_data_path"),
        ("--metric_for_best_model eval_loss", "--eval_data_path"),
        ("--load_best_model_at_end True", "--eval_data_path"),
        ("--early_stopping_patience 2", "--eval_data_path"),
        ("--eval_data_path a.jsonl --eval_strategy no --early_stopping_patience 2", "--eval_strategy no"),
        ("--eval_data_path a.jsonl --early_stopping_patience 2", "--metric_for_best_model"),
        ("--eval_data_path a.jsonl --load_best_model_at_end True", "--metric_for_best_model"),
        ("--eval_data_path a.jsonl --eval_limit 0", "--eval_limit 0"),
        ("--eval_data_path a.jsonl --eval_steps 0", "--eval_steps 0"),
        ("--eval_data_path a.jsonl --early_stopping_patience 0", "--early_stopping_patience 0"),
        ("--greater_is_better True", "--greater_is_better"),
    ],
)
def test_flags_of_validation_that_lack_another_one_are_refused(flags, message):
    with pytest.raises(UsageError) as error:
        parse_arguments(flags.split())
    assert message in f"{error.value.message} {error.value.remedy}"


def test_an_eval_data_path_alone_validates_with_each_checkpoint(tmp_path):
    args = parse_arguments("--eval_data_path a.jsonl --save_steps 30 --per_device_train_batch_size 3".split())
    assert (args.eval_strategy, args.eval_steps, args.per_device_eval_batch_size) == ("steps", 30, 3)
    assert parse_arguments([]).eval_strategy == "no"
    assert parse_arguments("--eval_data_path a.jsonl --eval_strategy no".split()).eval_strategy == "no"
    for metric, is_greater in (("eval_loss", False), ("eval_plan_macro_f1", True)):
        words = (
            f"--eval_data_path a.jsonl --metric_for_best_model {metric} --load_best_model_at_end True --save_steps 7"
        )
        args = parse_arguments([*words.split(), "--eval_steps", "5"])
        assert (args.greater_is_better, args.load_best_model_at_end) == (is_greater, True)


def test_a_missing_held_out_file_and_a_figure_that_no_record_gives_are_refused_before_anything_is_written(
    toy, stage1, held_out, tmp_path, capsys
):
    cases = {
        "--eval_data_path gone.jsonl: no such file": {"eval_data_path": "gone.jsonl"},
        "the held-out records have no plan": {
            "eval_data_path": held_out, "stage": 2, "metric_for_best_model": "eval_plan_macro_f1",
        },
    }  # fmt: skip
    for message, options in cases.items():
        assert main(["train", *toy.driving_flags(tmp_path / "out", stage1, **options)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_rule_for_the_best_checkpoint_does_not_continue_a_run(toy, opposing, opposed, held_out, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(opposed[0], folder)
    (folder / "config.json").unlink()
    flags = toy.driving_flags(folder, **{**opposing, "eval_data_path": held_out})
    with pytest.raises(UsageError, match="best_checkpoint_by"):
        run.train(parse_arguments(flags))


# ---- the best of a log history


class Rule:
    metric_for_best_model, greater_is_better, early_stopping_patience = "eval_x", True, 2


@pytest.mark.parametrize(
    ("figures", "best", "is_over"),
    [
        ([], None, False),
        ([0.1], 1, False),
        ([0.1, 0.3, 0.2], 2, False),
        ([0.1, 0.3, 0.2, 0.3], 2, True),
        ([0.3, 0.2, 0.4], 3, False),
        ([float("nan"), 0.2], 2, False),
        ([0.2, float("nan"), float("nan")], 1, True),
    ],
)
def test_the_first_of_equal_figures_is_the_best_and_patience_counts_those_after_it(figures, best, is_over):
    history = [
        entry for step, x in enumerate(figures, 1) for entry in ({"step": step, "eval_x": x}, {"step": step, "loss": 0})
    ]
    found = best_validation(history, Rule())
    assert (None if found is None else found["step"]) == best
    assert is_patience_over(history, Rule()) == is_over
