"""`senna visualize`: draw a picture per key frame and a film per scene."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senna.contents import absolute, file_content, model_content
from senna.decision import BALANCED, DECISION_FILE, LIKELIEST, Decision, open_decision
from senna.errors import UsageError
from senna.file_lock import lock_folder
from senna.files import stamp
from senna.flags import flag, parse_flags, shared_flag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from senna.record_file import RecordFile
    from senna.visualize.album import Album, Ask
    from senna.visualize.key_frames import KeyFrame
    from senna.visualize.predictions import Question

FILMS = ".films.json"  # in OUT: film name -> fingerprint of its pictures


@dataclass
class VisualizeArguments:
    """Flags of `senna visualize`."""

    data: str = flag("the records to show: .jsonl or .json")
    out: str = flag("output folder: SCENE_0001.png and so on, SCENE.mp4 or .gif")
    model: str | None = shared_flag("model", "; not needed with --predictions", default=None)
    predictions: str | None = flag("predictions.jsonl of `senna evaluate`, to draw without running a model", None)
    image_folder: str | None = shared_flag("image_folder")
    limit: int | None = flag("draw at most this many frames", None)
    scene: str | None = flag("draw only the scene with this scene_token", None)
    describe: bool = flag("also generate a description of the front view, which takes seconds per frame at 7B", False)
    decision: str = shared_flag("decision")
    trajectory: bool = flag(
        "also generate the trajectory, given the predicted plan, of frames whose records ask for it; with --predictions it is "
        "drawn where the file has it",
        False,
    )
    film: str = flag(
        "film of each scene: mp4 (needs ffmpeg), gif, none, or auto (mp4 where ffmpeg is installed)", "auto"
    )
    fps: float = flag("frames per second of the films", 2.0)
    overwrite: bool = flag("draw every picture again, even where OUT holds pictures of another model", False)
    prompts: str | None = flag(
        "file of question texts for frames without a plan record (see `senna convert --prompts`)", None
    )
    version: str = shared_flag("version")
    max_new_tokens: int = flag("maximum length of a description in tokens", 256)
    base: str | None = shared_flag("base")
    quantization: str | None = shared_flag("quantization")
    device: str = shared_flag("device")


def main(argv: list[str]) -> int:
    """Run `senna visualize`. Return the exit code."""
    args = parse_flags(
        VisualizeArguments,
        argv,
        "senna visualize",
        "Draw a model's predictions: a picture per key frame (six views, predicted and true plan with probabilities, "
        "description, and the driven path and a predicted one projected onto the road) and a film per scene. To continue an "
        "interrupted run, run the same command again; finished pictures stay.",
    )
    return run(args)


def run(args: VisualizeArguments) -> int:
    """Draw the pictures and films that the arguments ask for. Raises SennaError."""
    from senna.record_file import open_records
    from senna.templates import load_templates
    from senna.visualize.album import Album
    from senna.visualize.film import film_form
    from senna.visualize.key_frames import key_frames
    from senna.visualize.png_store import pictures_to_draw

    _check(args)
    decision = _decision(args)
    form, templates = film_form(args.film), load_templates(args.prompts)
    records, out = open_records(args.data), Path(args.out)
    frames = choose(key_frames(records), args)
    folders = [Path(folder) for folder in (args.image_folder, records.path.parent) if folder]
    _check_images(frames, folders)
    settings, paths = _settings(args), {out / f"{frame.name}.png": frame for frame in frames}
    with lock_folder(out, remedy="wait until it ends, stop it, or choose another --out"):
        wanted = set(paths) if args.overwrite else pictures_to_draw(paths, settings, _earlier_settings(args))
        todo = {path: frame for path, frame in paths.items() if path in wanted}
        ask, generate = _make_ask(args, records, decision) if todo else (None, None)
        album = Album(records, folders, templates, ask, args.describe, generate)
        incomplete = _draw(album, todo, settings)
        films = _films(paths, out, form, args.fps) if form else []
    summary = f"{out}: {len(paths)} pictures, {len(todo)} of them drawn now"
    print(f"{summary}; {len(films)} film{'' if len(films) == 1 else 's'}" if form else summary)
    if incomplete:
        print(f"{len(album.problems)} images of {incomplete} frames could not be read; the first: {album.problems[0]}")
    return 0


def choose(frames: "list[KeyFrame]", args: VisualizeArguments) -> "list[KeyFrame]":
    """Return the frames that the flags select. Raises UsageError where there are none."""
    if not frames:
        raise UsageError(f"{args.data}: no record has an image", remedy="give records with images")
    if args.scene is not None:
        scenes = list(dict.fromkeys(frame.scene for frame in frames))
        frames = [frame for frame in frames if frame.scene == args.scene]
        if not frames:
            named = ", ".join(filter(None, scenes[:5])) or "none, since its records have no scene_token"
            more = f" and {len(scenes) - 5} more" if len(scenes) > 5 else ""
            raise UsageError(
                f"--scene {args.scene}: {args.data} has no such scene", remedy=f"its scenes are: {named}{more}"
            )
    return frames[: args.limit]


def _check(args: VisualizeArguments) -> None:
    if args.model is None and args.predictions is None:
        raise UsageError(
            "--model is missing", remedy="give --model, or --predictions with the output of `senna evaluate`"
        )
    if args.describe and args.model is None:
        raise UsageError("--describe needs a model", remedy="give --model too")
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit} is too small", remedy="use 1 or more")
    if not 0.1 <= args.fps <= 60:
        raise UsageError(f"--fps {args.fps:g} is out of range", remedy="use 0.1 to 60")
    if args.quantization not in (None, "nf4", "int8"):
        raise UsageError(f"--quantization {args.quantization} is unknown", remedy="use nf4 or int8")


def _decision(args: VisualizeArguments) -> Decision:
    """Return the decision rule of the flags. Raises UsageError."""
    from senna.evaluate.decisions import predicting_base, predicting_model

    if args.predictions is None:
        return open_decision(args.decision, args.model, args.base)
    path = Path(args.predictions)
    return open_decision(args.decision, args.model or predicting_model(path), args.base or predicting_base(path))


def _check_images(frames: "list[KeyFrame]", folders: list[Path]) -> None:
    """Raise UsageError where no image exists, which means a wrong folder. A single missing image becomes a grey tile."""
    from senna.visualize.key_frames import find_image

    if not any(find_image(path, folders).is_file() for frame in frames for path in frame.paths.values()):
        first = next(iter(frames[0].paths.values()))
        raise UsageError(
            f"no image was found; the first was looked for at {' and '.join(str(f / first) for f in folders)}",
            remedy="give the folder that the paths are relative to with --image-folder",
        )


def _settings(args: VisualizeArguments) -> dict[str, Any]:
    """Return the settings that determine the pictures. Each picture holds them, so that two models are never mixed."""
    from senna.visualize.png_store import FILES

    files = {"--data": args.data, "--predictions": _predictions_file(args), "--prompts": args.prompts}
    contents = {name: file_content(path) for name, path in files.items() if path}
    if args.model:
        contents["--model"] = model_content(args.model, args.base)
    paths = {**files, "--model": args.model}
    paths = {name: None if path is None else absolute(path) for name, path in paths.items()}
    return {**_plain_settings(args), **_decision_settings(args), "--base": args.base, **paths, FILES: contents}


def _decision_settings(args: VisualizeArguments) -> dict[str, Any]:
    """Return the settings of another rule than the default, which earlier versions of Senna did not have."""
    if args.decision == LIKELIEST:
        return {}
    found: dict[str, Any] = {"--decision": args.decision}
    if args.decision == BALANCED and (calibration := _decision(args).calibration) is not None:
        found[DECISION_FILE] = calibration.as_correction()
    return found


def _plain_settings(args: VisualizeArguments) -> dict[str, Any]:
    names = ("describe", "version", "max_new_tokens", "quantization")
    settings = {f"--{name.replace('_', '-')}": getattr(args, name) for name in names}
    return {**settings, "--trajectory": True} if args.trajectory else settings


def _earlier_settings(args: VisualizeArguments) -> dict[str, Any]:
    """Return the settings as earlier versions of Senna wrote them, with modification times in place of contents."""
    from senna.visualize.png_store import FILES

    files = [Path(path) for path in (args.model, args.predictions, args.data, args.prompts) if path]
    return {**_plain_settings(args), FILES: [stamp(path) for path in files]}


def _predictions_file(args: VisualizeArguments) -> str | None:
    if args.predictions is None or not Path(args.predictions).is_dir():
        return args.predictions
    return str(Path(args.predictions) / "predictions.jsonl")


def _make_ask(
    args: VisualizeArguments, records: "RecordFile", decision: Decision
) -> "tuple[Ask, Callable[[Question], str | None] | None]":
    """Return the source of predictions (a file, a model, or a file with a model for descriptions), and of trajectories."""
    from dataclasses import replace

    from senna.visualize.key_frames import front_description
    from senna.visualize.predictions import Model, Predictions

    file = Predictions(Path(args.predictions), decision) if args.predictions else None
    model = None
    if file is None or args.describe:
        model = Model(
            args.model,
            args.base,
            args.quantization,
            args.device,
            args.version,
            _ending(records),
            args.max_new_tokens,
            decision,
        )
    if file is None:
        assert model is not None
        return model, model.describe if args.trajectory else None

    def ask(frame, plan, description):
        answer = file(frame, front_description(records, frame))
        return answer if model is None else replace(answer, description=model.describe(description))

    return ask, None


def _ending(records: "RecordFile") -> str:
    """Return the text that follows the meta-action in this file's answers, which the model was trained with."""
    from senna.evaluate.predict import find_answer_ending

    kinds = records.kind_names
    return find_answer_ending(
        records, (records.kinds == kinds.index("plan")).nonzero()[0].tolist() if "plan" in kinds else []
    )


def _draw(album: "Album", frames: "Mapping[Path, KeyFrame]", settings: dict[str, Any]) -> int:
    """Draw the pictures of frames; return how many of them have an unreadable image."""
    from tqdm import tqdm

    from senna.visualize.png_store import write_png

    incomplete = 0
    for path, frame in tqdm(frames.items(), desc="pictures", unit="frame", disable=not frames):
        picture, unreadable = album.draw(frame)
        incomplete += bool(unreadable)
        write_png(picture, path, settings, unreadable)
    return incomplete


def _films(paths: "Mapping[Path, KeyFrame]", out: Path, form: str, fps: float) -> list[Path]:
    """Make a film of each scene's pictures; an existing film of the same pictures stays."""
    from tqdm import tqdm

    from senna.files import hashes_of, write_json
    from senna.run_folder import fingerprint
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
        key = fingerprint(repr((hashes_of(pictures), fps)).encode())
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
