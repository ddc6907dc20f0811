"""`senna convert`: convert nuScenes to QA records."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senna.errors import UsageError
from senna.flags import flag, parse_flags

if TYPE_CHECKING:
    from senna.convert.captioners import Captioner
    from senna.convert.pipeline import Source
    from senna.templates import Templates

WORK = ".convert"  # the work folder in OUT: the settings of the run, and its frames until the shards are joined
FORMS = ("jsonl", "json")


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
    limit: int | None = flag("convert only the first LIMIT frames", None)
    shard: str = flag(
        "I/N: convert the I-th of N shards, counted from 1; the processes share one OUT, and the last one joins the shards",
        "1/1",
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
    args = parse_flags(
        ConvertArguments,
        argv,
        "senna convert",
        "Convert nuScenes to questions and answers: OUT/senna_nusc_train.jsonl and OUT/senna_nusc_val.jsonl, with a quality "
        "report in OUT/quality.json and OUT/quality.html. To resume an interrupted run, give the same command again: no "
        "finished frame is lost or converted twice.",
    )
    return run(args)


def run(args: ConvertArguments) -> int:
    """Convert a data set and return the exit code. Raises SennaError."""
    from senna.convert.join import is_joined
    from senna.convert.nuscenes_tables import scenes_of
    from senna.convert.shards import parse_shard
    from senna.run_folder import RUN_FILE, check_same_run, read_settings
    from senna.templates import load_templates

    _check_flags(args)
    _, shards = parse_shard(args.shard)
    templates = load_templates(args.prompts)
    out, splits = Path(args.out), scenes_of(args.nuscenes, args.version)
    captioner = _captioner(args, out)
    settings = _settings(args, captioner, shards, templates)
    check_same_run(out, read_settings(out / WORK / RUN_FILE), settings, remedy=_start_again(out))
    if is_joined(out / WORK):
        print(f"{out} is complete; to convert again, delete {out / WORK} and the files beside it")
        return 0
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
    if args.version == "v1.0-test" and args.captioner == "annotations":
        raise UsageError(
            "v1.0-test has no annotations to compose answers from", remedy="use a model: --captioner llava or openai"
        )


def _start_again(out: Path) -> str:
    return f"give another --out, or delete {out / WORK} and the files beside it to start again"


def _convert(
    args: ConvertArguments,
    splits: dict[str, list[str]],
    settings: dict[str, Any],
    captioner: "Captioner",
    templates: "Templates",
) -> int:
    from senna.convert.can_bus import can_bus_folder
    from senna.convert.frames import load_tables
    from senna.convert.pipeline import Images, Source, check_images, convert_shard
    from senna.convert.shards import parse_shard, select_scenes, shard_of
    from senna.run_folder import claim

    root, out = Path(args.nuscenes), Path(args.out)
    shard, shards = parse_shard(args.shard)
    can_bus = can_bus_folder(Path(args.canbus) if args.canbus else None, root)
    _refuse_foreign_files(out, args)
    tables = load_tables(root, args.version)
    source, images = Source(tables, can_bus, args.compat), Images(root)
    selected = select_scenes(tables, splits, args.limit)
    scenes = shard_of(selected, shard, shards)
    # All shards must agree on what is left out, so that they look at the images of all scenes.
    checked = selected if args.allow_missing_images else scenes
    leave_out = check_images(source, checked, images, args.allow_missing_images)
    claim(out / WORK, settings, remedy=_start_again(out), where=out)
    total = sum(scene.frames for scene in scenes)
    which = f", shard {shard} of {shards}" if shards > 1 else ""
    print(f"{total} frames of {len(scenes)} scenes{which} -> {out}", flush=True)
    folders = [out / WORK / f"shard-{number}-of-{shards}" for number in range(1, shards + 1)]
    convert_shard(source, scenes, folders[shard - 1], captioner, templates, images, args.max_refused, leave_out)
    return _finish(args, source, captioner, folders)


def _finish(args: ConvertArguments, source: "Source", captioner: "Captioner", shards: list[Path]) -> int:
    """Join the shards where all are complete, and print a summary."""
    from senna.convert.join import clear, is_joined, join, report
    from senna.convert.journal import is_finished
    from senna.file_lock import lock_folder

    out = Path(args.out)
    with lock_folder(out / WORK, "lock", remedy=_start_again(out), wait=True):  # the shards end at about the same time
        if is_joined(out / WORK):
            return 0  # another process finished its shard at the same time and has joined all shards
        if unfinished := [shard.name for shard in shards if not is_finished(shard)]:
            print(f"this shard is complete; the files are written when these are complete too: {', '.join(unfinished)}")
            return 0
        files = join(shards, out, args.name, args.format)
        counts = report(shards, out, source, f"captions by {captioner.name}")
        clear(out / WORK, shards)
    for split, path in files.items():
        print(f"{path}  {counts['frames'][split]} frames, {counts['records'][split]} records")
    missing = f", {counts['missing_images']} image files missing" if counts["missing_images"] else ""
    if counts["frames_left_out"]:
        missing += f", {counts['frames_left_out']} frames left out because of that"
    print(f"{out / 'quality.html'}  {counts['frames_flagged']} frames flagged{missing}")
    return 0


def _captioner(args: ConvertArguments, out: Path) -> "Captioner":
    from senna.convert.captioners import make_captioner

    batch: str | int = args.captioner_batch
    if batch != "auto":
        if not batch.isdecimal() or int(batch) < 1:
            raise UsageError(f"--captioner-batch {batch} is not a batch size", remedy="give auto or a number from 1")
        batch = int(batch)
    return make_captioner(
        args.captioner,
        model=args.captioner_model,
        batch=batch,
        quantization=args.captioner_quantization,
        server=args.server,
        concurrency=args.concurrency,
        max_tokens=args.captioner_max_tokens,
        cache=Path(args.captions_cache) if args.captions_cache else out / "captions.sqlite",
    )


def _settings(args: ConvertArguments, captioner: "Captioner", shards: int, templates: "Templates") -> dict[str, Any]:
    """Return everything that determines the records of a run; a resumed run must have the same settings."""
    from senna.run_folder import fingerprint

    root = Path(args.nuscenes) / args.version
    tables = [(root / name).read_bytes() for name in ("scene.json", "sample.json") if (root / name).is_file()]
    return {
        "--version": args.version,
        "tables": fingerprint(*tables),
        "--canbus": bool(args.canbus) or (Path(args.nuscenes) / "can_bus").is_dir(),
        "--captioner": captioner.name,
        "--captioner-max-tokens": args.captioner_max_tokens,
        "--prompts": fingerprint(json.dumps(templates).encode()),
        "--compat": args.compat,
        "--limit": args.limit,
        "--format": args.format,
        "--name": args.name,
        "shards": shards,
    }


def _refuse_foreign_files(out: Path, args: ConvertArguments) -> None:
    """Raise UsageError where OUT has a record file but no work folder, so that no run here can have written it."""
    from senna.convert.shards import SPLITS, output_path

    for path in (output_path(out, args.name, split, args.format) for split in SPLITS):
        if path.exists() and not (out / WORK).is_dir():
            raise UsageError(
                f"{path} exists already and belongs to no run that could be resumed",
                remedy="give another --out, or move the file",
            )
