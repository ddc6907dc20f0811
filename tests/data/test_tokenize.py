"""Ids and labels equal those of the published code; where that code gives up, they are correct."""

import json

import pytest
import sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from senna.data import IGNORE_INDEX, IMAGE_TOKEN_INDEX, encode_conversation, encode_prompt, load_tokenizer
from senna.data.conversation import prompt_for, render
from senna.errors import DataError, UsageError
from tests.data import own_conversations
from tests.data.own_conversations import turns
from tests.helpers.small_tokenizers import byte_level, llama_folder

BOS, EOS, UNK = 1, 2, 0


def targets_of(encoded) -> list[int]:
    return encoded["labels"][encoded["labels"] != IGNORE_INDEX].tolist()


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    return llama_folder(tmp_path_factory.mktemp("tokenizer") / "llama")


@pytest.fixture(scope="module")
def small(small_folder):
    return load_tokenizer(small_folder)


# ---- conversations of our own


@pytest.fixture(scope="module")
def own_tokenizers():
    """Return our own tokenizer by its ``legacy`` flag, loaded by transformers: encoding must not depend on our loading."""
    return {
        legacy: AutoTokenizer.from_pretrained(own_conversations.TOKENIZER, legacy=legacy) for legacy in (False, True)
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", own_conversations.CASES)
def test_ids_and_labels_equal_the_stored_ones_and_those_of_sentencepiece(own_tokenizers, name, legacy):
    stored = json.loads(own_conversations.STORED.read_text())["legacy" if legacy else "current"][name]
    ids, labels = own_conversations.encoded(own_tokenizers[legacy], name)
    assert (ids, labels) == (stored["input_ids"], stored["labels"])
    version, conversation = own_conversations.CASES[name]
    assert ids == own_conversations.reference_ids(render(conversation, version, "</s>").text, legacy)
    is_target = own_conversations.reference_targets(name, legacy)
    assert labels == [token if target else IGNORE_INDEX for token, target in zip(ids, is_target, strict=True)]


@pytest.mark.parametrize("name", ["six_images", "several_turns", "no_image", "role_words_in_answer"])
def test_the_targets_are_the_answers_each_with_its_end(own_tokenizers, name):
    _, labels = own_conversations.encoded(own_tokenizers[False], name)
    answers = [turn["value"] for turn in own_conversations.CASES[name][1] if turn["from"] == "gpt"]
    targets = [label for label in labels if label != IGNORE_INDEX]
    assert own_tokenizers[False].decode([BOS, *targets]) == "<s> " + " ".join(f"{answer}</s>" for answer in answers)


# ---- the published cases


@pytest.fixture(scope="module")
def vicuna(shared_golden):
    """Return Vicuna's tokenizer by its ``legacy`` flag, loaded by transformers."""
    return {
        legacy: AutoTokenizer.from_pretrained(shared_golden / "vicuna_tokenizer", legacy=legacy)
        for legacy in (False, True)
    }


@pytest.fixture(scope="module")
def published(shared_golden):
    return json.loads((shared_golden / "preprocess.json").read_text())


def encode(case, vicuna):
    """Return ids and labels of a case. The published tokenizer truncates text-only samples; here the collator does."""
    encoded = encode_conversation(case["conversations"], vicuna[case["legacy"]], case["version"])
    stop = None if case["has_image"] else case["model_max_length"]
    return encoded["input_ids"][:stop].tolist(), encoded["labels"][:stop].tolist()


def test_ids_labels_and_prompts_equal_the_published_ones(shared_golden, published, vicuna):
    correct = [case for case in published if not case["error"]]
    unmasked = [case for case in correct if not case["mismatch_warning"]]
    assert (len(correct), len(unmasked)) == (104, 92)
    for case in correct:
        ids, labels = encode(case, vicuna)
        assert ids == case["input_ids"], (case["name"], case["legacy"])
        assert case["mismatch_warning"] or labels == case["labels"], (case["name"], case["legacy"])
    texts = json.loads((shared_golden / "tokenize.json").read_text())
    for case in texts["raw"]:
        assert encode_prompt(case["text"], vicuna[False]).tolist() == case["input_ids"], case["text"]
        assert encode_prompt(case["text"], vicuna[True]).tolist() == case["input_ids_legacy_true"], case["text"]
    for case in texts["eval_prompts"]:
        assert prompt_for(case["query"], case["conv_mode"]) == case["prompt"]
        assert encode_prompt(case["prompt"], vicuna[False]).tolist() == case["input_ids"], case["query"]


PLAN_IDS = [476, 29923, 15488, 29892, 6850, 4717, 22530, 13, EOS]  # "KEEP, STRAIGHT\n</s>", as in the case v1_plan
CORRECT_TARGETS = {
    # The published code masks all labels of these samples and warns. The correct targets are:
    "v1_empty_answer": [],
    # The last question has no answer; the answer before it is a target.
    "v1_ends_with_human": PLAN_IDS,
    # An unknown token in an answer is a target too, with the id 0.
    "v1_unk_in_answer": [476, 29923, 15488, 29871, UNK, 29871, 6850, 4717, 22530, EOS],
    # The words USER and ASSISTANT in an answer are text.
    "v1_assistant_marker_in_answer": [
        *(940, 1497, 29901, 3148, 1001, 29901, 7251, 319, 1799, 9047, 13566, 29901, 22172, EOS)
    ],
}


def test_targets_are_correct_where_the_published_code_masks_an_answer_or_raises_an_error(published, vicuna):
    masked = [case for case in published if case["mismatch_warning"]]
    assert {case["name"] for case in masked} == set(CORRECT_TARGETS)
    for case in masked:
        ids, labels = encode(case, vicuna)
        assert [label for label in labels if label != IGNORE_INDEX] == CORRECT_TARGETS[case["name"]], case["name"]
        assert all(label in (IGNORE_INDEX, token) for token, label in zip(ids, labels, strict=True))
    crashed = {case["name"]: case for case in published if case["error"]}
    assert set(crashed) == {"plain_no_image_token_error", "v1_two_humans_error"}
    # A plain sample without an image is BOS, "▁x", newline; the answer and the newline are targets.
    assert encode(crashed["plain_no_image_token_error"], vicuna) == ([BOS, 921, 13], [IGNORE_INDEX, 921, 13])
    # Two questions in a row have no correct encoding.
    with pytest.raises(DataError, match="turn 1 is from 'human'"):
        encode(crashed["v1_two_humans_error"], vicuna)


# ---- tokenizers


SPACED = [
    "two  spaces",
    " leading",
    "   three",
    "the  white car   is    parked",
    "\n x",
    "Zürich 东京 🚗",
    "trailing  ",
]


@pytest.mark.parametrize("text", SPACED)
def test_ids_equal_those_of_sentencepiece_also_for_runs_of_spaces(small_folder, small, text):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(small_folder / "tokenizer.model"))
    assert encode_prompt(text, small).tolist() == [BOS, *pieces.encode(text)]
    assert encode_prompt(text, AutoTokenizer.from_pretrained(small_folder)).tolist() == [BOS, *pieces.encode(text)]


