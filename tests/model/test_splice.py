"""The splice replaces every placeholder by the tokens of its view, in batches of mixed samples."""

import pytest
import torch

from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.model.splice import compute_splice, splice_embeddings

IMG, K = IMAGE_TOKEN_INDEX, 3


def splice_token_by_token(ids, labels, views, max_length):
    """Splice one sample token by token, which is the definition of the splice. Return (values, labels)."""
    values, targets = [], []
    for token, label in zip(ids, labels, strict=True):
        if token == IMG:
            view = views.pop(0)
            values += view.tolist()
            targets += [IGNORE_INDEX] * len(view)
        else:
            values.append([float(token)] * 2)
            targets.append(label)
    return values[:max_length], targets[:max_length]


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("input_side", ["left", "right"])
@pytest.mark.parametrize("max_length", [None, 1, 4, 7, 100])
def test_a_mixed_batch_equals_each_sample_spliced_token_by_token(padding_side, input_side, max_length):
    rows = [[1, IMG, 5], [7], [2, 3, IMG, IMG, 4, 6, IMG], [IMG], [8, 9, 10, 11]]
    width = max(map(len, rows))
    views = torch.arange(100, 100 + 5 * K * 2, dtype=torch.float).view(5, K, 2)
    counts = [row.count(IMG) for row in rows]

    def pad(row, fill):
        gap = [fill] * (width - len(row))
        return gap + row if input_side == "left" else row + gap

    ids = torch.tensor([pad(row, 0) for row in rows])
    mask = torch.tensor([pad([1] * len(row), 0) for row in rows])
    labels = torch.tensor([pad([token if token > 5 else IGNORE_INDEX for token in row], 77) for row in rows])
    splice = compute_splice(ids, mask, labels, counts, K, max_length, padding_side)
    text = ids.float()[..., None].expand(*ids.shape, 2)
    spliced = splice_embeddings(splice.source, text, views)

    unused_views = list(views)
    for row, real in enumerate(rows):
        row_labels = [token if token > 5 else IGNORE_INDEX for token in real]
        values, targets = splice_token_by_token(real, row_labels, unused_views, max_length)
        kept = splice.attention_mask[row]
        assert spliced[row][kept].tolist() == values
        assert splice.labels[row][kept].tolist() == targets
        assert splice.position_ids[row][kept].tolist() == list(range(len(values)))
        assert not spliced[row][~kept].any()
        assert (splice.labels[row][~kept] == IGNORE_INDEX).all()
        assert kept.tolist() == sorted(kept.tolist(), reverse=padding_side == "right")


def test_a_sample_whose_images_and_placeholders_differ_in_number_is_named():
    ids = torch.tensor([[1, IMG], [IMG, IMG]])
    with pytest.raises(ValueError, match="sample 1: 2 <image> in the text, 1 images"):
        compute_splice(ids, None, None, [1, 1], K, None, "right")


def test_a_placeholder_id_at_padding_is_ignored():
    splice = compute_splice(torch.tensor([[5, IMG]]), torch.tensor([[1, 0]]), None, [0], K, None, "right")
    assert splice.attention_mask.tolist() == [[True]]


def test_every_embedding_gets_the_gradient_of_one_position():
    ids = torch.tensor([[1, IMG, 5], [7, 8, 0]])
    splice = compute_splice(ids, torch.tensor([[1, 1, 1], [1, 1, 0]]), None, [1, 0], K, None, "right")
    text = torch.zeros(2, 3, 2, requires_grad=True)
    views = torch.zeros(1, K, 2, requires_grad=True)
    splice_embeddings(splice.source, text, views).sum().backward()
    assert text.grad[..., 0].tolist() == [[1, 0, 1], [1, 1, 0]]
    assert (views.grad == 1).all()
