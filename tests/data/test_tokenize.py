"""Ids and labels against the published code, and where that gave up, against what is right."""

import json

import pytest
import sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from senna.data import IGNORE_INDEX, IMAGE_TOKEN_INDEX, encode_conversation, encode_prompt, load_tokenizer
from senna.data.conversation import prompt_for
from senna.errors import DataError, UsageError
from tests.data.small_tokenizers import byte_level, llama_folder

BOS, EOS, UNK = 1, 2, 0


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def learnt(encoded) -> list[int]:
    return encoded["labels"][encoded["labels"] != IGNORE_INDEX].tolist()


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    return llama_folder(tmp_path_factory.mktemp("tokenizer") / "llama")


@pytest.fixture(scope="module")
def small(small_folder):
    return load_tokenizer(small_folder)


@pytest.fixture(scope="module")
def vicuna(shared_golden):
    """The tokenizers by their ``legacy`` flag, as transformers loads them: encoding must not depend on our loading."""
    return {
        legacy: AutoTokenizer.from_pretrained(shared_golden / "vicuna_tokenizer", legacy=legacy)
        for legacy in (False, True)
    }


@pytest.fixture(scope="module")
def published(shared_golden):
    return json.loads((shared_golden / "preprocess.json").read_text())


def encode(case, vicuna):
    """A case's ids and labels. The published code cut text-only samples in the tokenizer; here the collator does."""
    encoded = encode_conversation(case["conversations"], vicuna[case["legacy"]], case["version"])
    stop = None if case["has_image"] else case["model_max_length"]
    return encoded["input_ids"][:stop].tolist(), encoded["labels"][:stop].tolist()


def test_ids_equal_the_published_ones_in_every_case_it_could_do(published, vicuna):
    cases = [case for case in published if not case["error"]]
    assert len(cases) == 104
    differing = [(case["name"], case["legacy"]) for case in cases if encode(case, vicuna)[0] != case["input_ids"]]
    assert differing == []


def test_labels_equal_the_published_ones_in_every_case_it_did_not_give_up(published, vicuna):
    cases = [case for case in published if not case["error"] and not case["mismatch_warning"]]
    assert len(cases) == 92
    differing = [(case["name"], case["legacy"]) for case in cases if encode(case, vicuna)[1] != case["labels"]]
    assert differing == []


PLAN_IDS = [476, 29923, 15488, 29892, 6850, 4717, 22530, 13, EOS]  # "KEEP, STRAIGHT\n</s>", as in the case v1_plan
GAVE_UP = {
    # The published code masked these samples whole, with a warning. What is right instead:
    # an empty answer has nothing to learn, and its sample stays a prompt;
    "v1_empty_answer": [],
    # a question without an answer at the end takes nothing from the answer before it;
    "v1_ends_with_human": PLAN_IDS,
    # an unknown token in an answer is learnt like the rest of it, id 0 included;
    "v1_unk_in_answer": [476, 29923, 15488, 29871, UNK, 29871, 6850, 4717, 22530, EOS],
    # role markers inside an answer are words of it ("He said: USER: hi ASSISTANT: hello").
    "v1_assistant_marker_in_answer": [
        *(940, 1497, 29901, 3148, 1001, 29901, 7251, 319, 1799, 9047, 13566, 29901, 22172, EOS)
    ],
}


def test_answers_are_learnt_where_the_published_code_gave_up(published, vicuna):
    cases = [case for case in published if case["mismatch_warning"]]
    assert {case["name"] for case in cases} == set(GAVE_UP)
    for case in cases:
        ids, labels = encode(case, vicuna)
        wanted = GAVE_UP[case["name"]]
        assert [label for label in labels if label != IGNORE_INDEX] == wanted, case["name"]
        assert all(label in (IGNORE_INDEX, token) for token, label in zip(ids, labels, strict=True))


def test_what_crashed_the_published_code_is_encoded_or_named(published, vicuna):
    crashed = {case["name"]: case for case in published if case["error"]}
    assert set(crashed) == {"plain_no_image_token_error", "v1_two_humans_error"}
    # A plain sample without an image is its answer: BOS, "▁x", newline, of which answer and newline are learnt.
    assert encode(crashed["plain_no_image_token_error"], vicuna) == ([BOS, 921, 13], [IGNORE_INDEX, 921, 13])
    # Two questions in a row have no right reading: the turn is named.
    with pytest.raises(DataError, match="turn 1 is from 'human'"):
        encode(crashed["v1_two_humans_error"], vicuna)


