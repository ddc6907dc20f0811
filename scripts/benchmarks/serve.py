"""Benchmark of serving: a frame's questions with prefix caching, without it, and with our own `generate` one by one.

Each method answers each frame once, one question after another, since a second time vLLM would have the frame in its caches.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from senna.data import encode_prompt, load_image, prompt_for
from senna.errors import SennaError, UsageError
from senna.evaluate.server_questions import image_url
from senna.model import load_model
from senna.record_file import open_records
from senna.records import HUMAN, prompt_images
from senna.serve.environment import Vllm, check_environment, find_vllm
from senna.serve.folder import check_model
from senna.views import VIEWS

from .common import print_table, summarize

ROOT = Path(__file__).resolve().parents[2]
CACHING, NO_CACHING, GENERATE = "senna serve", "senna serve --no-enable-prefix-caching", "generate"
MOST_TOKENS = 128  # of an answer
START = 300  # seconds until a server answers; about 30 on two idle cores


@dataclass(frozen=True)
class Question:
    """A question about a frame: its text with ``<image>``, and the files and data URLs of the images in their order."""

    text: str
    paths: list[Path]
    urls: list[str]


Ask = Callable[[Question], list[int]]
"""From a question to the tokens of its answer. Texts would hide differences, and decode damaged UTF-8 in two ways."""
Frames = dict[str, list[Question]]


def read_frames(data: Path, image_folder: Path, count: int, questions: int) -> Frames:
    """Return frames that are spread evenly over the records, with their first questions about all six images.

    Raises:
        UsageError: there are too few frames with so many questions.
    """
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for record in open_records(data):
        turns = record["conversations"]
        paths = prompt_images(record)
        if len(turns) == 2 and turns[0]["from"] == HUMAN and len(paths) == len(VIEWS):
            found.setdefault(str(record.get("token")), []).append((turns[0]["value"], paths))
    tokens = [token for token, asked in found.items() if len(asked) >= questions]
    if len(tokens) < count:
        raise UsageError(
            f"{data} has {len(tokens)} frames with {questions} questions about six images",
            remedy=f"give records of {count} such frames, or a smaller --frames or --questions",
        )
    frames: Frames = {}
    urls: dict[str, str] = {}
    for token in tokens[:: len(tokens) // count][:count]:
        asked = found[token][:questions]
        urls |= {path: image_url(image_folder / path) for _, paths in asked for path in paths if path not in urls}
        frames[token] = [
            Question(text, [image_folder / path for path in paths], [urls[path] for path in paths])
            for text, paths in asked
        ]
    return frames


def measure(frames: Frames, methods: dict[str, Ask]) -> tuple[dict[str, dict[str, list[float]]], int]:
    """Ask the questions of all frames but the first, which warms up, with the methods in turn.

    Returns:
        Seconds of each method for each frame, in the form of `time_methods`, and the number of questions.

    Raises:
        SennaError: two methods gave different answers.
    """
    warm_up, *tokens = frames
    for ask in methods.values():
        ask(frames[warm_up][0])
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in methods}
    rng = random.Random(0)
    for token in tokens:
        answers: dict[str, list[list[int]]] = {}
        for name in rng.sample(list(methods), len(methods)):
            start = time.perf_counter()
            answers[name] = [methods[name](question) for question in frames[token]]
            seconds[name][token] = [time.perf_counter() - start]
        check_equal(token, answers)
    return seconds, sum(len(frames[token]) for token in tokens)


def check_equal(frame: str, answers: dict[str, list[list[int]]]) -> None:
    """Raise SennaError if the methods gave different tokens for a question of a frame."""
    (first, expected), *others = answers.items()
    for name, found in others:
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            if one != other:
                raise SennaError(f"frame {frame}, question {number}: {first} gives the tokens {one}, {name} {other}")


def server_method(port: int) -> Ask:
    """Return a method that asks a server of the chat interface on this machine."""

    def ask(question: Question) -> str:
        images = [{"type": "image_url", "image_url": {"url": url}} for url in question.urls]
        content = [{"type": "text", "text": question.text}, *images]
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": MOST_TOKENS, "return_token_ids": True}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                return json.load(response)["choices"][0]["token_ids"]
        except urllib.error.HTTPError as error:
            raise SennaError(f"the server answers {error.code}: {error.read(500).decode(errors='replace')}") from error
        except OSError as error:
            raise SennaError(f"the server does not answer: {error}") from error

    return ask


def generate_method(model: Any, tokenizer: Any, processor: Any) -> Ask:
    """Return a method that loads a question's images and decodes its answer greedily, in this process."""

    def ask(question: Question) -> str:
        pixels = torch.stack([load_image(path, processor, model.config.image_aspect_ratio) for path in question.paths])
        prompt = encode_prompt(prompt_for(question.text), tokenizer)
        tokens = model.generate(
            prompt[None].to(model.device),
            images=pixels[None].to(model.device, model.dtype),  # (1, V, 3, H, W)
            max_new_tokens=MOST_TOKENS,
            max_length=None,
            do_sample=False,
        )
        return tokens[0].tolist()

    return ask


