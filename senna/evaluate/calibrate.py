"""`senna calibrate`: fit a temperature and a prior correction on held-out plans, and store them in the model's folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from senna.contents import absolute, file_content, model_content
from senna.decision import BALANCED, DECISION_FILE, Calibration, prior_of, some, write_calibration
from senna.errors import DataError, UsageError
from senna.evaluate.command import EvaluateArguments, check, choose, predicted
from senna.evaluate.predictions import Prediction
from senna.flags import flag, parse_flags, shared_flag
from senna.kinds import PLAN
from senna.meta_actions import ALL_META_ACTIONS, MetaAction, parse_meta_action
from senna.record_file import open_records

if TYPE_CHECKING:
    from senna.evaluate.shared_frames import FrameSet
    from senna.evaluate.training_data import TrainingData

_SEPARATE = "give plans of scenes that are neither trained on nor evaluated"

FREQUENT = 0.01
"""A meta-action of at least this share of the training plans is named where DATA has no plan of it."""

PREDICTIONS_FOLDER = "calibration"
"""The subfolder of the model's folder that predictions are written to by default."""


@dataclass
class CalibrateArguments:
    """Flags of `senna calibrate`."""

    model: str = flag("the folder of a model or of a LoRA, which gets decision.json")
    data: str = flag("plans of scenes that are neither trained on nor evaluated: .jsonl or .json")
    train_data: str | None = flag(
        "training records, if the model's folder does not name them or they have moved: a.json, or a.json:1.0,b.jsonl:0.5",
        None,
    )
    out: str | None = flag("folder for the predictions of DATA (default: MODEL/calibration)", None)
    image_folder: str | None = shared_flag("image_folder")
    batch_size: int = shared_flag("batch_size")
    skip_bad_samples: int = shared_flag("skip_bad_samples")
    version: str = shared_flag("version")
    aspect_ratio: str = shared_flag("aspect_ratio")
    image_decode: str = shared_flag("image_decode")
    base: str | None = shared_flag("base")
    quantization: str | None = shared_flag("quantization")
    dtype: str = shared_flag("dtype")
    device: str = shared_flag("device")
    workers: int = shared_flag("workers")
    overwrite: bool = flag("start anew if OUT holds predictions of another model or other data", False)


def main(argv: list[str]) -> int:
    """Run `senna calibrate` and return the exit code."""
    args = parse_flags(
        CalibrateArguments,
        argv,
        "senna calibrate",
        "Fit a temperature, so that probabilities are as high as the share of right answers, and a correction for the "
        f"frequencies of the training plans, so that rare plans are found. They are written to MODEL/{DECISION_FILE}, with "
        f"figures before and after; --decision {BALANCED} of `senna evaluate`, `serve`, `demo`, `drive`, `visualize` "
        "and `export-meta-actions` uses them. DATA must share neither scenes nor images with the training records. Run the "
        "same command again to continue an interrupted run.",
    )
    return run(args)


def run(args: CalibrateArguments) -> int:
    """Predict the plans of DATA, fit, and write decision.json. Raises SennaError."""
    from senna.evaluate.metrics.fit_decision import fit_decision
    from senna.evaluate.shared_frames import FrameSet
    from senna.evaluate.training_data import training_data

    folder = Path(args.model)
    if not folder.is_dir():
        raise UsageError(
            f"--model {args.model} is not a folder", remedy=f"give a folder: {DECISION_FILE} is written into it"
        )
    records = open_records(args.data, args.skip_bad_samples)
    indices = choose(records, PLAN, None)
    trained = training_data(folder, args.train_data, args.image_folder)
    frames = FrameSet.of_file(records, indices, args.image_folder)
    scenes, images = check_data(frames, trained)
    prior = prior_of(trained.plans)
    evaluation = _evaluation(args)
    check(evaluation)
    with predicted(evaluation, records, indices) as stores:
        if stores is None:
            return 0
        plans, truth = _usable(stores[0].join(), records.path)
        if missing := missing_plans(trained.plans, truth):
            _warn(
                f"{args.data} has no plan of {some(missing)}, on which the model was trained: what the correction does to "
                "these is not measured. Give scenes that have them"
            )
        log_probs = np.array([row["log_probs"] for row in plans])
        fit = fit_decision(log_probs, truth, [row["scene"] for row in plans], prior)
        figures: dict[str, Any] = {"plans": len(plans), "before": fit.before, "after": fit.after}
        calibration = Calibration(
            fit.temperature,
            fit.tau,
            tuple(prior.tolist()),
            tuple(scenes),
            absolute(args.data),
            file_content(args.data),
            model_content(args.model, args.base),
            figures,
            tuple(images),
        )
        path = write_calibration(folder, calibration)
    print(summary(calibration))
    print(f"decision  {path}")
    return 0


