"""A vision-language model that is not Senna behind `vllm serve`: evaluated, compared with a Senna, and used as captioner."""

import json
import os
import shutil
import subprocess
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed (sh scripts/test_serve.sh runs these tests)", allow_module_level=True)

from senna.cli import main
from senna.convert.captioners import Request, make_captioner
from senna.evaluate.predictions import read_predictions
from senna.meta_actions import parse_meta_action
from senna.record_file import open_records
from senna.servers.replies import NoAnswer
from senna.templates import server_instruction
from senna.views import IMAGE_TOKEN, VIEWS
from tests.helpers.paths import REPOSITORY
from tests.helpers.plan_records import paths, record
from tests.serve.conftest import draw_images, running
from tests.serve.tiny_idefics import ANSWERS, Reference, tiny_idefics

PLANS = 12
FRAMES = 3  # of the converted world, all in the training split
RECORDS = "senna_nusc_train.jsonl"
CHAT = "/v1/chat/completions"
WITH_DEVKIT = REPOSITORY / ".venv/bin/python"
"""The interpreter of scripts/test.sh. The devkit of nuScenes needs another numpy than vLLM, so `senna convert` runs there."""


@pytest.fixture(scope="module")
def idefics(once) -> Path:
    return once("idefics", tiny_idefics)


@pytest.fixture(scope="module")
def other_server(idefics, tmp_path_factory):
    log = tmp_path_factory.mktemp("other") / "log"
    flags = ["--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager", "--max-model-len", 1024]
    limit = ["--limit-mm-per-prompt", '{"image": 6}', "--kv-cache-memory-bytes", "64M"]
    with running(log, "vllm.entrypoints.openai.api_server", "--model", idefics, *flags, *limit) as started:
        yield started


