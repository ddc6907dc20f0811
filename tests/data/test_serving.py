"""The chat template and the image token of exported folders."""

import json

import pytest
from transformers import AutoTokenizer

from senna.cli import main
from senna.data.conversation import prompt_for, render
from senna.data.serving import prepare_for_serving
from senna.data.tokenize import encode_prompt
from senna.model.tokenizer import load_tokenizer
from senna.views import VIEWS, image_block
from tests.helpers.small_tokenizers import llama_folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(llama_folder(tmp_path_factory.mktemp("tokenizer") / "model"))


@pytest.fixture(scope="module")
def served(tokenizer, tmp_path_factory):
    """Return the tokenizer after it was prepared, saved and loaded."""
    folder = tmp_path_factory.mktemp("served")
    own = load_tokenizer(tokenizer.name_or_path)
    prepare_for_serving(own)
    own.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def apply(served, content, *more) -> str:
    messages = [{"role": "user", "content": content}, *more]
    return served.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("count", "block"), [(0, ""), (1, "<image>\n"), (len(VIEWS), image_block())], ids=["none", "one", "six"]
)
def test_the_template_gives_the_prompt_of_training(served, count, block):
    parts = [{"type": "image"}] * count + [{"type": "text", "text": "Plan, 'now'?\n"}]
    assert apply(served, parts) == prompt_for(f"{block}Plan, 'now'?\n")
    assert apply(served, f"{block}Plan?") == prompt_for(f"{block}Plan?")


def test_earlier_turns_are_rendered_as_in_training(served, tokenizer):
    turns = [("human", "Plan?"), ("gpt", "STOP, STRAIGHT\n"), ("human", "Why?"), ("gpt", "")]
    expected = render([{"from": role, "value": text} for role, text in turns], "v1", tokenizer.eos_token).text
    more = [{"role": "assistant", "content": "STOP, STRAIGHT\n"}, {"role": "user", "content": "Why?"}]
    assert apply(served, "Plan?", *more) == expected


def test_the_image_token_stands_behind_the_vocabulary_and_changes_no_ids(served, tokenizer):
    assert served.convert_tokens_to_ids("<image>") == len(tokenizer)
    text = prompt_for(image_block() + "USER: the lead car</s>parked")
    assert encode_prompt(text, served).tolist() == encode_prompt(text, tokenizer).tolist()


def test_export_writes_them_only_when_asked(finished, tmp_path):
    for flags in ([], ["--serve"]):
        out = tmp_path / f"model{len(flags)}"
        assert main(["export", "--checkpoint", str(finished[0] / "checkpoint-12"), "--out", str(out), *flags]) == 0
        tokenizer = load_tokenizer(out)
        assert ("<image>" in tokenizer.get_vocab()) == bool(flags)
        assert bool(tokenizer.chat_template) == bool(flags)
        assert json.loads((out / "preprocessor_config.json").read_text())["do_rescale"]
        assert (out / "generation_config.json").is_file()
