"""`senna convert`: nuScenes to QA records."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senna.errors import UsageError
from senna.flags import flag, parse_flags

if TYPE_CHECKING:
    from senna.convert.captioners import Captioner
    from senna.convert.pipeline import Source
    from senna.templates import Templates

WORK = ".convert"  # in OUT: what the run is, and its frames until they are joined
FORMS = ("jsonl", "json")


@dataclass
class ConvertArguments:
    """Flags of `senna convert`."""

    nuscenes: str = flag("nuScenes' folder, with samples/ and v1.0-trainval/ or the like")
    out: str = flag("the folder to make")
    version: str = flag("the tables' version: v1.0-trainval, v1.0-mini or v1.0-test", "v1.0-trainval")
    canbus: str | None = flag(
        "the folder that holds can_bus/; without, the data set's own, or else speeds from poses", None
    )
    captioner: str = flag(
        "who answers what the tables do not say: annotations (no model), llava or openai", "annotations"
    )
    captioner_model: str | None = flag("llava: folder or hub name; openai: the server's name of its model", None)
    captioner_batch: str = flag("llava: pictures at once; auto halves itself when memory runs out", "auto")
    captioner_quantization: str = flag("llava: nf4, int8, bf16, fp16 or fp32", "nf4")
    captioner_max_tokens: int = flag("the longest answer of a model", 256)
    server: str | None = flag(
        "openai: the server's address, as http://localhost:8000/v1; its key in OPENAI_API_KEY", None
    )
    concurrency: int = flag("openai: requests under way at the same time", 16)
    captions_cache: str | None = flag(
        "where a model's answers are kept, so that none is asked twice (OUT/captions.sqlite)", None
    )
    limit: int | None = flag("the first frames only", None)
    shard: str = flag(
        "I/N: the I-th of N shards, from 1; N processes share one OUT, and the last to end joins them", "1/1"
    )
    prompts: str | None = flag("another file of texts, of the form of senna/templates.yaml", None)
    compat: str | None = flag("original: the published order of images, navigation command and STOP speed", None)
    format: str = flag("jsonl, or json for the published list", "jsonl")
    name: str = flag("how the names of the record files begin", "senna_nusc")
    allow_missing_images: bool = flag("go on where image files are missing, and count them", False)


def main(argv: list[str]) -> int:
    """Entry point of `senna convert`. Returns the exit code."""
    args = parse_flags(
        ConvertArguments,
        argv,
        "senna convert",
        "Turn nuScenes into questions and answers: OUT/senna_nusc_train.jsonl, OUT/senna_nusc_val.jsonl, and on their "
        "quality OUT/quality.json and OUT/quality.html. A run that was stopped goes on where it stood when the same command "
        "is given again: no finished frame is lost, none is made twice.",
    )
    return run(args)


def run(args: ConvertArguments) -> int:
    """Convert as told. Raises SennaError."""
    from senna.convert.frames import COMPATS
    from senna.convert.nuscenes_tables import scenes_of
    from senna.convert.shards import compare, parse_shard
    from senna.templates import load_templates

    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit}: at least 1")
    if args.format not in FORMS:
        raise UsageError(f"--format {args.format}: one of {', '.join(FORMS)}")
    if not args.name or Path(args.name).name != args.name:
        raise UsageError(f"--name {args.name}: the beginning of a file's name, without a folder")
    if args.compat not in (None, *COMPATS):
        raise UsageError(f"--compat {args.compat}: one of {', '.join(COMPATS)}")
    if args.version == "v1.0-test" and args.captioner == "annotations":
        raise UsageError("v1.0-test has no annotations to write answers from; ask a model: --captioner llava or openai")
    _, shards = parse_shard(args.shard)
    templates = load_templates(args.prompts)
    out, splits = Path(args.out), scenes_of(args.nuscenes, args.version)
    captioner = _captioner(args, out)
    settings = _settings(args, captioner, shards, templates)
    compare(out / WORK, settings)
    if _joined(out / WORK):
        print(f"{out} is complete; delete {out / WORK} and the files beside it to make it anew")
        return 0
    return _convert(args, splits, settings, captioner, templates)


def _convert(
    args: ConvertArguments,
    splits: dict[str, list[str]],
    settings: dict[str, Any],
    captioner: "Captioner",
    templates: "Templates",
) -> int:
    from senna.convert.can_bus import can_bus_folder
    from senna.convert.frames import load_tables
    from senna.convert.pipeline import Images, Source, check_images, convert_part
    from senna.convert.shards import claim, parse_shard, plan_scenes, shard_of

    root, out = Path(args.nuscenes), Path(args.out)
    shard, shards = parse_shard(args.shard)
    can_bus = can_bus_folder(Path(args.canbus) if args.canbus else None, root)
    _refuse_strange_files(out, args)
    tables = load_tables(root, args.version)
    source, images = Source(tables, can_bus, args.compat), Images(root)
    scenes = shard_of(plan_scenes(tables, splits, args.limit), shard, shards)
    if not args.allow_missing_images:
        check_images(source, scenes, images)
    claim(out / WORK, settings)
    total = sum(scene.frames for scene in scenes)
    print(
        f"{total} frames of {len(scenes)} scenes{f', shard {shard} of {shards}' if shards > 1 else ''} -> {out}",
        flush=True,
    )
    parts = [out / WORK / f"shard-{one}-of-{shards}" for one in range(1, shards + 1)]
    convert_part(source, scenes, parts[shard - 1], captioner, templates, images)
    return _finish(args, source, captioner, parts)


def _finish(args: ConvertArguments, source: "Source", captioner: "Captioner", parts: list[Path]) -> int:
    from senna.convert.join import clear, join, report
    from senna.convert.journal import is_finished

    out = Path(args.out)
    with _alone(out / WORK):
        if _joined(out / WORK):
            return 0  # another shard ended at the same moment, and did it
        if waiting := [part.name for part in parts if not is_finished(part)]:
            print(f"this shard is complete; the files come when these are too: {', '.join(waiting)}")
            return 0
        made = join(parts, out, args.name, args.format)
        counts = report(parts, out, source, f"captions by {captioner.name}")
        clear(out / WORK, parts)
    for split, path in made.items():
        print(f"{path}  {counts['frames'][split]} frames, {counts['records'][split]} records")
    missing = f", {counts['missing_images']} image files missing" if counts["missing_images"] else ""
    print(f"{out / 'quality.html'}  {counts['frames_flagged']} frames flagged{missing}")
    return 0


def _captioner(args: ConvertArguments, out: Path) -> "Captioner":
    from senna.convert.captioners import make_captioner

    batch: str | int = args.captioner_batch
    if batch != "auto":
        if not batch.isdecimal() or int(batch) < 1:
            raise UsageError(f"--captioner-batch {batch}: auto, or a number of pictures")
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
    """What makes a run's records what they are: one that goes on must have the same."""
    from senna.convert.shards import fingerprint

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


def _joined(work: Path) -> bool:
    from senna.convert.shards import JOINED

    return (work / JOINED).is_file()


def _refuse_strange_files(out: Path, args: ConvertArguments) -> None:
    from senna.convert.shards import SPLITS, output_path

    for path in (output_path(out, args.name, split, args.format) for split in SPLITS):
        if path.exists() and not (out / WORK).is_dir():
            raise UsageError(
                f"{path} is there already, and not from a run that can go on; give another --out or move it"
            )


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Wait until no other shard joins."""
    import fcntl

    lock = os.open(work / "lock", os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
