"""The records that a model was trained on, by the settings in its folder: their scenes, and how often each plan occurs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from senna.contents import file_content
from senna.data import Mixture, open_mixture
from senna.data.mixture import parse_data_path
from senna.errors import DataError, SennaError, UsageError
from senna.evaluate.metrics.meta_actions import codes
from senna.evaluate.shared_frames import FrameSet
from senna.kinds import PLAN, stage_of
from senna.meta_actions import ALL_META_ACTIONS, parse_meta_action
from senna.records import GPT, HUMAN
from senna.run_folder import RUN_FILE, read_settings

_GIVE_IT = "give the training records with --train-data"


@dataclass(frozen=True)
class TrainingData:
    """The records that a model and the models before it were trained on.

    Attributes:
        scenes: their scenes; "" if records without a scene are among them.
        plans: float64 (20,), how often an epoch takes plans of each of the twenty meta-actions.
        files: their files.
        contents: hashes of the files at the time of the training, also of files that do not exist any more.
        frames: their frames, by the files of each stage.
        lost: folders of earlier models that do not exist any more, so that their records are not known.
    """

    scenes: frozenset[str]
    plans: NDArray[np.float64]
    files: frozenset[Path]
    contents: frozenset[str]
    frames: tuple[FrameSet, ...]
    lost: tuple[str, ...]


def training_data(model: Path, given: str | None = None, image_folder: str | None = None) -> TrainingData:
    """Return the training data of a model folder, of the stages that ask about driving.

    Args:
        image_folder: a folder in which training images may be, besides those that the runs name.
        given: a ``data_path``, instead of the files that the folder names; files that the folder names and that exist are read
            for their scenes all the same.

    Raises:
        UsageError: the folder does not name its files, or they are missing or have changed, and ``given`` is None; or the
            records have no plan.
    """
    runs, lost = _runs(model)
    if given is None and not runs:
        raise UsageError(f"{model} does not name its training data (it has no {RUN_FILE})", remedy=_GIVE_IT)
    mixtures: dict[str, Mixture] = {} if given is None else {given: open_mixture(given, flag="--train-data")}
    for folder, settings in runs:
        try:
            data_path = settings["data_path"]
            if data_path not in mixtures:
                _check_unchanged(data_path, settings)
                mixtures[data_path] = open_mixture(data_path)
        except (SennaError, OSError) as error:
            if given is None:
                raise UsageError(f"the training data of {folder} cannot be read ({error})", remedy=_GIVE_IT) from error
    trained_on_plans = [
        settings["data_path"] for _, settings in runs if settings.get("stage") in (None, stage_of(PLAN))
    ]
    named = [settings.get("image_folder") for _, settings in runs]
    folders = list(dict.fromkeys(folder for folder in (*named, image_folder) if folder))
    source = given or next((path for path in trained_on_plans), None)
    plans = np.zeros(len(ALL_META_ACTIONS)) if source is None else count_plans(mixtures[source])
    if not plans.any():
        raise UsageError(f"the training data of {model} have no plan", remedy=_GIVE_IT)
    captions = {settings["data_path"] for _, settings in runs if settings.get("tune_mm_mlp_adapter")}
    return TrainingData(
        frozenset(
            scene
            for path, mixture in mixtures.items()
            for scene in mixture.scenes()
            if scene or path not in captions  # captions of stage 1, in the chat format, are about no scene
        ),
        plans,
        frozenset(file.path.resolve() for mixture in mixtures.values() for file in mixture.files),
        frozenset(content for _, settings in runs for content in _known_contents(settings)),
        tuple(FrameSet(mixture, _one_of_each_frame(mixture), folders) for mixture in mixtures.values()),
        lost,
    )


def _one_of_each_frame(records: Mixture) -> list[int]:
    return np.unique(records.frame_codes(), return_index=True)[1].tolist()


def _runs(model: Path) -> tuple[list[tuple[Path, dict[str, Any]]], tuple[str, ...]]:
    """Return the folder and the settings of the run that made a model, and of the runs before it, without captions.

    Returns:
        These, and the folder of the model before them if it does not exist any more.
    """
    found: list[tuple[Path, dict[str, Any]]] = []
    folder, seen = model, set()
    while folder.is_dir() and folder.resolve() not in seen:
        seen.add(folder.resolve())
        settings = read_settings(folder / RUN_FILE)
        if not settings or "data_path" not in settings:
            break
        if settings.get("version") != "plain":  # captions of stage 1 are about no scene
            found.append((folder, settings))
        folder = Path(settings.get("model_name_or_path") or "")
    is_lost = folder.is_absolute() and not folder.exists()  # the names of folders are stored as absolute paths
    return found, (str(folder),) if is_lost else ()


def _known_contents(settings: dict[str, Any]) -> list[str]:
    """Return the hashes of the training files of a run, in their order; none if its settings do not have them."""
    known = (settings.get("contents") or {}).get("data_path")
    return [content for content, _ in json.loads(known)] if known else []


def _check_unchanged(data_path: str, settings: dict[str, Any]) -> None:
    """Raise UsageError if the files are not those that a run was trained on, as far as its settings know their hashes."""
    files = [path for path, _ in parse_data_path(data_path)]
    for path, content in zip(files, _known_contents(settings), strict=False):
        if content != file_content(path):
            raise UsageError(f"{path} has changed since the training", remedy=_GIVE_IT)


def count_plans(records: Mixture) -> NDArray[np.float64]:
    """Return how often an epoch takes plans of each of the twenty meta-actions on average, float64 (20,)."""
    counts = np.zeros(len(ALL_META_ACTIONS))
    for index in range(len(records)):
        answer = plan_answer(records, index)
        if answer is not None and (action := parse_meta_action(answer)) is not None:
            counts[codes([action])] += records.weight(index)
    return counts


def plan_answer(records: Mixture, index: int) -> str | None:
    """Return the answer that a plan record ends with; None for other records and for those that cannot be used."""
    if records.kind_names[records.kinds[index]] != PLAN:
        return None
    try:
        turns = records[index]["conversations"]
    except DataError:
        return None
    ends_with_answer = [turn["from"] for turn in turns[-2:]] == [HUMAN, GPT]
    return turns[-1]["value"] if ends_with_answer else None
