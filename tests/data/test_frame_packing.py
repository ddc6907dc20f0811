"""Packed batches: which tokens records share, how trees fill rows, and equality with the padded batch."""

import numpy as np
import pytest
import torch

from senna.data.batch import BatchCounts
from senna.data.collate import Collator, PackCollator
from senna.data.frame_packing import cut_record, even_bins, pack_trees
from senna.data.tokenize import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.errors import DataError
from senna.model.layout import Tree
from tests.helpers.packing import names_and_targets

IMG, IGN, PAD = IMAGE_TOKEN_INDEX, IGNORE_INDEX, 0
VIEW = 4  # tokens an image
HEAD = [1, 2, IMG, 3, IMG, 4]  # 6 tokens, 12 after the splice


def record(ids: list[int], targets: int, name: str = "r", kind: int = 0) -> dict:
    """Return a record whose last ``targets`` tokens are targets."""
    labels = [IGN] * (len(ids) - targets) + ids[len(ids) - targets :]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "sample": name, "kind": kind}


def frame(*records: dict) -> dict:
    """Return a frame with as many images as its records need; the pixels of each image are its number."""
    views = max((item["input_ids"].tolist().count(IMG) for item in records if "error" not in item), default=0)
    return {"records": list(records), "images": torch.arange(views).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).float()}


def trees_of(*records: dict, max_length: int = 99, most: int = 99) -> list[tuple[tuple[int, ...], int, int]]:
    """Return (records, prefix, size) of each tree."""
    cut = [cut_record(item["input_ids"], item["labels"], max_length, VIEW) for item in records]
    return [(tree.records, tree.stop, tree.size) for tree in pack_trees(cut, most)]


def pack(*frames: dict, max_length: int = 99, most: int = 99) -> dict:
    return PackCollator(PAD, max_length, VIEW, most)(list(frames))


def sequences(batch: dict) -> list[list[tuple[int, int]]]:
    """Return the sequence of each record, as the model processes it: (row of the table, position)."""
    found = []
    for tree in batch["layout"]:
        source, position_ids = (batch[name][tree.row].tolist() for name in ("source", "position_ids"))
        tokens, pieces = list(zip(source, position_ids, strict=True)), tree.pieces()
        for (start, stop, end), ancestors in zip(pieces, tree.ancestors(), strict=True):
            if stop == end:  # nothing continues it
                spans = [*(pieces[piece][:2] for piece in ancestors), (start, stop)]
                found.append([token for span in spans for token in tokens[slice(*span)]])
    return found


# ---- the tokens that records share


def test_records_share_their_common_tokens_and_have_a_branch_each():
    short, long = record([*HEAD, 5, 6, 7], 1), record([*HEAD, 5, 8, 9, 10], 2)
    assert trees_of(short, long) == [((0, 1), 7, 13 + 2 + 3)]


def test_a_prefix_ends_before_the_token_that_predicts_a_first_target():
    similar = record([*HEAD, 5, 6, 7, 8], 2), record([*HEAD, 5, 6, 9, 8], 2)
    assert trees_of(*similar) == [
        ((0, 1), 7, 13 + 3 + 3)
    ]  # 6 is common too, but predicts 7 in the first, 9 in the second
    earlier = record([*HEAD, 5, 6, 7, 8], 3)
    assert trees_of(earlier, similar[1]) == [((0, 1), 6, 12 + 4 + 4)]


def test_equal_records_and_records_without_targets_keep_a_token_in_each_branch():
    same, no_target = record([*HEAD, 5, 6, 7], 1), record([*HEAD, 5, 6, 7], 0)
    assert trees_of(same, same) == [((0, 1), 7, 13 + 2 + 2)]
    assert trees_of(no_target, no_target) == [((0, 1), 8, 14 + 1 + 1)]
    assert trees_of(no_target, record([*HEAD, 5, 6], 0)) == [((0, 1), 7, 13 + 2 + 1)]


def test_records_that_cannot_share_a_prefix_are_trees_of_their_own():
    captions = record([1, IMG, 5, 6], 2), record([1, IMG, 5, 7], 2)  # the target directly follows the image
    texts = record([1, 5, 6], 1), record([1, 5, 7], 1)
    images_alone = record([1, IMG, 2, IMG], 0)
    later_turn = record([1, IMG, 5, 6, 7, IMG, 8], 0)
    later_turn["labels"][3] = 6
    for item in (*captions, *texts, images_alone, later_turn):
        size = len(item["input_ids"]) + 3 * item["input_ids"].tolist().count(IMG)
        assert trees_of(item, item) == [((number,), len(item["input_ids"]), size) for number in (0, 1)]
    assert trees_of(record([*HEAD, 5, 6], 1)) == [((0,), 8, 14)]


