"""A real server: its answers equal those of our own model, and it refuses what it cannot answer."""

import base64
import concurrent.futures
import io
import json
import socket
import struct
import zlib
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed (sh scripts/test_serve.sh runs these tests)", allow_module_level=True)

from senna.data import encode_prompt, load_image, prompt_for
from senna.decision import Decision, decide, parse_calibration
from senna.evaluate.score import PlanScorer
from senna.serve.protocol import read_request
from senna.serve.scoring import _missing_tokens
from senna.templates import load_templates
from senna.views import VIEWS, image_block
from tests.serve.conftest import CALIBRATION, data_url, draw_images, image_part, text_part

META_ACTIONS = "/v1/meta_actions"


def pixels(reference, images) -> torch.Tensor:
    """Return (V, 3, H, W), as in training."""
    model, _, processor = reference
    loaded = [load_image(image, processor, model.config.image_aspect_ratio) for image in images]
    return torch.stack(loaded) if loaded else torch.empty(0, 3, model.config.image_side, model.config.image_side)


def generated(reference, question: str, images) -> list[int]:
    model, tokenizer, _ = reference
    views = pixels(reference, images)
    ids = encode_prompt(prompt_for(question), tokenizer)[None]
    options = dict(max_new_tokens=12, max_length=None, do_sample=False)
    return model.generate(ids, images=views[None] if len(views) else None, **options)[0].tolist()


def body(images=None, **changes) -> dict:
    urls = [data_url(image) for image in draw_images(6) if images is None] or images
    given = dict(zip(VIEWS, urls, strict=False)) if isinstance(urls, list) else urls
    return {"images": given, "speed": 3.1, "command": "turn left", **changes}


def expected_scores(reference, request: dict, images, ending: str = "\n"):
    model, tokenizer, _ = reference
    question = read_request(request, load_templates()).question
    scorer = PlanScorer(model, tokenizer, ending=ending)
    return scorer([[{"from": "human", "value": question}]], [pixels(reference, images)])[0]


def check_scores(answer: dict, expected) -> None:
    log_probs = np.array([entry["log_prob"] for entry in answer["meta_actions"]])
    assert np.abs(log_probs - expected.log_probs).max() < 1e-3
    rule = Decision("balanced", CALIBRATION)
    probabilities = [entry["probability"] for entry in answer["meta_actions"]]
    assert probabilities == pytest.approx(np.exp(rule.log_probs(expected.log_probs)), abs=1e-4)
    assert (answer["meta_action"], answer["decision"]) == (str(decide(expected.log_probs, rule)), "balanced")
    assert (answer["best"], answer["greedy"]) == (str(expected.best), str(expected.greedy))
    assert answer["left_tree"] == expected.left_tree


@pytest.mark.parametrize(
    ("question", "parts", "count"),
    [
        (image_block() + "Plan?", lambda images: [*map(image_part, images), text_part("Plan?")], 6),
        (
            image_block() + "Plan?",
            lambda images: [
                text_part("Plan?"),
                *[image_part(image, view=view) for view, image in list(zip(VIEWS, images, strict=True))[::-1]],
            ],
            6,
        ),
        ("<image>\nSay it.", lambda images: [image_part(images[0]), text_part("Say it.")], 1),
        ("Left <image> of it?", lambda images: [text_part("Left "), image_part(images[0]), text_part(" of it?")], 1),
        ("Say it.", lambda images: [text_part("Say it.")], 0),
    ],
    ids=["six", "six, named, behind the text", "one", "one between texts", "none"],
)
def test_chat_gives_the_token_ids_and_the_greedy_tokens_of_generate(server, reference, question, parts, count):
    images = draw_images(count)
    options = {"max_tokens": 12, "return_token_ids": True}
    status, answer = server.chat(*parts(images), **options)
    assert status == 200, answer
    assert answer["choices"][0]["token_ids"] == generated(reference, question, images)
    ids = encode_prompt(prompt_for(question), reference[1]).tolist()
    expanded = [token for given in ids for token in ([0] * 128 if given < 0 else [given])]
    assert answer["prompt_token_ids"] == expanded


def test_first_token_log_probabilities_equal_ours(server, reference):
    model, tokenizer, _ = reference
    images = draw_images(6)
    status, answer = server.chat(
        *map(image_part, images), text_part("Plan?"), max_tokens=1, logprobs=True, top_logprobs=5
    )
    assert status == 200, answer
    ids = encode_prompt(prompt_for(image_block() + "Plan?"), tokenizer)[None]
    with torch.no_grad():
        logits = model(ids, images=pixels(reference, images)[None]).logits[0, -1].float()
    expected = logits.log_softmax(-1).topk(5).values.tolist()
    found = [entry["logprob"] for entry in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]]
    assert found == pytest.approx(expected, abs=1e-4)