@contextmanager
def serving(model: str, vllm: Vllm, threads: int, flags: Sequence[str] = ()) -> Iterator[int]:
    """Serve a model on a free port of the loopback interface, and return the port.

    Raises:
        SennaError: the server does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "senna", "serve", model, "--port", str(port), "--dtype", "float32", *flags]
    # Two servers and our own model share the machine.
    command += ["--kv-cache-memory-bytes", "1G"] if vllm.is_cpu else ["--gpu-memory-utilization", "0.3"]
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path, "VLLM_HOST_IP": "127.0.0.1"}
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            wait_for(process, port, Path(log.name))
            yield port
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(process: subprocess.Popen, port: int, log: Path) -> None:
    """Wait until a server answers. Raises SennaError with the end of its log if it does not."""
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    tail = log.read_text(errors="replace")[-2000:]
    raise SennaError(f"the server did not start (exit code {process.poll()}); its log ends with:\n{tail}")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the three methods on the same frames, and compare their answers."""
    vllm = find_vllm()
    check_environment(vllm)
    check_model(arguments.model, vllm)
    folder = arguments.image_folder or arguments.data.parent
    frames = read_frames(arguments.data, folder, arguments.frames + 1, arguments.questions)
    torch.set_num_threads(arguments.threads)
    model = load_model(arguments.model, dtype=torch.float32, device="cpu" if vllm.is_cpu else "auto")
    with (
        serving(arguments.model, vllm, arguments.threads) as cached,
        serving(arguments.model, vllm, arguments.threads, ["--no-enable-prefix-caching"]) as uncached,
    ):
        methods = {
            CACHING: server_method(cached),
            NO_CACHING: server_method(uncached),
            GENERATE: generate_method(*model),
        }
        seconds, questions = measure(frames, methods)
    ways = summarize(seconds, GENERATE)
    caching = summarize({name: seconds[name] for name in (CACHING, NO_CACHING)}, NO_CACHING)[CACHING]["ratio"]
    print(
        f"{arguments.frames} frames, {arguments.questions} questions about six images each, one after another; "
        f"{vllm.package} {vllm.version}, fp32, {arguments.threads} threads; all {questions} answers are equal"
    )
    print_table(
        ["", "s a frame", "speed"],
        [[name, f"{found['ms'] / 1e3:.2f}", f"{found['ratio']:.2f}x"] for name, found in ways.items()],
    )
    print(f"prefix caching: {caching:.2f}x")
    return {
        "benchmark": "serve",
        "vllm": vllm.version,
        "frames": arguments.frames,
        "questions": questions,
        "threads": arguments.threads,
        "prefix_caching_ratio": caching,
        "ways": ways,
    }
