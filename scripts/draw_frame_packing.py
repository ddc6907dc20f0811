"""Draw the figure of train_tools/README.md: the sequences of one frame, unpacked and packed, and the attention mask.

usage: python scripts/draw_frame_packing.py --data FILE --tokenizer DIR [--frame N] [--out assets/frame_packing.png]

After the quickstart: --data outputs/embedded/qa/senna_nusc_val.jsonl --tokenizer outputs/embedded/llm
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from senna.data import encode_conversation, load_tokenizer
from senna.data.frame_packing import cut_record, pack_trees
from senna.errors import SennaError
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.model.layout import Tree
from senna.model.packed_attention import PackedAttention
from senna.record_file import open_records

TOKENS_PER_IMAGE, MAX_LENGTH, MAX_ROW = 128, 2048, 4096  # the published geometry and the recipe of stage 2
COLOURS = {"views": "#56B4E9", "text": "#D5D9DE", "question": "#F0E442", "answer": "#009E73"}


def segments(input_ids: torch.Tensor, labels: torch.Tensor, prefix: int) -> list[tuple[str, int]]:
    """Return (kind of token, length) of a record, view tokens included; ``prefix`` is in text tokens."""
    found: list[tuple[str, int]] = []
    for position, (token, label) in enumerate(zip(input_ids.tolist(), labels.tolist(), strict=True)):
        kind = "views" if token == IMAGE_TOKEN_INDEX else "text" if position < prefix else "question"
        kind = "answer" if label != IGNORE_INDEX else kind
        length = TOKENS_PER_IMAGE if token == IMAGE_TOKEN_INDEX else 1
        if found and found[-1][0] == kind:
            length += found.pop()[1]
        found.append((kind, length))
    return found


def bar(axes, row: float, start: int, parts: list[tuple[str, int]]) -> int:
    """Draw a sequence as a bar and return its end."""
    for kind, length in parts:
        axes.barh(row, length, left=start, color=COLOURS[kind], height=0.72, linewidth=0)
        start += length
    return start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="records of a converted data set")
    parser.add_argument("--tokenizer", required=True, help="a model folder with a tokenizer")
    parser.add_argument("--frame", type=int, default=0, help="number of the frame in the file")
    parser.add_argument("--out", type=Path, default=Path("assets/frame_packing.png"))
    args = parser.parse_args()

    try:
        records, tokenizer = open_records(args.data), load_tokenizer(args.tokenizer, MAX_LENGTH)
    except SennaError as error:
        parser.error(str(error))
    frames = len(np.unique(records.frames))
    if not 0 <= args.frame < frames:
        parser.error(f"--frame {args.frame}: {args.data} has the frames 0 to {frames - 1}")
    members = np.flatnonzero(
        records.frames == records.frames[np.unique(records.frames, return_index=True)[1]][args.frame]
    )
    encoded = [encode_conversation(records[int(index)]["conversations"], tokenizer) for index in members]
    samples = [(sample["input_ids"], sample["labels"]) for sample in encoded]
    cut = [cut_record(ids, labels, MAX_LENGTH, TOKENS_PER_IMAGE) for ids, labels in samples]
    [tree] = pack_trees(cut, MAX_ROW)
    lengths = [int(record.sizes.sum()) for record in cut]
    prefix = int(cut[0].sizes[: tree.prefix].sum())
    layout = (Tree(0, 0, prefix, tuple(length - prefix for length in lengths)),)
    total = layout[0].stop

    figure = Figure(figsize=(13, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.7, 1])
    for row, (ids, labels) in enumerate(samples):
        bar(left, row, 0, segments(ids, labels, tree.prefix))
    parts = [segments(ids, labels, tree.prefix) for ids, labels in samples]
    end = bar(
        left, len(samples) + 1, 0, segments(samples[0][0][: tree.prefix], samples[0][1][: tree.prefix], tree.prefix)
    )
    for (ids, labels), _ in zip(samples, parts, strict=True):
        end = bar(left, len(samples) + 1, end, segments(ids[tree.prefix :], labels[tree.prefix :], 0))
    left.set_yticks([(len(samples) - 1) / 2, len(samples) + 1], [f"unpacked\n{len(samples)} rows", "packed\n1 row"])
    left.invert_yaxis()
    left.set_xlabel("position in the row (tokens)")
    left.set_title(f"{len(samples)} questions about one frame: {sum(lengths):,} tokens become {total:,}")
    handles = [left.barh(0, 0, color=colour) for colour in COLOURS.values()]
    left.legend(
        handles, ["view tokens", "shared text", "question", "answer (targets)"], loc="upper right", frameon=False
    )
    left.spines[["top", "right"]].set_visible(False)

    mask = PackedAttention(layout, "dense", 1, total, torch.float32, torch.device("cpu")).dense_mask[0, 0] == 0
    right.imshow(mask, cmap=ListedColormap(["#FFFFFF", "#0072B2"]), interpolation="nearest")
    right.set_title("attention mask of the packed row")
    right.set_xlabel("key")
    right.set_ylabel("query")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
    print(f"{args.out}: {len(samples)} questions, {sum(lengths)} tokens unpacked, {total} packed, prefix {prefix}")


if __name__ == "__main__":
    main()