def check_data(frames: "FrameSet", trained: "TrainingData") -> tuple[list[str], list[str]]:
    """Return the scenes of the plans to fit on, and the fingerprints of their images.

    Raises:
        UsageError: they are fewer than two, a plan has no scene, or the model was trained on the file, a scene or an image.
    """
    path, scenes = frames.records.files[0].path, frames.scenes()
    if path.resolve() in trained.files or file_content(path) in trained.contents:
        raise UsageError(f"--data {path}: the model was trained on this file", remedy="give plans of other scenes")
    if "" in scenes:
        raise UsageError(
            f"--data {path}: plans without a scene_token, so that they may be of scenes that the model was trained on",
            remedy="add the scene_token of each frame, as `senna convert` does",
        )
    if shared := sorted(set(scenes) & trained.scenes):
        raise UsageError(
            f"--data {path}: the model was trained on {len(shared)} of its scenes ({some(shared)})", remedy=_SEPARATE
        )
    images = frames.fingerprints()
    if found := next(filter(None, (part.find(images) for part in trained.frames)), None):
        raise UsageError(
            f"--data {path}: the model was trained on one of its images, {found}, under this or another name",
            remedy=_SEPARATE,
        )
    if len(scenes) < 2:
        raise UsageError(
            f"--data {path}: its plans are of {len(scenes)} scene; how far a fit varies shows from two on",
            remedy="give plans of more scenes",
        )
    if "" in trained.scenes:
        _warn("training records without a scene_token: make sure yourself that they are of other scenes")
    for lost in trained.lost:
        _warn(
            f"{lost}, the model before, is gone, and its training data are not known: make sure yourself that they differ"
        )
    return scenes, images


def missing_plans(trained: NDArray[np.float64], truth: Sequence[MetaAction]) -> list[str]:
    """Return the meta-actions, at least ``FREQUENT`` of the training plans, that a ground truth does not have.

    Args:
        trained: (20,) counts of the training plans.
    """
    shares = trained / max(trained.sum(), 1.0)
    return [
        str(action)
        for action, share in zip(ALL_META_ACTIONS, shares, strict=True)
        if share >= FREQUENT and action not in truth
    ]


def _warn(text: str) -> None:
    print(f"WARNING {text}", flush=True)


def _evaluation(args: CalibrateArguments) -> EvaluateArguments:
    names = (
        "model", "data", "image_folder", "batch_size", "skip_bad_samples", "version", "aspect_ratio", "image_decode", "base",
        "quantization", "dtype", "device", "workers", "overwrite",
    )  # fmt: skip
    given = {name: getattr(args, name) for name in names}
    out = args.out or str(Path(args.model) / PREDICTIONS_FOLDER)
    return EvaluateArguments(out=out, mode="score", kinds=PLAN, **given)


def _usable(predictions: Sequence[Prediction], path: Path) -> tuple[list[Prediction], list[Any]]:
    """Return the plans whose ground truth is a meta-action, and these. Raises DataError if less than two scenes have any."""
    pairs = [(row, parse_meta_action(row["truth"])) for row in predictions if "error" not in row]
    usable = [(row, action) for row, action in pairs if action is not None]
    if len({row["scene"] for row, _ in usable}) < 2:
        raise DataError(
            "fewer than two scenes have plans whose answers are meta-actions", file=path, remedy="give more records"
        )
    return [row for row, _ in usable], [action for _, action in usable]


def summary(calibration: Calibration) -> str:
    """Return the fitted values, and the figures before and after, as text."""
    before, after = calibration.figures["before"], calibration.figures["after"]
    names = {"macro_f1": "macro F1", "accuracy": "accuracy", "ece": "ECE", "log_loss": "log loss"}
    lines = [f"{name:<9} {_figure(before[key])} -> {_figure(after[key])}" for key, name in names.items()]
    return "\n".join(
        [
            f"{calibration.figures['plans']} plans of {len(calibration.scenes)} scenes",
            f"temperature {calibration.temperature:.3f}, prior correction (tau) {calibration.tau:.2f}",
            *lines,
            "after: each scene with the values fitted to the other scenes",
        ]
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
