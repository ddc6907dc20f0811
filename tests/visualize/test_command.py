"""`senna visualize`: a picture per frame, kept across runs; a broken image stops nothing; the model's numbers are shown."""

import json
import math
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from senna.errors import DataError, UsageError
from senna.file_lock import lock_folder
from senna.meta_actions import ALL_META_ACTIONS, MetaAction
from senna.record_file import open_records
from senna.templates import load_templates
from senna.trajectory import format_trajectory
from senna.views import VIEWS, image_block
from senna.visualize.album import Album
from senna.visualize.command import main
from senna.visualize.key_frames import KeyFrame, key_frames
from senna.visualize.png_store import read_note
from senna.visualize.predictions import Answer, Model, Predictions, Question
from tests.helpers.paths import REPOSITORY
from tests.helpers.plan_records import paths, record
from tests.helpers.small_tokenizers import llama_folder

QUESTION = "The car drives at 3.1 m/s and its route says: turn right. Its plan?"


def prediction(index, token, best_index=0):
    """Return a prediction in which one meta-action has half of the twenty's probability, which is 0.9 in total."""
    shares = np.full(20, 0.5 / 19)
    shares[best_index] = 0.5
    best = str(ALL_META_ACTIONS[best_index])
    about = {
        "index": index,
        "id": f"{token}-plan",
        "token": token,
        "scene": "s",
        "kind": "plan",
        "images": paths(token),
    }
    scores = {"log_probs": np.log(0.9 * shares).tolist(), "sum": best, "greedy": best, "left_tree": None}
    return {**about, "question": QUESTION, "truth": "KEEP, STRAIGHT\n", "trajectory": [], **scores}


