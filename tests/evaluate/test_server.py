"""`senna evaluate --server` as a user runs it, against servers on loopback."""

import base64
import json
import re
import shutil
import threading
import time

import pytest

from senna.cli import main
from senna.errors import UsageError
from senna.evaluate.predictions import read_predictions
from senna.templates import DEFAULT, load_templates, server_instruction
from senna.views import image_block
from tests.evaluate.model_server import (
    Refused,
    chat_answers,
    images_of,
    parts_of,
    senna_answers,
    serving,
    urls_of,
)
from tests.helpers.forks import Run
from tests.helpers.toy import COLOURS

CHAT, SCORES = "/v1/chat/completions", "/v1/meta_actions"
KEEP, STOP, INVALID = "KEEP, STRAIGHT", "STOP, STRAIGHT", "I would keep going straight."


def flags(server, plans, toy, out, *more) -> list[str]:
    given = {"--server": server.address, "--data": plans, "--image-folder": toy.images, "--out": out}
    return ["evaluate", *(str(word) for pair in given.items() for word in pair), *map(str, more)]


def local_flags(planner, plans, toy, out, *more) -> list[str]:
    given = {"--model": planner, "--data": plans, "--image-folder": toy.images, "--out": out, "--workers": 0}
    return ["evaluate", *(str(word) for pair in given.items() for word in pair), "--batch-size", "1", *map(str, more)]


def figures(folder) -> dict:
    """Return metrics.json without the facts of the run."""
    metrics = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if name != "run"}


def say_something(body) -> str:
    """Return an answer that depends on the first image: STOP if it is red, no meta-action if it is white."""
    front = images_of(urls_of(body))[0].convert("RGB").getpixel((0, 0))
    return {COLOURS["red"]: STOP, COLOURS["white"]: INVALID}.get(front, KEEP)


@pytest.fixture(scope="module")
def senna(planner):
    """Return the answers of a server of the planner."""
    return senna_answers(planner)


@pytest.fixture(scope="module")
def evaluated(planner, plans, toy, tmp_path_factory):
    """Return the folder of an evaluation without a server, with black images as well."""
    out = tmp_path_factory.mktemp("local") / "out"
    assert main(local_flags(planner, plans, toy, out, "--blackout")) == 0
    return out


@pytest.fixture(scope="module")
def served(senna, plans, toy, tmp_path_factory):
    """Return the folder of an evaluation of the same model behind a server."""
    out = tmp_path_factory.mktemp("served") / "out"
    with serving(senna, [{"id": "senna", "root": "/models/planner"}]) as server:
        assert main(flags(server, plans, toy, out, "--blackout")) == 0
    return out


def test_a_served_senna_has_the_predictions_and_figures_of_the_same_model_here(served, evaluated):
    for name in ("predictions.jsonl", "predictions_blackout.jsonl"):
        assert (served / name).read_bytes() == (evaluated / name).read_bytes()
    assert figures(served) == figures(evaluated)
    run = json.loads((served / "metrics.json").read_text())["run"]
    assert (run["model"], run["mode"]) == ("senna", "score")
    assert "<dt>model</dt><dd>senna</dd>" in (served / "report.html").read_text()


def test_another_server_of_the_model_continues_and_another_model_is_refused(
    senna, served, plans, toy, tmp_path, capsys
):
    out = shutil.copytree(served, tmp_path / "out")
    lines = (out / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (out / "predictions.jsonl").write_bytes(b"".join(lines[:20]))
    with serving(senna, [{"id": "senna", "root": "/models/planner"}]) as server:
        assert main(flags(server, plans, toy, out, "--blackout")) == 0
        assert len(server.bodies) == 4
    assert (out / "predictions.jsonl").read_bytes() == b"".join(lines)
    for model in ({"id": "other"}, {"id": "senna", "root": "/models/other"}):
        with serving(senna, [model]) as server:
            assert main(flags(server, plans, toy, out, "--blackout")) == 2
            assert not server.bodies
        assert "holds another run" in capsys.readouterr().err


def test_another_model_gets_text_and_images_in_the_order_of_the_question(plans, toy, tmp_path, caplog):
    with serving({CHAT: chat_answers(say_something)}) as server:
        assert main(flags(server, plans, toy, tmp_path, "--limit", 1)) == 0
        (body,) = server.bodies
    record = next(json.loads(line) for line in plans.read_text().splitlines() if '"plan"' in line)
    instruction, *parts = parts_of(body)
    assert "exactly in the form that the question asks for" in instruction["text"]
    text = "".join(part.get("text", "<image>") for part in parts)
    assert text == record["conversations"][0]["value"]
    by_view = {re.search("CAM_([A-Z_]+)/", path)[1]: path for path in record["images"]}
    views = [view.replace(" ", "_") for view in re.findall("<([A-Z ]+) VIEW>", text)]
    sent = [base64.b64decode(url.removeprefix("data:image/png;base64,")) for url in urls_of(body)]
    assert sent == [(toy.images / by_view[view]).read_bytes() for view in views]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0, 256)
    assert "does not score meta-actions" in caplog.text