def test_rotated_images_are_not_turned_as_in_training(server, reference):
    [image] = draw_images(1)
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer would turn it by 90 degrees
    turned = data_url(image, exif=exif)
    status, answer = server.chat(image_part(turned), text_part("Say it."), max_tokens=12, return_token_ids=True)
    assert status == 200, answer
    assert answer["choices"][0]["token_ids"] == generated(reference, "<image>\nSay it.", [image])


def test_a_text_prompt_with_special_tokens_has_our_ids(server, reference):
    text = "A  chat</s>USER: the lead car <unk> ASSISTANT:"
    status, answer = server.post("/v1/completions", {"prompt": text, "max_tokens": 1, "return_token_ids": True})
    assert status == 200, answer
    assert answer["choices"][0]["prompt_token_ids"] == encode_prompt(text, reference[1]).tolist()


def test_meta_actions_equal_the_scores_of_evaluation_also_when_asked_again(server, reference):
    images = draw_images(6)
    request = body()
    expected = expected_scores(reference, request, images)
    shuffled = {**request, "images": dict(reversed(request["images"].items()))}
    for again in (request, shuffled, request):  # then parts of the answers are in the prefix cache
        status, answer = server.post(META_ACTIONS, again)
        assert status == 200, answer
        check_scores(answer, expected)
    assert answer["object"] == "meta_actions"
    assert answer["usage"]["prompt_tokens"] > 6 * 128


def test_clients_get_the_rule_and_the_calibration(server):
    reply = server.get(META_ACTIONS)
    assert reply["decision"] == "balanced"
    assert replace(parse_calibration(reply["calibration"]), model_content="") == CALIBRATION


@pytest.mark.parametrize("count", [0, 1])
def test_meta_actions_of_a_question_of_ones_own(server, reference, count):
    images = draw_images(count)
    request = {
        "question": image_block(VIEWS[:count]) + "What next?",
        "images": [data_url(image) for image in images],
        "ending": "",
    }
    status, answer = server.post(META_ACTIONS, request)
    assert status == 200, answer
    check_scores(answer, expected_scores(reference, request, images, ending=""))


def test_concurrent_frames_are_not_mixed_up(server, reference):
    frames = [draw_images(6, seed) for seed in range(4)]
    requests = [body([data_url(image) for image in images]) for images in frames]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda request: server.post(META_ACTIONS, request), requests * 2))
    for number, (status, answer) in enumerate(answers):
        assert status == 200, answer
        check_scores(answer, expected_scores(reference, requests[number % 4], frames[number % 4]))


def large_image() -> str:
    """Return a PNG of 60 megapixels, 60 kB."""
    return data_url(Image.new("L", (10_000, 6_000)))