def test_raw_texts_and_evaluation_prompts_equal_the_published_ones(shared_golden, vicuna):
    published = json.loads((shared_golden / "tokenize.json").read_text())
    for case in published["raw"]:
        assert encode_prompt(case["text"], vicuna[False]).tolist() == case["input_ids"], case["text"]
        assert encode_prompt(case["text"], vicuna[True]).tolist() == case["input_ids_legacy_true"], case["text"]
    for case in published["eval_prompts"]:
        assert prompt_for(case["query"], case["conv_mode"]) == case["prompt"]
        assert encode_prompt(case["prompt"], vicuna[False]).tolist() == case["input_ids"]


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
def test_ids_are_those_of_sentencepiece_itself_runs_of_spaces_included(small_folder, small, text):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(small_folder / "tokenizer.model"))
    assert encode_prompt(text, small).tolist() == [BOS, *pieces.encode(text)]
    assert encode_prompt(text, AutoTokenizer.from_pretrained(small_folder)).tolist() == [BOS, *pieces.encode(text)]


def test_a_saved_tokenizer_loads_as_the_same_one(tmp_path):
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
    assert [place for place, token in enumerate(ids) if token == tokenizer.bos_token_id] == (
        [0] if kind == "llama" else []
    )


ANSWERS = ["KEEP, STRAIGHT\n", "\n", " two  spaces ", "7", "Zürich 🚗"]


@pytest.mark.parametrize("kind", ["llama", "byte_level"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_the_targets_spell_the_answers_each_with_the_tokenizers_own_eos(small, kind, answer):
    tokenizer = small if kind == "llama" else byte_level()
    encoded = encode_conversation(turns("<image>\nWhat?", answer, "And then?", answer), tokenizer)
    targets = learnt(encoded)
    assert targets.count(tokenizer.eos_token_id) == 2
    half = targets[: targets.index(tokenizer.eos_token_id) + 1]
    assert targets == half * 2
    spelled = tokenizer.decode([BOS, *half] if kind == "llama" else half, skip_special_tokens=False)
    assert spelled.removeprefix("<s>").removesuffix(tokenizer.eos_token).removeprefix(" ") == answer


@pytest.mark.parametrize("kind", ["llama", "byte_level"])
def test_plain_learns_answer_and_newline_after_the_image(small, kind):
    tokenizer = small if kind == "llama" else byte_level()
    encoded = encode_conversation(turns("Describe.\n<image>", "a car"), tokenizer, "plain")
    start = [BOS] if kind == "llama" else []
    assert encoded["input_ids"].tolist()[: len(start) + 1] == [*start, IMAGE_TOKEN_INDEX]
    assert learnt(encoded) == encoded["input_ids"].tolist()[len(start) + 1 :]
    assert tokenizer.decode(learnt(encoded)) == "a car\n"


def test_an_image_inside_an_answer_is_no_target(small):
    encoded = encode_conversation(turns("Draw.", "here <image> it is"), small)
    assert IMAGE_TOKEN_INDEX in encoded["input_ids"]
    assert IMAGE_TOKEN_INDEX not in encoded["labels"]


def test_truncation_and_padding_that_a_call_of_the_tokenizer_left_behind_have_no_effect():
    used, fresh = byte_level(), byte_level()
    used.pad_token = used.unk_token
    used(["a", "plan plan"], truncation=True, max_length=4, padding="max_length")
    for text in ("plan " * 100, "a"):
        assert encode_prompt(text, used).tolist() == encode_prompt(text, fresh).tolist()


def test_a_token_added_later_is_used():
    tokenizer = byte_level()
    before = encode_prompt("a <plan> b", tokenizer)
    tokenizer.add_tokens(["<plan>"], special_tokens=True)
    assert tokenizer.convert_tokens_to_ids("<plan>") in encode_prompt("a <plan> b", tokenizer)
    assert len(before) > 4


def test_a_tokenizer_that_cannot_be_loaded_or_has_no_eos_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="nowhere"):
        load_tokenizer(tmp_path / "nowhere")
    without = PreTrainedTokenizerFast(tokenizer_object=byte_level().backend_tokenizer)
    with pytest.raises(UsageError, match="no eos token"):
        encode_conversation(turns("a", "b"), without)
    with pytest.raises(UsageError, match="unknown prompt format 'v2'"):
        encode_conversation(turns("a", "b"), byte_level(), "v2")
