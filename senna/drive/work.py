"""The work of `senna drive`: one drive of one driver, with its file and its film; and worker processes that share the drives.

Files in OUT: ``drives/DRIVER/0003.json`` (figures and trace), ``films/DRIVER/0003.mp4`` or ``.gif`` and, of each film, a still
image ``.jpg``. A drive's JSON file is written last, so that a drive is complete or absent.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senna.drive import drivers as d
from senna.drive.loop import Drives, Trace, drive
from senna.drive.metrics import figures
from senna.drive.picture import draw_step
from senna.drive.town import TownSimulator
from senna.errors import SennaError
from senna.evaluate.metrics.plan_prompt import Situation
from senna.files import atomic_write
from senna.meta_actions import FUTURE_STEPS, KEEP_STRAIGHT, STEP, MetaAction
from senna.synthetic.world.scenarios import SKY_WORDS
from senna.visualize.film import GIF_WIDTH, make_film

POSTER_WIDTH = 640
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Job:
    """The settings that all workers share.

    Attributes:
        out: the output folder.
        drives: (driver, scenario) of each drive.
        filmed: the drivers whose drives become films.
        film: "mp4", "gif" or None.
        plans: (command, speed, SPEED, PATH) of each training plan, for the tree.
    """

    out: str
    seed: int
    time_limit: float
    image_width: int
    drives: list[tuple[str, int]]
    filmed: list[str]
    film: str | None
    fps: float
    model: str | None
    base: str | None
    device: str
    decision: str
    follow: str
    plans: list[tuple[str | None, float | None, str, str]]


def drive_file(out: Path, name: str, scenario: int) -> Path:
    """Return the JSON file of a drive."""
    return out / "drives" / name / f"{scenario:04d}.json"


def film_file(out: Path, name: str, scenario: int, form: str) -> Path:
    """Return the film of a drive; its still image has the suffix .jpg."""
    return out / "films" / name / f"{scenario:04d}.{form}"


class Worker:
    """Drives with the drivers of a job. A model is loaded once."""

    def __init__(self, job: Job) -> None:
        self.job, self.simulator = job, TownSimulator(job.seed, job.time_limit, job.image_width)
        self._model: d.PlanModel | None = None

    def driver(self, name: str) -> Drives:
        """Return a driver by its name, one of ``DRIVERS``."""
        simulator = self.simulator
        if name == d.EXPERT:
            return d.Expert(simulator)
        if name in (d.MODEL, d.BLACK):
            model = self._load()
            return d.Decider(simulator, model if name == d.MODEL else model.without_images, self.job.follow)
        if name == d.TREE:
            situations = [Situation(command, speed) for command, speed, _, _ in self.job.plans]
            return d.Decider(simulator, d.Tree(situations, [MetaAction(*plan[2:]) for plan in self.job.plans]))
        if name == d.LABELS:
            return d.Decider(simulator, lambda _: labels(simulator), self.job.follow)
        return d.Decider(simulator, lambda _: d.Plan(KEEP_STRAIGHT))

    def _load(self) -> d.PlanModel:
        if self._model is None:
            import torch

            job = self.job
            assert job.model is not None  # checked by the command
            torch.set_num_threads(1)  # as in one of several processes: sums are rounded alike on any number of cores
            self._model = d.PlanModel(job.model, job.base, job.device, job.decision, job.follow)
        return self._model

    def run(self, name: str, scenario: int) -> None:
        """Drive a scenario and write its files."""
        out = Path(self.job.out)
        with ExitStack() as stack:
            camera = None
            if self.job.film and name in self.job.filmed:
                camera = Camera(self, name, scenario, Path(stack.enter_context(tempfile.TemporaryDirectory())))
            trace = drive(self.simulator, scenario, self.driver(name), camera)
            if camera:
                camera.make(film_file(out, name, scenario, str(self.job.film)), trace)
        path = drive_file(out, name, scenario)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(self.content(name, scenario, trace)) + "\n", encoding="utf-8")

    def content(self, name: str, scenario: int, trace: Trace) -> dict[str, Any]:
        """Return the content of a drive's file."""
        start = self.simulator.start
        return {
            "driver": name,
            "scenario": scenario,
            "maneuver": start.maneuver,
            "sky": SKY_WORDS[start.sky],
            "end": trace.end,
            "figures": figures(trace),
            "events": [event._asdict() for event in trace.events],
            "steps": trace.steps,
            "states": [[round(value, 4) for value in state] for state in trace.states],
        }


def labels(simulator: TownSimulator) -> d.Plan:
    """Return what the converter would write into records of this moment."""
    expert = simulator.expert()
    return d.Plan(expert.decision, trajectory=expert.trajectory[:FUTURE_STEPS])


class Camera:
    """Draws a picture before each step, and makes a film of them."""

    def __init__(self, worker: Worker, name: str, scenario: int, folder: Path) -> None:
        self.worker, self.name, self.scenario, self.folder = worker, name, scenario, folder
        self.pictures: list[Path] = []

    def __call__(self, observation: Any, choice: d.Choice, expert: Any, trace: Trace) -> None:
        """Draw a step."""
        start = self.worker.simulator.start
        title = f"Scenario {self.scenario}, {start.maneuver}, {SKY_WORDS[start.sky].lower()}"
        picture = draw_step(self.worker.simulator, self.name, title, observation, choice, expert, trace)
        if self.worker.job.film == "gif":
            picture = picture.reduce(picture.width // GIF_WIDTH)
        self.pictures.append(self.folder / f"{len(self.pictures):04d}.jpg")
        picture.save(self.pictures[-1], quality=_JPEG_QUALITY)

    def make(self, path: Path, trace: Trace) -> None:
        """Write the film, and the picture before the first infraction, or in the middle, as its still image."""
        from PIL import Image

        path.parent.mkdir(parents=True, exist_ok=True)
        make_film(self.pictures, path, self.worker.job.fps)
        number = int(trace.events[0].time / STEP) if trace.events else len(self.pictures) // 2
        with Image.open(self.pictures[min(number, len(self.pictures) - 1)]) as picture:
            still = picture.resize((POSTER_WIDTH, round(picture.height * POSTER_WIDTH / picture.width)))
        with atomic_write(path.with_suffix(".jpg")) as partial:
            still.save(partial, quality=80)


def work(job: Job, items: Sequence[int]) -> Iterator[str]:
    """Do some drives of a job, and yield a line for each."""
    worker = Worker(job)
    for item in items:
        name, scenario = job.drives[item]
        worker.run(name, scenario)
        yield f"{name} {scenario}"


if __name__ == "__main__":
    _path, _count, _start, _step = sys.argv[1:]
    try:
        _job = Job(**json.loads(Path(_path).read_text(encoding="utf-8")))
        for _line in work(_job, range(int(_start), int(_count), int(_step))):
            print(_line, flush=True)
    except SennaError as _error:
        raise SystemExit(f"{_error.message}; {_error.remedy}") from None
