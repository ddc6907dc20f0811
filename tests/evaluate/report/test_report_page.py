"""report.html: a self-contained page with all figures, notes about missing data, and escaped texts."""

import io
import random

import pytest
from PIL import Image

from senna.evaluate.metrics.evaluate_predictions import evaluate_predictions
from senna.evaluate.report.frame_cards import (
    confidence,
    image_finder,
    pick_correct,
    pick_errors,
    pick_text_frames,
    small_jpeg,
)
from senna.evaluate.report.html import cell_colours, luminance, number, percent
from senna.evaluate.report.report_page import against, uses_images, verdicts, write_report
from tests.evaluate.pages import LEFT, STOP, STRAIGHT, plan, read_page, text


def no_images(prediction):
    return [None] * len(prediction["images"])


@pytest.fixture(autouse=True)
def _without_plots(request, monkeypatch):
    """Skip the plots, which take most of the time and have tests of their own."""
    if "plots" not in request.node.name:
        monkeypatch.setattr("senna.evaluate.report.report_page.draw_charts", lambda plan, out: [])


def some_plans(mode="score", count=24):
    """Return predictions that are KEEP, STRAIGHT for every fifth plan and correct for the others."""
    truths = [(STRAIGHT, LEFT, STOP)[index % 3] for index in range(count)]
    answers = [STRAIGHT if index % 5 == 2 else truth for index, truth in enumerate(truths)]
    return [plan(index, *pair, mode=mode) for index, pair in enumerate(zip(truths, answers, strict=True))]


def report(tmp_path, predictions, find_images=no_images, **options):
    metrics = evaluate_predictions(predictions, run={"model": "outputs/senna", "data": "val.jsonl"}, **options)
    return metrics, read_page(write_report(tmp_path, metrics, predictions, find_images))


def figure(value, low, high):
    return {"value": value, "low": low, "high": high}


def test_the_page_has_the_intervals_of_the_model_the_baselines_and_black_images(tmp_path):
    predictions = some_plans()
    black = [{**row, "sum": STRAIGHT, "greedy": STRAIGHT} for row in predictions]
    metrics, page = report(tmp_path, predictions, blackout=black)
    found = metrics["plan"]
    rows = [*found["decisions"].values(), *found["baselines"].values(), found["blackout"]]
    for row in rows:
        macro, accuracy = row["macro_f1"]["both"], row["accuracy"]["both"]
        assert f"{number(macro['value'])} {number(macro['low'])} to {number(macro['high'])}" in page.text
        assert (
            f"{100 * accuracy['value']:.1f} % {100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f} %"
            in page.text
        )
    for name in (
        *found["baselines"],
        "outputs/senna",
        "val.jsonl",
        "the model, images black",
        found["baselines_fitted_on"],
    ):
        assert name in page.text
    assert f"ECE {found['calibration']['ece']:.3f}" in page.text
    assert "recorded trajectory up to 6 s ahead" in page.text


def test_cells_of_the_confusion_matrix_have_counts_and_shares_of_the_row(tmp_path):
    predictions = [plan(index, STOP, STOP if index < 3 else STRAIGHT) for index in range(4)]
    _, page = report(tmp_path, predictions)
    assert "STOP125 %00375 %" in page.text  # row STOP: 1 (25 %) KEEP, 0, 0, 3 (75 %) STOP


