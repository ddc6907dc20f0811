"""The command behind `scripts/prove_gpu.sh`."""

import argparse
import signal
import sys
from datetime import datetime, timezone
from pathlib import Path

from prove.parts import PARTS
from prove.report import final_table
from prove.runner import PASSED, Proof
from senna.errors import SennaError, UsageError

EXAMPLES = """examples:
  sh scripts/prove_gpu.sh                       everything, at most nine minutes
  sh scripts/prove_gpu.sh --only qlora          one part; --only may be repeated
  sh scripts/prove_gpu.sh --tiny                small models: tries the command itself, also on a CPU

The training parts use the geometry of the published 7B model with random weights, which are made on the card. A case that
needs more memory than the card has, by the prediction of `senna doctor`, is left out, and the table says so. The JSON file has
every figure; please attach it to reports about speed or memory."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prove_gpu.sh",
        description="Try on this machine's GPU what only a GPU can show. Nothing is downloaded.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = [part.name for part in PARTS]
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", help="result file (default: outputs/prove_gpu-TIME.json)"
    )
    parser.add_argument(
        "--only", action="append", choices=names, metavar="PART", help=f"run this part only: {', '.join(names)}"
    )
    parser.add_argument("--tiny", action="store_true", help="small models; without a GPU everything runs on the CPU")
    parser.add_argument("--list", action="store_true", help="list the parts with their time limits, and exit")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parsed = build_parser().parse_args(arguments)
    if parsed.list:
        for part in PARTS:
            print(f"{part.name:<10} {part.seconds:>4} s  {part.about}")
        return 0
    # A terminated run still stops its part and prints its table, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        out = parsed.out or _default_file()
        if out.suffix != ".json" or out.is_dir():
            raise UsageError(f"--out {out} is no JSON file", remedy="give a name that ends in .json")
        out.parent.mkdir(parents=True, exist_ok=True)
        parts = [part for part in PARTS if part.name == "machine" or parsed.only is None or part.name in parsed.only]
        proof = Proof(parts, out, parsed.tiny)
        proof.run()
    except OSError as error:
        print(f"error: --out {parsed.out}: {error.strerror}; choose another file", file=sys.stderr)
        return 2
    except SennaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{final_table(proof.record)}\n\nresults: {out}")
    return 0 if proof.record["result"] == PASSED else 1


def _default_file() -> Path:
    time = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    return Path(__file__).resolve().parents[2] / "outputs" / f"prove_gpu-{time}.json"


if __name__ == "__main__":
    sys.exit(main())
