"""The page's model behind a server of `senna serve`: the same scores and decisions as of its folder."""

import json

import numpy as np
import pytest
from PIL import Image

from senna.contents import model_content
from senna.decision import BALANCED, Calibration, decide, open_decision, write_calibration
from senna.demo.answer import Answerer
from senna.demo.command import DemoArguments, _remote_answerer
from senna.demo.questions import Refusal
from senna.errors import UsageError
from senna.model import load_model
from senna.serve.decision import decision_variables, served_decision
from senna.views import VIEWS
from tests.evaluate.model_server import Refused, chat_answers, senna_answers, serving

QUESTION = "your plan?"
CHAT, SCORES = "/v1/chat/completions", "/v1/meta_actions"


@pytest.fixture(scope="module")
def calibrated(model):
    """Return the small model with a calibration whose decision is another one than the most probable."""
    found = Calibration(1.0, 1000.0, (0.81, *19 * [0.01]), ("a",), "dev.jsonl", "", model_content(model), {})
    path = write_calibration(model, found)
    yield model
    path.unlink()


@pytest.fixture(scope="module")
def server(calibrated):
    with serving(senna_answers(calibrated)) as server:
        reply = served_decision(decision_variables("likeliest", str(calibrated))).as_json()
        server.decision = json.loads(json.dumps(reply))
        yield server


def remote(server, decision=BALANCED):
    return _remote_answerer(DemoArguments(server=server.address, decision=decision))


def images():
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (90, 160, 3), dtype=np.uint8)) for _ in VIEWS]


def test_scores_and_decisions_are_those_of_the_folder(calibrated, server):
    local = Answerer(*load_model(str(calibrated), device="cpu"), open_decision(BALANCED, calibrated))
    answerer, name, address = remote(server)
    assert (name, address) == ("tiny", f"{server.address}/v1")
    expected = local.plan(QUESTION, VIEWS, local.pixels(images()))
    found = answerer.plan(QUESTION, VIEWS, answerer.pixels(images()))
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-6)
    assert (found.greedy, found.left_tree) == (expected.greedy, expected.left_tree)
    assert answerer.decision == local.decision
    assert decide(found.log_probs, answerer.decision) == decide(expected.log_probs, local.decision)
    assert list(answerer.stream(QUESTION, VIEWS, answerer.pixels(images()), 32)) == ["KEEP, STRAIGHT"]


def test_what_a_server_refuses_is_told_to_the_visitor(server):
    answerer, _, _ = remote(server)

    def refuse(body):
        raise Refused(400, "the front image is broken")

    known, server.answers = server.answers, {SCORES: refuse, CHAT: refuse}
    try:
        with pytest.raises(Refusal, match="the front image is broken"):
            answerer.plan(QUESTION, VIEWS, answerer.pixels(images()))
        with pytest.raises(Refusal, match="the front image is broken"):
            list(answerer.stream(QUESTION, VIEWS, answerer.pixels(images()), 32))
    finally:
        server.answers = known


def test_a_server_needs_scores_and_for_balanced_a_calibration(server):
    known, server.decision = server.decision, None
    try:
        assert remote(server, "likeliest")[0].decision == open_decision("likeliest")
        with pytest.raises(UsageError, match="has no calibration"):
            remote(server)
    finally:
        server.decision = known
    other = serving({CHAT: chat_answers(lambda body: "KEEP")})
    with other as without_scores, pytest.raises(UsageError, match="does not score meta-actions"):
        remote(without_scores, "likeliest")
