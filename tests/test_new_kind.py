"""A new question kind needs one registration: records, training batches and metrics then follow without another change."""

import json

import pytest
import torch
import yaml
from PIL import Image
from transformers import CLIPImageProcessorPil

from senna.convert.questions import Question, questions_of, records_of
from senna.data.collate import Collator
from senna.data.dataset import ConversationDataset
from senna.data.mixture import open_mixture
from senna.errors import UsageError
from senna.evaluate.metrics.text import text_metrics
from senna.kinds import QuestionKind, register, slots, unregister
from senna.model.config import IGNORE_INDEX
from senna.record_file import open_records
from senna.records import write_records
from senna.templates import DEFAULT, load_templates
from senna.views import VIEWS
from tests.helpers.converter_frames import agent, frame
from tests.helpers.small_tokenizers import byte_level

PROCESSOR = CLIPImageProcessorPil(size={"shortest_edge": 14}, crop_size={"height": 14, "width": 14})


def ask_for_trucks(frame, templates):
    count = sum(agent.name == "truck" for agent in frame.agents)
    yield Question("trucks", VIEWS, templates["trucks"]["question"].format(reach=60), f"{count} trucks", "front")


def parse_count(text):
    number = text.split(" ")[0]
    return int(number) if number.isdigit() else None


def score_counts(truth, predicted, scenes):
    exact = [true == count for true, count in zip(truth, predicted, strict=True)]
    return {"exact": sum(exact) / len(exact), "invalid": predicted.count(None)}


@pytest.fixture(params=[2, 3])
def stage(request):
    """Register the kind "trucks" for a training stage."""
    register(
        QuestionKind(
            "trucks",
            "Number of trucks",
            stage=request.param,
            ask=ask_for_trucks,
            template={"question": slots("reach")},
            parse=parse_count,
            score=score_counts,
            labels=lambda answer: [answer],
        )
    )
    yield request.param
    unregister("trucks")


@pytest.fixture
def templates(stage, tmp_path):
    with pytest.raises(UsageError, match="trucks"):
        load_templates()  # the section of the new kind is missing
    texts = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
    texts["trucks"] = {"question": "How many trucks are within {reach} m?"}
    (tmp_path / "prompts.yaml").write_text(yaml.safe_dump(texts), encoding="utf-8")
    return load_templates(tmp_path / "prompts.yaml")


@pytest.fixture
def path(templates, tmp_path):
    """Return the file of the records of two frames, with one and two trucks, and their images."""
    records = []
    for number in (1, 2):
        trucks = [agent(3.0 * index, 20, "vehicle.truck", "truck") for index in range(number)]
        about = frame(agent(0, 10), *trucks)
        records += records_of(about, questions_of(about, templates), {})
    for image in about.images:
        (tmp_path / image).parent.mkdir(parents=True)
        Image.new("RGB", (32, 18)).save(tmp_path / image)
    write_records(tmp_path / "data.jsonl", records)
    return tmp_path / "data.jsonl"


def test_frames_have_records_of_the_new_kind(path):
    records = [record for record in open_records(path) if record["kind"] == "trucks"]
    assert [record["conversations"][1]["value"] for record in records] == ["1 trucks", "2 trucks"]
    assert records[0]["conversations"][0]["value"].endswith("<BACK VIEW>:\n<image>\nHow many trucks are within 60 m?")
    assert (records[0]["id"], records[0]["view"], records[0]["captioner"]) == ("t-trucks", "front", "tables")


def test_training_stage_of_the_new_kind_selects_its_records(path, stage):
    kinds = {chosen: set(open_mixture(str(path), chosen).kind_names) for chosen in (2, 3)}
    assert "trucks" in kinds[stage]
    assert "trucks" not in kinds[5 - stage]
    assert "plan" in kinds[3]


def test_batches_have_the_new_kind_with_its_answers_as_targets(path, stage):
    tokenizer = byte_level()
    mixture = open_mixture(str(path), stage)
    data = ConversationDataset(mixture, tokenizer, PROCESSOR)
    indices = [index for index in range(len(data)) if mixture[index]["kind"] == "trucks"]
    batch = Collator(pad_token_id=0, max_length=2048, tokens_per_image=4)([data[index] for index in indices])
    assert batch["images"].shape == (2, 6, 3, 14, 14)
    assert [mixture.kind_names[kind] for kind in batch["kinds"]] == ["trucks", "trucks"]
    targets = [tokenizer.decode(row[row != IGNORE_INDEX]) for row in batch["labels"]]
    assert all(f"{count} trucks" in target for count, target in zip((1, 2), targets, strict=True)), targets
    assert batch["labels"].dtype == torch.long


def test_predictions_of_the_new_kind_are_scored(path):
    predictions = [
        {"kind": "trucks", "scene": f"scene {number}", "truth": record["conversations"][1]["value"], "text": text}
        for number, (record, text) in enumerate(
            zip([r for r in open_records(path) if r["kind"] == "trucks"], ["1 trucks", "many"], strict=True)
        )
    ]
    figures = text_metrics(predictions)
    assert figures["trucks"]["exact"] == 0.5
    assert figures["trucks"]["invalid"] == 1
    assert figures["trucks"]["records"] == 2
    assert json.loads(json.dumps(figures)) == figures
