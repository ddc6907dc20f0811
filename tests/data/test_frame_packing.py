import numpy as np
import pytest
import torch

from senna.data.collate import Collator, PackCollator
from senna.data.frame_packing import cut_record, even_bins, plan_trees
from senna.data.tokenize import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.model.layout import Tree

IMG, IGN, PAD = IMAGE_TOKEN_INDEX, IGNORE_INDEX, 0
VIEW = 4  # tokens an image
HEAD = [1, 2, IMG, 3, IMG, 4]  # 6 tokens, 12 places


def record(ids: list[int], learnt: int, name: str = "r", kind: int = 0) -> dict:
    """A record whose last ``learnt`` tokens are targets."""
    labels = [IGN] * (len(ids) - learnt) + ids[len(ids) - learnt :]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "sample": name, "kind": kind}


def frame(*records: dict) -> dict:
    """A frame of as many images as its records have at most, whose pixels are their number."""
    views = max((one["input_ids"].tolist().count(IMG) for one in records if "error" not in one), default=0)
    return {"records": list(records), "images": torch.arange(views).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).float()}


def planned(*records: dict, max_length: int = 99, most: int = 99) -> list[tuple[tuple[int, ...], int, int]]:
    cut = [cut_record(one["input_ids"], one["labels"], max_length, VIEW) for one in records]
    return [tuple(tree) for tree in plan_trees(cut, most)]


def pack(*frames: dict, max_length: int = 99, most: int = 99) -> dict:
    return PackCollator(PAD, max_length, VIEW, most)(list(frames))


def seen(batch: dict) -> list[tuple[str, list[int]]]:
    """Name and targets of every record that a packed batch can use, sorted; each target has its place."""
    bad = {message.partition(":")[0] for message in batch["bad_samples"]}
    names = [name for name in batch["samples"] if name not in bad]
    targets: list[list[int]] = [[] for _ in names]
    flat = batch["labels"].flatten()
    for place, of in zip(batch["target_places"].tolist(), batch["target_records"].tolist(), strict=True):
        targets[of].append(int(flat[place + 1]))
    return sorted(zip(names, targets, strict=True))


def sequences(batch: dict) -> list[list[tuple[int, int]]]:
    """What each record of a packed batch is in the model's eyes, branch by branch: (row of the table, position)."""
    found = []
    for tree in batch["layout"]:
        places = list(zip(batch["source"][tree.row].tolist(), batch["position_ids"][tree.row].tolist(), strict=True))[
            tree.start :
        ]
        prefix, place = places[: tree.prefix], tree.prefix
        for branch in tree.branches or (0,):
            found.append(prefix + places[place : place + branch])
            place += branch
    return found


# ---- which records share what


def test_records_share_what_they_have_in_common_and_each_goes_on_by_itself():
    one, two = record([*HEAD, 5, 6, 7], 1), record([*HEAD, 5, 8, 9, 10], 2)
    assert planned(one, two) == [((0, 1), 7, 13 + 2 + 3)]


def test_a_prefix_ends_before_the_token_whose_output_predicts_a_first_target():
    alike = record([*HEAD, 5, 6, 7, 8], 2), record([*HEAD, 5, 6, 9, 8], 2)
    assert planned(*alike) == [((0, 1), 7, 13 + 3 + 3)]  # 6 is common too, and predicts 7 in one and 9 in the other
    sooner = record([*HEAD, 5, 6, 7, 8], 3)
    assert planned(sooner, alike[1]) == [((0, 1), 6, 12 + 4 + 4)]


def test_equal_records_and_records_without_targets_leave_a_token_to_each_branch():
    same, untaught = record([*HEAD, 5, 6, 7], 1), record([*HEAD, 5, 6, 7], 0)
    assert planned(same, same) == [((0, 1), 7, 13 + 2 + 2)]
    assert planned(untaught, untaught) == [((0, 1), 8, 14 + 1 + 1)]
    assert planned(untaught, record([*HEAD, 5, 6], 0)) == [((0, 1), 7, 13 + 2 + 1)]


