"""The trackers of a run: transformers' callbacks for them, with what those lack.

Only the main process talks to a tracker. A tracker that fails is switched off with a warning, and the run goes on.
"""

import copy
import functools
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from senna.errors import first_line
from senna.files import write_json
from senna.model.parts import part_of
from senna.run_folder import read_settings
from senna.train.build_model import count_weights
from senna.train.plan_images import PlanImage, PlanImages
from senna.train.trackers import TRACKERS, mlflow_uri, swanlab_mode, tracker_folder, wandb_mode

STATE_FILE = "trackers.json"
"""The file in the output folder that names the run of each tracker, for a run that continues."""
PROJECT = "senna"
ALL_WITH_IMAGES = 20
_IMAGES = "eval/plan_images"  # eval/plans is their number
_STEP = "train/global_step"


class TrackedRun:
    """The names of a run in its trackers. A run that continues has the same ones.

    Attributes:
        id: for trackers that let the caller choose one. name: the name that people read. project: likewise.
    """

    def __init__(self, args: Any, is_new: bool) -> None:
        self.args, self._path = args, Path(args.output_dir) / STATE_FILE
        self._state: dict[str, Any] = {} if is_new else (read_settings(self._path) or {})
        self.id = str(self["id"] or uuid.uuid4().hex[:12])
        self.name = str(self["name"] or args.run_name or Path(args.output_dir).absolute().name)
        self.project = PROJECT if args.project in (None, "huggingface") else args.project
        self.keep(id=self.id, name=self.name)

    def __getitem__(self, key: str) -> Any:
        return self._state.get(key)

    def keep(self, **values: str) -> None:
        """Write values for a run that continues."""
        if any(self._state.get(key) != value for key, value in values.items()):
            self._state.update(values)
            write_json(self._path, self._state)


def model_facts(trainer: Any) -> dict[str, Any]:
    """Return facts of a run that follow from its model and its data, for the configuration of a tracker."""
    total: dict[str, int] = {}
    trained: dict[str, int] = {}
    for name, parameter in trainer.model.named_parameters():
        part, weights = part_of(name), count_weights(parameter)
        total[part] = total.get(part, 0) + weights
        trained[part] = trained.get(part, 0) + weights * parameter.requires_grad
    records = trainer.train_dataset.records
    return {
        "processes": trainer.args.world_size,
        **{f"parameters/{part}": number for part, number in total.items()},
        **{f"trained/{part}": number for part, number in trained.items() if number},
        **{f"records/{kind}": number for kind, number in records.counts_by_kind().items()},
    }


