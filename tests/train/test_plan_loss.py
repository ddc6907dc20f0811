"""`--plan_loss choice`: the cross-entropy among the twenty meta-actions, and its logit adjustment."""

import json

import numpy as np
import pytest
import torch
from transformers.models.clip import CLIPImageProcessorPil

from senna.data import ConversationDataset, PackCollator, encode_conversation, open_mixture
from senna.errors import UsageError
from senna.evaluate.training_data import count_plans
from senna.meta_actions import ALL_META_ACTIONS
from senna.model.packed_attention import use_packed_attention
from senna.model.tokenizer import load_tokenizer
from senna.records import write_records
from senna.train.arguments import parse_arguments
from senna.train.checkpoint import check_output_folder, run_settings
from senna.train.plan_loss import ChoiceCollator, ChoiceDataset, class_bias
from senna.views import image_block
from tests.helpers.packing import MAX_LENGTH, draw_images, odd_records, tiny_model, worst_difference
from tests.helpers.paths import GOLDEN
from tests.helpers.small_tokenizers import llama_folder

PACK = 1400
TRUTHS = ("STOP, STRAIGHT", "ACCELERATE, LEFT_TURN")


def plan(number: int, truth: str) -> dict:
    """Return a plan about the six images of a frame of `odd_records`."""
    question = image_block() + f"Your speed is {number} m/s. Your plan?"
    frame = odd_records([1] * (number + 1))[2 * number]
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"{truth}\n"}]
    return {**frame, "id": f"plan-{number}", "kind": "plan", "conversations": turns}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(str(llama_folder(tmp_path_factory.mktemp("tokenizer") / "llama")), MAX_LENGTH)


@pytest.fixture(scope="module")
def samples(tokenizer, tmp_path_factory):
    """Return the data set of two frames with one question, texts between them, a plan for each frame, and a plan whose
    answer is none of the twenty."""
    folder = tmp_path_factory.mktemp("records")
    plans = [plan(number, truth) for number, truth in enumerate(TRUTHS)]
    odd = {**plan(0, "KEEP, STRAIGHT"), "id": "odd-plan"}
    odd["conversations"] = [odd["conversations"][0], {"from": "gpt", "value": "KEEP, STRAIGHT. I am sure.\n"}]
    records = [*(record for record in odd_records([2, 1]) if record["id"] != "0-0"), *plans, odd]
    draw_images(records, folder)
    write_records(folder / "records.jsonl", records)
    mixture = open_mixture(str(folder / "records.jsonl"))
    processor = CLIPImageProcessorPil.from_pretrained(GOLDEN / "clip_tiny", size={"shortest_edge": 28}, crop_size=28)
    return ConversationDataset(mixture, tokenizer, processor, folder, decode="fast", tokens_per_image=3)


@pytest.fixture(scope="module")
def model(tokenizer):
    model = tiny_model(len(tokenizer)).double().train()
    use_packed_attention(model, "split")
    return model


def items(samples, together, chosen=None):
    frames = ChoiceDataset(samples, together)
    return [frames[number] for number in (range(len(frames)) if chosen is None else chosen)]


def collated(samples, frames, bias=(0.0,) * 20, max_length=MAX_LENGTH, pack=PACK):
    return ChoiceCollator(samples.tokenizer.pad_token_id or 0, max_length, 3, pack, bias)(frames)


def independent_loss(model, samples, bias):
    """Return the summed loss and its number of targets: twenty separate forward passes for each plan, and softmax of sums."""
    total, targets = torch.zeros((), dtype=torch.float64), 0
    plain = PackCollator(samples.tokenizer.pad_token_id or 0, MAX_LENGTH, 3, PACK)
    for index in range(len(samples)):
        record = samples.records[index]
        question, answer = record["conversations"][0], record["conversations"][-1]["value"]
        if record["kind"] == "plan" and answer.strip() in TRUTHS:
            sums = []
            for action in ALL_META_ACTIONS:
                turns = [question, {"from": "gpt", "value": f"{action}\n"}]
                sample = {**samples[index], **_encoded(samples, turns)}
                sums.append(-_summed_loss(model, plain, sample))
            scores = torch.stack(sums) + torch.tensor(bias)
            code = [str(action) for action in ALL_META_ACTIONS].index(answer.strip())
            tokens = _targets(
                plain, {**samples[index], **_encoded(samples, [question, {"from": "gpt", "value": answer}])}
            )
            total = total - scores.log_softmax(0)[code] - sums[code] / tokens
            targets += 1
        else:
            loss = _summed_loss(model, plain, samples[index])
            total = total + loss
            targets += _targets(plain, samples[index])
    return total, targets


