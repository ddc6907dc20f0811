"""`senna export-meta-actions`: what a planner is fed: token -> the probabilities of the twenty meta-actions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from senna.errors import UsageError
from senna.evaluate.predictions import read_predictions
from senna.files import atomic_write
from senna.flags import flag, parse_flags
from senna.meta_actions import ALL_META_ACTIONS

FORMATS = (".safetensors", ".jsonl")


@dataclass
class ExportArguments:
    """Flags of `senna export-meta-actions`."""

    predictions: str = flag("the folder of a `senna evaluate` run in score mode, or its predictions.jsonl")
    out: str = flag("the file to write: .safetensors or .jsonl")


def main(argv: list[str]) -> int:
    """Entry point of `senna export-meta-actions`. Returns the exit code."""
    args = parse_flags(
        ExportArguments,
        argv,
        "senna export-meta-actions",
        "For an end-to-end planner whose meta-action embedding is fed by the model: each frame's token with the probabilities "
        "of the twenty meta-actions, SPEED by SPEED, in it PATH by PATH (KEEP, ACCELERATE, DECELERATE, STOP; STRAIGHT, "
        "RIGHT_TURN, RIGHT_CHANGE, LEFT_TURN, LEFT_CHANGE), each row of sum 1. safetensors: tensor 'probabilities' float32 "
        "(N, 20) and tensor 'tokens' uint8 (N, L), each row a token in UTF-8 padded with zeros; names in the metadata. "
        'jsonl: a line a frame, {"token", "probabilities"}, after a first line {"meta_actions"}.',
    )
    source, out = Path(args.predictions), Path(args.out)
    if out.suffix not in FORMATS:
        raise UsageError(f"--out {out}: a file that ends in {' or '.join(FORMATS)}")
    source = source / "predictions.jsonl" if source.is_dir() else source
    table = probabilities_by_token(read_predictions(source), source)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_table(out, table)
    print(f"{len(table)} frames  {out}")
    return 0


def probabilities_by_token(predictions: Sequence[Mapping[str, Any]], source: Path) -> dict[str, np.ndarray]:
    """{token: float32 (20,)} of the plans among them. Raises UsageError without one, or for a plan without scores or token."""
    table: dict[str, np.ndarray] = {}
    for line, one in enumerate(predictions, 1):
        if one.get("kind") != "plan":
            continue
        if "log_probs" not in one:
            raise UsageError(f"{source}: line {line} has no log_probs; evaluate with --mode score")
        if not one["token"]:
            raise UsageError(f"{source}: line {line} ({one['id']}) has no token, by which a planner finds its frame")
        if one["token"] in table:
            raise UsageError(f"{source}: line {line}: a second plan of the frame {one['token']}")
        log_probs = np.asarray(one["log_probs"], dtype=np.float64)
        likelihoods = np.exp(log_probs - log_probs.max())
        table[one["token"]] = (likelihoods / likelihoods.sum()).astype(np.float32)
    if not table:
        raise UsageError(f"{source} holds no plan")
    return table


def write_table(path: Path, table: Mapping[str, np.ndarray]) -> None:
    """Write the table whole or not at all, in the format that the suffix says. Raises SennaError."""
    names = [str(action) for action in ALL_META_ACTIONS]
    with atomic_write(path) as partial:
        if path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            tokens = np.array([token.encode() for token in table])
            columns = tokens.view(np.uint8).reshape(len(tokens), -1)
            save_file(
                {"probabilities": np.stack(list(table.values())), "tokens": columns},
                partial,
                metadata={"meta_actions": json.dumps(names)},
            )
        else:
            lines: list[dict[str, Any]] = [{"meta_actions": names}]
            lines += [{"token": t, "probabilities": [float(p) for p in row]} for t, row in table.items()]
            partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def read_table(path: Path) -> dict[str, np.ndarray]:
    """{token: float32 (20,)} of a .safetensors that `write_table` made."""
    from safetensors.numpy import load_file

    tensors = load_file(path)
    tokens = [bytes(row).rstrip(b"\0").decode() for row in tensors["tokens"]]
    return dict(zip(tokens, tensors["probabilities"], strict=True))