class Tracker(TrainerCallback):
    """A tracker of transformers without special treatment. Its failures are caught."""

    def __init__(
        self, name: str, callback: Any, facts: dict[str, Any], tracked: Callable[[], TrackedRun],
        draw: Callable[[], Sequence[PlanImage]],
    ) -> None:  # fmt: skip
        self.name, self.callback, self.facts, self.tracked, self.draw = name, callback, facts, tracked, draw
        self.is_on = True

    def safely(self, action: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Call a function of the tracker. If it fails, warn and switch the tracker off."""
        if not self.is_on:
            return
        try:
            with _without_secrets(sys.argv):
                action(*arguments, **options)
        except Exception as error:  # a full disk, a lost network, a fault of the tracker
            self.is_on = False
            reason = f"{type(error).__name__}: {first_line(error)}"
            print(f"warning  {self.name} failed and gets nothing more ({reason}); the run goes on", flush=True)

    def on_train_begin(self, args, state, control, **kwargs):
        self.safely(self.begin, args, state, control, **kwargs)

    def on_log(self, args, state, control, **kwargs):
        self.safely(self.callback.on_log, self.arguments(args), state, control, **kwargs)

    def on_evaluate(self, args, state, control, **kwargs):
        self.safely(self.callback.on_evaluate, self.arguments(args), state, control, **kwargs)
        self.safely(lambda: self.log_images(self.draw(), state.global_step))

    def on_save(self, args, state, control, **kwargs):
        self.safely(self.callback.on_save, self.arguments(args), state, control, **kwargs)

    def on_train_end(self, args, state, control, **kwargs):
        self.safely(self.callback.on_train_end, self.arguments(args), state, control, **kwargs)
        self.safely(self.end)

    def begin(self, args, state, control, **kwargs):
        """Start the tracker's run."""
        self.callback.on_train_begin(self.arguments(args), state, control, **kwargs)

    def arguments(self, args: Any) -> Any:
        """Return the arguments that transformers' callback gets."""
        return args

    def log_images(self, images: Sequence[PlanImage], step: int) -> None:
        """Log pictures of held-out frames."""

    def end(self) -> None:
        """Finish the tracker's run, if transformers' callback leaves it open."""


class TensorBoard(Tracker):
    def log_images(self, images, step):
        for number, image in enumerate(images):
            pixels = np.asarray(image.picture)  # (H, W, 3)
            self.callback.tb_writer.add_image(f"{_IMAGES}/{number}", pixels, step, dataformats="HWC")


class Wandb(Tracker):
    def begin(self, args, state, control, **kwargs):
        wandb = self.callback._wandb
        run = self.tracked()
        folder = Path(tracker_folder("wandb", args.output_dir)).parent
        folder.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {
            "id": run.id, "resume": "allow", "name": run.name, "dir": folder,
            "project": os.environ.get("WANDB_PROJECT") or run.project,
            "settings": wandb.Settings(console=os.environ.get("WANDB_CONSOLE", "off")),
        }  # fmt: skip
        mode: Any = wandb_mode()
        if mode == "offline":
            del options["resume"]  # wandb would warn that it has no effect; the id alone continues the run
        try:
            wandb.init(mode=mode, **options)
        except wandb.Error as error:
            if mode != "online":
                raise
            print(f"warning  wandb cannot be reached ({first_line(error)}); it goes on offline in {folder}", flush=True)
            del options["resume"]
            wandb.init(mode="offline", **options)
        wandb.config.update({"senna": self.facts}, allow_val_change=True)
        super().begin(args, state, control, **kwargs)

    def log_images(self, images, step):
        wandb = self.callback._wandb
        media = [wandb.Image(image.picture, caption=image.caption, file_type="jpg") for image in images]
        if media:
            wandb.log({_IMAGES: media, _STEP: step})

    def end(self):
        wandb = self.callback._wandb
        wandb.finish()


class Trackio(Tracker):
    run: TrackedRun | None = None

    def begin(self, args, state, control, **kwargs):
        self.run = self.tracked()
        super().begin(args, state, control, **kwargs)
        self.callback._trackio.config.update({"senna": self.facts})

    def arguments(self, args):
        # Trackio continues the run of this name in the project, so that the name must be unique.
        found = copy.copy(args)
        if self.run is not None:
            found.run_name, found.project = f"{self.run.name}-{self.run.id[:6]}", self.run.project
        return found

    def log_images(self, images, step):
        trackio = self.callback._trackio
        media = {
            f"{_IMAGES}/{number}": trackio.Image(image.picture, image.caption) for number, image in enumerate(images)
        }
        if media:
            trackio.log({**media, _STEP: step})


class SwanLab(Tracker):
    def begin(self, args, state, control, **kwargs):
        swanlab = self.callback._swanlab
        run = self.tracked()
        mode: Any = swanlab_mode()
        resumable: dict[str, Any] = {"id": run.id, "resume": "allow"} if mode in ("online", "cloud") else {}
        folder = tracker_folder("swanlab", args.output_dir)
        project = os.environ.get("SWANLAB_PROJECT") or run.project
        swanlab.init(project=project, experiment_name=run.name, mode=mode, logdir=folder, **resumable)
        swanlab.config.update({"senna": self.facts})
        super().begin(args, state, control, **kwargs)

    def log_images(self, images, step):
        swanlab = self.callback._swanlab
        media = [swanlab.Image(image.picture, caption=image.caption) for image in images]
        if media:
            swanlab.log({_IMAGES: media}, step=step)

    def end(self):
        swanlab = self.callback._swanlab
        swanlab.finish()


class MLflow(Tracker):
    def begin(self, args, state, control, **kwargs):
        mlflow = self.callback._ml_flow
        run = self.tracked()
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder, which needs no database
        mlflow.set_tracking_uri(mlflow_uri(args.output_dir))
        if "MLFLOW_EXPERIMENT_NAME" not in os.environ and "MLFLOW_EXPERIMENT_ID" not in os.environ:
            mlflow.set_experiment(run.project)
        started = mlflow.start_run(run_id=run["mlflow"] or os.environ.get("MLFLOW_RUN_ID"), run_name=run.name)
        run.keep(mlflow=started.info.run_id)
        mlflow.log_params({f"senna/{key}": value for key, value in self.facts.items()})
        super().begin(args, state, control, **kwargs)

    def log_images(self, images, step):
        mlflow = self.callback._ml_flow
        for number, image in enumerate(images):
            mlflow.log_image(image.picture, key=f"{_IMAGES}/{number}", step=step)

    def end(self):
        mlflow = self.callback._ml_flow
        mlflow.end_run()


_CLASSES = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio, "swanlab": SwanLab, "mlflow": MLflow}
assert _CLASSES.keys() == TRACKERS.keys()


