"""`senna synthesize`: make the embedded default."""

from dataclasses import dataclass

from senna.errors import UsageError
from senna.flags import flag, parse_flags

SCENES = 10


@dataclass
class SynthesizeArguments:
    """Flags of `senna synthesize`."""

    out: str = flag("the folder to make: OUT/nuscenes, OUT/pictures, OUT/llm, OUT/clip")
    scenes: int | None = flag("scenes of the driving world, 20 s and 40 key frames each (default: 10)", None)
    mini: bool = flag("make it a v1.0-mini of at most ten scenes (without: a v1.0-trainval of up to 835)", False)
    stage1: bool = flag("what stage 1 needs: pictures with captions and both models", False)
    pictures: int = flag("pictures to draw", 1536)
    seed: int = flag("the same seed makes the same files", 0)


def main(argv: list[str]) -> int:
    """Entry point of `senna synthesize`. Returns the exit code."""
    args = parse_flags(
        SynthesizeArguments,
        argv,
        "senna synthesize",
        "Make the embedded default, all on this machine from a seed. OUT/nuscenes is a small town with traffic as a nuScenes "
        "data set (tables, map, CAN bus, six pictures a key frame), made unless --stage1 alone is asked for: about "
        "4 s a scene on two cores. --stage1 makes road pictures with captions, a tokenizer, a small Llama and a small CLIP. "
        "What is complete already is left as it is.",
    )
    if args.pictures < 1:
        raise UsageError(f"--pictures {args.pictures}: at least 1")
    from senna.synthetic import prepare_tiny_stage1, scene_names, write_world

    wants_world = args.mini or args.scenes is not None or not args.stage1
    scenes = SCENES if args.scenes is None else args.scenes
    if wants_world:
        scene_names(scenes, args.mini)  # complains before anything is made
    made: dict[str, object] = {}
    if args.stage1:
        made |= prepare_tiny_stage1(args.out, args.seed, args.pictures)
    if wants_world:
        made["nuscenes, CAN bus"] = write_world(f"{args.out}/nuscenes", scenes, args.seed, args.mini)
    for name, path in made.items():
        print(f"{name:17} {path}")
    return 0
