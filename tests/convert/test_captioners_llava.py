"""The llava captioner with a LlavaNext of random weights, on the CPU."""

import time

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
)

from senna.convert.captioners import Request, make_captioner
from senna.convert.captioners.llava import SHORT_ANSWER, LlavaCaptioner
from senna.errors import DataError, SennaError, UsageError
from tests.convert.tiny_llava import tiny_llava

TOKENS = 40
QUESTIONS = {
    "traffic_light": "which light?",
    "description": "Describe the white car, the lead vehicle and its lane",
    "explanation": "what is your plan? " * 3,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_llava(tmp_path_factory.mktemp("llava") / "model"))


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    """Three questions about each of six images, which have four different shapes."""
    folder, rng, found = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for number, (height, width) in enumerate([(90, 160), (90, 160), (160, 90), (64, 64), (90, 160), (90, 200)]):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
        found += [Request(None, "front", path, kind, question) for kind, question in QUESTIONS.items()]
    return found


@pytest.fixture(scope="module")
def plain_answers(model, requests):
    """Return the answers of transformers' own processor and model, one request at a time."""
    processor = LlavaNextProcessor.from_pretrained(model)
    llava = LlavaNextForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
    texts = []
    for request in requests:
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": request.question}]}]
        prompt = processor.apply_chat_template(turns, add_generation_prompt=True)
        inputs = processor(images=Image.open(request.image), text=prompt, return_tensors="pt")
        most = SHORT_ANSWER if request.kind == "traffic_light" else TOKENS
        out = llava.generate(**inputs, do_sample=False, max_new_tokens=most)
        texts.append(processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return texts


@pytest.mark.parametrize("batch", [1, 4, 32, "auto"])
def test_batched_answers_equal_those_of_transformers(model, requests, plain_answers, batch):
    assert LlavaCaptioner(model, "fp32", batch, TOKENS).answer(requests) == plain_answers
    assert len(set(plain_answers)) == len(plain_answers)  # they depend on image and question


@pytest.mark.parametrize("quantization", ["bf16", "nf4", "int8"])
def test_reduced_precisions_give_answers_that_depend_on_image_and_question(model, requests, quantization):
    captioner = LlavaCaptioner(model, quantization, 8, TOKENS)
    texts = captioner.answer(requests)
    assert len(set(texts)) > len(texts) // 2
    assert captioner.answer(requests) == texts
    kinds = {type(module).__name__ for module in captioner._model.modules()}
    assert ("Linear4bit" in kinds, "Linear8bitLt" in kinds) == (quantization == "nf4", quantization == "int8")
    assert {type(module).__name__ for module in captioner._model.model.vision_tower.modules()}.isdisjoint(
        {"Linear4bit", "Linear8bitLt"}
    )


def test_each_image_is_encoded_once_for_all_its_questions(model, requests, monkeypatch):
    captioner, seen = LlavaCaptioner(model, "fp32", 32, 4), []
    encode = captioner._model.get_image_features
    monkeypatch.setattr(
        captioner._model,
        "get_image_features",
        lambda **given: (seen.append(len(given["image_sizes"])), encode(**given))[1],
    )
    captioner.answer(requests)
    assert sum(seen) == len({request.image for request in requests}) == 6


def test_batches_are_faster_than_single_requests(model, requests, capsys):
    def seconds(batch):
        captioner = LlavaCaptioner(model, "fp32", batch, 128)
        captioner.answer(requests[:1])
        start = time.process_time()
        captioner.answer(requests)
        return time.process_time() - start

    ratio = seconds(1) / seconds(16)
    with capsys.disabled():
        print(f"[batches of 16: {ratio:.1f} times faster than single requests] ", end="")
    assert ratio > 1.5


def out_of_memory_above(captioner, most, error, monkeypatch):
    generate, tried = captioner._generate, []

    def limited(prompts, features):
        tried.append(len(prompts))
        if len(prompts) > most:
            raise error
        return generate(prompts, features)

    monkeypatch.setattr(captioner, "_generate", limited)
    return tried


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 99 bytes"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_auto_batch_is_halved_when_memory_runs_out_and_no_answer_is_lost(
    model, requests, plain_answers, error, monkeypatch
):
    captioner = LlavaCaptioner(model, "fp32", "auto", TOKENS)
    tried = out_of_memory_above(captioner, 3, error, monkeypatch)
    assert captioner.answer(requests) == plain_answers
    assert captioner.batch == 3
    assert tried[0] == 6
    assert set(tried[1:]) == {3}