def test_a_saved_tokenizer_loads_with_the_same_settings_and_ids(tmp_path):
    for legacy in (False, True):
        tokenizer = load_tokenizer(llama_folder(tmp_path / f"from_{legacy}", legacy), 512, padding_side="left")
        tokenizer.save_pretrained(tmp_path / f"to_{legacy}")
        again = load_tokenizer(tmp_path / f"to_{legacy}", padding_side="left")
        assert (again.legacy, again.model_max_length, again.padding_side) == (legacy, 512, "left")
        assert again.pad_token == again.unk_token == "<unk>"
        for text in [*SPACED, "one</s>USER: two"]:
            assert encode_prompt(text, again).tolist() == encode_prompt(text, tokenizer).tolist()


def test_text_after_a_special_token_has_a_prefix_space_only_in_legacy_mode(tmp_path, small):
    legacy = load_tokenizer(llama_folder(tmp_path / "legacy", legacy=True))
    assert "".join(legacy.convert_ids_to_tokens(encode_prompt("a</s>USER", legacy).tolist())) == "<s>▁a</s>▁USER"
    assert "".join(small.convert_ids_to_tokens(encode_prompt("a</s>U", small).tolist())) == "<s>▁a</s>U"


@pytest.mark.parametrize("kind", ["llama", "byte_level"])
def test_each_image_is_one_placeholder_and_only_the_start_has_a_bos(small, kind):
    tokenizer = small if kind == "llama" else byte_level()
    ids = encode_prompt("<image>\nplan<image><image>", tokenizer).tolist()
    assert ids.count(IMAGE_TOKEN_INDEX) == 3
    assert ids[-2:] == [IMAGE_TOKEN_INDEX, IMAGE_TOKEN_INDEX]
    bos = [position for position, token in enumerate(ids) if token == tokenizer.bos_token_id]
    assert bos == ([0] if kind == "llama" else [])


