"""`senna visualize`: a picture a key frame, a film a scene."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senna.errors import UsageError
from senna.files import stamp
from senna.flags import flag, parse_flags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from senna.record_file import RecordFile
    from senna.visualize.album import Album, Ask
    from senna.visualize.key_frames import KeyFrame

FILMS = ".films.json"  # in OUT: of which pictures each film is


@dataclass
class VisualizeArguments:
    """Flags of `senna visualize`."""

    data: str = flag("the records to show: .jsonl or .json")
    out: str = flag("the folder to make: SCENE_0001.png and so on, SCENE.mp4 or .gif")
    model: str | None = flag("folder or hub name of a model, or a LoRA folder; not needed with --predictions", None)
    predictions: str | None = flag("predictions.jsonl of `senna evaluate`: shows these instead of asking a model", None)
    image_folder: str | None = flag("where image paths start (default: beside the data)", None)
    limit: int | None = flag("the first frames only", None)
    scene: str | None = flag("this scene only (its scene_token)", None)
    describe: bool = flag("the model also describes the front view, which takes seconds a frame at 7B", False)
    film: str = flag("a film of each scene: mp4 (needs ffmpeg), gif, none, or auto: mp4 where ffmpeg is", "auto")
    fps: float = flag("frames a second of the films", 2.0)
    overwrite: bool = flag("draw every picture anew, also where OUT holds those of another model", False)
    prompts: str | None = flag(
        "the file of question texts for frames without a plan (as `senna convert --prompts`)", None
    )
    version: str = flag("the prompt format", "v1")
    max_new_tokens: int = flag("the longest description", 256)
    base: str | None = flag("the base of a LoRA folder, where it has moved", None)
    quantization: str | None = flag("nf4 or int8: the LLM in 4 or 8 bits", None)
    device: str = flag("auto is the GPU where there is one; cpu, cuda, cuda:1", "auto")


def main(argv: list[str]) -> int:
    """Entry point of `senna visualize`. Returns the exit code."""
    args = parse_flags(
        VisualizeArguments,
        argv,
        "senna visualize",
        "Draw what a model says of a drive: a picture a key frame (six views, the predicted and the true plan with their "
        "probabilities, the description, the path driven next laid on the road) and a film a scene. A run that was stopped "
        "goes on where it stood when the same command is given again; pictures that are there stay.",
    )
    return run(args)


def run(args: VisualizeArguments) -> int:
    """Draw as told. Raises SennaError."""
    from senna.record_file import open_records
    from senna.templates import load_templates
    from senna.visualize.album import Album
    from senna.visualize.film import film_form
    from senna.visualize.key_frames import key_frames
    from senna.visualize.png_store import missing

    _check(args)
    form, templates = film_form(args.film), load_templates(args.prompts)
    records, out = open_records(args.data), Path(args.out)
    frames = choose(key_frames(records), args)
    folders = [Path(folder) for folder in (args.image_folder, records.path.parent) if folder]
    _check_images(frames, folders)
    settings, paths = _settings(args), {out / f"{frame.name}.png": frame for frame in frames}
    wanted = set(paths) if args.overwrite else missing(paths, settings)
    todo = {path: frame for path, frame in paths.items() if path in wanted}
    ask = _asker(args, records) if todo else None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror or error}") from None
    album = Album(records, folders, templates, ask, args.describe)
    lacking = _draw(album, todo, settings)
    films = _films(paths, out, form, args.fps) if form else []
    told = f"{out}: {len(paths)} pictures, {len(todo)} of them drawn now"
    print(f"{told}; {len(films)} film{'' if len(films) == 1 else 's'}" if form else told)
    if lacking:
        print(f"{len(album.problems)} images could not be read, in {lacking} frames; the first: {album.problems[0]}")
    return 0


def choose(frames: "list[KeyFrame]", args: VisualizeArguments) -> "list[KeyFrame]":
    """The frames that the flags ask for. Raises UsageError where there are none."""
    if not frames:
        raise UsageError(f"{args.data}: no record has an image: there is nothing to show")
    if args.scene is not None:
        scenes = list(dict.fromkeys(frame.scene for frame in frames))
        frames = [frame for frame in frames if frame.scene == args.scene]
        if not frames:
            named = ", ".join(filter(None, scenes[:5])) or "none, its records have no scene_token"
            more = f" and {len(scenes) - 5} more" if len(scenes) > 5 else ""
            raise UsageError(f"--scene {args.scene}: {args.data} has no such scene; it has {named}{more}")
    return frames[: args.limit]


def _check(args: VisualizeArguments) -> None:
    if args.model is None and args.predictions is None:
        raise UsageError("--model is missing (or --predictions, to show what `senna evaluate` wrote down)")
    if args.describe and args.model is None:
        raise UsageError("--describe asks the model: give --model too")
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit}: at least 1")
    if not 0.1 <= args.fps <= 60:
        raise UsageError(f"--fps {args.fps:g}: from 0.1 to 60")
    if args.quantization not in (None, "nf4", "int8"):
        raise UsageError(f"--quantization {args.quantization}: nf4 or int8")


def _check_images(frames: "list[KeyFrame]", folders: list[Path]) -> None:
    """One missing image is a grey tile; that all are missing is a wrong folder."""
    from senna.visualize.key_frames import find_image

    if not any(find_image(path, folders).is_file() for frame in frames for path in frame.paths.values()):
        first = next(iter(frames[0].paths.values()))
        raise UsageError(
            f"none of the images is there; the first is looked for as {' and as '.join(str(f / first) for f in folders)}: "
            "name the folder in which their paths start with --image-folder"
        )


def _settings(args: VisualizeArguments) -> dict[str, Any]:
    """What decides the pictures: noted in each, so that those of two models are never mixed."""
    names = ("model", "predictions", "describe", "prompts", "version", "max_new_tokens", "base", "quantization")
    settings = {f"--{name.replace('_', '-')}": getattr(args, name) for name in names}
    files = [Path(path) for path in (args.model, args.predictions, args.data, args.prompts) if path]
    return {**settings, "--data": args.data, "files": [stamp(path) for path in files]}


def _asker(args: VisualizeArguments, records: "RecordFile") -> "Ask":
    """Who answers: the predictions of a file, the model, or both, the model then for descriptions alone."""
    from dataclasses import replace

    from senna.visualize.key_frames import front_description
    from senna.visualize.predictions import Model, Predictions

    file = Predictions(Path(args.predictions)) if args.predictions else None
    model = None
    if file is None or args.describe:
        model = Model(
            args.model, args.base, args.quantization, args.device, args.version, _ending(records), args.max_new_tokens
        )
    if file is None:
        return model

    def ask(frame, plan, description):
        said = file(frame, front_description(records, frame))
        return said if model is None else replace(said, description=model.describe(description))

    return ask


def _ending(records: "RecordFile") -> str:
    """What follows the meta-action in the answers that the model was trained on, told from this file's own."""
    from senna.evaluate.predict import find_answer_ending

    kinds = records.kind_names
    return find_answer_ending(
        records, (records.kinds == kinds.index("plan")).nonzero()[0].tolist() if "plan" in kinds else []
    )