def test_fewer_images_are_encoded_at_a_time_when_memory_runs_out(model, requests, plain_answers, monkeypatch):
    captioner = LlavaCaptioner(model, "fp32", 8, TOKENS)
    encode = captioner._encode

    def limited(images):
        if len(images) > 1:
            raise OUT_OF_MEMORY[0]
        return encode(images)

    monkeypatch.setattr(captioner, "_encode", limited)
    assert captioner.answer(requests) == plain_answers


def test_chosen_batch_size_is_not_changed(model, requests, monkeypatch):
    captioner = LlavaCaptioner(model, "fp32", 6, TOKENS)
    out_of_memory_above(captioner, 3, OUT_OF_MEMORY[0], monkeypatch)
    with pytest.raises(SennaError, match=r"--captioner-batch 6: memory ran out.*auto"):
        captioner.answer(requests)


def test_too_little_memory_for_one_request_is_reported(model, requests, monkeypatch):
    captioner = LlavaCaptioner(model, "fp32", "auto", TOKENS)
    out_of_memory_above(captioner, 0, OUT_OF_MEMORY[0], monkeypatch)
    with pytest.raises(SennaError, match="smaller model"):
        captioner.answer(requests)


def test_other_runtime_errors_are_not_taken_for_lack_of_memory(model, requests, monkeypatch):
    captioner = LlavaCaptioner(model, "fp32", "auto", TOKENS)
    out_of_memory_above(captioner, 0, RuntimeError("shapes do not match"), monkeypatch)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        captioner.answer(requests)


def test_image_token_in_a_question_is_not_a_second_image(model, requests):
    plain = requests[0]
    marked = Request(None, "front", plain.image, plain.kind, f"{plain.question} <image>")
    assert len(LlavaCaptioner(model, "fp32", 2, 8).answer([plain, marked])) == 2


def test_broken_image_is_named(model, tmp_path, requests):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"\xff\xd8\xff not an image")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        LlavaCaptioner(model, "fp32").answer([*requests, Request(None, "front", path, "description", "what?")])


def test_a_missing_folder_in_a_folder_that_is_here_is_not_asked_of_the_hub(tmp_path, monkeypatch, requests):
    asked, open_config = [], AutoConfig.from_pretrained

    def from_pretrained(*words, local_files_only=False, **options):
        asked.append(local_files_only)
        return open_config(*words, local_files_only=True, **options)

    monkeypatch.setattr(AutoConfig, "from_pretrained", from_pretrained)
    (tmp_path / "outputs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--captioner-model outputs/llava cannot be opened: no such folder"):
        make_captioner("llava", model="outputs/llava").answer(requests)
    assert asked == [True]


def test_models_that_cannot_be_opened_are_reported_with_the_reason(tmp_path, requests):
    with pytest.raises(UsageError, match=r"--captioner-model .*nowhere cannot be opened"):
        make_captioner("llava", model=str(tmp_path / "nowhere")).answer(requests)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    CLIPVisionModel(CLIPVisionConfig(**sizes)).save_pretrained(tmp_path / "clip")
    with pytest.raises(UsageError, match="clip_vision_model"):
        make_captioner("llava", model=str(tmp_path / "clip")).answer(requests)


@pytest.mark.parametrize("wrong", [{"batch": "some"}, {"batch": 0}, {"batch": "-3"}, {"quantization": "int3"}])
def test_wrong_options_are_refused_before_loading(wrong):
    with pytest.raises(UsageError, match="--captioner-"):
        make_captioner("llava", **wrong)


def test_nothing_is_loaded_before_the_first_request():
    assert make_captioner("llava").answer([]) == []