class _without_secrets:
    """Hide the values of ``--*_token`` flags in a command line, which trackers store, within a ``with`` block."""

    def __init__(self, words: list[str]) -> None:
        self._words, self._before = words, list(words)

    def __enter__(self) -> None:
        for index, word in enumerate(self._before):
            flag, equals, _ = word.partition("=")
            if flag.startswith("--") and flag.endswith("_token"):
                if equals:
                    self._words[index] = f"{flag}=(hidden)"
                elif index + 1 < len(self._words):
                    self._words[index + 1] = "(hidden)"

    def __exit__(self, *_: object) -> None:
        self._words[:] = self._before


def before_trackers(args: Any) -> None:
    """Prepare what a tracker reads when it is imported: Trackio reads its folder then."""
    if "trackio" in args.report_to:
        os.environ["TRACKIO_DIR"] = tracker_folder("trackio", args.output_dir)


def has_images(number: int) -> bool:
    """Return whether trackers get images of a validation: each of the first `ALL_WITH_IMAGES`, then every second, fourth and so
    on, since trackers store each set of ten images for ever.

    Args:
        number: 1 for the first validation of a run.
    """
    return number % (1 << ((number - 1) // ALL_WITH_IMAGES).bit_length()) == 0


def set_up_trackers(trainer: Any) -> None:
    """Replace transformers' tracker callbacks of a Trainer by ours around them; remove them in all processes but the first."""
    found: dict[int, Sequence[PlanImage]] = {}  # the pictures of the last validation, by its step
    validation = trainer.validation
    pictures = None if validation is None else PlanImages(validation.data)

    def draw() -> Sequence[PlanImage]:
        step, history = trainer.state.global_step, trainer.state.log_history
        if step < trainer.state.max_steps and not has_images(sum("eval_loss" in entry for entry in history)):
            return []
        measured = validation and validation.measured
        if pictures is not None and measured is not None and step not in found:
            found.clear()
            found[step] = list(pictures.draw(measured.log_probs.numpy(), measured.is_scored.numpy()))
        return found.get(step, [])

    @functools.cache
    def tracked() -> TrackedRun:
        return TrackedRun(trainer.args, is_new=trainer.state.global_step == 0)

    names = {INTEGRATION_TO_CALLBACK[name]: name for name in trainer.args.report_to}
    callbacks = trainer.callback_handler.callbacks
    facts = model_facts(trainer) if names else {}
    for callback in [callback for callback in callbacks if type(callback) in names]:
        index, name = callbacks.index(callback), names[type(callback)]
        ours = _CLASSES.get(name, Tracker)(name, callback, facts, tracked, draw)
        callbacks[index : index + 1] = [ours] if trainer.is_world_process_zero() else []
