"""`senna visualize`: a picture a frame, kept over runs; a broken image stops nothing; the model's own numbers are shown."""

import json
import math
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from senna.errors import DataError, UsageError
from senna.meta_actions import ALL_META_ACTIONS, MetaAction
from senna.views import VIEWS, image_block
from senna.visualize.command import main
from senna.visualize.key_frames import KeyFrame
from senna.visualize.png_store import read_note
from senna.visualize.predictions import Model, Predictions, Question
from tests.conftest import REPOSITORY
from tests.data.small_tokenizers import llama_folder
from tests.visualize.test_key_frames import paths, record

QUESTION = "The car drives at 3.1 m/s and its route says: turn right. Its plan?"


def prediction(place, moment, sure=0):
    """Of the plan at ``place``: the ``sure``-th meta-action has half of the probability, 0.9 of it is in the twenty."""
    shares = np.full(20, 0.5 / 19)
    shares[sure] = 0.5
    best = str(ALL_META_ACTIONS[sure])
    about = {
        "index": place,
        "id": f"{moment}-plan",
        "token": moment,
        "scene": "s",
        "kind": "plan",
        "images": paths(moment),
    }
    scores = {"log_probs": np.log(0.9 * shares).tolist(), "sum": best, "greedy": best, "left_tree": None}
    return {**about, "question": QUESTION, "truth": "KEEP, STRAIGHT\n", "trajectory": [], **scores}