def test_records_that_can_share_nothing_are_trees_of_their_own():
    captions = record([1, IMG, 5, 6], 2), record([1, IMG, 5, 7], 2)  # the target follows the image at once
    texts = record([1, 5, 6], 1), record([1, 5, 7], 1)
    images_alone = record([1, IMG, 2, IMG], 0)
    later_turn = record([1, IMG, 5, 6, 7, IMG, 8], 0)
    later_turn["labels"][3] = 6
    for alone in (*captions, *texts, images_alone, later_turn):
        size = len(alone["input_ids"]) + 3 * alone["input_ids"].tolist().count(IMG)
        assert planned(alone, alone) == [((number,), len(alone["input_ids"]), size) for number in (0, 1)]
    assert planned(record([*HEAD, 5, 6], 1)) == [((0,), 8, 14)]


def test_records_with_fewer_images_share_among_themselves():
    six = [record([*HEAD, 5, number, 6], 1) for number in (20, 21)]
    front = [record([1, 2, IMG, 5, number, 6], 1) for number in (20, 21)]
    assert planned(six[0], front[0], six[1], front[1]) == [((0, 2), 7, 13 + 2 + 2), ((1, 3), 4, 7 + 2 + 2)]
    text, odd = record([1, 5, 6], 1), record([1, 2, IMG, 7], 1)
    assert [tree[0] for tree in planned(text, six[0], odd, front[0], six[1])] == [(0,), (1, 4), (2,), (3,)]


def test_a_record_beyond_the_length_shares_what_is_left_of_it():
    long, short = record([*HEAD, 5, *range(20, 40)], 10), record([*HEAD, 5, 6, 7], 1)
    assert planned(long, short, max_length=20) == [((0, 1), 7, 13 + 7 + 2)]
    within_images = cut_record(long["input_ids"], long["labels"], 9, VIEW)
    assert within_images.input_ids.tolist() == HEAD[:5]
    assert within_images.sizes.tolist() == [1, 1, 4, 1, 2], "the last image keeps the places that are left"
    assert planned(long, short, max_length=9) == [((0,), 5, 9), ((1,), 5, 9)]


@pytest.mark.parametrize("max_length", range(1, 24))
def test_a_cut_keeps_the_tokens_that_start_before_the_length(max_length):
    ids = [*HEAD, 5, 6, *range(20, 30)]
    cut = cut_record(torch.tensor(ids), torch.tensor([IGN] * 8 + ids[8:]), max_length, VIEW)
    starts = np.cumsum([0, *(VIEW if token == IMG else 1 for token in ids)])[:-1]
    assert cut.input_ids.tolist() == [token for token, start in zip(ids, starts, strict=True) if start < max_length]
    assert cut.sizes.sum() == min(max_length, 24)
    assert cut.lost_targets == (max_length < 24)


# ---- splitting and filling


def test_a_tree_too_large_is_split_evenly_into_as_few_as_needed_each_with_the_prefix():
    many = [record([*HEAD, 5, *range(100 * number, 100 * number + 6)], 2) for number in range(1, 11)]
    trees = planned(*many, most=13 + 4 * 6)  # room for four branches of six beside the prefix
    assert len(trees) == 3
    assert sorted(number for numbers, _, _ in trees for number in numbers) == list(range(10))
    assert [len(numbers) for numbers, _, _ in trees] == [4, 3, 3]
    assert all((prefix, size) == (7, 13 + 6 * len(numbers)) for numbers, prefix, size in trees)
    assert planned(*many, most=13 + 6 * 10) == [(tuple(range(10)), 7, 73)]


def test_a_branch_that_is_left_alone_by_a_split_is_a_tree_without_branches():
    long = record([*HEAD, 5, *range(20, 40)], 2)
    assert planned(long, record([*HEAD, 5, 6, 7], 1), record([*HEAD, 5, 8, 9], 1), most=33) == [
        ((0,), 27, 33),
        ((1, 2), 7, 13 + 2 + 2),
    ]