def bomb() -> str:
    """Return a PNG of one pixel that claims 20,000 megapixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", 200_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return encoded(bytes(data))


def encoded(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def truncated_jpeg() -> str:
    buffer = io.BytesIO()
    draw_images(1)[0].save(buffer, "JPEG")
    return encoded(buffer.getvalue()[:300])


BAD_IMAGES = {
    "60 megapixels": (large_image, "60 megapixels"),
    "20,000 megapixels": (bomb, "too large"),
    "a text named .jpg": (lambda: encoded(b"This is no image."), "not a JPEG, PNG or WebP"),
    "truncated": (truncated_jpeg, "damaged or truncated"),
    "empty": (lambda: encoded(b""), "not a JPEG, PNG or WebP"),
    "no base64": (lambda: "data:image/png;base64,***", "not base64"),
    "no URL": (lambda: "front.jpg", "cannot be fetched"),
    "a file of the server": (lambda: "file:///etc/hostname", "cannot be fetched"),
    "a closed port": (lambda: "http://127.0.0.1:9/x.jpg", "cannot be fetched"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_gets_400_with_its_name_and_a_reason(server, name):
    make, reason = BAD_IMAGES[name]
    url = make()
    request = body()
    request["images"]["back left"] = url
    status, answer = server.post(META_ACTIONS, request)
    assert (status, answer["error"]["param"]) == (400, "images.back left"), answer
    assert reason in answer["error"]["message"]
    status, answer = server.chat(image_part(url), text_part("Say it."))
    assert status == 400, answer
    assert reason in answer["error"]["message"]


def test_a_wrong_body_gets_400_with_the_field_and_a_reason(server):
    for request, field in [
        (body(images={}), "images"),
        (body(list(body()["images"].values())[:5]), "images"),
        (body(speed="fast"), "speed"),
        ({"question": "x" * 100_000}, "question"),
    ]:
        status, answer = server.post(META_ACTIONS, request)
        assert (status, answer["error"]["param"]) == (400, field), answer
    status, answer = server.post(META_ACTIONS, {"question": "the lead car " * 1_500})
    assert (status, "maximum" in answer["error"]["message"]) == (400, True), answer
    for data in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"speed": 1e999999}', b"null"):
        status, answer = server.post(META_ACTIONS, data)
        assert status == 400, answer
        assert answer["error"]["message"]
    status, answer = server.post(META_ACTIONS, body(model="another"))
    assert status == 404
    status, answer = server.post(META_ACTIONS, b'{"x": "' + b"x" * (65 << 20) + b'"}')
    assert status == 413
    assert "at most 64 MiB" in answer["error"]["message"]


def test_a_wrong_chat_gets_400_with_a_reason(server):
    images = list(map(image_part, draw_images(6)))
    for parts, reason in [
        ([*images[:5], text_part("Plan?")], "there are 5 images"),
        ([text_part("<image> Plan?")], "1 <image>, and there are 0 images"),
        ([text_part("the lead car " * 8_000)], "maximum"),
        ([*images, text_part("car " * 1_900)], "maximum"),
        ([text_part("\ud800")], "surrogate"),
    ]:
        status, answer = server.chat(*parts, max_tokens=4)
        assert status == 400, answer
        assert reason in answer["error"]["message"]
    status, answer = server.post("/v1/completions", {"prompt": "a <image> b", "max_tokens": 1})
    assert (status, "1 <image>" in answer["error"]["message"]) == (400, True)
    status, answer = server.post("/v1/completions", {"prompt": [5, 320], "max_tokens": 1})  # 320 is <image>
    assert (status, "1 <image>" in answer["error"]["message"]) == (400, True)


def test_images_of_a_request_that_was_refused_late_are_sent_again(server, reference):
    for seed, ask in enumerate(("chat", "meta-actions"), 90):  # images that no other test sends
        images = draw_images(6, seed)
        parts = list(map(image_part, images))
        status, answer = server.chat(*parts, text_part("Plan?"), temperature=-1)
        assert status == 400, answer  # vLLM checks this only when it has computed the pixels
        if ask == "chat":
            status, answer = server.chat(*parts, text_part("Plan?"), max_tokens=12, return_token_ids=True)
            assert status == 200, answer
            assert answer["choices"][0]["token_ids"] == generated(reference, image_block() + "Plan?", images)
        else:
            request = body([data_url(image) for image in images])
            status, answer = server.post(META_ACTIONS, request)
            assert status == 200, answer
            check_scores(answer, expected_scores(reference, request, images))


def test_log_probabilities_of_a_prompt_with_images_do_not_stop_the_server(server):
    status, answer = server.chat(image_part(draw_images(1)[0]), text_part("Say it."), max_tokens=1, prompt_logprobs=1)
    assert status == 200, answer


def test_clients_that_leave_do_not_stop_the_server(server, reference):
    request = json.dumps(body()).encode()
    head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    for sent in (request, request[:1000]):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head % (META_ACTIONS.encode(), len(request)) + sent)
    status, answer = server.post(META_ACTIONS, body())
    assert status == 200, answer
    check_scores(answer, expected_scores(reference, body(), draw_images(6)))


def test_a_body_without_a_stated_length_is_limited_too(server):
    chunk = b"%x\r\n" % (1 << 20) + b" " * (1 << 20) + b"\r\n"
    head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head % META_ACTIONS.encode())
        connection.sendall(chunk * 80 + b"0\r\n\r\n")
        connection.settimeout(30)
        assert b"413" in connection.recv(100)


def test_only_tokens_without_a_log_probability_are_asked_for_again():
    answers = [(1, 2), (1, 3), (4, 3)]
    assert _missing_tokens(answers, {}) == {(): [1, 4], (1,): [2, 3], (4,): [3]}
    assert _missing_tokens(answers, {(): {1: -1.0, 4: -2.0}, (1,): {3: -1.0}}) == {(1,): [2], (4,): [3]}
