"""`senna export`. Imports nothing heavy, so that `--help` answers at once."""

from dataclasses import dataclass
from pathlib import Path

from senna.flags import flag, parse_flags, shared_flag


@dataclass
class ExportArguments:
    """Flags of `senna export`."""

    checkpoint: str = flag("a folder checkpoint-N of a run of `senna train`, or the run's folder for the newest one")
    out: str = shared_flag("new_folder")
    model: str | None = flag("the model that the run started from, if it has moved", None)
    base: str | None = flag("the base of that model, if it is a LoRA folder whose base has moved", None)
    vision_tower: str | None = flag("the vision tower of the run, if it has moved", None)
    serve: bool = shared_flag("serve")


def main(argv: list[str]) -> int:
    """Run `senna export` and return the exit code."""
    args = parse_flags(
        ExportArguments,
        argv,
        "senna export",
        "Write the model of a checkpoint, as if the run had ended there: a model folder, or a LoRA folder if the run trains "
        "LoRA. The checkpoint is not changed, and the run can continue. Checkpoints of DeepSpeed (ZeRO-2, ZeRO-3) are "
        "exported too, in one process and without a GPU; their files are pickles, so export only checkpoints that you trust.",
    )
    from senna.train.export_checkpoint import export

    moved = {"model_name_or_path": args.model, "model_base": args.base, "vision_tower": args.vision_tower}
    print(export(Path(args.checkpoint), Path(args.out), moved, args.serve))
    return 0