def test_texts_are_parsed_strictly_and_kept_and_stand_beside_a_senna(served, plans, toy, tmp_path):
    out = tmp_path / "out"
    with serving({CHAT: chat_answers(say_something)}) as server:
        assert main(flags(server, plans, toy, out, "--blackout")) == 0
        images = [image for body in server.bodies for image in images_of(urls_of(body))]
    assert {image.size for image in images} == {(16, 9)}  # black images have the size of the record's
    assert sum(not image.getbbox() for image in images) == 6 * 24
    predictions = read_predictions(out)
    assert {row["text"] for row in predictions} == {KEEP, STOP, INVALID}
    assert all("log_probs" not in row for row in predictions)
    plan = figures(out)["plan"]
    assert plan["mode"] == "generate"
    invalid = sum(row["text"] == INVALID for row in predictions)
    assert plan["decisions"]["text"]["invalid"] == invalid / 24
    correct = sum(row["text"] == row["truth"].strip() for row in predictions)
    assert plan["decisions"]["text"]["accuracy"]["both"]["value"] == pytest.approx(correct / 24)
    assert INVALID in (out / "report.html").read_text()
    assert main(["compare", str(served), str(out), "--out", str(tmp_path / "compared")]) == 0
    page = next((tmp_path / "compared").glob("*.html")).read_text()
    assert ">senna<" in page
    assert ">tiny<" in page


def test_the_instruction_can_be_changed_and_a_senna_gets_none(senna, plans, toy, tmp_path, capsys):
    prompts = tmp_path / "prompts.yaml"
    text = DEFAULT.read_text()
    prompts.write_text(text[: text.index("server:")] + 'server:\n  instruction: "Be brief."\n')
    with serving({CHAT: chat_answers(say_something)}) as server:
        assert main(flags(server, plans, toy, tmp_path / "a", "--limit", 1, "--prompts", prompts)) == 0
        assert parts_of(server.bodies[0])[0]["text"] == "Be brief.\n"
        assert main(flags(server, plans, toy, tmp_path / "a", "--limit", 1)) == 2
        assert "prompts was" in capsys.readouterr().err
    with serving(senna) as server:
        assert main(flags(server, plans, toy, tmp_path / "b", "--limit", 1, "--mode", "generate")) == 0
        assert parts_of(server.bodies[0])[0]["text"].startswith("<FRONT VIEW>")


def test_the_instruction_is_no_template_of_the_converter(tmp_path):
    prompts = tmp_path / "prompts.yaml"
    text = DEFAULT.read_text()
    prompts.write_text(text[: text.index("server:")])  # as a copy from an earlier version
    assert "server" not in load_templates()
    assert load_templates(prompts) == load_templates()
    assert server_instruction(prompts) == server_instruction()
    prompts.write_text(text[: text.index("server:")] + "server:\n  instructions: Be brief.\n")
    with pytest.raises(UsageError, match="keys under server lack instruction"):
        server_instruction(prompts)


@pytest.mark.slow
def test_a_killed_and_continued_evaluation_asks_nothing_twice(senna, served, plans, toy, tmp_path):
    slow = {**senna, SCORES: lambda body: (time.sleep(0.05), senna[SCORES](body))[1]}
    more, out = ("--blackout", "--concurrency", 3), tmp_path / "out"
    with serving(slow, [{"id": "senna", "root": "/models/planner"}]) as server:
        process = Run(main, flags(server, plans, toy, out, *more), tmp_path)
        part = out / "predictions.part-0.jsonl"
        while process.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") >= 6):
            time.sleep(0.002)
        process.kill()
        assert not (out / "metrics.json").exists()
        time.sleep(0.3)  # for requests of the killed process
        asked, stored = len(server.bodies), len(part.read_bytes().splitlines())
        assert stored >= asked - 2 * 3
        assert main(flags(server, plans, toy, out, *more)) == 0
        assert len(server.bodies) - asked == 2 * 24 - stored
    for name in ("metrics.json", "predictions.jsonl", "predictions_blackout.jsonl"):
        assert (out / name).read_bytes() == (served / name).read_bytes()