class World:
    """Three frames of a scene and one of another, with images and predictions."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "out"
        self.data, self.predictions = folder / "records.jsonl", folder / "predictions.jsonl"
        scene_of = {"a": "s", "b": "s", "c": "s", "d": "t"}
        records, found = [], []
        for token, scene in scene_of.items():
            turns = [{"from": "human", "value": image_block() + QUESTION}, {"from": "gpt", "value": "KEEP, STRAIGHT\n"}]
            future = [[0.0, 4.0 * step] for step in range(1, 7)]
            records.append(record(token, scene=scene, conversations=turns, ego_fut_trajs=future))
            found.append(prediction(len(records) - 1, token))
            for path in paths(token):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 18), (90, 90, 90)).save(folder / path)
        self.write(self.data, records)
        self.write(self.predictions, found)

    @staticmethod
    def write(path, lines):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def run(self, *flags, film="none", predictions=True):
        given = ["--predictions", str(self.predictions)] if predictions else []
        return main(["--data", str(self.data), "--out", str(self.out), *given, "--film", film, *flags])

    def times(self):
        return {path.name: path.stat().st_mtime_ns for path in sorted(self.out.glob("*.png"))}


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_every_frame_gets_a_picture_and_every_scene_a_film(world, capsys):
    assert world.run(film="gif") == 0
    assert sorted(path.name for path in world.out.iterdir() if not path.name.startswith(".")) == [
        "s.gif", "s_0001.png", "s_0002.png", "s_0003.png", "t.gif", "t_0001.png",
    ]  # fmt: skip
    with Image.open(world.out / "s.gif") as film:
        assert film.n_frames == 3
    assert "4 pictures, 4 of them drawn now; 2 films" in capsys.readouterr().out


def test_a_continued_run_keeps_complete_pictures_and_draws_the_others(world, capsys):
    world.run("--limit", "3")
    before = world.times()
    assert list(before) == ["s_0001.png", "s_0002.png", "s_0003.png"]
    (world.out / "s_0001.png").unlink()
    complete = (world.out / "s_0002.png").read_bytes()
    (world.out / "s_0002.png").write_bytes(complete[: len(complete) // 2])
    capsys.readouterr()
    world.run()
    after = world.times()
    assert after["s_0003.png"] == before["s_0003.png"]
    assert after["s_0002.png"] != before["s_0002.png"]
    assert (world.out / "s_0002.png").read_bytes() == complete
    assert list(after) == ["s_0001.png", "s_0002.png", "s_0003.png", "t_0001.png"]
    assert "4 pictures, 3 of them drawn now" in capsys.readouterr().out
    world.run("--overwrite", "--limit", "1")
    assert world.times()["s_0001.png"] != after["s_0001.png"]


def test_pictures_of_another_model_are_refused(world):
    world.run("--limit", "2")
    before = world.times()
    world.write(world.predictions, [prediction(0, "a", best_index=5), prediction(1, "b", best_index=5)])
    with pytest.raises(UsageError, match=r"s_0001\.png holds another run: files was .*--overwrite"):
        world.run("--limit", "1")
    assert world.times() == before
    world.run("--limit", "1", "--overwrite")
    after = world.times()
    assert after["s_0001.png"] != before["s_0001.png"]
    world.run("--limit", "1")
    assert world.times() == after
    with pytest.raises(UsageError, match=r"s_0002\.png holds another run"):  # the second run did not touch it
        world.run("--limit", "2")


def test_copied_files_and_paths_written_in_another_way_continue_a_run(world, monkeypatch):
    world.run(film="gif")
    before, film = world.times(), (world.out / "s.gif").stat().st_mtime_ns
    copy = shutil.copy(world.predictions, world.folder / "copy.jsonl")
    os.utime(copy, (1, 1))
    os.utime(world.out / "s_0001.png", ns=(before["s_0001.png"], before["s_0001.png"]))
    monkeypatch.chdir(world.folder)
    (world.folder / "link").symlink_to(world.data)
    flags = ["--data", "./link", "--out", "out/", "--predictions", "copy.jsonl", "--film", "gif"]
    assert main(flags) == 0
    assert world.times() == before
    os.utime(world.out / "s_0001.png", (1, 1))
    assert main(flags) == 0
    assert (world.out / "s.gif").stat().st_mtime_ns == film


def test_a_run_of_an_earlier_version_continues_unless_a_file_has_changed(world):
    from senna.files import stamp
    from senna.visualize.png_store import write_png

    world.run("--limit", "1")
    path = world.out / "s_0001.png"
    note = read_note(path)["settings"]
    note["files"] = [stamp(world.predictions), stamp(world.data)]
    with Image.open(path) as picture:
        write_png(picture, path, note)
    before = world.times()
    world.run("--limit", "1")
    assert world.times() == before
    os.utime(world.data, (1, 1))
    with pytest.raises(UsageError, match=r"s_0001\.png holds another run: files was"):
        world.run("--limit", "1")


def test_a_second_run_in_the_same_folder_is_refused(world):
    with lock_folder(world.out, remedy=""), pytest.raises(UsageError, match="another process is writing") as error:
        world.run()
    assert "--out" in error.value.remedy
    assert not list(world.out.glob("*.png"))


def test_a_film_is_made_again_only_if_its_pictures_changed(world):
    world.run("--limit", "2", film="gif")
    made = (world.out / "s.gif").stat().st_mtime_ns
    world.run("--limit", "2", film="gif")
    assert (world.out / "s.gif").stat().st_mtime_ns == made
    world.run("--scene", "s", film="gif")
    with Image.open(world.out / "s.gif") as film:
        assert film.n_frames == 3


def test_a_broken_image_is_counted_and_its_picture_drawn_again_after_repair(world, capsys):
    broken, missing = world.folder / paths("a")[2], world.folder / paths("b")[0]
    complete = broken.read_bytes()
    broken.write_bytes(complete[:-40])
    missing.unlink()
    assert world.run() == 0
    printed = capsys.readouterr().out
    assert "2 images of 2 frames could not be read" in printed
    assert f"{broken}: damaged or truncated" in printed
    assert [read_note(world.out / f"s_000{number}.png")["unreadable"] for number in (1, 2, 3)] == [1, 1, 0]
    before = world.times()
    broken.write_bytes(complete)
    world.run()
    assert {name for name, time in world.times().items() if time != before[name]} == {"s_0001.png", "s_0002.png"}
    assert read_note(world.out / "s_0001.png")["unreadable"] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scene", "u"], "no such scene; its scenes are: s, t"),
        (["--limit", "0"], "--limit 0"),
        (["--film", "avi"], "--film avi"),
        (["--fps", "0"], "--fps 0"),
        (["--describe"], "--describe needs a model"),
        (["--data", "records.txt"], "does not exist"),
        (["--predictions", "nothing.jsonl"], "nothing.jsonl does not exist"),
    ],
)
def test_wrong_use_is_reported_before_anything_is_drawn(world, flags, message):
    with pytest.raises(Exception, match=message) as error:
        world.run(*flags)
    assert error.value.exit_code in (1, 2)
    assert not list(world.out.glob("*.png")) if world.out.exists() else True


def test_a_model_or_predictions_are_required(world):
    with pytest.raises(UsageError, match="--model is missing"):
        world.run(predictions=False)


def test_a_folder_without_any_image_is_an_error(world):
    moved = world.folder / "records" / "moved.jsonl"
    moved.parent.mkdir()
    moved.write_bytes(world.data.read_bytes())
    with pytest.raises(UsageError, match="--image-folder"):
        world.run("--data", str(moved))
    assert world.run("--data", str(moved), "--image-folder", str(world.folder), "--limit", "1") == 0


def test_records_without_images_are_an_error(world):
    text = {"conversations": [{"from": "human", "value": "Say it."}, {"from": "gpt", "value": "It."}]}
    world.write(world.data, [text])
    with pytest.raises(UsageError, match="no record has an image"):
        world.run()


def test_the_picture_shows_the_content_of_record_and_prediction(world, monkeypatch):
    drawn = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, xy, t, *a, **k: (drawn.append(t), text(self, xy, t, *a, **k))
    )
    world.run("--limit", "1")
    for words in ("Scene s, frame 1 of 3", "✓ correct", "50.0 %", "speed now: 3.1 m/s (11 km/h)", "route: turn right"):
        assert words in drawn
    assert any("10.0 % of the probability is outside" in line for line in drawn)
    assert any("24.0 m in 3 s" in line for line in drawn)


def test_the_predicted_trajectory_of_a_frame_is_in_its_picture(world, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "senna.visualize.album.draw_frame", lambda views, facts: (drawn.append(facts), Image.new("RGB", (8, 8)))[1]
    )
    lines = [json.loads(line) for line in world.predictions.read_text().splitlines()]
    points = [[0.5, 3.0 * step] for step in range(1, 7)]
    more = {"index": 90, "kind": "trajectory", "token": "b", "text": format_trajectory(points)}
    world.write(
        world.predictions, [*lines, {**more, "plan": "STOP, LEFT_TURN"}, {**more, "token": "c", "text": "no idea"}]
    )
    world.run()
    notes = {facts.subtitle: [note for note in facts.notes if "asked for with" in note] for facts in drawn}
    assert notes == {"a": [], "b": ["The trajectory was asked for with the plan STOP, LEFT_TURN."], "c": [], "d": []}
    paths = {facts.subtitle: facts.predicted_path for facts in drawn}
    assert paths == {"a": (), "b": points, "c": (), "d": ()}
    assert any("no idea" in note for facts in drawn for note in facts.notes)


def test_the_model_predicts_the_trajectory_of_the_predicted_plan(world):
    block = image_block()
    turns = [{"from": "human", "value": block + "Path of STOP, STRAIGHT?"}, {"from": "gpt", "value": "?"}]
    stated = {"plan": "STOP, STRAIGHT", "plan_at": [len(block) + 8], "conversations": turns}
    records = open_records(world.data)
    world.write(world.data, [*records, record("a", "trajectory", **stated)])
    records, asked = open_records(world.data), []

    def generate(question):
        asked.append((question.turns[-1]["value"].removeprefix(block), len(question.images)))
        return format_trajectory([[0.0, 1.0]] * 6)

    predicted = Answer(predicted=MetaAction("KEEP", "LEFT_TURN"))
    album = Album(records, [world.folder], load_templates(), lambda *_: predicted, generate=generate)
    for frame in key_frames(records):
        album.draw(frame)
    assert asked == [("Path of KEEP, LEFT_TURN?", 6)]


def test_a_frame_without_a_plan_shows_speed_and_route_as_not_known(world, monkeypatch):
    asked = []

    class Spy:
        def __init__(self, *_):
            pass

        def __call__(self, frame, plan, description):
            asked.append(plan.turns[-1]["value"])
            from senna.visualize.predictions import Answer

            return Answer(MetaAction("STOP", "STRAIGHT"), [0.05] * 20)

    drawn = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, xy, t, *a, **k: (drawn.append(t), text(self, xy, t, *a, **k))
    )
    monkeypatch.setattr("senna.visualize.predictions.Model", Spy)
    world.write(world.data, [record("a", "perception", "Two cars.")])
    main(["--data", str(world.data), "--out", str(world.out), "--model", "any", "--film", "none"])
    [question] = asked
    assert question.startswith(image_block())
    assert "speed not yet known" in question
    assert "route says: not known" in question
    assert {"speed now: not known", "route: not known", "? not judged", "not in the record"} <= set(drawn)
    assert any("speed and route not known" in line for line in drawn)


def test_a_record_with_too_few_images_is_named(world):
    records = [json.loads(line) for line in world.data.read_text().splitlines()]
    records[1]["images"] = records[1]["images"][:4]
    world.write(world.data, records)
    with pytest.raises(DataError, match=r"records\.jsonl: record 1, line 2 \(b-plan\): the prompt asks for"):
        world.run()


def frame(plan=0, token="a"):
    return KeyFrame("s", token, 1, 1, dict(zip(VIEWS, paths(token), strict=True)), [plan], plan)


def test_predictions_are_found_by_index_and_token_or_by_token_alone(tmp_path):
    path = tmp_path / "predictions.jsonl"
    generated = {"index": 4, "token": "g", "kind": "plan", "text": "KEEP or STOP", "truth": "KEEP, STRAIGHT"}
    failed = {"index": 5, "token": "f", "kind": "plan", "error": "no such image"}
    described = {"index": 9, "token": "a", "kind": "description", "text": "Rain."}
    World.write(path, [prediction(0, "a"), prediction(1, "b", best_index=5), generated, failed, described])
    predictions = Predictions(path)
    answer = predictions(frame(), 9)
    assert (answer.predicted, answer.description) == (MetaAction("KEEP", "STRAIGHT"), "Rain.")
    assert answer.outside == pytest.approx(0.1)
    assert answer.probabilities[0] == pytest.approx(0.5)
    assert sum(answer.probabilities) == pytest.approx(1.0)
    assert predictions(frame(0, "b"), None).predicted == MetaAction("ACCELERATE", "STRAIGHT")  # indices of another file
    answer = predictions(frame(4, "g"), None)
    assert (answer.predicted, answer.answer, answer.probabilities) == (None, "KEEP or STOP", None)
    assert "no such image" in predictions(frame(5, "f"), None).notes[0]
    assert "no prediction" in predictions(frame(7, "z"), None).notes[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return an untrained tiny model with the real image geometry, and a tokenizer."""
    from transformers.models.clip import CLIPImageProcessorPil

    from senna.data import load_tokenizer
    from senna.model import SennaLlavaLlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    tokenizer = load_tokenizer(llama_folder(folder / "tokenizer", vocabulary=320), 2048)
    model = SennaLlavaLlamaForCausalLM.from_pretrained(
        REPOSITORY / "tests" / "golden" / "model_v320", dtype=torch.float32
    )
    for part in (
        model,
        tokenizer,
        CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
    ):
        part.save_pretrained(folder / "model")
    return Model(str(folder / "model"), device="cpu", max_new_tokens=5)


