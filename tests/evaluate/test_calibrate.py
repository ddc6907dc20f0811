"""`senna calibrate`: the fit, the data it refuses, and the commands that use its result."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from senna.cli import main
from senna.decision import DECISION_FILE, prior_of, read_calibration
from senna.errors import UsageError
from senna.evaluate import command
from senna.evaluate.calibrate import missing_plans
from senna.evaluate.decisions import open_rules
from senna.evaluate.export import main as export
from senna.evaluate.metrics.fit_decision import fit_decision, fit_tau, fit_temperature
from senna.evaluate.predictions import read_predictions
from senna.evaluate.shared_frames import FrameSet
from senna.evaluate.training_data import training_data
from senna.meta_actions import ALL_META_ACTIONS, MetaAction
from senna.record_file import open_records
from senna.run_folder import RUN_FILE


def plans_of(count, temperature, seed=0):
    """Return log-probabilities (N, 20) that are too confident by a factor, and codes drawn from the right ones."""
    random = np.random.default_rng(seed)
    right = random.dirichlet(np.full(20, 0.2), size=count) + 1e-9
    codes = np.array([random.choice(20, p=row / row.sum()) for row in right])
    return temperature * np.log(right) + 5.0, codes


def test_the_temperature_undoes_overconfidence():
    log_probs, codes = plans_of(4000, 2.5)
    assert fit_temperature(log_probs, codes) == pytest.approx(2.5, rel=0.05)


def test_tau_is_the_smallest_with_the_highest_expected_macro_f1():
    probabilities = np.zeros((4, 20)) + 1e-9
    probabilities[:2, :2], probabilities[2:, :2] = (0.6, 0.4), (0.9, 0.1)
    prior = np.full(20, 1e-3)
    prior[:2] = 0.9, 0.1
    # Without correction the second class is never decided: (2 * 3 / (4 + 3) + 0) / 2 = 0.43. With the first two plans it is
    # (2 * 1.8 / (2 + 3) + 2 * 0.8 / (2 + 1)) / 2 = 0.63; they change where log(0.6 / 0.4) < tau log(9), so above 0.185.
    assert fit_tau(np.log(probabilities), np.log(prior)) == pytest.approx(0.2)


def test_meta_actions_that_are_practically_impossible_do_not_disturb_the_search_for_tau():
    scores = np.full((30, 20), -1e4)
    scores[:, 0], scores[:, 15] = 0.0, np.linspace(-3, 1, 30)
    with np.errstate(divide="raise", invalid="raise"):
        assert fit_tau(scores, np.log(prior_of(np.eye(20)[0] * 100))) > 0


def test_a_correction_that_loses_on_left_out_scenes_is_not_kept():
    log_probs, _ = plans_of(300, 1.0)
    scenes = [f"scene-{number % 5}" for number in range(300)]
    prior = prior_of(np.bincount(log_probs.argmax(axis=1), minlength=20) * np.arange(20) ** 2)
    likeliest = [ALL_META_ACTIONS[code] for code in log_probs.argmax(axis=1)]  # every correction makes an error
    fit = fit_decision(log_probs, likeliest, scenes, prior)
    assert fit.tau == 0.0
    assert fit.after["macro_f1"] == fit.before["macro_f1"] == 1.0


def test_figures_after_are_those_of_left_out_scenes():
    log_probs, codes = plans_of(400, 3.0)
    truth = [ALL_META_ACTIONS[code] for code in codes]
    fit = fit_decision(log_probs, truth, [f"scene-{number % 4}" for number in range(400)], np.full(20, 0.05))
    assert fit.temperature == pytest.approx(3.0, rel=0.2)
    assert fit.after["log_loss"] < fit.before["log_loss"]
    assert fit.after["ece"] < fit.before["ece"]
    optimum = -np.mean([_log_prob(row / fit.temperature, code) for row, code in zip(log_probs, codes, strict=True)])
    assert fit.after["log_loss"] > optimum  # the temperature of other scenes is not the best one of a scene


def _log_prob(scores, code):
    return scores[code] - np.log(np.exp(scores).sum())


@pytest.fixture(scope="module")
def model(planner, tmp_path_factory):
    """Return a copy of the trained model, to write a calibration into."""
    folder = tmp_path_factory.mktemp("calibrated") / "model"
    shutil.copytree(planner, folder, ignore=shutil.ignore_patterns("checkpoint-*", "runs"))
    return folder


def flags(model, data, toy, *more):
    given = ("--model", model, "--data", data, "--image-folder", toy.images, "--workers", 0, *more)
    return [str(word) for word in given]


def with_images(data, path, place):
    """Write the records of a file with the return values of ``place`` as their image paths."""
    records = [json.loads(line) for line in data.read_text().splitlines()]
    for record in records:
        if "images" in record:
            record |= {"image": place(record["image"]), "images": [place(name) for name in record["images"]]}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def dev(plans, toy, tmp_path_factory):
    """Return the records of ``plans`` with other images than those of the training."""
    folder = tmp_path_factory.mktemp("dev")

    def darken(name):
        if not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.open(toy.images / name).point(lambda level: max(level - 8, 0)).save(folder / name)
        return str(folder / name)

    return with_images(plans, folder / "dev.jsonl", darken)


@pytest.fixture(scope="module")
def calibrated(model, dev, toy):
    """Return the model's folder after a calibration on the scenes of ``dev``."""
    assert main(["calibrate", *flags(model, dev, toy)]) == 0
    return model