def test_records_share_only_with_records_of_the_same_images():
    six = [record([*HEAD, 5, number, 6], 1) for number in (20, 21)]
    front = [record([1, 2, IMG, 5, number, 6], 1) for number in (20, 21)]
    assert trees_of(six[0], front[0], six[1], front[1]) == [((0, 2), 7, 13 + 2 + 2), ((1, 3), 4, 7 + 2 + 2)]
    text, odd = record([1, 5, 6], 1), record([1, 2, IMG, 7], 1)
    assert [tree[0] for tree in trees_of(text, six[0], odd, front[0], six[1])] == [(0,), (1, 4), (2,), (3,)]


def test_a_record_that_is_too_long_shares_the_tokens_that_remain():
    long, short = record([*HEAD, 5, *range(20, 40)], 10), record([*HEAD, 5, 6, 7], 1)
    assert trees_of(long, short, max_length=20) == [((0, 1), 7, 13 + 7 + 2)]
    within_images = cut_record(long["input_ids"], long["labels"], 9, VIEW)
    assert within_images.input_ids.tolist() == HEAD[:5]
    assert within_images.sizes.tolist() == [1, 1, 4, 1, 2], "the last image keeps the positions that remain"
    assert trees_of(long, short, max_length=9) == [((0,), 5, 9), ((1,), 5, 9)]


@pytest.mark.parametrize("max_length", range(1, 24))
def test_a_cut_keeps_the_tokens_that_start_before_the_maximum_length(max_length):
    ids = [*HEAD, 5, 6, *range(20, 30)]
    cut = cut_record(torch.tensor(ids), torch.tensor([IGN] * 8 + ids[8:]), max_length, VIEW)
    starts = np.cumsum([0, *(VIEW if token == IMG else 1 for token in ids)])[:-1]
    assert cut.input_ids.tolist() == [token for token, start in zip(ids, starts, strict=True) if start < max_length]
    assert cut.sizes.sum() == min(max_length, 24)
    assert cut.lost_targets == (max_length < 24)


def test_answers_share_their_question_and_the_question_shares_the_views():
    question, other = list(range(20, 40)), list(range(50, 60))
    answers = [record([*HEAD, *question, number, 7, 2], 3) for number in (90, 91, 92)]
    (tree,) = pack_trees([cut_record(item["input_ids"], item["labels"], 99, VIEW) for item in
                          (answers[0], record([*HEAD, *other, 5], 1), *answers[1:])], 99)  # fmt: skip
    shared, alone = tree.children
    assert (tree.records, tree.stop, tree.size) == ((0, 1, 2, 3), 6, 12 + 19 + 3 * 4 + 11)
    assert (shared.records, shared.start, shared.stop, shared.size) == ((0, 2, 3), 6, 6 + 19, 19 + 3 * 4)
    assert [(child.records, child.start, child.stop) for child in shared.children] == [
        ((number,), 25, 29) for number in (0, 2, 3)
    ]
    assert (alone.records, alone.children) == ((1,), ())
    batch = pack(frame(answers[0], record([*HEAD, *other, 5], 1), *answers[1:]))
    assert batch["layout"] == (Tree(0, 0, 12, (19, 4, 4, 4, 11), (-1, 0, 0, 0, -1)),)
    assert batch["position_ids"][0].tolist() == [*range(31), *([31, 32, 33, 34] * 3), *range(12, 23)]
    assert batch["target_records"].tolist() == [0] * 3 + [2] * 3 + [3] * 3 + [1]


def test_few_common_tokens_are_not_worth_a_branch():
    def ask(shared):
        return [record([*HEAD, *range(20, 20 + shared), number, 7], 1) for number in (90, 91)]

    for shared, branches in ((15, 0), (16, 1)):
        other = record([*HEAD, 5, 6], 1)
        (layout,) = pack(frame(*ask(shared), other))["layout"]
        assert sum(parent >= 0 for parent in layout.parents) == 2 * branches


def test_a_tree_with_a_large_branch_is_split_within_that_branch():
    question = list(range(20, 40))
    answers = [record([*HEAD, *question, number, *[7] * 8], 9) for number in range(90, 94)]  # 31 + 4 * 10 tokens
    others = [record([*HEAD, number, 6], 1) for number in (50, 51)]
    trees = trees_of(*answers, *others, most=60)
    assert trees == [((0, 2), 25, 51), ((1, 3), 25, 51), ((4, 5), 6, 16)]