@pytest.mark.parametrize(
    ("sizes", "capacity", "bins"),
    [
        ([], 5, []),
        ([3, 2], 5, [[0, 1]]),
        ([20, 20, 5, 5], 45, [[0, 2], [1, 3]]),  # not 45 and 5, which would leave a row nearly empty
        ([6, 5, 4, 3, 2], 10, [[0, 2], [1, 3, 4]]),
        ([5, 4, 4, 3, 2], 9, [[0, 1], [2, 3, 4]]),
        ([3, 3, 2, 2, 2], 6, [[0, 1], [2, 3, 4]]),  # evenly in turn would make a third bin
    ],
)
def test_bins_are_few_and_even(sizes, capacity, bins):
    assert even_bins(sizes, capacity) == bins


@pytest.mark.parametrize("seed", range(20))
def test_bins_hold_everything_once_within_their_capacity(seed):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 101, random.integers(1, 80)).tolist()
    bins = even_bins(sizes, 100)
    assert sorted(place for members in bins for place in members) == list(range(len(sizes)))
    loads = [sum(sizes[place] for place in members) for members in bins]
    assert max(loads) <= 100
    assert len(bins) <= 1 + 11 / 9 * -(-sum(sizes) // 50), "first-fit decreasing takes at most 11/9 of the best"
    assert bins == even_bins(sizes, 100)


def test_what_is_larger_than_a_bin_is_an_error():
    with pytest.raises(ValueError, match="7 tokens do not fit into 6"):
        even_bins([1, 7], 6)
    with pytest.raises(ValueError, match="pack_max_tokens=99 does not hold a record of 100 tokens"):
        PackCollator(PAD, 100, VIEW, 99)


# ---- the tensors


def test_a_frame_is_laid_out_as_prefix_and_branches():
    batch = pack(frame(record([1, IMG, 5, 6, 7], 1, "a", 2), record([1, IMG, 5, 8, 9, 10], 2, "b", 1)))
    assert batch["input_ids"].tolist() == [[1, 5, 6, 7, 8, 9, 10]]
    assert batch["source"].tolist() == [[0, 7, 8, 9, 10, 1, 2, 3, 4, 5, 6]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 6, 7, 8]]
    assert batch["labels"].tolist() == [[IGN] * 7 + [7, IGN, 9, 10]]
    assert (batch["target_places"].tolist(), batch["target_records"].tolist()) == ([6, 8, 9], [0, 1, 1])
    assert batch["layout"] == (Tree(0, 0, 6, (2, 3)),)
    assert batch["images"][:, 0, 0, 0].tolist() == [0]
    assert (batch["kinds"].tolist(), batch["samples"], batch["bad_samples"]) == ([2, 1], ["a", "b"], [])
    assert (batch["tokens"], batch["places"], batch["unpacked_tokens"], batch["cut"]) == (11, 11, 8 + 9, 0)
    tensors = ("input_ids", "source", "position_ids", "labels", "target_places", "target_records", "kinds")
    assert all(batch[name].dtype == torch.int64 for name in tensors)


def test_several_trees_share_rows_and_the_padding_is_zeros_at_the_end():
    first = frame(record([1, IMG, 5, 6, 7], 1), record([1, IMG, 5, 8, 9], 1))  # 10 places
    second = frame(record([1, 20, 21], 1))
    third = frame(record([1, IMG, 30, IMG, 31, 32], 1))  # 12 places
    batch = pack(first, second, third, max_length=14, most=14)
    assert batch["layout"] == (Tree(0, 0, 12), Tree(1, 0, 6, (2, 2)), Tree(1, 10, 3))
    text, zeros = 4 + 6 + 3, 4 + 6 + 3 + 3 * VIEW
    assert batch["source"][0].tolist() == [0, *range(text + 4, text + 8), 1, *range(text + 8, text + 12), 2, 3, zeros]
    assert batch["source"][1].tolist() == [4, *range(text, text + 4), *range(5, 13)]
    assert batch["position_ids"][:, -1].tolist() == [0, 2]
    assert batch["labels"][0].tolist() == [IGN] * 11 + [32, IGN]
    assert batch["target_places"].tolist() == [10, 13 + 6, 13 + 8, 13 + 11]
    assert batch["target_records"].tolist() == [3, 0, 1, 2]
    assert (batch["tokens"], batch["places"]) == (25, 26)
    assert batch["images"][:, 0, 0, 0].tolist() == [0, 0, 1]