ANSWERS = ["KEEP, STRAIGHT\n", "\n", " two  spaces ", "7", "Zürich 🚗"]


@pytest.mark.parametrize("kind", ["llama", "byte_level"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_the_targets_decode_to_the_answers_each_with_the_eos_of_the_tokenizer(small, kind, answer):
    tokenizer = small if kind == "llama" else byte_level()
    encoded = encode_conversation(turns("<image>\nWhat?", answer, "And then?", answer), tokenizer)
    targets = targets_of(encoded)
    assert targets.count(tokenizer.eos_token_id) == 2
    half = targets[: targets.index(tokenizer.eos_token_id) + 1]
    assert targets == half * 2
    text = tokenizer.decode([BOS, *half] if kind == "llama" else half, skip_special_tokens=False)
    assert text.removeprefix("<s>").removesuffix(tokenizer.eos_token).removeprefix(" ") == answer


@pytest.mark.parametrize("kind", ["llama", "byte_level"])
def test_the_targets_of_plain_are_the_answer_and_its_newline(small, kind):
    tokenizer = small if kind == "llama" else byte_level()
    encoded = encode_conversation(turns("Describe.\n<image>", "a car"), tokenizer, "plain")
    start = [BOS] if kind == "llama" else []
    assert encoded["input_ids"].tolist()[: len(start) + 1] == [*start, IMAGE_TOKEN_INDEX]
    assert targets_of(encoded) == encoded["input_ids"].tolist()[len(start) + 1 :]
    assert tokenizer.decode(targets_of(encoded)) == "a car\n"


def test_an_image_inside_an_answer_is_no_target(small):
    encoded = encode_conversation(turns("Draw.", "here <image> it is"), small)
    assert IMAGE_TOKEN_INDEX in encoded["input_ids"]
    assert IMAGE_TOKEN_INDEX not in encoded["labels"]


def test_truncation_and_padding_set_by_an_earlier_call_have_no_effect():
    used, fresh = byte_level(), byte_level()
    used.pad_token = used.unk_token
    used(["a", "plan plan"], truncation=True, max_length=4, padding="max_length")
    for text in ("plan " * 100, "a"):
        assert encode_prompt(text, used).tolist() == encode_prompt(text, fresh).tolist()


def test_a_token_added_after_the_first_use_is_used():
    tokenizer = byte_level()
    before = encode_prompt("a <plan> b", tokenizer)
    tokenizer.add_tokens(["<plan>"], special_tokens=True)
    assert tokenizer.convert_tokens_to_ids("<plan>") in encode_prompt("a <plan> b", tokenizer)
    assert len(before) > 4


def test_a_tokenizer_that_cannot_be_loaded_or_has_no_eos_raises_an_error(tmp_path):
    with pytest.raises(UsageError, match="nowhere"):
        load_tokenizer(tmp_path / "nowhere")
    without = PreTrainedTokenizerFast(tokenizer_object=byte_level().backend_tokenizer)
    with pytest.raises(UsageError, match="no eos token"):
        encode_conversation(turns("a", "b"), without)
    with pytest.raises(UsageError, match="unknown prompt format 'v2'"):
        encode_conversation(turns("a", "b"), byte_level(), "v2")