@pytest.mark.slow
def test_ctrl_c_keeps_the_answers_and_prints_no_traceback(senna, plans, toy, tmp_path):
    slow = {**senna, SCORES: lambda body: (time.sleep(0.05), senna[SCORES](body))[1]}
    with serving(slow) as server:
        process = Run(main, flags(server, plans, toy, tmp_path / "out", "--concurrency", 2), tmp_path)
        part = tmp_path / "out/predictions.part-0.jsonl"
        while process.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") >= 3):
            time.sleep(0.002)
        process.interrupt()
        result = process.result()
    assert result.returncode == 130
    assert "stopped; run the same command again to continue" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Task" not in result.stderr
    assert 3 <= len(part.read_bytes().splitlines()) < 24


def test_a_server_that_dies_and_returns_is_waited_for(senna, served, plans, toy, tmp_path, caplog):
    out, codes = tmp_path / "out", []
    model = {"id": "senna", "root": "/models/planner"}
    slow = {**senna, SCORES: lambda body: (time.sleep(0.02), senna[SCORES](body))[1]}
    with serving(slow, [model]) as server:
        command = flags(server, plans, toy, out, "--blackout", "--concurrency", 4)
        thread = threading.Thread(target=lambda: codes.append(main(command)))
        thread.start()
        while len(server.bodies) < 8:
            time.sleep(0.005)
        server.answers = dict.fromkeys(senna, hang_up)  # for requests in progress
        time.sleep(0.1)
    time.sleep(0.6)
    with serving(senna, [model], server.server_address[1]) as server:
        thread.join(60)
        assert codes == [0]
        assert "; trying again" in caplog.text
        assert 0 < len(server.bodies) < 2 * 24
    for name in ("metrics.json", "predictions.jsonl", "predictions_blackout.jsonl"):
        assert (out / name).read_bytes() == (served / name).read_bytes()


def hang_up(body):
    raise Refused(0, "")


def test_a_refused_record_counts_as_a_bad_sample(senna, plans, toy, tmp_path, capsys):
    refused = []

    def score(body):
        refused[:] = refused or [body]
        if body == refused[0]:
            raise Refused(400, "image 3 is broken")
        return senna[SCORES](body)

    with serving({**senna, SCORES: score}) as server:
        assert main(flags(server, plans, toy, tmp_path, "--limit", 5, "--concurrency", 1)) == 1
        message = capsys.readouterr().err
        assert all(
            words in message for words in ("record 1", "400 Bad Request: image 3 is broken", "--skip-bad-samples")
        )
        assert main(flags(server, plans, toy, tmp_path, "--limit", 5, "--skip-bad-samples", 2)) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["run"]["records that could not be used"] == 2  # two of the five show the same images
    assert metrics["records"] == 3


