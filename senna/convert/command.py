"""`senna convert`: convert nuScenes to QA records."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senna.errors import UsageError
from senna.flags import flag, parse_flags

if TYPE_CHECKING:
    from senna.convert.captioners import Captioner
    from senna.convert.frames import Source
    from senna.convert.images import Images
    from senna.convert.pipeline import Engine
    from senna.templates import Templates

WORK = ".convert"  # the work folder in OUT: the settings of the run, and its frames until the files are written
FRAMES = "frames"  # in the work folder
FORMS = ("jsonl", "json")
_TRAJECTORIES = "trajectories"  # the setting that earlier versions do not have


@dataclass
class ConvertArguments:
    """Flags of `senna convert`."""

    nuscenes: str = flag("nuScenes' folder, with samples/ and v1.0-trainval/ or another version")
    out: str = flag("the output folder")
    version: str = flag("version of the tables: v1.0-trainval, v1.0-mini or v1.0-test", "v1.0-trainval")
    canbus: str | None = flag(
        "the folder that contains can_bus/ (default: can_bus/ of NUSCENES; without one, speeds come from poses)", None
    )
    captioner: str = flag(
        "what answers the questions that the tables do not answer: annotations (no model), llava or openai",
        "annotations",
    )
    captioner_model: str | None = flag("llava: folder or hub name; openai: the server's name for its model", None)
    captioner_batch: str = flag("llava: requests in a batch; auto halves it when memory runs out", "auto")
    captioner_quantization: str = flag("llava: nf4, int8, bf16, fp16 or fp32", "nf4")
    captioner_max_tokens: int = flag("maximum length of a model's answer in tokens", 256)
    server: str | None = flag(
        "openai: the server's address, for example http://localhost:8000/v1, or several of one model with commas between them; "
        "the key is read from OPENAI_API_KEY",
        None,
    )
    concurrency: int = flag("openai: number of simultaneous requests to each server", 16)
    max_refused: str = flag(
        "openai: images that the server may refuse (status 400) before the run stops, as a number or a percentage; they are "
        "marked in the quality report",
        "1%",
    )
    captions_cache: str | None = flag(
        "file that stores a model's answers, so that no question is asked twice (default: OUT/captions.sqlite)", None
    )
    dev_scenes: int = flag(
        "scenes of the training split to write to a file of their own for `senna calibrate`: OUT/senna_nusc_dev.jsonl",
        0,
    )
    limit: int | None = flag("convert only the first LIMIT frames", None)
    ray: str | None = flag(
        "work in many processes: alone on all of this machine (a captioner on each GPU), with the address of a Ray cluster, or "
        "auto, on the cluster of this node",
        None,
        alone="local",
    )
    captioners: int | None = flag(
        "--ray: number of captioners (default: llava as many as the GPUs allow, also those that join later; openai 2, each "
        "with its own --concurrency)",
        None,
    )
    gpus_per_captioner: int | None = flag("--ray, llava: GPUs of each captioner (default: 1); 0 runs it on CPUs", None)
    workers: int | None = flag(
        "--ray: number of processes that load the tables and compute frames (default: with annotations one for each CPU, at "
        "most 16; with a model 1)",
        None,
    )
    window: int | None = flag("--ray: most frames in progress (default: twice what keeps the captioners busy)", None)
    ray_wait: float | None = flag(
        "--ray: seconds to wait for the GPUs and CPUs of the cluster before giving up (default: 300)", None
    )
    prompts: str | None = flag("another file of question and answer texts, in the format of senna/templates.yaml", None)
    compat: str | None = flag("original: published order of images, navigation command and STOP speed", None)
    format: str = flag("jsonl, or json for the published list", "jsonl")
    name: str = flag("prefix of the names of the record files", "senna_nusc")
    allow_missing_images: bool = flag(
        "continue where image files are missing, and count them; frames that lack one are left out (not where there are no "
        "images at all: then the tables alone are converted)",
        False,
    )


def main(argv: list[str]) -> int:
    """Run `senna convert` and return the exit code."""
    if any(word.partition("=")[0] == "--shard" for word in argv):
        raise UsageError(
            "--shard is replaced by --ray, which divides the work by itself",
            remedy="one machine with several GPUs: --ray; a cluster: --ray HOST:PORT or --ray auto (data_tools/README.md)",
        )
    args = parse_flags(
        ConvertArguments,
        argv,
        "senna convert",
        "Convert nuScenes to questions and answers: OUT/senna_nusc_train.jsonl and OUT/senna_nusc_val.jsonl, beside each the "
        "futures that the metrics of trajectories need (.futures.jsonl), with a quality report in OUT/quality.json and "
        "OUT/quality.html. To resume an interrupted run, give the same command again: no finished frame is lost or "
        "converted twice.",
    )
    return run(args)


def run(args: ConvertArguments) -> int:
    """Convert a data set and return the exit code. Raises SennaError."""
    from senna.convert.captioners import make_captioner
    from senna.convert.nuscenes_tables import scenes_of
    from senna.convert.output import is_complete
    from senna.convert.scenes import split_off_dev
    from senna.run_folder import RUN_FILE, check_same_run, read_settings
    from senna.templates import load_templates

    _check_flags(args)
    templates = load_templates(args.prompts)
    out, splits = Path(args.out), split_off_dev(scenes_of(args.nuscenes, args.version), args.dev_scenes)
    captioner = make_captioner(**_captioner_arguments(args), cache=_cache_path(args))
    settings = _settings(args, captioner, templates)
    stored = read_settings(out / WORK / RUN_FILE)
    if stored and stored.get("shards") == 1:  # of an earlier version, which could divide a run; this one was not
        del stored["shards"]
    is_earlier = bool(stored) and _TRAJECTORIES not in stored  # of a version that wrote no trajectories
    if is_earlier and is_complete(out / WORK):
        settings.pop(_TRAJECTORIES)
    elif is_earlier:
        raise UsageError(
            f"{out} holds an unfinished run of an earlier version, which wrote no trajectories",
            remedy=_start_again(out),
        )
    check_same_run(out, stored, settings, remedy=_start_again(out))
    if is_complete(out / WORK):
        earlier = " (of an earlier version, without trajectories)" if is_earlier else ""
        print(f"{out} is complete{earlier}; to convert again, delete {out / WORK} and the files beside it")
        return 0
    with _connected(args):
        return _convert(args, splits, settings, captioner, templates)


def _check_flags(args: ConvertArguments) -> None:
    from senna.convert.caption_limits import allowed_refusals
    from senna.convert.frames import COMPATS

    allowed_refusals(args.max_refused, 0)
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit} is too small", remedy="give at least 1")
    if args.format not in FORMS:
        raise UsageError(f"--format {args.format} is unknown", remedy=f"use one of {', '.join(FORMS)}")
    if not args.name or Path(args.name).name != args.name:
        raise UsageError(f"--name {args.name} is not a file name", remedy="give a file name prefix without a folder")
    if args.compat not in (None, *COMPATS):
        raise UsageError(f"--compat {args.compat} is unknown", remedy=f"use one of {', '.join(COMPATS)}")
    _check_ray_flags(args)
    if args.version == "v1.0-test" and args.captioner == "annotations":
        raise UsageError(
            "v1.0-test has no annotations to compose answers from", remedy="use a model: --captioner llava or openai"
        )


def _check_ray_flags(args: ConvertArguments) -> None:
    for name, least in {"captioners": 1, "gpus_per_captioner": 0, "workers": 1, "window": 1, "ray_wait": 0.001}.items():
        value, spelling = getattr(args, name), f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if args.ray is None:
            raise UsageError(f"{spelling} {value} needs --ray", remedy="add --ray, or leave it out")
        if not value >= least:
            raise UsageError(f"{spelling} {value} is too small", remedy=f"give at least {least}")
        if name in ("captioners", "gpus_per_captioner", "window") and args.captioner == "annotations":
            raise UsageError(
                f"{spelling} {value} needs a model", remedy="add --captioner llava or openai, or leave it out"
            )
    if args.gpus_per_captioner and args.captioner == "openai":
        raise UsageError(
            f"--gpus-per-captioner {args.gpus_per_captioner} is for a model on this machine or cluster",
            remedy="leave it out, or use --captioner llava",
        )


def _start_again(out: Path) -> str:
    return f"give another --out, or delete {out / WORK} and the files beside it to start again"


@contextmanager
def _connected(args: ConvertArguments) -> Iterator[None]:
    if args.ray is None:
        yield
        return
    from senna.convert.ray_cluster import connected

    with connected(args.ray):
        yield


def _convert(
    args: ConvertArguments,
    splits: dict[str, list[str]],
    settings: dict[str, Any],
    captioner: "Captioner",
    templates: "Templates",
) -> int:
    from senna.convert.can_bus import can_bus_folder
    from senna.convert.frames import Source, load_tables
    from senna.convert.images import Images, check_images
    from senna.convert.output import mark_complete
    from senna.convert.pipeline import convert_frames
    from senna.convert.scenes import select_scenes
    from senna.run_folder import claim

    root, out = Path(args.nuscenes), Path(args.out)
    can_bus = can_bus_folder(Path(args.canbus) if args.canbus else None, root)
    _refuse_foreign_files(out, args)
    source = Source(load_tables(root, args.version), can_bus, args.compat)
    images = Images(root)
    scenes = select_scenes(source.tables, splits, args.limit)
    leave_out = check_images(source.tables, scenes, images, args.allow_missing_images)
    claim(out / WORK, settings, remedy=_start_again(out), where=out)
    print(f"{sum(scene.frames for scene in scenes)} frames of {len(scenes)} scenes -> {out}", flush=True)
    engine = _engine(args, source, images, captioner, templates, leave_out)
    frames = out / WORK / FRAMES
    convert_frames(source.tables, scenes, frames, engine, args.max_refused)
    _write_output(args, source, captioner, frames)
    mark_complete(out / WORK, frames)
    return 0


def _engine(
    args: ConvertArguments,
    source: "Source",
    images: "Images",
    captioner: "Captioner",
    templates: "Templates",
    leave_out: bool,
) -> "Engine":
    from senna.convert.captioners import ANNOTATIONS
    from senna.convert.pipeline import LocalEngine, Preparer

    is_model = captioner.name != ANNOTATIONS
    if args.ray is None:
        return LocalEngine(Preparer(source, templates, images, is_model, leave_out), captioner)
    from senna.convert.on_ray import RayEngine, RayOptions
    from senna.convert.ray_workers import FrameSettings

    root = images.dataroot.absolute()  # Ray's processes work in another folder
    can_bus = source.can_bus and source.can_bus.absolute()
    settings = FrameSettings(root, args.version, can_bus, args.compat, templates, args.captioner, leave_out)
    arguments = _captioner_arguments(args)
    if args.captioner == "openai":
        arguments["model"] = captioner.name.partition(":")[2]  # asked once, here
    options = RayOptions(args.ray, args.captioners, args.gpus_per_captioner, args.workers, args.window, args.ray_wait)
    return RayEngine(settings, captioner if is_model else None, arguments, _cache_path(args), options)


def _write_output(args: ConvertArguments, source: "Source", captioner: "Captioner", frames: Path) -> None:
    """Write the files of OUT from the finished frames, and print a summary."""
    from senna.convert.output import write_files, write_futures, write_report

    out = Path(args.out)
    files = write_files(frames, out, args.name, args.format)
    write_futures(frames, files)
    counts = write_report(frames, out, source, f"captions by {captioner.name}")
    for split, path in files.items():
        print(f"{path}  {counts['frames'][split]} frames, {counts['records'][split]} records")
    missing = f", {counts['missing_images']} image files missing" if counts["missing_images"] else ""
    if counts["frames_left_out"]:
        missing += f", {counts['frames_left_out']} frames left out because of that"
    print(f"{out / 'quality.html'}  {counts['frames_flagged']} frames flagged{missing}")


def _captioner_arguments(args: ConvertArguments) -> dict[str, Any]:
    """Return the arguments of ``make_captioner``."""
    batch: str | int = args.captioner_batch
    if batch != "auto":
        if not batch.isdecimal() or int(batch) < 1:
            raise UsageError(f"--captioner-batch {batch} is not a batch size", remedy="give auto or a number from 1")
        batch = int(batch)
    return {
        "name": args.captioner,
        "model": args.captioner_model,
        "batch": batch,
        "quantization": args.captioner_quantization,
        "server": args.server,
        "concurrency": args.concurrency,
        "max_tokens": args.captioner_max_tokens,
    }


def _cache_path(args: ConvertArguments) -> Path:
    return Path(args.captions_cache) if args.captions_cache else Path(args.out) / "captions.sqlite"


def _settings(args: ConvertArguments, captioner: "Captioner", templates: "Templates") -> dict[str, Any]:
    """Return everything that determines the records of a run; a resumed run must have the same settings."""
    from senna.kinds import is_on_request
    from senna.run_folder import fingerprint

    later = {name: texts for name, texts in templates.items() if is_on_request(name)}
    first = {name: texts for name, texts in templates.items() if name not in later}
    root = Path(args.nuscenes) / args.version
    tables = [(root / name).read_bytes() for name in ("scene.json", "sample.json") if (root / name).is_file()]
    # Earlier versions, whose runs can be continued, have no setting of this name.
    dev: dict[str, Any] = {"--dev-scenes": args.dev_scenes} if args.dev_scenes else {}
    return dev | {
        "--version": args.version,
        "tables": fingerprint(*tables),
        "--canbus": bool(args.canbus) or (Path(args.nuscenes) / "can_bus").is_dir(),
        "--captioner": captioner.name,
        "--captioner-max-tokens": args.captioner_max_tokens,
        "--prompts": fingerprint(json.dumps(first).encode()),
        _TRAJECTORIES: fingerprint(json.dumps(later).encode()),
        "--compat": args.compat,
        "--limit": args.limit,
        "--format": args.format,
        "--name": args.name,
    }


def _refuse_foreign_files(out: Path, args: ConvertArguments) -> None:
    """Raise UsageError where OUT has a record file but no work folder, so that no run here can have written it."""
    from senna.convert.scenes import SPLITS, output_path

    for path in (output_path(out, args.name, split, args.format) for split in SPLITS):
        if path.exists() and not (out / WORK).is_dir():
            raise UsageError(
                f"{path} exists already and belongs to no run that could be resumed",
                remedy="give another --out, or move the file",
            )