def _encoded(samples, turns):
    found = encode_conversation(turns, samples.tokenizer, samples.version)
    return {"input_ids": found["input_ids"], "labels": found["labels"]}


def _batch(plain, sample):
    record = {name: sample[name] for name in ("input_ids", "labels", "kind", "sample")}
    return plain([{"records": [record], "images": sample["images"]}])


def _targets(plain, sample):
    return _batch(plain, sample)["counts"].targets


def _summed_loss(model, plain, sample):
    batch = dict(_batch(plain, sample))
    del batch["counts"], batch["kinds"]
    return model(**batch, num_items_in_batch=1).loss


BIAS = class_bias(np.arange(20.0), 0.5)


@pytest.fixture(scope="module")
def expected(model, samples):
    """Return the independent loss of a step over all records, and its gradients."""
    model.zero_grad()
    total, targets = independent_loss(model, samples, BIAS)
    (total / targets).backward()
    return float(total) / targets, targets, {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("together", [True, False], ids=["packed frames", "single records"])
def test_loss_and_gradients_equal_those_of_twenty_separate_forward_passes(model, samples, expected, together):
    batch = collated(samples, items(samples, together), BIAS)
    counts = batch.pop("counts")
    kinds = batch.pop("kinds")
    loss, targets, gradients = expected
    assert counts.targets == targets
    model.zero_grad()
    outputs = model(**batch, num_items_in_batch=counts.targets)
    outputs.loss.backward()
    assert float(outputs.loss) == pytest.approx(loss, rel=1e-6)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    assert worst_difference(found, gradients) < 1e-5
    assert float(outputs.sample_losses.sum()) / targets == pytest.approx(loss, rel=1e-6)
    names = samples.records.kind_names
    choices = [n for n, kind in enumerate(kinds.tolist()) if names[kind] == "plan" and outputs.sample_targets[n] == 1]
    assert len(choices) == 2  # the third plan is none of the twenty answers, and keeps the loss of its text
    assert (counts.records, counts.records_with_targets, counts.cut) == (7, 7, 0)


def test_tokens_of_all_answers_count(samples):
    """The log's tokens, and the memory that they need, are those of twenty branches behind one question."""
    frames = items(samples, together=False)
    plan = next(frame for frame in frames if "branches" in frame["records"][0])
    counts = collated(samples, [plan])["counts"]
    [record] = plan["records"]
    prompt = int((record["labels"] == -100).sum()) + 6 * (3 - 1)  # an image has three tokens
    answers = [int((branch["labels"] != -100).sum()) for branch in record["branches"]]
    # Each branch also has the token before its answer.
    assert counts.tokens == prompt - 1 + sum(answers) + 20
    assert (counts.targets, counts.records) == (1, 1)


def test_a_plan_of_which_an_answer_is_cut_has_no_loss_and_is_counted(model, samples):
    frames = items(samples, together=False)
    plan = next(frame for frame in frames if "branches" in frame["records"][0])
    [record] = plan["records"]
    longest = max(len(branch["input_ids"]) for branch in record["branches"]) + 6 * (3 - 1)
    assert collated(samples, [plan], max_length=longest)["counts"].cut == 0
    batch = collated(samples, [plan, frames[0]], max_length=longest - 1)
    counts, _ = batch.pop("counts"), batch.pop("kinds")
    assert (counts.cut, counts.records, counts.records_with_targets) == (1, 2, 1)
    outputs = model(**batch, num_items_in_batch=counts.targets)
    assert [bool(targets) for targets in outputs.sample_targets] == [False, True]


def test_batches_without_a_choice_or_without_any_record_work(model, samples):
    frames = items(samples, together=False)
    text = next(frame for frame in frames if "branches" not in frame["records"][0])
    for batch in (collated(samples, [text]), collated(samples, [{"records": [], "images": text["images"][:0]}])):
        counts, _ = batch.pop("counts"), batch.pop("kinds")
        outputs = model(**batch, num_items_in_batch=max(counts.targets, 1))
        outputs.loss.backward()
        assert bool(outputs.loss > 0) == bool(counts.targets)


def test_the_adjustment_uses_the_frequencies_of_an_epoch(tmp_path):
    """A file with weight 0.5 counts half; one plan of each of the twenty is added."""
    for name, truth, count in (("a", "KEEP, STRAIGHT", 6), ("b", "STOP, STRAIGHT", 4)):
        write_records(tmp_path / f"{name}.jsonl", [{**plan(0, truth), "id": f"{name}{n}"} for n in range(count)])
    counts = count_plans(open_mixture(f"{tmp_path}/a.jsonl,{tmp_path}/b.jsonl:0.5"))
    assert (counts[0], counts[15], counts.sum()) == (6, 2, 8)
    bias = class_bias(counts, 0.5)
    assert bias[0] == pytest.approx(0.5 * np.log(7 / 28))
    assert bias[1] == pytest.approx(0.5 * np.log(1 / 28))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"class_balance": 0.5}, "--class_balance 0.5 needs --plan_loss choice"),
        ({"class_balance": "nan", "plan_loss": "choice"}, "--class_balance nan is not from 0 to 1"),
        ({"class_balance": 2, "plan_loss": "choice"}, "--class_balance 2.0 is not from 0 to 1"),
        ({"plan_loss": "choice", "pack_max_tokens": 64}, "--pack_max_tokens 64 is below --model_max_length"),
    ],
)
def test_flags_that_do_not_fit_are_refused(given, problem):
    with pytest.raises(UsageError, match=problem):
        parse_arguments([word for name, value in given.items() for word in (f"--{name}", str(value))])


