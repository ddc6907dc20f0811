"""`scripts/benchmark.py serve`: which frames it takes, and that it refuses answers that differ."""

import importlib
import json
import sys
from importlib.util import find_spec

import pytest

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed (sh scripts/test_serve.sh runs these tests)", allow_module_level=True)

from senna.errors import SennaError, UsageError
from senna.views import VIEWS, image_block
from tests.helpers.paths import REPOSITORY
from tests.serve.conftest import draw_images

TEXTS = ["Plan?", "Say it.", "What is ahead?"]


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    yield importlib.import_module("benchmarks.serve")
    sys.path.remove(str(REPOSITORY / "scripts"))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Write three frames with three questions about six images and one about a single image, and one with too few."""
    folder = tmp_path_factory.mktemp("records")
    lines = []
    for number, token in enumerate(("a", "b", "few", "c")):
        names = [f"{token}/CAM_{view.upper().replace(' ', '_')}.png" for view in VIEWS]
        (folder / token).mkdir()
        for name, image in zip(names, draw_images(6, number), strict=True):
            image.convert("RGB").save(folder / name)
        asked = [("<image>\nHere?", names[:1]), *[(image_block() + text, names) for text in TEXTS]]
        for text, paths in asked[:2] if token == "few" else asked:
            turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "parked"}]
            line = {"id": f"{token} {text[-9:]}", "token": token, "image": paths[0], "conversations": turns}
            lines.append(line | ({"images": paths} if len(paths) > 1 else {}))
    data = folder / "records.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return data


def test_it_times_the_frames_behind_the_first_and_compares_the_answers(benchmark, records, server, reference):
    frames = benchmark.read_frames(records, records.parent, 3, 3)
    assert list(frames) == ["a", "b", "c"]
    assert [question.text for question in frames["b"]] == [image_block() + text for text in TEXTS]
    served = benchmark.server_method(server.port)
    methods = {"senna serve": served, "generate": benchmark.generate_method(*reference)}
    benchmark.MOST_TOKENS = 12
    seconds, questions = benchmark.measure(frames, methods)
    assert questions == 6
    assert {name: list(found) for name, found in seconds.items()} == {name: ["b", "c"] for name in methods}
    with pytest.raises(SennaError, match=r"frame b, question 0: .*another (gives the tokens )?\[7\]"):
        benchmark.measure(frames, {"senna serve": served, "another": lambda question: [7]})


def test_too_few_frames_are_refused(benchmark, records):
    with pytest.raises(UsageError, match="has 3 frames with 3 questions"):
        benchmark.read_frames(records, records.parent, 4, 3)


def test_a_server_that_does_not_start_shows_its_log(benchmark, tmp_path):
    from senna.serve.environment import find_vllm

    with (
        pytest.raises(SennaError, match=r"exit code 2(?s:.)*config.json"),
        benchmark.serving(str(tmp_path), find_vllm(), 1),
    ):
        pass
