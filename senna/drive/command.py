"""`senna drive`: let drivers drive the drawn town, and report how well they do."""

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from senna.cgroup import available_cores
from senna.contents import absolute, file_content, model_content
from senna.errors import UsageError
from senna.file_lock import lock_folder
from senna.files import write_json
from senna.flags import flag, parse_flags, shared_flag
from senna.run_folder import claim

MOST_SCENARIOS = 10_000
VERSION = 1  # raise it when a change alters what a seed gives
MODELS = ("model", "black")
FOLLOWS = ("meta-action", "trajectory")
ALL = "model,expert,labels,tree,keep,black"


@dataclass
class DriveArguments:
    """Flags of `senna drive`."""

    out: str = flag("output folder: drive.html, drive.json, films/ and drives/")
    model: str | None = shared_flag("model", default=None)
    scenes: int = flag("number of scenarios of 20 s", 8)
    seed: int = flag("selects the scenarios; none is a scene of `senna synthesize`", 0)
    driver: str | None = flag(
        "who drives, separated by commas: model; expert, the driver of the drawn world; labels, the expert's meta-actions "
        "executed as those of a model; tree, a small tree on command and speed (needs --train-data); keep, always KEEP, "
        "STRAIGHT; black, the model with black images (default: all)",
        None,
    )
    image_width: int = flag("width of the drawn images in pixels, as in the world that the model was trained on", 1600)
    time_limit: float = flag("seconds after which a drive ends; the expert needs 19.5", 30.0)
    train_data: str | None = flag("the model's training records, on whose plans the tree is fitted", None)
    decision: str = shared_flag("decision")
    follow: str = flag(
        "what of a model is carried out: meta-action, along the lanes; or trajectory, its six waypoints, for a model that was "
        "trained with --kinds plan,trajectory",
        "meta-action",
    )
    film: str = flag(
        "films of the drives: mp4 (needs ffmpeg), gif, none, or auto (mp4 where ffmpeg is installed)", "auto"
    )
    filmed: str = flag("the drivers whose drives become films, separated by commas, or all", "model")
    fps: float = flag("steps of 0.5 s per second of film; 2 is real time", 4.0)
    base: str | None = shared_flag("base")
    device: str = shared_flag("device")
    workers: int | None = flag("processes, each with a copy of the model (default: one per core, on a GPU one)", None)


def main(argv: list[str]) -> int:
    """Run `senna drive` and return the exit code."""
    args = parse_flags(
        DriveArguments,
        argv,
        "senna drive",
        "Let a model drive: every 0.5 s the drawn town is seen by six cameras, the model decides, its decision becomes motion, "
        "and all other traffic reacts. Writes OUT/drive.html with driving scores, beside those of the expert and of blind "
        "drivers, and films. Run the same command again to continue an interrupted run; the same seed gives the same drives.",
    )
    return run(args)


def run(args: DriveArguments) -> int:
    """Drive, and write the report. Raises SennaError."""
    from senna.drive.page import write_page
    from senna.drive.work import drive_file, film_file
    from senna.visualize.film import film_form

    form = film_form(args.film)
    names = drivers_of(args)
    filmed = names if args.filmed == "all" else _known("filmed", args.filmed)
    _check(args, names)
    plans = training_plans(args.train_data) if args.train_data and "tree" in names else []
    out, numbers = Path(args.out), range(args.scenes)
    with lock_folder(out, remedy="wait until it ends, stop it, or choose another --out"):
        claim(out, _settings(args), remedy="choose another --out, or delete this one")
        # Worker i gets every n-th drive: in this order the workers share the drives of each driver, of which some take long.
        wanted = [(name, number) for name in names for number in numbers]
        missing = [
            (name, number)
            for name, number in wanted
            if not drive_file(out, name, number).is_file()
            or (form and name in filmed and not film_file(out, name, number, form).is_file())
        ]
        if missing:
            _drive(args, missing, filmed, form, plans)
        drives = {
            name: {number: json.loads(drive_file(out, name, number).read_text(encoding="utf-8")) for number in numbers}
            for name in names
        }
        summary = write_page(out, drives, {**_settings(args), "model": args.model or "none"}, form)
    write_json(out / "drive.json", summary)
    for name, figures in summary["drivers"].items():
        score, completion = figures["score"], figures["completion"]
        bounds = "" if score["low"] is None else f" ({score['low']:.3f} to {score['high']:.3f})"
        print(f"{name:7} driving score {score['value']:.3f}{bounds}, {100 * completion['value']:.0f} % of the route")
    print(f"report  {out / 'drive.html'}")
    if args.follow == "trajectory":
        for name in (name for name in names if name in MODELS):
            _warn_of_missing_trajectories(name, [step for drive in drives[name].values() for step in drive["steps"]])
    return 0


def _warn_of_missing_trajectories(name: str, steps: list[dict[str, Any]]) -> None:
    missing = sum("trajectory" not in step for step in steps)
    if missing:
        print(
            f"warning: in {missing} of {len(steps)} steps the answer of the driver {name} was no trajectory, and the car "
            "braked; a model answers with trajectories after training with --kinds plan,trajectory",
            file=sys.stderr,
        )


def drivers_of(args: DriveArguments) -> list[str]:
    """Return the drivers: those of ``--driver``, or all that the other flags allow. Raises UsageError."""
    if args.driver is not None:
        return _known("driver", args.driver)
    left_out = {*([] if args.model else MODELS), *([] if args.train_data else ["tree"])}
    return [name for name in ALL.split(",") if name not in left_out]


