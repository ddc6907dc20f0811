"""The distribution of batches over processes, without a model, and the facts of records."""

import pytest

from senna.errors import DataError, UsageError
from senna.evaluate.predict import RankShare, SkipBudget, cut_into_batches, facts_of, predict, trajectory_fields
from senna.evaluate.predictions import Store, claim


class Numbers:
    """Ten items that are only numbers."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"facts": {"index": index}}


def answer_all(store: Store, rank: int, world: int) -> list[int]:
    """Return the indices that this process predicts."""
    seen = []

    def answer(items):
        seen.extend(item["facts"]["index"] for item in items)
        return [{} for _ in items]

    share = RankShare(rank, world, 0)
    predict(store, Numbers(), cut_into_batches(range(10), 2), answer, share, SkipBudget(0), "numbers")
    return seen


def test_a_process_that_starts_after_another_has_ended_omits_and_repeats_nothing(tmp_path):
    store = Store(tmp_path)
    assert answer_all(store, 0, 2) == [0, 1, 4, 5, 8, 9]
    assert answer_all(store, 1, 2) == [2, 3, 6, 7]
    assert [line["index"] for line in store.join()] == list(range(10))


def test_stored_batches_are_not_computed_again_with_another_number_of_processes(tmp_path):
    store = Store(tmp_path)
    answer_all(store, 1, 2)
    assert answer_all(store, 0, 1) == [0, 1, 4, 5, 8, 9]


def test_records_beyond_the_skip_budget_are_an_error():
    budget = SkipBudget(1)
    budget.skip("a.jsonl: no image")
    with pytest.raises(DataError, match=r"more than --skip-bad-samples 1 .*b\.jsonl") as error:
        budget.skip("b.jsonl: no image")
    assert "larger --skip-bad-samples" in error.value.remedy
    with pytest.raises(DataError, match=r"b\.jsonl") as error:
        SkipBudget(0).skip("b.jsonl: no image")
    assert "--skip-bad-samples N" in error.value.remedy


def test_predictions_keep_the_facts_that_a_record_states():
    turns = [{"from": "human", "value": "<image>\nPlan?"}, {"from": "gpt", "value": "KEEP, STRAIGHT\n"}]
    record = {"id": "a", "kind": "plan", "conversations": turns}
    facts = facts_of(record, ["a.jpg"])
    assert facts["question"] == "Plan?"
    assert not {"view", "command", "speed"} & facts.keys()
    stated = {"view": "front", "command": "go straight", "speed": 0.0}
    assert facts_of({**record, **stated}, ["a.jpg"]) == {**facts, **stated}


def test_a_folder_takes_the_same_settings_only_unless_it_is_overwritten(tmp_path):
    claim(tmp_path, {"mode": "score", "limit": None})
    (tmp_path / "predictions.jsonl").write_text('{"index": 0}\n')
    claim(tmp_path, {"mode": "score", "limit": None})
    with pytest.raises(UsageError, match="limit was None and is 5") as error:
        claim(tmp_path, {"mode": "score", "limit": 5})
    assert "--overwrite" in error.value.remedy
    assert (tmp_path / "predictions.jsonl").exists()
    claim(tmp_path, {"mode": "score", "limit": 5}, overwrite=True)
    assert not (tmp_path / "predictions.jsonl").exists()
    with pytest.raises(UsageError, match="cannot be made"):
        claim(tmp_path / "run.json", {})


KEEPS, BRAKES = ("0,5 0,10 0,15 0,20 0,25 0,30", "0,5 0,9 0,12 0,14 0,15 0,15")


def test_a_trajectory_that_does_not_follow_its_plan_is_drawn_again():
    class Generator:
        def __init__(self):
            self.asked, self.drawn = [], []

        def __call__(self, prompts, images):
            self.asked.append((prompts, images))
            return [[BRAKES, KEEPS, "?", BRAKES][prompt] for prompt in prompts]

        def draw(self, prompts, images, count, seed):
            self.drawn.append((prompts, images, count, seed))
            return [{0: [BRAKES, KEEPS, KEEPS], 2: ["?", KEEPS, "?"], 3: [BRAKES] * 3}[prompt] for prompt in prompts]

    plans = ["KEEP, STRAIGHT", "KEEP, STRAIGHT", "DECELERATE, STRAIGHT", "KEEP, STRAIGHT"]
    items = [
        {"facts": {"index": 10 + row, "plan": plan}, "input_ids": row, "images": -row} for row, plan in enumerate(plans)
    ]
    generator = Generator()
    assert trajectory_fields(generator, 4)(items) == [
        {"text": KEEPS, "tries": 3},
        {"text": KEEPS, "tries": 1},
        {"text": "?", "tries": 4},  # none follows the plan: the first answer
        {"text": BRAKES, "tries": 4},
    ]
    assert generator.asked == [([0, 1, 2, 3], [0, -1, -2, -3])]
    assert generator.drawn == [([0, 2, 3], [0, -2, -3], 3, 10)]
    assert [found["tries"] for found in trajectory_fields(generator, 1)(items)] == [1] * 4
    assert len(generator.drawn) == 1, "one try draws nothing"