@pytest.fixture(scope="module")
def reference(idefics) -> Reference:
    return Reference(idefics)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Return a file of plans in three scenes, and of a question that is too long for the server."""
    folder = tmp_path_factory.mktemp("records")
    for number in range(PLANS):
        for path, image in zip(paths(f"frame{number}"), draw_images(6, number), strict=True):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            image.convert("RGB").save(folder / path, "PNG")
    records = [record(f"frame{number}", scene=f"scene{number % 3}") for number in range(PLANS)]
    records.append(record("frame0"))
    records[-1]["conversations"][0]["value"] += " the lead car" * 1000
    (folder / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))
    return folder / "val.jsonl"


def expected_text(reference: Reference, line: dict, folder: Path) -> str:
    """Return the answer of transformers to the instruction and the question of a record, with its images in their places."""
    first, *others = line["conversations"][0]["value"].split(IMAGE_TOKEN)
    parts: list[str | Image.Image] = [f"{server_instruction()}\n", first]
    for path, text in zip(paths(line["token"]), others, strict=True):  # the tags are in the order of the views
        parts += [Image.open(folder / path), text]
    return reference(parts)


def test_its_texts_are_evaluated_and_stand_beside_a_senna(
    other_server, reference, model_folder, data, tmp_path, capsys, caplog
):
    command = ["evaluate", "--data", str(data), "--blackout", "--skip-bad-samples", "2", "--out"]
    assert main([*command, str(tmp_path / "other"), "--server", other_server.address]) == 0
    assert "does not score meta-actions" in caplog.text
    *plans, refused = read_predictions(tmp_path / "other")
    assert "400 Bad Request" in refused["error"]
    records = [json.loads(line) for line in data.read_text().splitlines()]
    texts = [row["text"] for row in plans]
    assert texts == [expected_text(reference, line, data.parent) for line in records[:PLANS]]
    invalid = sum(parse_meta_action(text) is None for text in texts)
    assert 0 < invalid < PLANS
    assert len(set(texts)) > 3
    metrics = json.loads((tmp_path / "other/metrics.json").read_text())
    assert metrics["plan"]["decisions"]["text"]["invalid"] == pytest.approx(invalid / PLANS)
    assert (metrics["records"], metrics["run"]["records that could not be used"]) == (PLANS, 1)
    black = {row["text"] for row in read_predictions(tmp_path / "other/predictions_blackout.jsonl")[:PLANS]}
    assert black != set(texts)

    limit = ["--limit", str(PLANS)]
    assert main([*command, str(tmp_path / "senna"), "--model", str(model_folder), "--workers", "0", *limit]) == 0
    folders = [str(tmp_path / name) for name in ("senna", "other")]
    assert main(["compare", *folders, "--out", str(tmp_path / "compared")]) == 0
    page = next((tmp_path / "compared").glob("*.html")).read_text()
    assert ">senna<" in page
    assert ">other<" in page


def test_the_captioner_gets_its_answers_and_marks_what_it_refuses(other_server, reference, data):
    requests = [
        Request(None, "front", data.parent / path, "description", question)
        for path in paths("frame0") + paths("frame1")[:1]
        for question in ("the white car?", "what is your plan?")
    ]
    too_long = Request(None, "front", requests[0].image, "description", "the lead car " * 1000)
    captioner = make_captioner("openai", server=other_server.address, concurrency=4, max_tokens=24)
    assert captioner.name == "openai:tiny"
    *answers, refused = captioner.answer([*requests, too_long])
    assert answers == [reference([Image.open(request.image), request.question]).strip() for request in requests]
    assert len(set(answers)) > 2
    assert isinstance(refused, NoAnswer)
    assert refused.is_refused


@pytest.fixture(scope="module")
def unlit_world(drawn_world, tmp_path_factory) -> Path:
    """Return the drawn world as nuScenes has it, without a table of traffic lights: the captioner is asked about them."""
    root = tmp_path_factory.mktemp("world") / "nuscenes"
    shutil.copytree(drawn_world, root)
    (root / "v1.0-mini/traffic_light.json").unlink()
    return root


def convert(world: Path, address: str, *flags: object) -> str:
    """Run `senna convert` on the first frames in the environment that has the devkit; return what it prints."""
    imports = [WITH_DEVKIT, "-c", "import nuscenes, openai"]
    if not WITH_DEVKIT.exists() or subprocess.run(imports, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip(f"{WITH_DEVKIT} has no nuscenes-devkit (sh scripts/test.sh makes that environment)")
    command = [WITH_DEVKIT, "-m", "senna", "convert", "--nuscenes", world, "--version", "v1.0-mini", "--limit", FRAMES]
    command += ["--captioner", "openai", "--server", address, "--captioner-max-tokens", 24, *flags]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        [*map(str, command)], env=environment, cwd=world, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_convert_writes_complete_records_and_a_second_run_asks_nothing(other_server, unlit_world, tmp_path):
    before, cache = other_server.answered(CHAT), tmp_path / "captions.sqlite"
    convert(unlit_world, other_server.address, "--out", tmp_path / "out", "--captions-cache", cache)
    asked = other_server.answered(CHAT) - before
    records = list(open_records(tmp_path / "out" / RECORDS))
    captions = sum(line["captioner"] == "openai:tiny" for line in records)
    assert captions == FRAMES * (len(VIEWS) + 2)
    assert captions <= asked <= 2 * captions  # a question whose answer does not pass the checks is asked once more
    for token in {line["token"] for line in records}:
        kinds = Counter(line["kind"] for line in records if line["token"] == token)
        assert (kinds["description"], kinds["traffic_light"], kinds["explanation"]) == (len(VIEWS), 1, 1)
    for line in records:
        is_asked = line["kind"] in ("description", "traffic_light", "explanation")
        assert line["captioner"] == ("openai:tiny" if is_asked else "tables")
        assert not is_asked or line["conversations"][1]["value"] in ANSWERS

    assert "is complete" in convert(
        unlit_world, other_server.address, "--out", tmp_path / "out", "--captions-cache", cache
    )
    convert(unlit_world, other_server.address, "--out", tmp_path / "again", "--captions-cache", cache)
    assert other_server.answered(CHAT) - before == asked
    assert (tmp_path / "again" / RECORDS).read_bytes() == (tmp_path / "out" / RECORDS).read_bytes()