# ---- splitting and filling


def test_a_tree_that_is_too_large_is_split_evenly_into_as_few_as_possible():
    many = [record([*HEAD, 5, *range(100 * number, 100 * number + 6)], 2) for number in range(1, 11)]
    trees = trees_of(*many, most=13 + 4 * 6)  # room for four branches of six beside the prefix
    assert len(trees) == 3
    assert sorted(number for numbers, _, _ in trees for number in numbers) == list(range(10))
    assert [len(numbers) for numbers, _, _ in trees] == [4, 3, 3]
    assert all((prefix, size) == (7, 13 + 6 * len(numbers)) for numbers, prefix, size in trees)
    assert trees_of(*many, most=13 + 6 * 10) == [(tuple(range(10)), 7, 73)]


def test_a_single_record_after_a_split_is_a_tree_without_branches():
    long = record([*HEAD, 5, *range(20, 40)], 2)
    assert trees_of(long, record([*HEAD, 5, 6, 7], 1), record([*HEAD, 5, 8, 9], 1), most=33) == [
        ((0,), 27, 33),
        ((1, 2), 7, 13 + 2 + 2),
    ]


@pytest.mark.parametrize(
    ("sizes", "capacity", "bins"),
    [
        ([], 5, []),
        ([3, 2], 5, [[0, 1]]),
        ([20, 20, 5, 5], 45, [[0, 2], [1, 3]]),  # not 45 and 5, which would leave one row nearly empty
        ([6, 5, 4, 3, 2], 10, [[0, 2], [1, 3, 4]]),
        ([5, 4, 4, 3, 2], 9, [[0, 1], [2, 3, 4]]),
        ([3, 3, 2, 2, 2], 6, [[0, 1], [2, 3, 4]]),  # distribution in turn would need a third bin
    ],
)
def test_bins_are_few_and_evenly_filled(sizes, capacity, bins):
    assert even_bins(sizes, capacity) == bins


def test_bins_hold_every_item_once_within_their_capacity():
    for seed in range(20):
        random = np.random.default_rng(seed)
        sizes = random.integers(1, 101, random.integers(1, 80)).tolist()
        bins = even_bins(sizes, 100)
        assert sorted(item for members in bins for item in members) == list(range(len(sizes)))
        loads = [sum(sizes[item] for item in members) for members in bins]
        assert max(loads) <= 100
        assert len(bins) <= 1 + 11 / 9 * -(-sum(sizes) // 50), "first-fit decreasing needs at most 11/9 of the optimum"
        assert bins == even_bins(sizes, 100)


def test_an_item_that_is_larger_than_a_bin_raises_an_error():
    with pytest.raises(ValueError, match="7 tokens do not fit into 6"):
        even_bins([1, 7], 6)
    with pytest.raises(ValueError, match="pack_max_tokens=99 does not hold a record of 100 tokens"):
        PackCollator(PAD, 100, VIEW, 99)


# ---- the tensors


def test_a_frame_becomes_a_prefix_and_branches():
    batch = pack(frame(record([1, IMG, 5, 6, 7], 1, "a", 2), record([1, IMG, 5, 8, 9, 10], 2, "b", 1)))
    assert batch["input_ids"].tolist() == [[1, 5, 6, 7, 8, 9, 10]]
    assert batch["source"].tolist() == [[0, 7, 8, 9, 10, 1, 2, 3, 4, 5, 6]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 6, 7, 8]]
    assert batch["labels"].tolist() == [[IGN] * 7 + [7, IGN, 9, 10]]
    assert (batch["target_positions"].tolist(), batch["target_records"].tolist()) == ([6, 8, 9], [0, 1, 1])
    assert batch["layout"] == (Tree(0, 0, 6, (2, 3)),)
    assert batch["images"][:, 0, 0, 0].tolist() == [0]
    assert batch["kinds"].tolist() == [2, 1]
    assert batch["counts"] == BatchCounts(
        ["a", "b"], [], 2, 3, 2, tokens=11, unpacked_tokens=8 + 9, positions=11, cut=0, images=1, pairs=21 + 15 + 24
    )
    tensors = ("input_ids", "source", "position_ids", "labels", "target_positions", "target_records", "kinds")
    assert all(batch[name].dtype == torch.int64 for name in tensors)