def test_an_image_that_is_missing_or_damaged_is_not_sent(senna, plans, toy, tmp_path, capsys, caplog):
    records = [json.loads(line) for line in plans.read_text().splitlines()]
    broken = [record for record in records if record["kind"] == "plan"][:3]
    broken[0]["images"] = [path.replace("red", "absent") for path in broken[0]["images"]]
    (tmp_path / "CAM_BACK").mkdir()
    content = (toy.images / "views/CAM_BACK/red.png").read_bytes()
    (tmp_path / "CAM_BACK/cut.png").write_bytes(content[: len(content) // 2])
    broken[1]["images"] = [
        str(tmp_path / "CAM_BACK/cut.png") if "CAM_BACK/" in path else path for path in broken[1]["images"]
    ]
    data = tmp_path / "broken.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in broken))
    with serving(senna) as server:
        assert main(flags(server, data, toy, tmp_path / "out")) == 1
        assert main(flags(server, data, toy, tmp_path / "out", "--skip-bad-samples", 2)) == 0
        assert len({body["images"][0] for body in server.bodies}) == 1
    assert {row["index"]: "error" in row for row in read_predictions(tmp_path / "out")} == {0: True, 1: True, 2: False}
    assert "--skip-bad-samples" in capsys.readouterr().err
    assert not caplog.records  # of tasks that were not waited for


@pytest.mark.parametrize(
    ("status", "words"), [(401, "OPENAI_API_KEY"), (404, "the server has a model of the given name"), (403, "403")]
)
def test_a_permanent_failure_ends_the_evaluation_and_keeps_the_answers(plans, toy, tmp_path, capsys, status, words):
    asked = []

    def answer(body):
        asked.append(body)
        if len(asked) > 4:
            raise Refused(status, "not for you")
        return "KEEP, STRAIGHT"

    with serving({CHAT: chat_answers(answer)}) as server:
        assert main(flags(server, plans, toy, tmp_path, "--concurrency", 1)) == 1
        message = capsys.readouterr().err
        assert words in message
        assert "not for you" in message
        assert "Traceback" not in message
        assert len(asked) == 5
        asked[:] = []
        server.answers = {CHAT: chat_answers(lambda body: "KEEP, STRAIGHT")}
        assert main(flags(server, plans, toy, tmp_path)) == 0
        assert len(server.bodies) == 5 + 20


def test_models_are_chosen_by_name(plans, toy, tmp_path, capsys):
    def answer(body):
        if body["model"] not in ("one", "two", "unlisted"):
            raise Refused(404, "no such model")
        return KEEP

    with serving({CHAT: chat_answers(answer)}, [{"id": "one"}, {"id": "two"}]) as server:
        assert main(flags(server, plans, toy, tmp_path, "--served-model", "three")) == 2
        assert "has no model 'three'\n  -> give --served-model, one of: one, two" in capsys.readouterr().err
        assert main(flags(server, plans, toy, tmp_path)) == 2
        assert "serves 2 models" in capsys.readouterr().err
        assert not (tmp_path / "run.json").exists()
        assert main(flags(server, plans, toy, tmp_path, "--served-model", "two", "--limit", 1)) == 0
        assert server.bodies[-1]["model"] == "two"
        assert main(flags(server, plans, toy, tmp_path / "unlisted", "--served-model", "unlisted", "--limit", 1)) == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--mode", "score"], ["--mode score", "does not score meta-actions", "--mode generate"]),
        (["--model", "here"], ["--model does not fit --server"]),
        (["--device", "cuda"], ["--device does not fit --server"]),
        (["--batch-size", "2"], ["--batch-size does not fit --server"]),
        (["--version", "plain"], ["--version plain needs --mode score"]),
        (["--concurrency", "0"], ["--concurrency 0"]),
        (["--prompts", "absent.yaml"], ["absent.yaml"]),
    ],
)
def test_flags_that_do_not_fit_a_server_are_refused(plans, toy, tmp_path, capsys, more, words):
    with serving({CHAT: chat_answers(say_something)}) as server:
        assert main(flags(server, plans, toy, tmp_path, *more)) == 2
        assert not server.bodies
    message = capsys.readouterr().err
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--model", "x", "--served-model", "y"], "--served-model needs --server"),
        (["--model", "x", "--concurrency", "3"], "--concurrency needs --server"),
        ([], "--model or --server is missing"),
        (["--server", "ftp://x"], "is not an address"),
    ],
)
def test_flags_of_a_server_need_one(plans, tmp_path, capsys, more, words):
    assert main(["evaluate", "--data", str(plans), "--out", str(tmp_path), *more]) == 2
    assert words in capsys.readouterr().err


def test_a_reply_without_scores_is_an_error_that_is_not_retried(senna, plans, toy, tmp_path, capsys):
    with serving({**senna, SCORES: lambda body: {"meta_actions": []}}) as server:
        assert main(flags(server, plans, toy, tmp_path, "--concurrency", 1)) == 1
        assert len(server.bodies) == 1
    assert "a reply without the scores of the twenty meta-actions" in capsys.readouterr().err


def test_half_characters_of_a_server_are_replaced(plans, toy, tmp_path):
    def answer(body):
        if body["messages"][0]["content"] == first.setdefault("content", body["messages"][0]["content"]):
            raise Refused(400, "no \ud83d")
        return "no \ud83d"

    first = {}
    with serving({CHAT: chat_answers(answer)}) as server:
        more = ("--limit", 3, "--skip-bad-samples", 1, "--concurrency", 1)
        assert main(flags(server, plans, toy, tmp_path, *more)) == 0
    refused, *others = read_predictions(tmp_path)
    assert "400 Bad Request: no \ufffd" in refused["error"]
    assert {row["text"] for row in others} == {"no \ufffd"}


def test_other_kinds_are_answered_with_text(senna, plans, toy, tmp_path):
    answers = {**senna, CHAT: chat_answers(lambda body: " a car\n")}
    with serving(answers) as server:
        assert main(flags(server, plans, toy, tmp_path, "--kinds", "plan,front_only,text", "--limit", 8)) == 0
        asked = {parts[0]["text"]: parts[1:] for parts in map(parts_of, chats(server))}
    rows = {row["kind"]: row for row in read_predictions(tmp_path)}
    assert "log_probs" in rows["plan"]
    assert rows["front_only"]["text"] == rows["text"]["text"] == " a car\n"  # as the model wrote it
    # A Senna gets the text as it was trained on, with its placeholders, and the images behind it.
    assert {text: len(images) for text, images in asked.items()} == {
        image_block(("front",)) + "the front car?": 1,
        "Say it.": 0,
    }


def chats(server) -> list[dict]:
    """Return the bodies of the chat requests."""
    return [body for body in server.bodies if "messages" in body]