class World:
    """Three frames of a scene and one of another, with pictures and predictions."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "out"
        self.data, self.predictions = folder / "records.jsonl", folder / "predictions.jsonl"
        moments = {"a": "s", "b": "s", "c": "s", "d": "t"}
        records, found = [], []
        for moment, scene in moments.items():
            turns = [{"from": "human", "value": image_block() + QUESTION}, {"from": "gpt", "value": "KEEP, STRAIGHT\n"}]
            future = [[0.0, 4.0 * step] for step in range(1, 7)]
            records.append(record(moment, scene=scene, conversations=turns, ego_fut_trajs=future))
            found.append(prediction(len(records) - 1, moment))
            for path in paths(moment):
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


def test_each_frame_has_its_picture_and_each_scene_its_film(world, capsys):
    assert world.run(film="gif") == 0
    assert sorted(path.name for path in world.out.iterdir() if not path.name.startswith(".")) == [
        "s.gif", "s_0001.png", "s_0002.png", "s_0003.png", "t.gif", "t_0001.png",
    ]  # fmt: skip
    with Image.open(world.out / "s.gif") as film:
        assert film.n_frames == 3
    assert "4 pictures, 4 of them drawn now; 2 films" in capsys.readouterr().out


def test_a_run_that_goes_on_keeps_what_is_whole_and_draws_what_is_not(world, capsys):
    world.run("--limit", "3")
    before = world.times()
    assert list(before) == ["s_0001.png", "s_0002.png", "s_0003.png"]
    (world.out / "s_0001.png").unlink()
    whole = (world.out / "s_0002.png").read_bytes()
    (world.out / "s_0002.png").write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    world.run()
    after = world.times()
    assert after["s_0003.png"] == before["s_0003.png"]
    assert after["s_0002.png"] != before["s_0002.png"]
    assert (world.out / "s_0002.png").read_bytes() == whole
    assert list(after) == ["s_0001.png", "s_0002.png", "s_0003.png", "t_0001.png"]
    assert "4 pictures, 3 of them drawn now" in capsys.readouterr().out
    world.run("--overwrite", "--limit", "1")
    assert world.times()["s_0001.png"] != after["s_0001.png"]


def test_pictures_of_another_model_are_not_kept_as_if_they_were_of_this(world):
    world.run("--limit", "2")
    before = world.times()
    world.write(world.predictions, [prediction(0, "a", sure=5), prediction(1, "b", sure=5)])
    with pytest.raises(UsageError, match=r"s_0001\.png is of another run: files was .*--overwrite"):
        world.run("--limit", "1")
    assert world.times() == before
    world.run("--limit", "1", "--overwrite")
    after = world.times()
    assert after["s_0001.png"] != before["s_0001.png"]
    world.run("--limit", "1")
    assert world.times() == after
    with pytest.raises(UsageError, match=r"s_0002\.png is of another run"):  # which the second run left as it was
        world.run("--limit", "2")


def test_a_film_is_made_anew_only_where_its_pictures_changed(world):
    world.run("--limit", "2", film="gif")
    made = (world.out / "s.gif").stat().st_mtime_ns
    world.run("--limit", "2", film="gif")
    assert (world.out / "s.gif").stat().st_mtime_ns == made
    world.run("--scene", "s", film="gif")
    with Image.open(world.out / "s.gif") as film:
        assert film.n_frames == 3


def test_a_broken_image_is_counted_and_drawn_when_it_is_mended(world, capsys):
    broken, gone = world.folder / paths("a")[2], world.folder / paths("b")[0]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-40])
    gone.unlink()
    assert world.run() == 0
    said = capsys.readouterr().out
    assert "2 images could not be read, in 2 frames" in said
    assert f"{broken}: damaged or truncated" in said
    assert [read_note(world.out / f"s_000{number}.png")["unreadable"] for number in (1, 2, 3)] == [1, 1, 0]
    before = world.times()
    broken.write_bytes(whole)
    world.run()
    assert {name for name, time in world.times().items() if time != before[name]} == {"s_0001.png", "s_0002.png"}
    assert read_note(world.out / "s_0001.png")["unreadable"] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scene", "u"], "no such scene; it has s, t"),
        (["--limit", "0"], "--limit 0"),
        (["--film", "avi"], "--film avi"),
        (["--fps", "0"], "--fps 0"),
        (["--describe"], "--describe asks the model"),
        (["--data", "records.txt"], "does not exist"),
        (["--predictions", "nothing.jsonl"], "nothing.jsonl does not exist"),
    ],
)
def test_what_cannot_be_shown_is_said_before_anything_is_drawn(world, flags, message):
    with pytest.raises(Exception, match=message) as error:
        world.run(*flags)
    assert error.value.exit_code in (1, 2)
    assert not list(world.out.glob("*.png")) if world.out.exists() else True


def test_without_model_and_predictions_there_is_nothing_to_ask(world):
    with pytest.raises(UsageError, match="--model is missing"):
        world.run(predictions=False)


def test_a_folder_without_a_single_image_is_a_mistake(world):
    moved = world.folder / "records" / "moved.jsonl"
    moved.parent.mkdir()
    moved.write_bytes(world.data.read_bytes())
    with pytest.raises(UsageError, match="--image-folder"):
        world.run("--data", str(moved))
    assert world.run("--data", str(moved), "--image-folder", str(world.folder), "--limit", "1") == 0


def test_records_without_an_image_are_nothing_to_show(world):
    text = {"conversations": [{"from": "human", "value": "Say it."}, {"from": "gpt", "value": "It."}]}
    world.write(world.data, [text])
    with pytest.raises(UsageError, match="nothing to show"):
        world.run()


def test_what_the_record_and_the_predictions_say_stands_in_the_picture(world, monkeypatch):
    said = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, xy, t, *a, **k: (said.append(t), text(self, xy, t, *a, **k))
    )
    world.run("--limit", "1")
    for words in ("Scene s, frame 1 of 3", "✓ correct", "50.0 %", "speed now: 3.1 m/s (11 km/h)", "route: turn right"):
        assert words in said
    assert any("10.0 % of the probability is outside" in line for line in said)
    assert any("24.0 m in 3 s" in line for line in said)


def test_a_frame_without_a_plan_says_that_speed_and_route_are_not_known(world, monkeypatch):
    asked = []

    class Spy:
        def __init__(self, *_):
            pass

        def __call__(self, frame, plan, description):
            asked.append(plan.turns[-1]["value"])
            from senna.visualize.predictions import Answer

            return Answer(MetaAction("STOP", "STRAIGHT"), [0.05] * 20)

    said = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, xy, t, *a, **k: (said.append(t), text(self, xy, t, *a, **k))
    )
    monkeypatch.setattr("senna.visualize.predictions.Model", Spy)
    world.write(world.data, [record("a", "perception", "Two cars.")])
    main(["--data", str(world.data), "--out", str(world.out), "--model", "any", "--film", "none"])
    [question] = asked
    assert question.startswith(image_block())
    assert "speed not yet known" in question
    assert "route says: not known" in question
    assert {"speed now: not known", "route: not known", "? not judged", "not in the record"} <= set(said)
    assert any("called not known" in line for line in said)


def test_a_record_whose_images_do_not_fit_its_question_is_named(world):
    records = [json.loads(line) for line in world.data.read_text().splitlines()]
    records[1]["images"] = records[1]["images"][:4]
    world.write(world.data, records)
    with pytest.raises(DataError, match=r"records\.jsonl: record 1, line 2 \(b-plan\): the prompt asks for"):
        world.run()


def frame(plan=0, token="a"):
    return KeyFrame("s", token, 1, 1, dict(zip(VIEWS, paths(token), strict=True)), [plan], plan)


def test_predictions_are_found_by_place_and_token_or_by_token_alone(tmp_path):
    path = tmp_path / "predictions.jsonl"
    generated = {"index": 4, "token": "g", "kind": "plan", "text": "KEEP or STOP", "truth": "KEEP, STRAIGHT"}
    failed = {"index": 5, "token": "f", "kind": "plan", "error": "no such image"}
    described = {"index": 9, "token": "a", "kind": "description", "text": "Rain."}
    World.write(path, [prediction(0, "a"), prediction(1, "b", sure=5), generated, failed, described])
    predictions = Predictions(path)
    said = predictions(frame(), 9)
    assert (said.predicted, said.description) == (MetaAction("KEEP", "STRAIGHT"), "Rain.")
    assert said.outside == pytest.approx(0.1)
    assert said.probabilities[0] == pytest.approx(0.5)
    assert sum(said.probabilities) == pytest.approx(1.0)
    assert predictions(frame(0, "b"), None).predicted == MetaAction(
        "ACCELERATE", "STRAIGHT"
    )  # of another file's places
    said = predictions(frame(4, "g"), None)
    assert (said.predicted, said.answer, said.probabilities) == (None, "KEEP or STOP", None)
    assert "no such image" in predictions(frame(5, "f"), None).notes[0]
    assert "no prediction" in predictions(frame(7, "z"), None).notes[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model of the real geometry, untrained, with a tokenizer."""
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


