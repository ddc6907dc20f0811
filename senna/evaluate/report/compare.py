"""`senna compare`: two or more evaluations side by side, as text and as a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from senna.evaluate.report import html
from senna.evaluate.report.compare_page import comparison_page
from senna.evaluate.report.comparison import compare, futures_of, open_runs
from senna.evaluate.report.console import comparison_text
from senna.flags import ArgumentParser


@dataclass(frozen=True)
class CompareArguments:
    """Arguments of `senna compare`.

    Attributes:
        folders: the output folders of `senna evaluate`; the first one is the reference.
        out: the folder for comparison.html; the first of ``folders`` by default.
    """

    folders: list[str]
    out: str | None = None


def main(argv: list[str]) -> int:
    """Run `senna compare` and return the exit code."""
    args = CompareArguments(**vars(_parser().parse_args(argv)))
    page = write_comparison([Path(folder) for folder in args.folders], Path(args.out or args.folders[0]))
    print(f"comparison  {page}")
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="senna compare",
        description="Compare evaluations with the first one on the records that they share, with intervals of the paired "
        "differences. Prints the comparison and writes OUT/comparison.html.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", help="output folders of `senna evaluate`, two or more")
    parser.add_argument("--out", help="folder for comparison.html (default: the first DIR)")
    return parser


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Compare the evaluations in ``folders`` with the first: print the result, and write ``comparison.html`` into ``out``.

    Returns:
        The page's path.

    Raises:
        UsageError: there are fewer than two folders, or one lacks metrics.json or predictions.jsonl.
        SennaError: the page cannot be written.
    """
    runs = open_runs(folders)
    futures = futures_of(runs[0])
    differences = [compare(runs[0].predictions, run.predictions, futures) for run in runs[1:]]
    print(comparison_text(runs, differences))
    path = Path(out) / "comparison.html"
    html.write_file(path, comparison_page(runs, differences).encode("utf-8"))
    return path