def _draw(album: "Album", frames: "Mapping[Path, KeyFrame]", settings: dict[str, Any]) -> int:
    """Draw the pictures of frames; how many of them lack an image."""
    from tqdm import tqdm

    from senna.visualize.png_store import write_png

    lacking = 0
    for path, frame in tqdm(frames.items(), desc="pictures", unit="frame", disable=not frames):
        picture, unreadable = album.draw(frame)
        lacking += bool(unreadable)
        write_png(picture, path, settings, unreadable)
    return lacking


def _films(paths: "Mapping[Path, KeyFrame]", out: Path, form: str, fps: float) -> list[Path]:
    """A film of each scene's pictures; one that is there and is of the same pictures stays."""
    from tqdm import tqdm

    from senna.run_folder import fingerprint
    from senna.files import write_json
    from senna.visualize.film import make_film
    from senna.visualize.key_frames import file_name

    scenes: dict[str, list[Path]] = {}
    for path, frame in paths.items():
        scenes.setdefault(frame.scene, []).append(path)
    known = out / FILMS
    made = _read(known)
    films = []
    for scene, pictures in tqdm(scenes.items(), desc="films", unit="scene"):
        film = out / f"{file_name(scene)}.{form}"
        facts = [(picture.name, picture.stat().st_mtime_ns) for picture in pictures]
        key = fingerprint(repr((facts, fps)).encode())
        if not film.is_file() or made.get(film.name) != key:
            make_film(pictures, film, fps)
            made[film.name] = key
            write_json(known, made)
        films.append(film)
    return films


def _read(path: Path) -> dict[str, str]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