def test_the_model_gets_the_images_in_the_order_of_the_prompt(model):
    from senna.data import encode_conversation, load_image

    images = [Image.new("RGB", (64, 36), (40 * number, 200 - 40 * number, 90)) for number in range(6)]
    turns = [{"from": "human", "value": image_block() + QUESTION}]
    answer = model(frame(), Question(turns, images), Question(turns, images))
    assert isinstance(answer.description, str)
    assert answer.predicted == ALL_META_ACTIONS[int(np.argmax(answer.probabilities))]
    pixels = torch.stack([load_image(image, model.processor) for image in images])

    def log_probability(action):
        """Return the log-probability of an answer and its terminator, scored separately."""
        encoded = encode_conversation([*turns, {"from": "gpt", "value": f"{action}\n"}], model.tokenizer)
        ids, labels = encoded["input_ids"][None], encoded["labels"][None]
        with torch.no_grad():
            loss = model.model(input_ids=ids, labels=labels, images=pixels[None]).loss
        return -loss.item() * int((labels >= 0).sum())

    first, second = np.argsort(answer.probabilities)[:-3:-1]
    expected = log_probability(ALL_META_ACTIONS[first]) - log_probability(ALL_META_ACTIONS[second])
    assert math.log(answer.probabilities[first] / answer.probabilities[second]) == pytest.approx(expected, abs=1e-3)
    images.reverse()  # the order matters
    other = model(frame(), Question(turns, images), None)
    assert other.description is None
    assert other.probabilities != answer.probabilities


def test_the_model_is_not_asked_about_unreadable_images(model):
    question = Question(
        [{"from": "human", "value": image_block() + QUESTION}], [Image.new("RGB", (64, 36))] * 5 + [None]
    )
    answer = model(frame(), question, question)
    assert (answer.predicted, answer.probabilities, answer.description) == (None, None, None)
    assert "1 of 6 views" in answer.notes[0]
