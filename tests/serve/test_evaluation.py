"""`senna evaluate --server` of a real server equals `senna evaluate` of the same folder, also when either is killed."""

import asyncio
import functools
import itertools
import json
import signal
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed (sh scripts/test_serve.sh runs these tests)", allow_module_level=True)

from senna.cli import main
from senna.evaluate.predictions import read_predictions
from senna.servers import connection
from senna.servers.address import RetryPolicy
from senna.views import VIEWS, image_block
from tests.helpers.forks import Run
from tests.helpers.plan_records import paths, record
from tests.serve.conftest import Server, draw_images

CHAT, SCORES = "/v1/chat/completions", "/v1/meta_actions"
PLANS = 9
OTHER_ORDER = image_block(VIEWS[::-1]) + "What is behind?"
TEXTS = ("--mode", "generate", "--kinds", "all", "--max-new-tokens", "12")
STORES = ("predictions.jsonl", "predictions_blackout.jsonl")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Return a file of plans in three scenes, and of other questions about six images in two orders, one and none."""
    folder = tmp_path_factory.mktemp("records")
    for number in range(PLANS):
        for path, image in zip(paths(f"frame{number}"), draw_images(6, number), strict=True):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            image.save(folder / path, "PNG")
    records = [
        record(
            f"frame{number}",
            scene=f"scene{number % 3}",
            answer="STOP, STRAIGHT\n" if number % 2 else "KEEP, STRAIGHT\n",
        )
        for number in range(PLANS)
    ]
    for kind, question in [
        ("description", image_block() + "Describe the front view."),
        ("backwards", OTHER_ORDER),
        ("front", image_block(("front",)) + "Is the lead car far?"),
        ("text", "What is your plan?"),
    ]:
        other = record("frame0", kind, answer="the lead car")
        other["conversations"][0]["value"] = question
        records.append(other if kind != "text" else {key: other[key] for key in ("id", "kind", "conversations")})
    path = folder / "val.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in records))
    return path


def local_flags(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return ["evaluate", "--model", str(model), "--workers", "0", "--data", str(data), "--out", str(out), *more]


def flags(server: Server, data: Path, out: Path, *more: str) -> list[str]:
    return ["evaluate", "--server", server.address, "--data", str(data), "--out", str(out), *more]


@pytest.fixture(scope="module")
def scored(model_folder, data, tmp_path_factory) -> Path:
    """Return the folder of an evaluation in score mode without a server."""
    out = tmp_path_factory.mktemp("scored") / "out"
    assert main(local_flags(model_folder, data, out, "--blackout")) == 0
    return out


@pytest.fixture(scope="module")
def generated(model_folder, data, tmp_path_factory) -> Path:
    """Return the folder of an evaluation of texts without a server."""
    out = tmp_path_factory.mktemp("generated") / "out"
    assert main(local_flags(model_folder, data, out, "--blackout", *TEXTS)) == 0
    return out


def check_equal(found: Path, expected: Path) -> None:
    """Check that two evaluations have the same predictions, log-probabilities to 1e-3, and figures that follow from them."""
    for name in STORES:
        rows, wanted = read_predictions(found / name), read_predictions(expected / name)
        assert len(rows) == len(wanted)  # no record is missing or doubled
        for row, other in zip(rows, wanted, strict=True):
            assert row.pop("log_probs", []) == pytest.approx(other.pop("log_probs", []), abs=1e-3)
            assert row == other
    figures = [json.loads((folder / "metrics.json").read_text()) for folder in (found, expected)]
    for metrics in figures:
        del metrics["run"]
    check_figures(*figures)


def check_figures(found, expected, name: str = "metrics") -> None:
    """Check that all numbers are equal to 1e-3, and everything else exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key in expected:
            check_figures(found[key], expected[key], f"{name}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), name
        for number, value in enumerate(expected):
            check_figures(found[number], value, f"{name}.{number}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-3), name
    else:
        assert found == expected, name


def wait_for_lines(process: Run, folder: Path, count: int) -> int:
    """Wait until an evaluation has stored so many predictions, and return how many these are."""
    part = folder / "predictions.part-0.jsonl"
    while process.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") >= count):
        time.sleep(0.01)
    assert process.poll() is None, process.result().stderr
    return part.read_bytes().count(b"\n")


def evaluate_in_two_parts(arguments: Sequence[str]) -> int:
    """Run `senna`. The fourth request and all later ones wait until the file ``go on`` exists in the working folder.

    Pauses between retries are short, so that a server's return is noticed at once.
    """
    policy = functools.partial(RetryPolicy, attempts=400, longest_pause=0.5)
    stream, asked = connection.Connection.stream, itertools.count()

    def gated(self, items, ask, *more):
        async def wait_and_ask(client, item):
            if item is not None and next(asked) >= 3:
                while not Path("go on").exists():
                    await asyncio.sleep(0.01)
            return await ask(client, item)

        return stream(self, items, wait_and_ask, *more)

    with (
        mock.patch.object(connection, "RetryPolicy", policy),
        mock.patch.object(connection.Connection, "stream", gated),
    ):
        return main(list(arguments))


def test_the_scores_and_figures_of_a_served_senna_are_those_of_its_folder(server, scored, data, tmp_path):
    assert main(flags(server, data, tmp_path / "out", "--blackout")) == 0
    check_equal(tmp_path / "out", scored)
    predictions = read_predictions(scored)
    assert len(predictions) == PLANS
    assert len({tuple(row["log_probs"]) for row in predictions}) == PLANS  # no two could be exchanged unnoticed


def test_the_texts_of_a_served_senna_are_those_of_its_folder(server, generated, data, tmp_path):
    assert main(flags(server, data, tmp_path / "out", "--blackout", *TEXTS)) == 0
    check_equal(tmp_path / "out", generated)
    kinds = {row["kind"] for row in read_predictions(generated) if row["text"]}
    assert kinds == {"plan", "description", "backwards", "front", "text"}


def test_a_killed_evaluation_is_continued(server, scored, data, tmp_path):
    command = flags(server, data, tmp_path / "out", "--blackout", "--concurrency", "1")
    process = Run(evaluate_in_two_parts, command, tmp_path)
    stored = wait_for_lines(process, tmp_path / "out", 3)
    process.kill()
    assert not (tmp_path / "out/metrics.json").exists()
    answered = server.answered(SCORES)
    assert main(command) == 0
    check_equal(tmp_path / "out", scored)
    assert (
        server.answered(SCORES) - answered <= 2 * PLANS - stored + 1
    )  # the request of the killed process may be answered


@pytest.mark.slow
def test_a_server_that_is_stopped_and_started_again_loses_and_doubles_nothing(
    server, scored, generated, data, tmp_path
):
    before = server.answered(SCORES) + server.answered(CHAT)
    runs = [
        Run(
            evaluate_in_two_parts,
            flags(server, data, tmp_path / name, "--blackout", "--concurrency", "1", *more),
            tmp_path,
        )
        for name, more in (("scored", ()), ("generated", TEXTS))
    ]
    for process, name in zip(runs, ("scored", "generated"), strict=True):
        wait_for_lines(process, tmp_path / name, 1)
    server.signal(signal.SIGKILL)  # a signal that vLLM catches makes it wait for its clients
    (tmp_path / "go on").touch()
    server.start()
    for process in runs:
        result = process.result()
        assert result.returncode == 0, result.stderr
        assert "trying again" in result.stderr
    check_equal(tmp_path / "scored", scored)
    check_equal(tmp_path / "generated", generated)
    total = 2 * (PLANS + len(read_predictions(generated)))
    assert server.answered(SCORES) + server.answered(CHAT) - before <= total + 2
