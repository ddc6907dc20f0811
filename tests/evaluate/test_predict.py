"""How batches are shared out, without a model."""

from senna.evaluate.predict import RankShare, SkipBudget, cut_into_batches, predict
from senna.evaluate.predictions import Store


class Numbers:
    """Ten questions that are only numbers."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"facts": {"index": index}}


def answer_all(store: Store, rank: int, world: int) -> list[int]:
    """The places that this process answers."""
    seen = []

    def answer(items):
        seen.extend(item["facts"]["index"] for item in items)
        return [{} for _ in items]

    predict(
        store, Numbers(), cut_into_batches(range(10), 2), answer, RankShare(rank, world, 0), SkipBudget(0), "numbers"
    )
    return seen


def test_a_process_that_starts_after_another_has_ended_leaves_nothing_out_and_repeats_nothing(tmp_path):
    store = Store(tmp_path)
    assert answer_all(store, 0, 2) == [0, 1, 4, 5, 8, 9]
    assert answer_all(store, 1, 2) == [2, 3, 6, 7]
    assert [line["index"] for line in store.join()] == list(range(10))


def test_what_is_there_is_not_computed_again_by_another_number_of_processes(tmp_path):
    store = Store(tmp_path)
    answer_all(store, 1, 2)
    assert answer_all(store, 0, 1) == [0, 1, 4, 5, 8, 9]
