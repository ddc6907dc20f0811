"""`senna synthesize`: make the embedded default."""

from dataclasses import dataclass

from senna.errors import UsageError
from senna.flags import flag, parse_flags


@dataclass
class SynthesizeArguments:
    """Flags of `senna synthesize`."""

    out: str = flag("the folder to make: OUT/pictures, OUT/frames, OUT/llm, OUT/clip")
    stage1: bool = flag("what stage 1 needs: pictures with captions and both models", False)
    stage2: bool = flag("what stages 2 and 3 need: six-view frames with questions and both models", False)
    pictures: int = flag("pictures to draw", 1536)
    frames: int = flag("frames to draw, six pictures each", 240)
    seed: int = flag("the same seed makes the same files", 0)


def main(argv: list[str]) -> int:
    """Entry point of `senna synthesize`. Returns the exit code."""
    args = parse_flags(
        SynthesizeArguments,
        argv,
        "senna synthesize",
        "Make the embedded default: road pictures with captions or six-view driving frames with questions, a tokenizer, a "
        "small Llama and a small CLIP, all on this machine from a seed, in about two minutes. What is complete already is "
        "left as it is.",
    )
    if not (args.stage1 or args.stage2):
        raise UsageError(
            "say what to make: --stage1 makes what stage 1 trains on, --stage2 what stages 2 and 3 train on"
        )
    for name, count in (("--pictures", args.pictures), ("--frames", args.frames)):
        if count < 1:
            raise UsageError(f"{name} {count}: at least 1")
    from senna.synthetic import prepare_tiny_stage1, prepare_tiny_stage2

    made: dict[str, object] = {}
    if args.stage1:
        made |= _of_stage("stage 1", prepare_tiny_stage1(args.out, args.seed, args.pictures))
    if args.stage2:
        made |= _of_stage("stages 2, 3", prepare_tiny_stage2(args.out, args.seed, args.frames))
    for name, path in made.items():
        print(f"{name:21} {path}")
    return 0


def _of_stage(stage: str, paths: dict[str, object]) -> dict[str, object]:
    """Data under a name that tells the stages apart; both share the models."""
    return {name if name in ("model", "vision_tower") else f"{name} ({stage})": path for name, path in paths.items()}
