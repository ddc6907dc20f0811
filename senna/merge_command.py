"""`senna merge`. Imports nothing heavy, so that `--help` answers at once."""

from dataclasses import dataclass

from senna.flags import flag, parse_flags, shared_flag


@dataclass
class MergeArguments:
    """Flags of `senna merge`."""

    adapter: str = flag("the LoRA folder (or hub name), in the form of this project or of LLaVA")
    out: str = shared_flag("new_folder")
    base: str | None = shared_flag("base")
    serve: bool = shared_flag("serve")


def main(argv: list[str]) -> int:
    """Run `senna merge` and return its exit code."""
    args = parse_flags(
        MergeArguments,
        argv,
        "senna merge",
        "Merge a LoRA folder into its base and write a plain model folder that load_model, the next stage and other tools "
        "open. The merged and the unmerged model answer the same prompt; the folder is kept only if their logits agree.",
    )
    from senna.merge import merge

    print(merge(args.adapter, args.out, args.base, args.serve))
    return 0