def test_trees_of_one_frame_use_the_same_images():
    many = [record([*HEAD, 5, *range(100 * number, 100 * number + 6)], 2, str(number)) for number in range(1, 5)]
    front = record([1, 2, IMG, 5, 6], 1, "front")
    batch = pack(frame(*many, front), max_length=25, most=25)
    assert len(batch["layout"]) == 3
    assert len(batch["images"]) == 2
    table = batch["input_ids"].numel()
    views = [[row - table for row, _ in one if row >= table] for one in sequences(batch)]
    assert sorted(views) == [list(range(4)), *[list(range(8))] * 4]


def test_images_that_no_record_reaches_are_left_out():
    long = record([1, IMG, *range(20, 40), IMG, 5, 6], 1)
    batch = pack(frame(long), max_length=20)
    assert len(batch["images"]) == 1
    assert (batch["cut"], batch["unpacked_tokens"], batch["tokens"]) == (1, 20, 20)


def test_a_record_that_ends_within_an_image_keeps_a_part_of_it():
    batch = pack(frame(record([1, IMG, 5, IMG, 6], 1)), max_length=8)
    assert batch["source"].tolist() == [[0, *range(2, 6), 1, 6, 7]]
    assert batch["layout"] == (Tree(0, 0, 8),)


def test_text_alone_makes_a_batch_without_images_and_images_alone_one_with_text():
    assert pack(frame(record([1, 5, 6], 1)))["images"] is None
    lone = pack(frame(record([IMG], 0)))
    assert (lone["input_ids"].tolist(), lone["source"].tolist()) == ([[PAD]], [[1, 2, 3, 4]])


def test_a_batch_of_nothing_is_one_padding_token():
    bad = {"sample": "a", "error": "a: broken"}
    for frames, names in (([frame()], []), ([frame(), frame(bad)], ["a"])):
        batch = pack(*frames)
        assert batch["layout"] == (Tree(0, 0, 1),)
        assert (batch["input_ids"].tolist(), batch["source"].tolist()) == ([[PAD]], [[0]])
        assert (batch["labels"].tolist(), batch["position_ids"].tolist()) == ([[IGN]], [[0]])
        assert [len(batch[name]) for name in ("target_places", "target_records", "kinds")] == [0, 0, 0]
        assert batch["images"] is None
        assert (batch["samples"], len(batch["bad_samples"])) == (names, len(names))
        assert (batch["tokens"], batch["places"], batch["unpacked_tokens"], batch["cut"]) == (0, 1, 0, 0)


def test_a_bad_record_is_left_out_of_its_frame_and_reported():
    bad = {"sample": "b", "error": "b: turn 3 is from 'human'"}
    batch = pack(frame(record([*HEAD, 5, 6, 7], 1, "a", 3), bad, record([*HEAD, 5, 8, 7], 1, "c", 4)))
    assert (batch["samples"], batch["bad_samples"]) == (["a", "b", "c"], [bad["error"]])
    assert (batch["kinds"].tolist(), batch["target_records"].tolist()) == ([3, 4], [0, 1])


# ---- odd frames, against the batch that is not packed


def odd_frame(random: np.random.Generator, number: int) -> dict:
    """Up to 20 records of two views, of the front view, of text, some long, some without targets, some equal."""
    records = []
    for question in range(random.integers(1, 21)):
        head = [HEAD, HEAD, HEAD, HEAD[:3], HEAD[:1]][random.integers(5)]
        body = random.integers(5, 8, random.choice([0, 1, 2, 5, 40])).tolist()
        answer = random.integers(5, 8, random.choice([0, 1, 3, 30])).tolist()
        records.append(record([*head, *body, *answer], len(answer), f"{number}-{question}"))
    return frame(*records)