def test_text_is_legible_on_every_colour_of_the_confusion_matrix():
    for is_right in (True, False):
        for step in range(101):
            back, ink = cell_colours(step / 100, is_right)
            light, dark = sorted((luminance(back), luminance(ink)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2's level AA for small text


def test_luminance_follows_wcag():
    assert luminance("#ffffff") == pytest.approx(1.0)
    assert luminance("#ff0000") == pytest.approx(0.2126)
    assert luminance("#808080") == pytest.approx(((128 / 255 + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize(
    ("other", "gain", "words"),
    [
        (figure(0.2, 0.1, 0.39), None, "<b>above</b> (the intervals do not overlap)"),
        (figure(0.7, 0.61, 0.8), None, "<b>below</b> (the intervals do not overlap)"),
        (figure(0.3, 0.2, 0.41), None, "above (may be chance)"),
        (figure(0.3, 0.2, 0.41), figure(0.2, 0.01, 0.3), "above (by the paired difference; the intervals overlap)"),
        (figure(0.3, 0.2, 0.41), figure(0.2, -0.01, 0.3), "above (may be chance)"),
        (figure(0.6, 0.5, 0.7), figure(-0.1, -0.2, -0.01), "below (by the paired difference; the intervals overlap)"),
        (figure(0.5, 0.4, 0.6), None, "equal to"),
        (figure(0.3, None, None), None, "above (no intervals)"),
    ],
)  # fmt: skip
def test_a_baseline_is_beaten_only_if_the_intervals_show_it(other, gain, words):
    assert against(figure(0.5, 0.4, 0.6), other, gain) == words


def test_the_model_uses_its_images_only_if_black_images_are_worse_beyond_chance():
    def decided(*interval):
        return {"macro_f1": {"both": figure(*interval)}}

    model = decided(0.5, 0.4, 0.6)
    assert uses_images(model, decided(0.2, 0.1, 0.3)).startswith("<b>The model uses its images</b>")
    assert uses_images(model, decided(0.4, 0.3, 0.5), figure(0.1, 0.05, 0.2)).startswith(
        "<b>The model uses its images</b>"
    )
    assert uses_images(model, decided(0.4, 0.3, 0.5)).startswith("<b>The model may use its images</b>")
    assert uses_images(model, decided(0.5, 0.4, 0.6)).startswith("<b>The model does not seem to use its images</b>")
    assert uses_images(model, decided(0.2, None, None)).startswith(
        "<b>Whether the model uses its images</b> is unknown"
    )
    assert "--blackout" in uses_images(model, None)


def test_the_verdict_of_each_measure_is_a_sentence_about_all_baselines():
    predictions = some_plans(count=40)
    metrics = evaluate_predictions(predictions)
    first, second, third = verdicts(metrics["plan"])
    assert first.startswith("<b>Macro F1 ")
    assert second.startswith("<b>Accuracy ")
    assert "Not tested" in third
    assert all(name in first and name in second for name in metrics["plan"]["baselines"])


def test_texts_of_models_and_records_are_escaped(tmp_path):
    sly = "<script>alert('x')</script> & <b>STOP</b>"
    predictions = [
        plan(0, STRAIGHT, sly, mode="generate", question=f"{sly} 1"),
        plan(1, STRAIGHT, STRAIGHT, mode="generate", scene=sly),
        text(2, "description", f"{sly} 2", f"{sly} 3"),
    ]
    metrics = evaluate_predictions(predictions, run={"model": f"{sly} 4"})
    page = read_page(write_report(tmp_path, metrics, predictions, no_images))
    for number_ in (1, 2, 3, 4):
        assert f"{sly} {number_}" in page.text


def test_missing_and_broken_images_become_tiles_with_the_reason(tmp_path):
    predictions = [plan(0, STOP, STRAIGHT), plan(1, STOP, STOP)]
    for name in predictions[0]["images"][:4]:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (1600, 900), "#336699").save(path)
    (tmp_path / "images" / predictions[0]["images"][1]).write_bytes(b"no image")
    metrics = evaluate_predictions(predictions[:1])
    finder = image_finder(tmp_path / "images", None)
    page = read_page(write_report(tmp_path, metrics, predictions[:1], finder))
    assert page.text.count("image not found") == 2
    assert page.text.count("image cannot be read") == 1
    assert sum(address.startswith("data:image/jpeg;base64,") for address in page.addresses) == 3


def test_images_are_found_in_the_image_folder_or_beside_the_records(tmp_path):
    prediction = {"images": ["a.jpg", "b.jpg", "c.jpg"]}
    for name in ("images/a.jpg", "records/b.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    find = image_finder(tmp_path / "images", tmp_path / "records" / "val.jsonl")
    assert find(prediction) == [tmp_path / "images/a.jpg", tmp_path / "records/b.jpg", None]


def test_images_are_made_small_and_keep_their_proportions(tmp_path):
    path = tmp_path / "noise.png"
    Image.frombytes("RGB", (1600, 900), random.Random(0).randbytes(1600 * 900 * 3)).save(path)
    assert len(small_jpeg(path, (480, 270))) < 60_000
    Image.new("RGB", (1000, 500)).save(path)
    with Image.open(io.BytesIO(small_jpeg(path, (960, 540)))) as image:
        assert image.size == (960, 480)


@pytest.mark.parametrize("images", [[], ["CAM_FRONT/1.jpg"], ["1.jpg", "2.jpg"]])
def test_records_with_fewer_than_six_images_are_shown(tmp_path, images):
    predictions = [plan(index, STOP, STRAIGHT, images=images) for index in range(3)]
    _, page = report(tmp_path, predictions)
    assert ("This record has no images." in page.text) == (images == [])
    assert page.text.count("image not found") == 3 * len(images)


def test_generate_mode_has_no_calibration_and_counts_invalid_answers(tmp_path):
    predictions = some_plans("generate")
    predictions[0]["text"] = "KEEP or STOP, STRAIGHT"
    _, page = report(tmp_path, predictions)
    assert "--mode score" in page.text
    assert f"{100 / len(predictions):.1f} %" in page.text
    assert "not a meta-action: “KEEP or STOP, STRAIGHT”" in page.text


def test_plots_are_written_beside_the_page_and_older_plots_are_deleted(tmp_path):
    report(tmp_path, some_plans())
    for name in ("confusion_speed.png", "confusion_path.png", "calibration.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 500
    _, page = report(tmp_path, [text(0, "traffic_light", "Red\n", "Red")])
    assert not list(tmp_path.glob("*.png"))
    assert "navigation command" not in page.text
    assert not list(tmp_path.glob(".*"))  # no temporary files


def test_generate_mode_has_only_plots_of_confusion_matrices(tmp_path):
    report(tmp_path, some_plans("generate"))
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["confusion_path.png", "confusion_speed.png"]


def test_a_page_can_have_text_answers_only(tmp_path):
    predictions = [
        text(0, "traffic_light", "Red\n", "Green\n"),
        text(0, "motion", "Object 1: KEEP, STRAIGHT\n", "Object 1: STOP, STRAIGHT\n"),
        text(1, "vru", "Within 20 m there is: a pedestrian 5.0 m ahead and 1.0 m to the left.", "No one is there."),
        text(2, "description", "A wide road.", "A wide road."),
        text(3, "explanation", "It is red.", "It is green."),
        text(4, "something_else", "Yes.", "No."),
    ]
    metrics, page = report(tmp_path, predictions)
    assert metrics["plan"] is None
    for kind in ("traffic light", "motion", "vru", "description", "explanation"):
        assert kind in page.text
    assert "2 questions" in page.text  # the first two belong to the same frame
    assert "No one is there." in page.text


def test_records_without_metrics_are_reported(tmp_path):
    _, page = report(tmp_path, [text(0, "something_else", "Yes.", "No.")])
    assert "There is nothing to evaluate" in page.text


def test_the_page_reports_that_a_single_scene_gives_no_intervals(tmp_path):
    _, page = report(tmp_path, [plan(index, STOP, STRAIGHT, scene="only") for index in range(4)])
    assert "there are no intervals" in page.text
    assert "the intervals do not overlap" not in page.text


def test_predictions_with_an_error_are_ignored_by_the_report(tmp_path):
    predictions = some_plans()
    metrics = evaluate_predictions(predictions)
    page = read_page(write_report(tmp_path, metrics, [*predictions, {"index": 99, "error": "no image"}], no_images))
    assert "24" in page.text


def test_plans_without_a_valid_truth_are_counted_and_are_not_shown_as_errors(tmp_path):
    _, page = report(tmp_path, [*some_plans(), plan(99, "somewhere else", STRAIGHT)])
    assert "plans without a valid ground truth, left out1" in page.text
    assert "record 99" not in page.text


def test_published_metrics_are_shown_on_request(tmp_path):
    _, page = report(tmp_path, some_plans(), compat="original")
    assert "By the published code's definitions" in page.text
    assert "By the published code's definitions" not in report(tmp_path, some_plans())[1].text


def test_errors_are_sorted_by_confidence_with_two_per_scene_first():
    predictions = [plan(index, STOP, STRAIGHT, share=0.90 - 0.01 * index, scene="a") for index in range(4)]
    predictions += [plan(4, STOP, STRAIGHT, share=0.5, scene="b"), plan(5, STOP, STOP, share=0.99, scene="b")]
    assert confidence(predictions[0]) == pytest.approx(0.9)  # normalized over the twenty
    assert [row["index"] for row in pick_errors(predictions, 3)] == [0, 1, 4]
    assert [row["index"] for row in pick_errors(predictions, 9)] == [0, 1, 4, 2, 3]


def test_correct_plans_show_the_rare_meta_actions_first():
    predictions = [plan(index, STRAIGHT, STRAIGHT) for index in range(5)]
    predictions += [plan(5, LEFT, LEFT), plan(6, STOP, STOP), plan(7, STOP, STOP), plan(8, LEFT, STRAIGHT)]
    assert [row["truth"].strip() for row in pick_correct(predictions, 3)] == [LEFT, STOP, STRAIGHT]
    assert len(pick_correct(predictions, 20)) == 8


def test_text_frames_are_spread_over_the_file():
    predictions = [text(number // 2, f"kind{number % 2}", "a", "b") for number in range(40)]
    frames = pick_text_frames(predictions, 2)
    assert [len(frame) for frame in frames] == [2, 2]
    assert [frame[0]["index"] for frame in frames] == [0, 10]


def test_a_full_page_stays_under_five_megabytes(tmp_path):
    path = tmp_path / "noisy.jpg"
    noise = Image.frombytes("RGB", (400, 225), random.Random(1).randbytes(400 * 225 * 3))
    noise.resize((1600, 900)).save(path, quality=90)
    predictions = [plan(index, STOP, STRAIGHT) for index in range(8)]
    predictions += [plan(index, STOP, STOP) for index in range(8, 12)]
    predictions += [text(index, "description", "a", "a") for index in range(3)]
    report(tmp_path, predictions, lambda prediction: [path] * 6)
    assert (tmp_path / "report.html").stat().st_size < 5e6


def test_missing_figures_are_shown_as_dashes():
    assert (number(None), number(float("nan")), percent(None)) == ("–", "–", "–")
    assert number(1234) == "1,234"
