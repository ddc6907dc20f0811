"""Scores of one packed forward pass equal the log-probabilities of each answer in a forward pass of its own."""

import numpy as np
import pytest
import torch

from senna.data import encode_prompt, prompt_for
from senna.errors import UsageError
from senna.evaluate.score import AnswerEncoder, Fork, PlanScorer, answer_ending, walk
from senna.meta_actions import ALL_META_ACTIONS
from senna.model import SennaLlavaLlamaForCausalLM
from senna.model.config import IGNORE_INDEX
from senna.model.loading import open_model
from senna.model.tokenizer import load_tokenizer
from senna.views import image_block
from tests.helpers.packing import tiny_model
from tests.helpers.small_tokenizers import llama_folder

QUESTIONS = [
    image_block() + "The car drives at 3.1 m/s and its route says: turn left. What is your plan?",
    image_block(("front",)) + "Plan?",
    image_block() + "Plan? " + "The lead vehicle is parked. " * 9,
    "Without an image: what is your plan?",
]


def question(text: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": text}]


def random_images(size: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    views = [text.count("<image>") for text in QUESTIONS]
    return [torch.randn(count, 3, size, size, generator=generator) for count in views]


def log_prob_alone(model, encoder: AnswerEncoder, text: str, images: torch.Tensor, number: int) -> float:
    """Return log P of an answer and its terminator from a forward pass over its complete conversation."""
    frame = encoder(question(text))
    ids, answer = frame["records"][number]["input_ids"], frame["answers"][number]
    with torch.no_grad():
        logits = model(input_ids=ids[None], images=images[None] if len(images) else None).logits[0]
    predicted = logits[-len(answer) - 1 : -1].double().log_softmax(-1)
    return float(predicted[torch.arange(len(answer)), torch.tensor(answer)].sum())


@pytest.fixture(scope="module")
def small_tokenizer(tmp_path_factory):
    return load_tokenizer(str(llama_folder(tmp_path_factory.mktemp("tokenizer") / "320", vocabulary=320)), 2048)


@pytest.fixture(scope="module")
def published(small_tokenizer, golden) -> PlanScorer:
    """Return a scorer with the published code's tiny model, whose images have the real geometry 336/14."""
    model = SennaLlavaLlamaForCausalLM.from_pretrained(golden / "model_v320", dtype=torch.float32).eval()
    return PlanScorer(model, small_tokenizer)


def check_all_sums(scorer: PlanScorer, size: int, questions: range, answers: range = range(20)) -> None:
    images = random_images(size)
    found = scorer([question(QUESTIONS[q]) for q in questions], [images[q] for q in questions])
    for scores, q in zip(found, questions, strict=True):
        separate = [log_prob_alone(scorer.model, scorer.encoder, QUESTIONS[q], images[q], number) for number in answers]
        assert np.abs(scores.log_probs[list(answers)] - separate).max() < 1e-4


def test_scores_equal_separate_scoring_for_the_published_model(published):
    check_all_sums(published, 336, range(2))


def test_scores_equal_separate_scoring_in_a_batch_of_different_lengths(tmp_path):
    tokenizer = load_tokenizer(str(llama_folder(tmp_path / "420")), 2048)
    for attention in ("split", "dense"):
        scorer = PlanScorer(tiny_model(len(tokenizer)).eval(), tokenizer, pack_attention=attention)
        check_all_sums(scorer, 28, range(4))


def test_scores_equal_separate_scoring_for_a_pretrained_llama(smollm2, golden):
    model, _ = open_model(str(smollm2), str(golden / "clip_tiny"), dtype=torch.float32, mm_adapter_tokens=8)
    scorer = PlanScorer(model, load_tokenizer(str(smollm2), 2048))
    check_all_sums(scorer, 336, range(2), range(0, 20, 7))


def test_scores_do_not_depend_on_other_frames_of_the_batch(published):
    images = random_images(336)
    [separate] = published([question(QUESTIONS[1])], [images[1]])
    together = published([question(QUESTIONS[3]), question(QUESTIONS[1])], [images[3], images[1]])[1]
    assert np.abs(separate.log_probs - together.log_probs).max() < 1e-4


def test_left_tree_is_the_beginning_of_the_generated_text(published):
    images = random_images(336)
    [scores] = published([question(QUESTIONS[1])], [images[1]])
    ids = published.model.generate(
        encode_prompt(prompt_for(QUESTIONS[1]), published.encoder.tokenizer)[None],
        images=images[1][None],
        max_new_tokens=1,
        do_sample=False,
    )
    assert scores.left_tree == published.encoder.tokenizer.decode(
        ids[0]
    )  # with random weights, the first token leaves the tree


def test_every_position_of_the_tree_is_a_target_once(small_tokenizer):
    frame = AnswerEncoder(small_tokenizer)(question("Plan?"))
    prefixes = {answer[:depth] for answer in frame["answers"] for depth in range(len(answer))}
    assert sum(int((record["labels"] != IGNORE_INDEX).sum()) for record in frame["records"]) == len(prefixes)
    assert len(set(frame["answers"])) == 20
    assert all(answer[-1] == small_tokenizer.eos_token_id for answer in frame["answers"])


def test_the_greedy_walk_takes_the_most_likely_child_even_if_another_answer_is_more_likely():
    # The first token 1 has 0.6, which is split between (1, 3) and (1, 4), 0.3 each; (2, 5) has 0.4.
    answers = [(1, 3), (1, 4), (2, 5)]
    tree = {
        (): Fork({1: np.log(0.6), 2: np.log(0.4)}, 1),
        (1,): Fork({3: np.log(0.5), 4: np.log(0.49)}, 9),
        (2,): Fork({5: 0.0}, 5),
    }
    assert walk(answers, tree) == (0, (1, 9))  # 9, which continues no answer, was the most likely token


def test_a_walk_along_the_most_likely_tokens_does_not_leave_the_tree():
    assert walk([(1, 3), (2, 5)], {(): Fork({1: -1.0, 2: -0.5}, 2), (2,): Fork({5: 0.0}, 5)}) == (1, None)


def test_the_ending_is_part_of_the_scored_answer(published):
    frame = published.encoder(question("Plan?"))
    without = AnswerEncoder(published.encoder.tokenizer, ending="")(question("Plan?"))
    assert [len(a) - len(b) for a, b in zip(frame["answers"], without["answers"], strict=True)] == [1] * 20


def test_the_best_is_the_most_probable(published):
    [scores] = published([question(QUESTIONS[3])], [torch.empty(0, 3, 336, 336)])
    assert scores.best == ALL_META_ACTIONS[int(np.exp(scores.log_probs).argmax())]


def test_a_wrong_number_of_images_is_refused(published):
    with pytest.raises(ValueError, match="frame 0: 1 <image> in the text, 2 images"):
        published([question(QUESTIONS[1])], [torch.zeros(2, 3, 336, 336)])


def test_attention_that_is_not_available_is_refused(published):
    with pytest.raises(UsageError, match="flex"):
        PlanScorer(published.model, published.encoder.tokenizer, pack_attention="flex")
    PlanScorer(published.model, published.encoder.tokenizer)


def test_the_answer_ending_is_the_text_after_the_last_word():
    assert answer_ending("KEEP, STRAIGHT\n") == "\n"
    assert answer_ending("KEEP, STRAIGHT") == ""
