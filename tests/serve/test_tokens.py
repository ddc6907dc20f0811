"""Token ids of the served model equal those of training."""

import random
from importlib.util import find_spec

import pytest

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed (sh scripts/test_serve.sh runs these tests)", allow_module_level=True)

from senna.data.tokenize import encode_prompt
from senna.model.tokenizer import load_tokenizer
from senna.serve.tokenizer import SennaTokenizer, encode_with_placeholders, image_token_id
from tests.helpers.small_tokenizers import byte_level, llama_folder

PIECES = [
    "<image>", "<image>\n", "<FRONT VIEW>:\n", " ", "  ", "\n", "</s>", "<s>", "<unk>", "USER:", " ASSISTANT:", "the lead car",
    "KEEP, STRAIGHT", "▁", "é", "前方", "🚗", "<im", "age>", "<Image>", ",", "parked",
]  # fmt: skip


def random_texts(count: int) -> list[str]:
    generator = random.Random(0)
    return ["".join(generator.choices(PIECES, k=generator.randrange(12))) for _ in range(count)]


@pytest.fixture(scope="module", params=["llama", "legacy llama", "byte level"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "model"
    if request.param == "byte level":
        byte_level().save_pretrained(path)
        return path
    return llama_folder(path, legacy=request.param.startswith("legacy"))


def test_ids_of_random_texts_equal_those_of_training(folder):
    served, own = SennaTokenizer.from_pretrained(folder), load_tokenizer(folder)
    placeholder = image_token_id(served)
    assert placeholder == len(own)  # behind the vocabulary
    for text in random_texts(1000):
        expected = [placeholder if token < 0 else token for token in encode_prompt(text, own).tolist()]
        assert encode_with_placeholders(text, served) == expected, text


def test_an_answer_is_decoded_without_placeholders_and_terminators(folder):
    served = SennaTokenizer.from_pretrained(folder)
    ids = [*served("parked").input_ids, image_token_id(served), served.eos_token_id]
    assert served.decode(ids, skip_special_tokens=True).strip() == "parked"