def test_the_model_is_shown_the_pictures_in_the_order_of_the_prompt(model):
    from senna.data import encode_conversation, load_image

    pictures = [Image.new("RGB", (64, 36), (40 * number, 200 - 40 * number, 90)) for number in range(6)]
    turns = [{"from": "human", "value": image_block() + QUESTION}]
    said = model(frame(), Question(turns, pictures), Question(turns, pictures))
    assert isinstance(said.description, str)
    assert said.predicted == ALL_META_ACTIONS[int(np.argmax(said.probabilities))]
    images = torch.stack([load_image(picture, model.processor) for picture in pictures])

    def log_probability(action):
        """Of an answer with its end, by itself, the plain way."""
        encoded = encode_conversation([*turns, {"from": "gpt", "value": f"{action}\n"}], model.tokenizer)
        ids, labels = encoded["input_ids"][None], encoded["labels"][None]
        with torch.no_grad():
            loss = model.model(input_ids=ids, labels=labels, images=images[None]).loss
        return -loss.item() * int((labels >= 0).sum())

    first, second = np.argsort(said.probabilities)[:-3:-1]
    plain = log_probability(ALL_META_ACTIONS[first]) - log_probability(ALL_META_ACTIONS[second])
    assert math.log(said.probabilities[first] / said.probabilities[second]) == pytest.approx(plain, abs=1e-3)
    pictures.reverse()  # the order matters
    other = model(frame(), Question(turns, pictures), None)
    assert other.description is None
    assert other.probabilities != said.probabilities


def test_the_model_is_not_asked_about_pictures_that_nobody_can_see(model):
    question = Question(
        [{"from": "human", "value": image_block() + QUESTION}], [Image.new("RGB", (64, 36))] * 5 + [None]
    )
    said = model(frame(), question, question)
    assert (said.predicted, said.probabilities, said.description) == (None, None, None)
    assert "1 of 6 views" in said.notes[0]


def test_the_script_hands_its_environment_and_flags_on(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "DATA": "d.jsonl"}
    script = ["sh", str(REPOSITORY / "scripts" / "visualize.sh"), "--limit", "3"]
    more = {"MODEL_PATH": "a model", "IMAGE_DATA": "images", "OUT_DIR": "out"}
    said = subprocess.run(script, env={**environment, **more}, capture_output=True, text=True, check=True).stdout
    assert said.split("\n")[:-1] == [
        "-m", "senna", "visualize", "--data", "d.jsonl", "--out", "out", "--limit", "3", "--model", "a model",
        "--image-folder", "images",
    ]  # fmt: skip
    said = subprocess.run(script, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[5:] == ["--out", str(REPOSITORY / "outputs" / "pictures"), "--limit", "3"]
    del environment["DATA"]
    failed = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert (failed.returncode, "DATA is not set" in failed.stderr) == (2, True)