def _known(name: str, words: str) -> list[str]:
    chosen = list(dict.fromkeys(word.strip() for word in words.split(",")))
    if unknown := [word for word in chosen if word not in ALL.split(",")]:
        raise UsageError(f"--{name} {unknown[0]} is unknown", remedy=f"use some of {ALL}")
    return chosen


def _check(args: DriveArguments, names: list[str]) -> None:
    from senna.decision import open_decision
    from senna.synthetic.world.sensors import image_size

    if not 1 <= args.scenes <= MOST_SCENARIOS:
        raise UsageError(f"--scenes {args.scenes} is not possible", remedy=f"use 1 to {MOST_SCENARIOS}")
    if not 0 <= args.seed < 2**31:
        raise UsageError(f"--seed {args.seed} is not possible", remedy="use 0 or more")
    if args.follow not in FOLLOWS:
        raise UsageError(f"--follow {args.follow} is unknown", remedy=f"use one of {', '.join(FOLLOWS)}")
    image_size(args.image_width)  # checks it
    if not 0.5 <= args.time_limit <= 600:
        raise UsageError(f"--time-limit {args.time_limit:g} is out of range", remedy="use 0.5 to 600")
    if args.workers is not None and args.workers < 1:
        raise UsageError(f"--workers {args.workers} is too small", remedy="use at least 1")
    if not 0.1 <= args.fps <= 60:
        raise UsageError(f"--fps {args.fps:g} is out of range", remedy="use 0.1 to 60")
    if set(names) & set(MODELS) and not args.model:
        raise UsageError(
            "--model is missing", remedy="give --model, or drivers without a model: --driver expert,labels,keep"
        )
    if "tree" in names and not args.train_data:
        raise UsageError(
            "--driver tree needs --train-data", remedy="give the training records, or leave out the driver tree"
        )
    if set(names) & set(MODELS):
        check_model(str(args.model), args.base, args.device, args.decision)
    else:
        open_decision(args.decision, args.model, args.base)


def check_model(model: str, base: str | None, device: str, decision: str) -> None:
    """Raise UsageError where there is no such model, device or decision rule, before anything is loaded."""
    from senna.decision import open_decision
    from senna.model.loading import check_device
    from senna.model.source import ModelSource

    open_decision(decision, model, base)
    _ = ModelSource.resolve(model, base).config
    if device != "auto":
        check_device(device)


def _settings(args: DriveArguments) -> dict[str, Any]:
    """Return everything that determines a drive, for OUT/run.json; further scenarios and drivers are added to a run."""
    settings: dict[str, Any] = {
        name: getattr(args, name) for name in ("seed", "time_limit", "image_width", "decision", "follow", "base")
    }
    settings |= {"model": args.model and absolute(args.model), "version": VERSION}
    settings["model_files"] = model_content(args.model, args.base) if args.model else ""
    if args.model:
        from senna.decision import DECISION_FILE

        settings["decision_file"] = file_content(Path(args.model) / DECISION_FILE)
    return settings | {"train_data": file_content(args.train_data) if args.train_data else ""}


def training_plans(path: str) -> list[tuple[str | None, float | None, str, str]]:
    """Return command, speed, SPEED and PATH of every plan of a file of records. Raises UsageError where it has none."""
    from senna.evaluate.command import choose
    from senna.evaluate.metrics.plan_prompt import situation_of
    from senna.kinds import PLAN
    from senna.meta_actions import parse_meta_action
    from senna.record_file import open_records

    records = open_records(path)
    plans = []
    for index in choose(records, PLAN, None):
        record = records[index]
        turns = record["conversations"]
        action = parse_meta_action(turns[-1]["value"])
        if action is not None and len(turns) > 1:
            situation = situation_of(record, turns[-2]["value"])
            plans.append((situation.command, situation.speed, action.speed, action.path))
    if not plans:
        raise UsageError(f"--train-data: {path} has no plan", remedy="give records of `senna convert`")
    return plans


def _drive(
    args: DriveArguments, missing: list[tuple[str, int]], filmed: list[str], form: str | None, plans: list[Any]
) -> None:
    from tqdm import tqdm

    from senna.drive.work import Job, work
    from senna.synthetic.workers import worker_lines

    job = Job(
        str(Path(args.out).resolve()), args.seed, args.time_limit, args.image_width, missing, filmed, form, args.fps,
        args.model, args.base, _device(args, missing), args.decision, args.follow, plans,
    )  # fmt: skip
    workers = min(args.workers or (1 if job.device.startswith("cuda") else available_cores()), len(missing))
    with tempfile.TemporaryDirectory() as folder:
        if workers == 1:  # another process would only load torch once more
            lines = work(job, range(len(missing)))
        else:
            settings = Path(folder) / "job.json"  # too long for a command line with the plans of the tree
            settings.write_text(json.dumps(asdict(job)), encoding="utf-8")
            lines = worker_lines("senna.drive.work", [str(settings)], len(missing), workers)
        bar = tqdm(lines, total=len(missing), desc="driving", unit="drive")
        for line in bar:
            bar.set_postfix_str(line)


def _device(args: DriveArguments, missing: list[tuple[str, int]]) -> str:
    """Return the device, so that ``auto`` is settled before the number of processes is."""
    if args.device != "auto" or not any(name in MODELS for name, _ in missing):
        return args.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
