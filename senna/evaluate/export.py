"""`senna export-meta-actions`: a table from frame token to the probabilities of the twenty meta-actions, for a planner.

Where the evaluation predicted trajectories, the table has them too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from senna.decision import BALANCED, GREEDY, LIKELIEST, MOST_PROBABLE, Decision, open_decision
from senna.errors import UsageError
from senna.evaluate.decisions import predicting_base, predicting_model
from senna.evaluate.predictions import read_predictions
from senna.files import atomic_write
from senna.flags import flag, parse_flags
from senna.kinds import PLAN, TRAJECTORY
from senna.meta_actions import ALL_META_ACTIONS, FUTURE_STEPS
from senna.trajectory import DECIMALS, parse_trajectory

FORMATS = (".safetensors", ".jsonl")


@dataclass
class ExportArguments:
    """Flags of `senna export-meta-actions`."""

    predictions: str = flag("the folder of a `senna evaluate` run in score mode, or its predictions.jsonl")
    out: str = flag("the file to write: .safetensors or .jsonl")
    decision: str = flag(
        "likeliest: the model's probabilities; or balanced: those after the correction of `senna calibrate`. The largest of "
        "a row is the decision",
        LIKELIEST,
    )
    model: str | None = flag(
        "the model's folder with decision.json, if it is not the one that the predictions name", None
    )


def main(argv: list[str]) -> int:
    """Run `senna export-meta-actions` and return the exit code."""
    args = parse_flags(
        ExportArguments,
        argv,
        "senna export-meta-actions",
        "Write the probabilities of the twenty meta-actions for each frame token, as input of an end-to-end planner's "
        "meta-action embedding. Columns are ordered by SPEED, then by PATH (KEEP, ACCELERATE, DECELERATE, STOP; STRAIGHT, "
        "RIGHT_TURN, RIGHT_CHANGE, LEFT_TURN, LEFT_CHANGE); each row sums to 1. safetensors: tensor 'probabilities' float32 "
        "(N, 20) and tensor 'tokens' uint8 (N, L), each row a token in UTF-8 padded with zeros; the metadata has the names. "
        'jsonl: a first line {"meta_actions"}, then one line {"token", "probabilities"} per frame. With predicted trajectories '
        "(--kinds plan,trajectory) also tensor 'trajectories' float32 (N, 6, 2), metres to the right and ahead, NaN without "
        'one; jsonl: "trajectory", null without one.',
    )
    source, out = Path(args.predictions), Path(args.out)
    if out.suffix not in FORMATS:
        raise UsageError(f"--out {out} has an unknown suffix", remedy=f"use {' or '.join(FORMATS)}")
    source = source / "predictions.jsonl" if source.is_dir() else source
    predictions = read_predictions(source)
    table = probabilities_by_token(predictions, source, _decision(args, source))
    paths = trajectories_by_token(predictions)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_table(out, table, paths)
    found = sum(token in paths for token in table)
    print(f"{len(table)} frames{f', {found} with a trajectory' if paths else ''}  {out}")
    if others := other_plans(predictions, table):
        print(
            f"note: {others} trajectories follow another plan than the decision here; "
            f"`senna evaluate --decision {args.decision}` predicts them for it"
        )
    return 0


def _decision(args: ExportArguments, source: Path) -> Decision:
    """Return the decision rule of the flags. Raises UsageError."""
    if args.decision == GREEDY:
        raise UsageError(
            f"--decision {GREEDY} has no probabilities of the twenty", remedy=f"use {LIKELIEST} or {BALANCED}"
        )
    return open_decision(args.decision, args.model or predicting_model(source), predicting_base(source))


def probabilities_by_token(
    predictions: Sequence[Mapping[str, Any]], source: Path, decision: Decision = MOST_PROBABLE
) -> dict[str, np.ndarray]:
    """Return token -> float32 (20,) for the plans among the predictions.

    Args:
        source: the file of the predictions, for messages.
        decision: the rule whose probabilities they are.

    Raises:
        UsageError: there is no plan, or a plan has no scores, no token or the token of another plan.
    """
    table: dict[str, np.ndarray] = {}
    for line, prediction in enumerate(predictions, 1):
        if prediction.get("kind") != PLAN:
            continue
        token = prediction["token"]
        if "log_probs" not in prediction:
            raise UsageError(f"{source}: line {line} has no log_probs", remedy="evaluate with --mode score")
        if not token:
            raise UsageError(
                f"{source}: line {line} ({prediction['id']}) has no token",
                remedy="evaluate records with the frame's token; a planner looks frames up by it",
            )
        if token in table:
            raise UsageError(
                f"{source}: line {line} is a second plan of the frame {token}", remedy="keep one plan per frame"
            )
        table[token] = np.exp(decision.log_probs(prediction["log_probs"])).astype(np.float32)
    if not table:
        raise UsageError(f"{source} holds no plan", remedy="evaluate with --kinds plan")
    return table


def trajectories_by_token(predictions: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return token -> float32 (6, 2) for the predicted trajectories with a token; an answer that is none is left out."""
    found = {}
    for prediction in predictions:
        if prediction.get("kind") == TRAJECTORY and prediction.get("token"):
            xy = parse_trajectory(prediction.get("text") or "")
            found |= {} if xy is None else {prediction["token"]: xy.astype(np.float32)}
    return found


def other_plans(predictions: Sequence[Mapping[str, Any]], table: Mapping[str, np.ndarray]) -> int:
    """Return the number of trajectories whose question states another plan than the decision of their frame in the table."""
    decided = {token: str(ALL_META_ACTIONS[int(row.argmax())]) for token, row in table.items()}
    trajectories = [row for row in predictions if row.get("kind") == TRAJECTORY and row.get("token") in decided]
    return sum(row.get("plan") not in (None, decided[row["token"]]) for row in trajectories)


def write_table(
    path: Path, table: Mapping[str, np.ndarray], trajectories: Mapping[str, np.ndarray] | None = None
) -> None:
    """Write the table in the format of the path's suffix; the file appears only when complete. Raises SennaError.

    Args:
        trajectories: token -> (6, 2); the table has a column for them if there are any.
    """
    paths = trajectories or {}
    names = [str(action) for action in ALL_META_ACTIONS]
    with atomic_write(path) as partial:
        if path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            tokens = np.array([token.encode() for token in table])
            columns = tokens.view(np.uint8).reshape(len(tokens), -1)
            tensors = {"probabilities": np.stack(list(table.values())), "tokens": columns}
            if paths:
                nothing = np.full((FUTURE_STEPS, 2), np.nan, dtype=np.float32)
                tensors["trajectories"] = np.stack([paths.get(token, nothing) for token in table])
            save_file(tensors, partial, metadata={"meta_actions": json.dumps(names)})
        else:
            lines: list[dict[str, Any]] = [{"meta_actions": names}]
            for token, row in table.items():
                line: dict[str, Any] = {"token": token, "probabilities": [float(share) for share in row]}
                if paths:
                    xy = paths.get(token)
                    line["trajectory"] = None if xy is None else xy.astype(float).round(DECIMALS).tolist()
                lines.append(line)
            partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def read_table(path: Path) -> dict[str, np.ndarray]:
    """Return token -> float32 (20,) from a .safetensors file of `write_table`."""
    from safetensors.numpy import load_file

    tensors = load_file(path)
    tokens = [bytes(row).rstrip(b"\0").decode() for row in tensors["tokens"]]
    return dict(zip(tokens, tensors["probabilities"], strict=True))