def test_several_trees_share_rows_with_padding_at_the_end():
    first = frame(record([1, IMG, 5, 6, 7], 1), record([1, IMG, 5, 8, 9], 1))  # 10 tokens
    second = frame(record([1, 20, 21], 1))
    third = frame(record([1, IMG, 30, IMG, 31, 32], 1))  # 12 tokens
    batch = pack(first, second, third, max_length=14, most=14)
    assert batch["layout"] == (Tree(0, 0, 12), Tree(1, 0, 6, (2, 2)), Tree(1, 10, 3))
    text, zeros = 4 + 6 + 3, 4 + 6 + 3 + 3 * VIEW
    assert batch["source"][0].tolist() == [0, *range(text + 4, text + 8), 1, *range(text + 8, text + 12), 2, 3, zeros]
    assert batch["source"][1].tolist() == [4, *range(text, text + 4), *range(5, 13)]
    assert batch["position_ids"][:, -1].tolist() == [0, 2]
    assert batch["labels"][0].tolist() == [IGN] * 11 + [32, IGN]
    assert batch["target_positions"].tolist() == [10, 13 + 6, 13 + 8, 13 + 11]
    assert batch["target_records"].tolist() == [3, 0, 1, 2]
    assert (batch["counts"].tokens, batch["counts"].positions) == (25, 26)
    assert batch["images"][:, 0, 0, 0].tolist() == [0, 0, 1]


def test_trees_of_one_frame_use_the_same_images():
    many = [record([*HEAD, 5, *range(100 * number, 100 * number + 6)], 2, str(number)) for number in range(1, 5)]
    front = record([1, 2, IMG, 5, 6], 1, "front")
    batch = pack(frame(*many, front), max_length=25, most=25)
    assert len(batch["layout"]) == 3
    assert len(batch["images"]) == 2
    table = batch["input_ids"].numel()
    views = [[row - table for row, _ in sequence if row >= table] for sequence in sequences(batch)]
    assert sorted(views) == [list(range(4)), *[list(range(8))] * 4]


def test_images_that_are_cut_off_in_all_records_are_left_out():
    long = record([1, IMG, *range(20, 40), IMG, 5, 6], 1)
    batch = pack(frame(long), max_length=20)
    assert len(batch["images"]) == 1
    assert batch["counts"] == BatchCounts(
        ["r"], [], 1, 0, 0, tokens=20, unpacked_tokens=20, positions=20, cut=1, images=1, pairs=210
    )


def test_a_record_that_is_cut_within_an_image_keeps_part_of_it():
    batch = pack(frame(record([1, IMG, 5, IMG, 6], 1)), max_length=8)
    assert batch["source"].tolist() == [[0, *range(2, 6), 1, 6, 7]]
    assert batch["layout"] == (Tree(0, 0, 8),)


def test_only_text_gives_no_images_and_only_images_give_a_padding_token_of_text():
    assert pack(frame(record([1, 5, 6], 1)))["images"] is None
    image = pack(frame(record([IMG], 0)))
    assert (image["input_ids"].tolist(), image["source"].tolist()) == ([[PAD]], [[1, 2, 3, 4]])


def test_a_batch_without_usable_records_is_one_padding_token():
    bad = {"sample": "a", "error": DataError("broken", file="a")}
    for frames, names in (([frame()], []), ([frame(), frame(bad)], ["a"])):
        batch = pack(*frames)
        assert batch["layout"] == (Tree(0, 0, 1),)
        assert (batch["input_ids"].tolist(), batch["source"].tolist()) == ([[PAD]], [[0]])
        assert (batch["labels"].tolist(), batch["position_ids"].tolist()) == ([[IGN]], [[0]])
        assert [len(batch[name]) for name in ("target_positions", "target_records", "kinds")] == [0, 0, 0]
        assert batch["images"] is None
        errors = [bad["error"]] * len(names)
        assert batch["counts"] == BatchCounts(
            names, errors, 0, 0, 0, tokens=0, unpacked_tokens=0, positions=1, cut=0, images=0, pairs=0
        )


def test_a_bad_record_is_left_out_of_its_frame_and_counted():
    bad = {"sample": "b", "error": DataError("turn 3 is from 'human'", file="b")}
    batch = pack(frame(record([*HEAD, 5, 6, 7], 1, "a", 3), bad, record([*HEAD, 5, 8, 7], 1, "c", 4)))
    assert (batch["counts"].samples, batch["counts"].bad_samples) == (["a", "b", "c"], [bad["error"]])
    assert (batch["kinds"].tolist(), batch["target_records"].tolist()) == ([3, 4], [0, 1])


# ---- random frames, compared with the padded batch


