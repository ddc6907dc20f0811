"""`senna synthesize`: make the embedded default."""

import argparse

from senna.errors import UsageError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(f"{message}; see senna synthesize --help")


def main(argv: list[str]) -> int:
    """Entry point of `senna synthesize`. Returns the exit code."""
    args = _parser().parse_args(argv)
    if not (args.stage1 or args.stage2):
        raise UsageError(
            "say what to make: --stage1 makes what stage 1 trains on, --stage2 what stages 2 and 3 train on"
        )
    for flag, count in (("--pictures", args.pictures), ("--frames", args.frames)):
        if count < 1:
            raise UsageError(f"{flag} {count}: at least 1")
    from senna.synthetic import prepare_tiny_stage1, prepare_tiny_stage2

    made: dict[str, object] = {}
    if args.stage1:
        made |= _of_stage("stage 1", prepare_tiny_stage1(args.out, args.seed, args.pictures))
    if args.stage2:
        made |= _of_stage("stages 2, 3", prepare_tiny_stage2(args.out, args.seed, args.frames))
    for name, path in made.items():
        print(f"{name:21} {path}")
    return 0


def _parser() -> _Parser:
    parser = _Parser(
        prog="senna synthesize",
        description="Make the embedded default: road pictures with captions or six-view driving frames with questions, a "
        "tokenizer, a small Llama and a small CLIP, all on this machine from a seed, in about two minutes. What is "
        "complete already is left as it is.",
    )
    parser.add_argument("--out", required=True, help="the folder to make: OUT/pictures, OUT/frames, OUT/llm, OUT/clip")
    parser.add_argument(
        "--stage1", action="store_true", help="what stage 1 needs: pictures with captions and both models"
    )
    parser.add_argument(
        "--stage2", action="store_true", help="what stages 2 and 3 need: six-view frames with questions and both models"
    )
    parser.add_argument("--pictures", type=int, default=1536, help="pictures to draw (%(default)s)")
    parser.add_argument("--frames", type=int, default=240, help="frames to draw, six pictures each (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same files (%(default)s)")
    return parser


def _of_stage(stage: str, paths: dict[str, object]) -> dict[str, object]:
    """Data under a name that tells the stages apart; both share the models."""
    return {name if name in ("model", "vision_tower") else f"{name} ({stage})": path for name, path in paths.items()}
