"""`senna synthesize`: make the synthetic driving world and the data and models of the tiny preset."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from senna.errors import UsageError
from senna.file_lock import lock_folder
from senna.flags import flag, parse_flags

SCENES = 10


@dataclass
class SynthesizeArguments:
    """Flags of `senna synthesize`."""

    out: str = flag("output folder: OUT/nuscenes, OUT/pictures, OUT/llm, OUT/clip")
    scenes: int | None = flag("scenes of the driving world, 20 s and 40 key frames each (default: 10)", None)
    mini: bool = flag("write v1.0-mini with at most ten scenes (default: v1.0-trainval with up to 835)", False)
    stage1: bool = flag("make the data and models of stage 1: road images with captions, a Llama and a CLIP", False)
    pretrain: bool = flag("with --stage1: train the Llama and the CLIP here, not those that come with Senna", False)
    image_width: int = flag("width of the images of the driving world in pixels; smaller ones are drawn faster", 1600)
    pictures: int = flag("number of road images for stage 1", 1536)
    seed: int = flag("random seed of images, world and --pretrain; the same seed gives the same files", 0)


def main(argv: list[str]) -> int:
    """Run `senna synthesize` and return the exit code."""
    args = parse_flags(
        SynthesizeArguments,
        argv,
        "senna synthesize",
        "Make synthetic data and models on this machine from a seed. OUT/nuscenes is a small town with traffic, written as a "
        "nuScenes data set (tables, map, CAN bus, six camera images a key frame); it takes about 4 s a scene on two cores and "
        "is skipped with --stage1 alone. --stage1 makes road images with captions, and writes a tokenizer, a small Llama and "
        "a small CLIP, pretrained ones or with --pretrain new ones. Complete folders are kept.",
    )
    if args.pretrain and not args.stage1:
        raise UsageError("--pretrain needs --stage1, which writes the models", remedy="add --stage1")
    if args.pictures < 1:
        raise UsageError(f"--pictures {args.pictures} is less than 1", remedy="draw at least one image")
    from senna.synthetic import image_size, preparing_tiny_stage1, scene_names, write_world

    wants_world = args.mini or args.scenes is not None or not args.stage1
    scenes = SCENES if args.scenes is None else args.scenes
    if wants_world:
        scene_names(scenes, args.mini)  # check the arguments before anything is made
        image_size(args.image_width)
    made: dict[str, Path] = {}
    lock = lock_folder(Path(args.out), remedy="wait until it ends, stop it, or choose another --out")
    with lock, ExitStack() as trainings:
        if args.stage1:
            made |= trainings.enter_context(preparing_tiny_stage1(args.out, args.seed, args.pictures, args.pretrain))
        if wants_world:  # with --pretrain each training uses one core, and the world what is left
            made["nuscenes, CAN bus"] = write_world(
                f"{args.out}/nuscenes", scenes, args.seed, args.mini, image_width=args.image_width
            )
    for name, path in made.items():
        print(f"{name:17} {path}")
    return 0
