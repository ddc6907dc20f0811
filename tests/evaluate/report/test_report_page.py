"""report.html: the figures of the metrics are in it, in one file; what is missing is told; nothing a model says is markup."""

import io
import random

import pytest
from PIL import Image

from senna.evaluate.metrics.evaluate_predictions import evaluate_predictions
from senna.evaluate.report.frame_cards import (
    confidence,
    pick_correct,
    pick_errors,
    pick_text_frames,
    picture_finder,
    small_jpeg,
)
from senna.evaluate.report.html import luminance, number, percent, shade
from senna.evaluate.report.report_page import against, looks, verdicts, write_report
from tests.evaluate.pages import plan, read_page, text

STRAIGHT, LEFT, STOP = "KEEP, STRAIGHT", "KEEP, LEFT_TURN", "STOP, STRAIGHT"


def no_pictures(prediction):
    return [None] * len(prediction["images"])


@pytest.fixture(autouse=True)
def _without_plots(request, monkeypatch):
    """The plots take most of the time and have tests of their own."""
    if "plots" not in request.node.name:
        monkeypatch.setattr("senna.evaluate.report.report_page.draw_charts", lambda plan, out: [])


def some_plans(mode="score", count=24):
    """Right but for every fifth, which is a STOP taken for KEEP."""
    truths = [(STRAIGHT, LEFT, STOP)[place % 3] for place in range(count)]
    answers = [STRAIGHT if place % 5 == 2 else truth for place, truth in enumerate(truths)]
    return [plan(place, *pair, mode=mode) for place, pair in enumerate(zip(truths, answers, strict=True))]


def report(tmp_path, predictions, pictures=no_pictures, **options):
    metrics = evaluate_predictions(predictions, run={"model": "outputs/senna", "data": "val.jsonl"}, **options)
    return metrics, read_page(write_report(tmp_path, metrics, predictions, pictures))


def figure(value, low, high):
    return {"value": value, "low": low, "high": high}


def test_the_page_has_the_headline_with_its_interval_beside_every_baseline_and_the_black_images(tmp_path):
    predictions = some_plans()
    black = [{**one, "sum": STRAIGHT, "greedy": STRAIGHT} for one in predictions]
    metrics, page = report(tmp_path, predictions, blackout=black)
    found = metrics["plan"]
    rivals = [found["decisions"]["sum"], found["decisions"]["greedy"], *found["baselines"].values(), found["blackout"]]
    for rival in rivals:
        macro, accuracy = rival["macro_f1"]["both"], rival["accuracy"]["both"]
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
    assert "looks 6 s ahead into the recorded drive" in page.text


def test_counts_and_row_shares_of_the_confusion_are_in_their_cells(tmp_path):
    predictions = [plan(place, STOP, STOP if place < 3 else STRAIGHT) for place in range(4)]
    _, page = report(tmp_path, predictions)
    assert "STOP125 %00375 %" in page.text  # of STOP: 1 (25 %) told KEEP, none the next two, 3 (75 %) STOP