@pytest.fixture
def other_scenes(plans, tmp_path):
    """Return plans with other scenes and images than those of `calibrated`."""
    path = tmp_path / "other.jsonl"
    path.write_text(plans.read_text().replace('"scene-', '"other-'))
    return path


def test_the_result_is_in_the_models_folder(calibrated, dev):
    found = json.loads((calibrated / DECISION_FILE).read_text())
    assert (found["version"], found["scenes"], found["figures"]["plans"]) == (1, ["scene-0", "scene-1", "scene-2"], 24)
    assert found["data"] == str(dev)
    assert len(found["images"]) == 4  # the front images have one of four colors
    keep, stop = (19 / 44, 7 / 44)  # 18 and 6 of the 24 training plans, and one more of each of the twenty
    assert [found["prior"][code] for code in (0, 15)] == pytest.approx([keep, stop])
    assert sum(found["prior"]) == pytest.approx(1)
    for when in ("before", "after"):
        assert set(found["figures"][when]) == {"ece", "log_loss", "macro_f1", "accuracy"}
    assert read_calibration(calibrated) is not None  # for these weights


def test_plans_that_are_trained_on_but_not_fitted_to_are_named(model, dev, toy, tmp_path, capsys):
    copy, path = tmp_path / "model", tmp_path / "without_stops.jsonl"
    shutil.copytree(model, copy)
    path.write_text(dev.read_text().replace("STOP, STRAIGHT", "KEEP, STRAIGHT"))
    assert main(["calibrate", *flags(copy, path, toy, "--out", tmp_path / "out")]) == 0
    assert f"{path} has no plan of STOP, STRAIGHT" in capsys.readouterr().out
    assert main(["calibrate", *flags(copy, dev, toy, "--out", tmp_path / "other")]) == 0
    assert "has no plan" not in capsys.readouterr().out


def test_plans_of_which_the_training_has_hardly_any_need_not_be_fitted_to():
    keep, stop, accelerate = (MetaAction(speed, "STRAIGHT") for speed in ("KEEP", "STOP", "ACCELERATE"))
    counts = np.zeros(20)
    counts[[ALL_META_ACTIONS.index(action) for action in (keep, stop, accelerate)]] = 985, 10, 5
    assert missing_plans(counts, [keep, keep]) == ["STOP, STRAIGHT"]
    assert missing_plans(counts, [keep, stop]) == []


def test_an_evaluation_reports_every_rule_and_compares_the_asked_one(calibrated, other_scenes, toy, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["evaluate", *flags(calibrated, other_scenes, toy, "--out", out, "--decision", "balanced")]) == 0
    plan = json.loads((out / "metrics.json").read_text())["plan"]
    assert set(plan["decisions"]) == {"sum", "balanced", "greedy"}
    assert plan["headline"] == "balanced"
    correction, predictions = plan["correction"], read_predictions(out)
    scores = np.array([row["log_probs"] for row in predictions]) / correction["temperature"]
    decided = (scores - correction["tau"] * np.log(correction["prior"])).argmax(axis=1)
    correct = [str(ALL_META_ACTIONS[c]) == row["truth"].strip() for c, row in zip(decided, predictions, strict=True)]
    assert plan["decisions"]["balanced"]["accuracy"]["both"]["value"] == pytest.approx(np.mean(correct))
    assert plan["calibrated"]["log_loss"] != plan["calibration"]["log_loss"]
    printed = capsys.readouterr().out
    assert printed.index("model (balanced)") < printed.index("model (sum)") < printed.index("temperature")
    page = (out / "report.html").read_text()
    assert "With temperature" in page
    assert "the model, balanced decision" not in page  # it is the model's headline
    assert "the model, most probable" in page
    # The same predictions with another headline: nothing is predicted again.
    assert main(["evaluate", *flags(calibrated, other_scenes, toy, "--out", out)]) == 0
    plan = json.loads((out / "metrics.json").read_text())["plan"]
    assert plan["headline"] == "sum"
    assert set(plan["decisions"]) == {"sum", "balanced", "greedy"}

    table = tmp_path / "table.jsonl"
    assert export(["--predictions", str(out), "--out", str(table), "--decision", "balanced"]) == 0
    rows = [json.loads(line)["probabilities"] for line in table.read_text().splitlines()[1:]]
    assert [int(np.argmax(row)) for row in rows] == decided.tolist()