@pytest.mark.parametrize("max_length", [1, 4, 9, 14, 30, 99])
@pytest.mark.parametrize("seed", range(8))
def test_every_record_is_seen_once_as_it_would_be_by_itself(seed, max_length):
    random = np.random.default_rng((seed, max_length))
    frames = [odd_frame(random, number) for number in range(4)]
    most = max_length + int(random.integers(0, 60))
    batch = pack(*frames, max_length=max_length, most=most)

    records = [one for each in frames for one in each["records"]]
    alone = Collator(PAD, max_length, VIEW)(
        [{**one, "images": torch.zeros(one["input_ids"].tolist().count(IMG), 3, 2, 2)} for one in records]
    )
    targets = [row[row != IGN].tolist() for row in alone["labels"]]
    assert seen(batch) == sorted(zip([one["sample"] for one in records], targets, strict=True))
    assert (batch["cut"], batch["unpacked_tokens"]) == (alone["cut"], alone["unpacked_tokens"])
    assert batch["tokens"] <= alone["tokens"]

    # Each branch after its prefix is a record: the same tokens and views at positions that count from 0.
    table = [*batch["input_ids"][0].tolist(), *([IMG] * (batch["source"].max() + 1))]
    shown = [[(table[row], position) for row, position in one] for one in sequences(batch)]
    cut = [cut_record(one["input_ids"], one["labels"], max_length, VIEW) for one in records]
    plain = [np.repeat(one.input_ids, one.sizes).tolist() for one in cut]
    assert sorted(shown) == sorted([(token, place) for place, token in enumerate(one)] for one in plain)
    assert batch["position_ids"].max() < max_length

    rows, length = batch["source"].shape
    assert length <= most
    covered = np.zeros((rows, length), dtype=int)
    is_target = (batch["labels"] != IGN).numpy()
    for tree in batch["layout"]:
        starts = np.cumsum([tree.start, tree.prefix, *tree.branches])
        covered[tree.row, starts[0] : starts[-1]] += 1
        assert not is_target[tree.row, starts[:-1]].any(), "a target is predicted from within its branch"
        assert not tree.branches or not is_target[tree.row, tree.start : tree.start + tree.prefix].any()
        assert not tree.branches or len(tree.branches) > 1
        assert min(tree.prefix, *tree.branches, 99) >= 1
    zeros = batch["input_ids"].numel() + VIEW * (0 if batch["images"] is None else len(batch["images"]))
    assert ((covered == 0) == (batch["source"] == zeros).numpy()).all()
    assert (np.diff(covered, axis=1) <= 0).all(), "padding stands at the ends of rows"
    assert (batch["position_ids"].numpy()[covered == 0] == 0).all()
    assert covered.sum() == batch["tokens"]
    assert (batch["target_places"].diff() > 0).all()
    assert batch["target_places"].tolist() == (np.flatnonzero(is_target) - 1).tolist()


def test_the_same_frames_make_the_same_batch():
    frames = [odd_frame(np.random.default_rng(number), number) for number in range(6)]
    one, other = (pack(*frames, max_length=60, most=100) for _ in range(2))
    assert one["layout"] == other["layout"]
    assert all(torch.equal(one[name], other[name]) for name in ("source", "position_ids", "labels", "target_records"))


def test_frames_of_questions_in_a_row_leave_little_padding():
    random = np.random.default_rng(0)
    frames = [
        frame(*(record([*HEAD, *random.integers(5, 99, random.integers(5, 40)).tolist()], 2) for _ in range(count)))
        for count in random.integers(1, 14, 16)
    ]
    batch = pack(*frames, max_length=100, most=800)
    assert batch["tokens"] / batch["places"] > 0.95