def test_letters_can_be_read_on_every_colour_of_the_heat_map():
    for right in (True, False):
        for step in range(101):
            back, ink = shade(step / 100, right)
            light, dark = sorted((luminance(back), luminance(ink)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2's AA for small letters


def test_luminance_is_that_of_wcag():
    assert luminance("#ffffff") == pytest.approx(1.0)
    assert luminance("#ff0000") == pytest.approx(0.2126)
    assert luminance("#808080") == pytest.approx(((128 / 255 + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize(
    ("other", "gain", "words"),
    [
        (figure(0.2, 0.1, 0.39), None, "<b>above</b> (intervals apart)"),
        (figure(0.7, 0.61, 0.8), None, "<b>below</b> (intervals apart)"),
        (figure(0.3, 0.2, 0.41), None, "above (may be chance)"),
        (figure(0.3, 0.2, 0.41), figure(0.2, 0.01, 0.3), "above (in pairs; the intervals overlap)"),
        (figure(0.3, 0.2, 0.41), figure(0.2, -0.01, 0.3), "above (may be chance)"),
        (figure(0.6, 0.5, 0.7), figure(-0.1, -0.2, -0.01), "below (in pairs; the intervals overlap)"),
        (figure(0.5, 0.4, 0.6), None, "equal to"),
        (figure(0.3, None, None), None, "above (no intervals)"),
    ],
)  # fmt: skip
def test_a_baseline_is_beaten_only_where_intervals_say_so(other, gain, words):
    assert against(figure(0.5, 0.4, 0.6), other, gain) == words


def test_it_looks_only_where_black_images_cost_more_than_chance():
    def decided(*interval):
        return {"macro_f1": {"both": figure(*interval)}}

    model = decided(0.5, 0.4, 0.6)
    assert looks(model, decided(0.2, 0.1, 0.3)).startswith("<b>It looks</b>")
    assert looks(model, decided(0.4, 0.3, 0.5), figure(0.1, 0.05, 0.2)).startswith("<b>It looks</b>")
    assert looks(model, decided(0.4, 0.3, 0.5)).startswith("<b>It may look</b>")
    assert looks(model, decided(0.5, 0.4, 0.6)).startswith("<b>It does not seem to look</b>")
    assert looks(model, decided(0.2, None, None)).startswith("<b>Whether it looks</b> cannot be said")
    assert "--blackout" in looks(model, None)


def test_one_sentence_names_the_baselines_that_are_alike_beaten():
    predictions = some_plans(count=40)
    metrics = evaluate_predictions(predictions)
    first, second, third = verdicts(metrics["plan"])
    assert first.startswith("<b>Macro F1 ")
    assert second.startswith("<b>Accuracy ")
    assert "Not tested" in third
    assert all(name in first and name in second for name in metrics["plan"]["baselines"])


def test_what_a_model_or_a_record_says_is_shown_and_is_no_markup(tmp_path):
    sly = "<script>alert('x')</script> & <b>STOP</b>"
    predictions = [
        plan(0, STRAIGHT, sly, mode="generate", question=f"{sly} 1"),
        plan(1, STRAIGHT, STRAIGHT, mode="generate", scene=sly),
        text(2, "description", f"{sly} 2", f"{sly} 3"),
    ]
    metrics = evaluate_predictions(predictions, run={"model": f"{sly} 4"})
    page = read_page(write_report(tmp_path, metrics, predictions, no_pictures))
    for number_ in (1, 2, 3, 4):
        assert f"{sly} {number_}" in page.text


def test_a_missing_or_broken_picture_is_a_tile_that_says_so_and_the_others_are_in_the_page(tmp_path):
    predictions = [plan(0, STOP, STRAIGHT), plan(1, STOP, STOP)]
    for name in predictions[0]["images"][:4]:
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (1600, 900), "#336699").save(path)
    (tmp_path / "pictures" / predictions[0]["images"][1]).write_bytes(b"no picture")
    metrics = evaluate_predictions(predictions[:1])
    finder = picture_finder(tmp_path / "pictures", None)
    page = read_page(write_report(tmp_path, metrics, predictions[:1], finder))
    assert page.text.count("image not found") == 2
    assert page.text.count("image cannot be read") == 1
    assert sum(address.startswith("data:image/jpeg;base64,") for address in page.fetched) == 3


def test_pictures_are_found_in_the_image_folder_or_beside_the_records(tmp_path):
    prediction = {"images": ["a.jpg", "b.jpg", "c.jpg"]}
    for name in ("pictures/a.jpg", "records/b.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    find = picture_finder(tmp_path / "pictures", tmp_path / "records" / "val.jsonl")
    assert find(prediction) == [tmp_path / "pictures/a.jpg", tmp_path / "records/b.jpg", None]


def test_pictures_are_small_and_not_stretched(tmp_path):
    path = tmp_path / "noise.png"
    Image.frombytes("RGB", (1600, 900), random.Random(0).randbytes(1600 * 900 * 3)).save(path)
    assert len(small_jpeg(path, (480, 270))) < 60_000
    Image.new("RGB", (1000, 500)).save(path)
    with Image.open(io.BytesIO(small_jpeg(path, (960, 540)))) as image:
        assert image.size == (960, 480)


@pytest.mark.parametrize("images", [[], ["CAM_FRONT/1.jpg"], ["1.jpg", "2.jpg"]])
def test_records_with_fewer_images_are_shown_as_well(tmp_path, images):
    predictions = [plan(place, STOP, STRAIGHT, images=images) for place in range(3)]
    _, page = report(tmp_path, predictions)
    assert ("This record has no images." in page.text) == (images == [])
    assert page.text.count("image not found") == 3 * len(images)


def test_generate_mode_has_no_calibration_and_counts_what_is_no_meta_action(tmp_path):
    predictions = some_plans("generate")
    predictions[0]["text"] = "KEEP or STOP, STRAIGHT"
    _, page = report(tmp_path, predictions)
    assert "--mode score" in page.text
    assert f"{100 / len(predictions):.1f} %" in page.text
    assert "not a meta-action: “KEEP or STOP, STRAIGHT”" in page.text


def test_the_plots_lie_beside_the_page_and_those_of_an_older_run_do_not_stay(tmp_path):
    report(tmp_path, some_plans())
    for name in ("confusion_speed.png", "confusion_path.png", "calibration.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 500
    _, page = report(tmp_path, [text(0, "traffic_light", "Red\n", "Red")])
    assert not list(tmp_path.glob("*.png"))
    assert "navigation command" not in page.text
    assert not list(tmp_path.glob(".*"))  # nothing half written


def test_generate_mode_has_plots_of_confusion_only(tmp_path):
    report(tmp_path, some_plans("generate"))
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["confusion_path.png", "confusion_speed.png"]


def test_text_answers_alone_make_a_page(tmp_path):
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
    assert "2 questions" in page.text  # the first two are of one frame
    assert "No one is there." in page.text


def test_records_that_nothing_judges_are_told(tmp_path):
    _, page = report(tmp_path, [text(0, "something_else", "Yes.", "No.")])
    assert "Nothing here can be judged" in page.text


def test_without_a_second_scene_there_is_no_interval_and_the_page_says_so(tmp_path):
    _, page = report(tmp_path, [plan(place, STOP, STRAIGHT, scene="one") for place in range(4)])
    assert "no interval can be given" in page.text
    assert "intervals apart" not in page.text


def test_records_that_could_not_be_used_do_not_stop_the_report(tmp_path):
    predictions = some_plans()
    metrics = evaluate_predictions(predictions)
    page = read_page(write_report(tmp_path, metrics, [*predictions, {"index": 99, "error": "no image"}], no_pictures))
    assert "24" in page.text


def test_plans_without_a_true_meta_action_are_counted_and_are_no_errors(tmp_path):
    _, page = report(tmp_path, [*some_plans(), plan(99, "somewhere else", STRAIGHT)])
    assert "whose truth is no meta-action1" in page.text
    assert "record 99" not in page.text


def test_published_counts_are_shown_where_they_are_asked_for(tmp_path):
    _, page = report(tmp_path, some_plans(), compat="original")
    assert "By the published code's definitions" in page.text
    assert "By the published code's definitions" not in report(tmp_path, some_plans())[1].text


def test_errors_are_the_most_confident_first_and_a_scene_does_not_fill_the_page():
    predictions = [plan(place, STOP, STRAIGHT, share=0.90 - 0.01 * place, scene="a") for place in range(4)]
    predictions += [plan(4, STOP, STRAIGHT, share=0.5, scene="b"), plan(5, STOP, STOP, share=0.99, scene="b")]
    assert confidence(predictions[0]) == pytest.approx(0.9)  # of the twenty alone, whatever goes elsewhere
    assert [one["index"] for one in pick_errors(predictions, 3)] == [0, 1, 4]
    assert [one["index"] for one in pick_errors(predictions, 9)] == [0, 1, 4, 2, 3]


def test_right_frames_show_the_rare_meta_actions_first():
    predictions = [plan(place, STRAIGHT, STRAIGHT) for place in range(5)]
    predictions += [plan(5, LEFT, LEFT), plan(6, STOP, STOP), plan(7, STOP, STOP), plan(8, LEFT, STRAIGHT)]
    assert [one["truth"].strip() for one in pick_correct(predictions, 3)] == [LEFT, STOP, STRAIGHT]
    assert len(pick_correct(predictions, 20)) == 8


def test_text_frames_come_from_all_over_the_file():
    predictions = [text(place // 2, f"kind{place % 2}", "a", "b") for place in range(40)]
    frames = pick_text_frames(predictions, 2)
    assert [len(frame) for frame in frames] == [2, 2]
    assert [frame[0]["index"] for frame in frames] == [0, 10]


def test_a_full_page_stays_under_five_megabytes(tmp_path):
    path = tmp_path / "noisy.jpg"
    noise = Image.frombytes("RGB", (400, 225), random.Random(1).randbytes(400 * 225 * 3))
    noise.resize((1600, 900)).save(path, quality=90)
    predictions = [plan(place, STOP, STRAIGHT) for place in range(8)] + [
        plan(place, STOP, STOP) for place in range(8, 12)
    ]
    predictions += [text(place, "description", "a", "a") for place in range(3)]
    report(tmp_path, predictions, lambda prediction: [path] * 6)
    assert (tmp_path / "report.html").stat().st_size < 5e6


def test_percent_and_number_tell_what_is_missing():
    assert (number(None), number(float("nan")), percent(None)) == ("–", "–", "–")
    assert number(1234) == "1,234"