def random_frame(random: np.random.Generator, number: int) -> dict:
    """Return up to 20 records with two views, one view or text; some long, some without targets, some equal."""
    records = []
    for question in range(random.integers(1, 21)):
        head = [HEAD, HEAD, HEAD, HEAD[:3], HEAD[:1]][random.integers(5)]
        body = [*range(20, 20 + random.choice([0, 0, 9, 25])), *random.integers(5, 8, random.choice([0, 1, 2, 5, 40]))]
        answer = random.integers(5, 8, random.choice([0, 1, 3, 30])).tolist()
        records.append(record([*head, *map(int, body), *answer], len(answer), f"{number}-{question}"))
    return frame(*records)


@pytest.mark.parametrize("max_length", [1, 4, 9, 14, 30, 99])
def test_every_record_is_in_the_batch_once_with_its_own_tokens_and_targets(max_length):
    for seed in range(8):
        random = np.random.default_rng((seed, max_length))
        frames = [random_frame(random, number) for number in range(4)]
        most = max_length + int(random.integers(0, 60))
        batch = pack(*frames, max_length=max_length, most=most)

        records = [item for some in frames for item in some["records"]]
        padded = Collator(PAD, max_length, VIEW)(
            [{**item, "images": torch.zeros(item["input_ids"].tolist().count(IMG), 3, 2, 2)} for item in records]
        )
        targets = [row[row != IGN].tolist() for row in padded["labels"]]
        assert names_and_targets(batch) == sorted(zip([item["sample"] for item in records], targets, strict=True))
        counts = batch["counts"]
        assert (counts.cut, counts.unpacked_tokens) == (padded["counts"].cut, padded["counts"].unpacked_tokens)
        assert counts.tokens <= padded["counts"].tokens

        # Each branch that nothing continues ends a record: the same tokens and views, at positions that count from 0.
        table = [*batch["input_ids"][0].tolist(), *([IMG] * (batch["source"].max() + 1))]
        packed_tokens = [[(table[row], position) for row, position in sequence] for sequence in sequences(batch)]
        cut = [cut_record(item["input_ids"], item["labels"], max_length, VIEW) for item in records]
        own_tokens = [np.repeat(item.input_ids, item.sizes).tolist() for item in cut]
        assert sorted(packed_tokens) == sorted(
            [(token, position) for position, token in enumerate(tokens)] for tokens in own_tokens
        )
        assert batch["position_ids"].max() < max_length

        rows, length = batch["source"].shape
        assert length <= most
        covered = np.zeros((rows, length), dtype=int)
        is_target = (batch["labels"] != IGN).numpy()
        for tree in batch["layout"]:
            covered[tree.row, tree.start : tree.stop] += 1
            for start, stop, end in tree.pieces():
                assert not is_target[tree.row, start], "a target is predicted by a token of its own branch"
                assert end == stop or not is_target[tree.row, start:stop].any()
            children = np.bincount(np.array([*(tree.parents or (-1,) * len(tree.branches))], dtype=int) + 1)
            assert 1 not in children, "what only one branch continues is part of that branch"
            assert min(tree.prefix, *tree.branches, 99) >= 1
        zeros = batch["input_ids"].numel() + VIEW * (0 if batch["images"] is None else len(batch["images"]))
        assert ((covered == 0) == (batch["source"] == zeros).numpy()).all()
        assert (np.diff(covered, axis=1) <= 0).all(), "padding is at the ends of rows"
        assert (batch["position_ids"].numpy()[covered == 0] == 0).all()
        assert covered.sum() == counts.tokens
        assert (batch["target_positions"].diff() > 0).all()
        assert batch["target_positions"].tolist() == (np.flatnonzero(is_target) - 1).tolist()


def test_the_same_frames_give_the_same_batch():
    frames = [random_frame(np.random.default_rng(number), number) for number in range(6)]
    batch, again = (pack(*frames, max_length=60, most=100) for _ in range(2))
    assert batch["layout"] == again["layout"]
    assert all(torch.equal(batch[name], again[name]) for name in ("source", "position_ids", "labels", "target_records"))


def test_frames_with_several_questions_leave_little_padding():
    random = np.random.default_rng(0)
    frames = [
        frame(*(record([*HEAD, *random.integers(5, 99, random.integers(5, 40)).tolist()], 2) for _ in range(count)))
        for count in random.integers(1, 14, 16)
    ]
    batch = pack(*frames, max_length=100, most=800)
    assert batch["counts"].tokens / batch["counts"].positions > 0.95
