"""`senna synthesize`: make the embedded default."""

import argparse

from senna.errors import UsageError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(f"{message}; see senna synthesize --help")


def main(argv: list[str]) -> int:
    """Entry point of `senna synthesize`. Returns the exit code."""
    parser = _Parser(
        prog="senna synthesize",
        description="Make the embedded default: road pictures with captions, a tokenizer, a small Llama and a small CLIP, all "
        "on this machine from a seed, in about a minute and a half. What is complete already is left as it is.",
    )
    parser.add_argument("--out", required=True, help="the folder to make: OUT/pictures, OUT/llm, OUT/clip")
    parser.add_argument(
        "--stage1", action="store_true", help="what stage 1 needs: pictures with captions and both models"
    )
    parser.add_argument("--pictures", type=int, default=1536, help="pictures to draw (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same files (%(default)s)")
    args = parser.parse_args(argv)
    if not args.stage1:
        raise UsageError("say what to make: --stage1 makes what stage 1 trains on")
    if args.pictures < 1:
        raise UsageError(f"--pictures {args.pictures}: at least 1")
    from senna.synthetic import prepare_tiny_stage1

    for name, path in prepare_tiny_stage1(args.out, args.seed, args.pictures).items():
        print(f"{name:12} {path}")
    return 0