def test_scenes_of_the_calibration_are_not_evaluated_with_it(calibrated, dev, toy, tmp_path, capsys):
    balanced = ("--out", tmp_path / "out", "--decision", "balanced")
    assert main(["evaluate", *flags(calibrated, dev, toy, *balanced)]) == 2
    assert "3 of the scenes" in (error := capsys.readouterr().err)
    assert "scene-0, scene-1, scene-2" in error
    part = tmp_path / "part.jsonl"  # another file, with one of the scenes
    part.write_text(dev.read_text().replace('"scene-1', '"new-1').replace('"scene-2', '"new-2'))
    assert main(["evaluate", *flags(calibrated, part, toy, *balanced)]) == 2
    assert "1 of the scenes" in (error := capsys.readouterr().err)
    assert "(scene-0)" in error
    assert not (tmp_path / "out").exists()
    # Without --decision balanced they can be evaluated, and the calibration is left out.
    assert main(["evaluate", *flags(calibrated, part, toy, "--out", tmp_path / "out", "--limit", 6)]) == 0
    assert "the balanced decision is left out" in capsys.readouterr().out
    assert "balanced" not in json.loads((tmp_path / "out" / "metrics.json").read_text())["plan"]["decisions"]


def copied(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def linked(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


@pytest.mark.parametrize("put", [copied, linked])
def test_images_of_the_calibration_are_not_evaluated_with_it_under_other_names(calibrated, dev, tmp_path, toy, put):
    """Neither another scene, nor no scene, nor another file and other paths hide an image that was fitted on."""

    def rename(name):
        target = tmp_path / "renamed" / f"{Path(name).parent.name}-{Path(name).stem}.png"
        if not target.exists():
            put(name, target)
        return str(target)

    renamed = with_images(dev, tmp_path / "renamed.jsonl", rename)
    for scene in ("scene_token", "no_scene"):
        renamed.write_text(renamed.read_text().replace('"scene-', '"other-').replace('"scene_token"', f'"{scene}"'))
        evaluated = plans_in(renamed)
        with pytest.raises(UsageError, match=r"was fitted on an image of .*renamed.jsonl, .*renamed/"):
            open_rules("balanced", str(calibrated), None, evaluated)
        rules = open_rules("likeliest", str(calibrated), None, evaluated)
        assert rules.calibration is None
        assert "was fitted on an image" in rules.note
    lost = tmp_path / "lost.jsonl"
    lost.write_text(dev.read_text().replace('"scene_token"', '"no_scene"'))
    with pytest.raises(UsageError, match="was fitted on an image of"):
        open_rules("balanced", str(calibrated), None, plans_in(lost))


def plans_in(path):
    records = open_records(path)
    return FrameSet.of_file(records, command.choose(records, "plan", None), None)


def test_balanced_without_a_calibration_names_the_command(planner, plans, toy, tmp_path, capsys):
    more = ("--out", tmp_path / "out", "--decision", "balanced")
    assert main(["evaluate", *flags(planner, plans, toy, *more)]) == 2
    assert f"senna calibrate --model {planner}" in capsys.readouterr().err
    assert main(["evaluate", *flags(planner, plans, toy, *more, "--mode", "generate")]) == 2
    assert "--mode score" in capsys.readouterr().err


def test_scenes_of_the_training_are_refused(planner, plans, toy, tmp_path, capsys):
    assert main(["calibrate", *flags(planner, toy.driving, toy)]) == 2
    assert "was trained on this file" in capsys.readouterr().err
    mixed = tmp_path / "mixed.jsonl"  # one scene of the training among others
    mixed.write_text(plans.read_text().replace('"scene-0', '"toy'))
    assert main(["calibrate", *flags(planner, mixed, toy)]) == 2
    assert "1 of its scenes (toy)" in capsys.readouterr().err
    lost = tmp_path / "lost.jsonl"
    lost.write_text(plans.read_text().replace('"scene_token"', '"no_scene"'))
    assert main(["calibrate", *flags(planner, lost, toy)]) == 2
    assert "without a scene_token" in capsys.readouterr().err
    assert not (planner / DECISION_FILE).exists()


@pytest.mark.parametrize("put", [copied, linked, os.link])
def test_the_training_file_is_refused_under_another_name(planner, toy, tmp_path, capsys, put):
    """Even where other training records are given, and the file itself is gone."""
    put(toy.driving, tmp_path / "dev.jsonl")
    assert main(["calibrate", *flags(planner, tmp_path / "dev.jsonl", toy)]) == 2
    assert "was trained on this file" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    other.write_text(toy.driving.read_text().replace('"toy"', '"other"'))
    model = tmp_path / "model"
    model.mkdir()
    settings = json.loads((planner / RUN_FILE).read_text())
    (model / RUN_FILE).write_text(json.dumps({**settings, "data_path": str(tmp_path / "gone.jsonl")}))
    assert main(["calibrate", *flags(model, tmp_path / "dev.jsonl", toy, "--train-data", other)]) == 2
    assert "was trained on this file" in capsys.readouterr().err


@pytest.mark.parametrize("put", [copied, linked, os.link])
def test_an_image_of_the_training_is_refused_under_another_name_and_scene(planner, dev, toy, tmp_path, capsys, put):
    put(toy.images / "views/CAM_FRONT/red.png", tmp_path / "CAM_FRONT-0001.png")

    def replace_red(name):
        return str(tmp_path / "CAM_FRONT-0001.png") if name.endswith("CAM_FRONT/red.png") else name

    data = with_images(dev, tmp_path / "dev.jsonl", replace_red)
    assert main(["calibrate", *flags(planner, data, toy)]) == 2
    assert "was trained on one of its images" in (error := capsys.readouterr().err)
    assert "views/CAM_FRONT/red.png" in error
    assert not (planner / DECISION_FILE).exists()


def test_training_data_of_earlier_stages_count(tmp_path, toy, planner):
    model = tmp_path / "stage3"
    model.mkdir()
    earlier = tmp_path / "stage2"
    earlier.mkdir()
    records = tmp_path / "earlier.jsonl"
    records.write_text(toy.driving.read_text().replace('"toy"', '"earlier"'))
    settings = {"data_path": str(records), "stage": 2, "version": "v1", "model_name_or_path": "a-hub/name"}
    (earlier / RUN_FILE).write_text(json.dumps(settings))
    settings = {"data_path": str(toy.driving), "stage": 3, "version": "v1", "model_name_or_path": str(earlier)}
    (model / RUN_FILE).write_text(json.dumps(settings))
    found = training_data(model)
    assert found.scenes - {""} == {"toy", "earlier"}
    assert found.plans.sum() == 24
    assert found.lost == ()
    records.unlink()
    with pytest.raises(UsageError, match="stage2 cannot be read") as refused:
        training_data(model)
    assert "--train-data" in refused.value.remedy
    assert training_data(model, str(toy.driving)).plans.sum() == 24
    shutil.rmtree(earlier)
    assert training_data(model).lost == (str(earlier),)
    (model / RUN_FILE).unlink()
    with pytest.raises(UsageError, match="does not name its training data"):
        training_data(model)


@pytest.mark.parametrize("version", ["plain", "v1"])
def test_captions_of_stage_1_are_about_no_scene(tmp_path, toy, version):
    """Otherwise every model would be said to know records whose scenes are unknown."""
    model, stage1 = tmp_path / "stage3", tmp_path / "stage1"
    plans = tmp_path / "plans.jsonl"
    plans.write_text("".join(line + "\n" for line in toy.driving.read_text().splitlines() if '"plan"' in line))
    captions = {"data_path": str(toy.data), "version": version, "tune_mm_mlp_adapter": True, "stage": None}
    trained = {"data_path": str(plans), "version": "v1", "stage": 3, "model_name_or_path": str(stage1)}
    for folder, settings in ((stage1, captions), (model, trained)):
        folder.mkdir()
        (folder / RUN_FILE).write_text(json.dumps(settings))
    assert training_data(model).scenes == {"toy"}
