"""The command behind `scripts/soak.sh`."""

import argparse
import json
import os
import signal
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from senna.errors import SennaError, UsageError

ROUND_MINUTES = 15
REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = """examples:
  sh scripts/soak.sh                 60 minutes
  sh scripts/soak.sh 480             a night
  sh scripts/soak.sh 6               a first look: the intervals are wide

In rounds of a quarter of an hour, training runs beside a conversion: packed frames beside conversions from the annotations, and
captions of stage 1 beside a conversion that asks a server on 127.0.0.1. The next round continues where the last was stopped.
Memory counts without the pages of mapped files. The first fifth of each process is its warm-up.

A job became slower if its items per CPU second fell by more than 10 % relative to a reference computation, which is measured
every ten seconds (below 1 % of a core) and becomes slower when other work takes away caches and memory. Items/s are shown, and
not judged, since other work also takes away the cores. A job that waits longer is seen in them alone, on an idle machine."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="soak.sh",
        description="Train and convert for a long time on a million records, and fail where a process needs more and more "
        "memory or files, or becomes slower.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("minutes", nargs="?", type=float, default=60.0, help="length (default %(default)g)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder of soak.json and soak.png")
    parser.add_argument("--records", type=int, default=1_000_000, help="records to train on (default %(default)s)")
    parser.add_argument("--scenes", type=int, default=800, help="scenes to convert (default %(default)s)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parsed = build_parser().parse_args(arguments)
    for name, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}.items():
        os.environ.setdefault(name, value)  # small models gain nothing from threads, which would disturb the conversion
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated soak also stops its jobs and reports
    try:
        return soak(parsed)
    except SennaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # while the inputs are written
        return 130


def soak(parsed: argparse.Namespace) -> int:
    """Run a soak and return the exit code. Raises SennaError if it cannot start or a job fails."""
    try:
        import psutil  # noqa: F401
    except ImportError:
        remedy = "pip install -c constraints.txt -e '.[dev]'"
        raise UsageError("the package psutil is not installed", remedy=remedy) from None
    from soak import inputs, report
    from soak.watch import Watch

    if not parsed.minutes > 0 or parsed.records < 1000 or not 2 <= parsed.scenes <= 800:
        raise UsageError("MINUTES must be above 0, --records 1000 or more, --scenes 2 to 800", remedy="change them")
    out = parsed.out or REPOSITORY / "outputs" / f"soak-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    out.mkdir(parents=True, exist_ok=True)
    watch, failure = Watch(), None
    with tempfile.TemporaryDirectory(prefix="senna-soak-") as name:
        inputs.check_disk(Path(name), parsed.records)
        print(f"writing {parsed.records} records and {parsed.scenes} scenes", flush=True)
        inputs.write_inputs(Path(name), parsed.records, parsed.scenes)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, watch.stop)
        try:
            _run(Path(name), parsed.minutes, watch)
        except SennaError as error:
            failure = error
    if watch.is_stopped:
        print("interrupted: what was measured until now", flush=True)
    histories = list(watch.histories.values())
    figures: dict[str, Any] = {"minutes": parsed.minutes, "records": parsed.records, "interrupted": watch.is_stopped}
    figures |= {"cores": os.cpu_count(), "load": os.getloadavg()[2], **report.judge(histories)}
    if failure is not None:
        figures |= {"result": "failed", "error": failure.message}
    report.show(figures)
    (out / "soak.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if histories:
        report.draw(histories, out / "soak.png")
    print(
        f"\n{figures['result']}; load of this machine in the last 15 minutes: {figures['load']:.1f}; {out}/soak.json, soak.png"
    )
    if failure is not None:
        raise failure
    return 130 if watch.is_stopped else int(figures["result"] == "failed")


def _run(folder: Path, minutes: float, watch: Any) -> None:
    from benchmarks.ray import serving

    from soak.jobs import conversion, training
    from soak.watch import each_round

    rounds = max(2, round(minutes / ROUND_MINUTES))
    with serving(captioners=8) as (_, server):
        pairs = [
            [training(folder, "frames"), conversion(folder)],
            [training(folder, "captions"), conversion(folder, server)],
        ]
        each_round(rounds, pairs, watch, 60 * minutes / rounds, lambda text: print(text, flush=True))


if __name__ == "__main__":
    sys.exit(main())