def test_a_stage_trains_with_a_choice_and_continues_as_that(toy, stage1, tmp_path):
    options = {"plan_loss": "choice", "num_train_epochs": 1, "logging_steps": 1, "pack_max_tokens": 256}
    options |= {"eval_data_path": toy.driving.with_name("held_out.jsonl")}
    held_out = toy.driving.read_text().replace('"scene_token": "toy"', '"scene_token": "other"')
    options["eval_data_path"].write_text(held_out)
    done = toy.drive(tmp_path / "out", stage1, stage=3, class_balance=0.5, **options)
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "out" / "train_log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    # The shortest answer is by far the most probable one of an untrained model, and true in the first step: the choice costs
    # nothing, and its text several nats a token. Where another answer is true, the choice costs several nats more; the loss of
    # the text alone only falls.
    assert 4 < losses[0] < 8
    assert max(losses) > losses[0] + 3
    assert any("eval_loss" in entry and "eval_plan_macro_f1" in entry for entry in log)
    settings = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (settings["plan_loss"], settings["class_balance"]) == ("choice", 0.5)
    other = toy.drive(tmp_path / "out", stage1, stage=3, class_balance=0.25, **options)
    assert other.returncode == 2
    assert "class_balance was 0.5 and is 0.25" in other.stderr
    text = toy.drive(tmp_path / "stage2", stage1, stage=2, **options)
    assert text.returncode == 2
    assert "the training records have no plan" in text.stderr


def test_a_run_of_an_earlier_version_continues(tmp_path):
    """Its run.json has no plan_loss: it trained on the text."""
    model, records = tmp_path / "model", tmp_path / "records.jsonl"
    model.mkdir()
    write_records(records, [plan(0, "KEEP, STRAIGHT")])
    out = tmp_path / "out"
    given = ["--model_name_or_path", str(model), "--data_path", str(records), "--output_dir", str(out)]
    settings = run_settings(parse_arguments(given))
    earlier = {name: value for name, value in settings.items() if name not in ("plan_loss", "class_balance")}
    (out / "checkpoint-1").mkdir(parents=True)
    (out / "run.json").write_text(json.dumps(earlier))
    assert check_output_folder(out, settings) == out / "checkpoint-1"
    with pytest.raises(UsageError, match="plan_loss was 'text' and is 'choice'"):
        check_output_folder(out, {**settings, "plan_loss": "choice"})
